//! Takes requests away that are done with, or that nobody deals with. Upstream: `pkg/controller/certificates/cleaner`.

use client::{ObjectKey, Resource};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::pem::parse_x509_pem;

use super::ACCOUNT;
use super::request::is_signed;
use crate::owner;

/// How long a request stays once it is signed, denied or failed.
const DONE: SignedDuration = SignedDuration::from_hours(1);
/// How long a request waits for somebody to decide.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct Cleaner;

impl Controller for Cleaner {
    const NAME: &'static str = "certificatesigningrequest-cleaner-controller";
    const ACCOUNT: &'static str = ACCOUNT;
    /// A request.
    type Key = ObjectKey;
    type Observed = CertificateSigningRequest;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<CertificateSigningRequest>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<CertificateSigningRequest> {
        snapshot.get(key)
    }

    fn plan(&self, csr: &CertificateSigningRequest, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(at) = due(csr) else { return plan };
        if now < at {
            plan.requeue_by(at);
            return plan;
        }
        plan.act(owner::delete(Resource::of::<CertificateSigningRequest>(), &csr.metadata));
        plan
    }
}

/// When a request is to go.
fn due(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |since: Timestamp, stay: SignedDuration| since.checked_add(stay).ok();
    let status = csr.status.as_ref();
    let conditions = status.and_then(|it| it.conditions.as_deref()).unwrap_or_default();
    let signed = is_signed(csr);
    let done = conditions.iter().filter(|it| match it.type_.as_str() {
        "Approved" => signed,
        "Denied" | "Failed" => true,
        _ => false,
    });
    let done = done.filter_map(|it| after(it.last_update_time.as_ref()?.0, DONE)).min();
    let created = csr.metadata.creation_timestamp.as_ref().map(|it| it.0);
    let pending = created.filter(|_| conditions.is_empty() && !signed);
    let pending = pending.and_then(|it| after(it, PENDING));
    [done, pending, expires(csr)].into_iter().flatten().min()
}

/// When the certificate of a request ends.
fn expires(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let pem = &csr.status.as_ref()?.certificate.as_ref()?.0;
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_when_it_is_done_with() {
        let check = |status: &str, expected: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"r","creationTimestamp":"2026-01-01T00:00:00Z"}},"spec":{{"request":"","signerName":"s"}},"status":{status}}}"#
            );
            let csr: CertificateSigningRequest = serde_json::from_str(&text).unwrap();
            let shown = due(&csr).map(|it| it.to_string()).unwrap_or_default();
            assert_eq!(shown, expected, "{status}");
        };
        let condition = |kind: &str, more: &str| {
            format!(
                r#"{{"conditions":[{{"type":"{kind}","status":"True","lastUpdateTime":"2026-01-01T02:00:00Z"}}]{more}}}"#
            )
        };
        check("{}", "2026-01-02T00:00:00Z");
        check(&condition("Approved", ""), "");
        check(&condition("Approved", r#","certificate":"eA==""#), "2026-01-01T03:00:00Z");
        check(&condition("Denied", ""), "2026-01-01T03:00:00Z");
        check(&condition("Failed", ""), "2026-01-01T03:00:00Z");
    }
}
