//! Certificate signing requests: approved where a node asks for its own, signed once they are approved. Upstream:
//! `pkg/controller/certificates`.
//!
//! Beyond upstream, a node's own serving certificate is approved too, where every name in it is an address that the
//! node's object already has (docs/adr/0009).

mod approve;
mod clean;
mod pod_requests;
mod request;
mod sign;

pub use approve::Approver;
pub use clean::Cleaner;
pub use pod_requests::PodRequestCleaner;
pub use request::Request;
pub use sign::{CertificateSigner, Signer, Signers};

/// Signs client certificates of nodes.
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes.
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs client certificates of users.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Whose certificates all nodes' are.
const NODES: &str = "system:nodes";
/// How the names of nodes' users begin.
const NODE_USER: &str = "system:node:";
/// The account of the controllers of signing requests.
const ACCOUNT: &str = "certificate-controller";
