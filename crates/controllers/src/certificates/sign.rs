//! Signs what is approved. Upstream: `pkg/controller/certificates/signer`.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, time, value};
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::request::{CLIENT_AUTH, SERVER_AUTH, has_condition, is_signed};
use super::{ACCOUNT, CLIENT, NODE_CLIENT, NODE_SERVING, Request};
use crate::owner::to_value;

/// The cluster's authority.
pub trait CertificateSigner: Send + Sync + Debug {
    /// The certificate for a request in PEM, in PEM.
    ///
    /// # Errors
    /// Where it cannot be made.
    fn sign(&self, request: &[u8], usages: &[String], life: Duration) -> Result<String, String>;
}

/// Who signs for each signer's name that this controller knows; what nobody signs stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Signers {
    /// Client certificates of users: `kubernetes.io/kube-apiserver-client`.
    pub client: Option<Arc<dyn CertificateSigner>>,
    /// Client certificates of nodes: `kubernetes.io/kube-apiserver-client-kubelet`.
    pub node_client: Option<Arc<dyn CertificateSigner>>,
    /// Serving certificates of nodes: `kubernetes.io/kubelet-serving`.
    pub node_serving: Option<Arc<dyn CertificateSigner>>,
}

impl Signers {
    /// One authority for all.
    #[must_use]
    pub fn all(authority: &Arc<dyn CertificateSigner>) -> Self {
        let one = || Some(Arc::clone(authority));
        Self { client: one(), node_client: one(), node_serving: one() }
    }

    /// Whether there is nothing that they sign.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.client.is_none() && self.node_client.is_none() && self.node_serving.is_none()
    }

    fn of(&self, signer: &str) -> Option<&Arc<dyn CertificateSigner>> {
        match signer {
            CLIENT => self.client.as_ref(),
            NODE_CLIENT => self.node_client.as_ref(),
            NODE_SERVING => self.node_serving.as_ref(),
            _ => None,
        }
    }
}

/// The controller.
#[derive(Debug, Clone)]
pub struct Signer {
    /// What signs.
    pub authorities: Signers,
    /// How long a certificate lives at most (upstream's `--cluster-signing-duration`).
    pub longest: Duration,
}

/// Why a request is not signed, if its signer refuses it.
fn refusal(csr: &CertificateSigningRequest) -> Result<(), String> {
    let request = Request::parse(&csr.spec.request.0)?;
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let problem = match csr.spec.signer_name.as_str() {
        NODE_CLIENT => request.node_problem(&csr.spec, CLIENT_AUTH),
        NODE_SERVING => request.node_problem(&csr.spec, SERVER_AUTH),
        _ => client_problem(usages),
    };
    problem.map_or(Ok(()), Err)
}

/// Why a certificate with these usages is not one for clients, in upstream's words.
fn client_problem(usages: &[String]) -> Option<String> {
    const OPTIONAL: &[&str] = &["digital signature", "key encipherment"];
    let other = |it: &&String| *it != CLIENT_AUTH && !OPTIONAL.contains(&it.as_str());
    if let Some(usage) = usages.iter().find(other) {
        return Some(format!("invalid usage for client certificate: {usage}"));
    }
    let missing = !usages.iter().any(|it| it == CLIENT_AUTH);
    missing.then(|| format!("missing required usage for client certificate: {CLIENT_AUTH}"))
}

impl Controller for Signer {
    const NAME: &'static str = "certificatesigningrequest-signing-controller";
    const ACCOUNT: &'static str = ACCOUNT;
    const QUEUE: &'static str = "certificate";
    /// A request.
    type Key = ObjectKey;
    type Observed = CertificateSigningRequest;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<CertificateSigningRequest>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<CertificateSigningRequest> {
        let csr: CertificateSigningRequest = snapshot.get(key)?;
        let ours = self.authorities.of(&csr.spec.signer_name).is_some();
        let approved = has_condition(&csr, "Approved") && !has_condition(&csr, "Denied");
        let open = !is_signed(&csr) && !has_condition(&csr, "Failed");
        (ours && approved && open).then_some(csr)
    }

    fn plan(&self, csr: &CertificateSigningRequest, (): &mut (), now: Timestamp) -> Plan {
        let asked = csr.spec.expiration_seconds.and_then(|it| u64::try_from(it).ok());
        let life = asked.map_or(self.longest, Duration::from_secs).min(self.longest);
        let usages = csr.spec.usages.as_deref().unwrap_or_default();
        let Some(authority) = self.authorities.of(&csr.spec.signer_name) else {
            return Plan::nothing();
        };
        let signed = refusal(csr).and_then(|()| authority.sign(&csr.spec.request.0, usages, life));
        let mut object = to_value(csr);
        match signed {
            Ok(pem) => {
                object.set_at(&["status", "certificate"], to_value(&ByteString(pem.into_bytes())));
            }
            Err(message) => {
                let now = time::format_time(now);
                let mut conditions = object.items_at(&["status", "conditions"]).to_vec();
                conditions.push(value!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                    "message": (message.as_str()), "lastUpdateTime": (now.as_str()), "lastTransitionTime": (now.as_str())}));
                object.set_at(&["status", "conditions"], Value::Array(conditions));
            }
        }
        let mut plan = Plan::nothing();
        let resource = Resource::of::<CertificateSigningRequest>();
        plan.act(Action::Update { resource, subresource: "status", object });
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_certificates_are_for_clients_only() {
        let check = |usages: &[&str], expected: &str| {
            let usages: Vec<String> = usages.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(client_problem(&usages).unwrap_or_default(), expected, "{usages:?}");
        };
        check(&["client auth", "key encipherment"], "");
        check(&["client auth", "server auth"], "invalid usage for client certificate: server auth");
        check(&[], "missing required usage for client certificate: client auth");
    }
}
