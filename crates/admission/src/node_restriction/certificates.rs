//! For whom a node asks for certificates: for itself, and for the pods that it runs.

use api::pod_references::is_mirror;
use apimachinery::{Status, Value};

use super::NodeRestriction;
use crate::certificates::common_name;
use crate::{Attributes, Operation};

/// The signers of nodes' own certificates.
const OF_NODES: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// A certificate of a node has its name.
pub(super) fn own(node: &str, attributes: &Attributes<'_>) -> Result<(), Status> {
    let spec = &attributes.object["spec"];
    if attributes.operation != Operation::Create
        || !OF_NODES.contains(&spec.str_at(&["signerName"]))
    {
        return Ok(());
    }
    let Some(name) = common_name(spec.str_at(&["request"])) else {
        let why = "unable to parse csr: PEM block type must be CERTIFICATE REQUEST";
        return Err(attributes.forbid(why));
    };
    if name.strip_prefix("system:node:") != Some(node) {
        let why = format!("can only create a node CSR with CN=system:node:{node}");
        return Err(attributes.forbid(&why));
    }
    Ok(())
}

/// What a request says of its pod.
struct Request<'r> {
    spec: &'r Value,
    /// Namespace and name of the pod, in quotes.
    pod: String,
}

impl Request<'_> {
    fn says(&self, member: &str) -> &str {
        self.spec.str_at(&[member])
    }

    /// 500 for what the caches may not know yet: another try may do.
    fn retry(&self, why: &str) -> Status {
        Status::unexplained(format!("PodCertificateRequest for pod {} {why}", self.pod))
    }
}

/// A volume of the pod says the signer: a node asks nobody else in the name of its pods.
fn is_mounted(attributes: &Attributes<'_>, name: &str, pod: &Value) -> Result<(), Status> {
    let signer = attributes.object.str_at(&["spec", "signerName"]);
    let says = |source: &Value| {
        let source = source.get("podCertificate").filter(|it| !it.is_null());
        source.is_some_and(|it| it.str_at(&["signerName"]) == signer)
    };
    let mut volumes = pod.items_at(&["spec", "volumes"]).iter();
    if volumes.any(|it| it.items_at(&["projected", "sources"]).iter().any(says)) {
        return Ok(());
    }
    Err(attributes.forbid(&format!("signer {signer:?} not found in volumes of pod {name}")))
}

impl NodeRestriction {
    /// A certificate is for a pod that the node runs, and for that pod's account.
    pub(super) async fn certificate_request(
        &self,
        node: &str,
        attributes: &Attributes<'_>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            let why = format!("unexpected operation {}", super::word(attributes.operation));
            return Err(attributes.forbid(&why));
        }
        if !attributes.subresource.is_empty() {
            let why = format!("unexpected subresource {}", attributes.subresource);
            return Err(attributes.forbid(&why));
        }
        let spec = &attributes.object["spec"];
        let pod = format!("{}/{}", attributes.namespace, spec.str_at(&["podName"]));
        let request = Request { spec, pod: format!("{pod:?}") };
        self.is_on_node(node, attributes, &request).await?;
        self.is_of_account(attributes, &request).await
    }

    async fn is_on_node(
        &self,
        node: &str,
        attributes: &Attributes<'_>,
        request: &Request<'_>,
    ) -> Result<(), Status> {
        let named = request.says("nodeName");
        if named != node {
            return Err(attributes.forbid(&format!(
                "PodCertificateRequest.Spec.NodeName={named:?}, which is not the requesting node {node:?}"
            )));
        }
        let Some(found) = self.now("", "nodes", ("", named)).await? else {
            return Err(Status::unexplained(format!(
                "while retrieving node {named:?} named in the PodCertificateRequest: node {named:?} not found"
            )));
        };
        let (said, uid) = (request.says("nodeUID"), found.str_at(&["metadata", "uid"]));
        if said != uid {
            let why =
                format!("names node UID {said:?}, inconsistent with the running node ({uid:?})");
            return Err(request.retry(&why));
        }
        Ok(())
    }

    async fn is_of_account(
        &self,
        attributes: &Attributes<'_>,
        request: &Request<'_>,
    ) -> Result<(), Status> {
        let (namespace, name) = (attributes.namespace, request.says("podName"));
        let Some(pod) = self.now("", "pods", (namespace, name)).await? else {
            return Err(Status::unexplained(format!(
                "while retrieving pod {} named in the PodCertificateRequest: pod {name:?} not found",
                request.pod
            )));
        };
        let (said, uid) = (request.says("podUID"), pod.str_at(&["metadata", "uid"]));
        if said != uid {
            let why = format!("contains pod UID ({said:?}) which differs from running pod {uid:?}");
            return Err(request.retry(&why));
        }
        let node = request.says("nodeName");
        if pod.str_at(&["spec", "nodeName"]) != node {
            let why = format!(
                "pod {} is not running on node {node:?} named in the PodCertificateRequest",
                request.pod
            );
            return Err(attributes.forbid(&why));
        }
        if is_mirror(&pod) {
            return Err(attributes.forbid(&format!("pod {} is a mirror pod", request.pod)));
        }
        let (said, runs_as) =
            (request.says("serviceAccountName"), pod.str_at(&["spec", "serviceAccountName"]));
        if said != runs_as {
            return Err(attributes.forbid(&format!(
                "PodCertificateRequest for pod {} contains serviceAccountName ({said:?}) that differs from running pod ({runs_as:?})",
                request.pod
            )));
        }
        let Some(account) = self.now("", "serviceaccounts", (namespace, said)).await? else {
            let account = format!("{namespace}/{said}");
            return Err(Status::unexplained(format!(
                "while retrieving service account {account:?} named in the PodCertificateRequest: serviceaccount {said:?} not found"
            )));
        };
        let (said, uid) = (request.says("serviceAccountUID"), account.str_at(&["metadata", "uid"]));
        if said != uid {
            let why = format!(
                "names service account UID {said:?}, which differs from the running service account ({uid:?})"
            );
            return Err(request.retry(&why));
        }
        is_mounted(attributes, &request.pod, &pod)
    }
}
