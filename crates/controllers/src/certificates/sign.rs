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

use super::request::{has_condition, is_signed};
use super::{ACCOUNT, CLIENT, NODE_CLIENT, NODE_SERVING, Request};
use crate::owner::to_value;

/// How long a certificate lives at most, as upstream's `--cluster-signing-duration`.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The cluster's authority.
pub trait CertificateSigner: Send + Sync + Debug {
    /// The certificate for a request in PEM, in PEM.
    ///
    /// # Errors
    /// Where it cannot be made.
    fn sign(&self, request: &[u8], usages: &[String], life: Duration) -> Result<String, String>;
}

/// The controller.
#[derive(Debug, Clone)]
pub struct Signer {
    /// What signs.
    pub authority: Arc<dyn CertificateSigner>,
}

/// Why a request is not signed, if its signer refuses it.
fn refusal(csr: &CertificateSigningRequest) -> Result<(), String> {
    let request = Request::parse(&csr.spec.request.0)?;
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let client_usages = ["client auth", "digital signature", "key encipherment"];
    let good = match csr.spec.signer_name.as_str() {
        NODE_CLIENT => request.is_node_client(&csr.spec),
        NODE_SERVING => request.is_node_serving(&csr.spec),
        _ => {
            usages.iter().any(|it| it == "client auth")
                && usages.iter().all(|it| client_usages.contains(&it.as_str()))
        }
    };
    if good {
        Ok(())
    } else {
        Err(format!("the request is not one that {} signs", csr.spec.signer_name))
    }
}

impl Controller for Signer {
    const NAME: &'static str = "certificatesigningrequest-signing-controller";
    const ACCOUNT: &'static str = ACCOUNT;
    /// A request.
    type Key = ObjectKey;
    type Observed = CertificateSigningRequest;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<CertificateSigningRequest>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<CertificateSigningRequest> {
        let csr: CertificateSigningRequest = snapshot.get(key)?;
        let ours = [NODE_CLIENT, NODE_SERVING, CLIENT].contains(&csr.spec.signer_name.as_str());
        let approved = has_condition(&csr, "Approved") && !has_condition(&csr, "Denied");
        let open = !is_signed(&csr) && !has_condition(&csr, "Failed");
        (ours && approved && open).then_some(csr)
    }

    fn plan(&self, csr: &CertificateSigningRequest, (): &mut (), now: Timestamp) -> Plan {
        let asked = csr.spec.expiration_seconds.and_then(|it| u64::try_from(it).ok());
        let life = asked.map_or(LONGEST, Duration::from_secs).min(LONGEST);
        let usages = csr.spec.usages.as_deref().unwrap_or_default();
        let signed =
            refusal(csr).and_then(|()| self.authority.sign(&csr.spec.request.0, usages, life));
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
