//! The authority of the API server's certificate, as a ClusterTrustBundle that pods can mount. Upstream:
//! `pkg/controller/certificates/clustertrustbundlepublisher`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;

use crate::publisher;

/// The controller.
#[derive(Debug, Clone)]
pub struct TrustBundlePublisher {
    /// The authority's certificate, as PEM.
    pub root_ca: Arc<str>,
    /// What it counts.
    pub metrics: publisher::Metrics,
}

/// Whose bundles these are.
const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// How many bytes of a bundle's hash its name has.
const HASH_BYTES: usize = 12;
/// What every cluster has from its beginning: with it the work begins.
const FIRST: &str = "kube-system";

fn bundles() -> Resource {
    Resource::built_in("certificates.k8s.io", "clustertrustbundles")
}

/// The name of the bundle with this text.
fn name_of(text: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut name = format!("{}:", SIGNER.replace('/', ":"));
    for byte in &hash.as_ref()[..HASH_BYTES] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn is_ours(bundle: &Value) -> bool {
    bundle.str_at(&["spec", "signerName"]) == SIGNER
}

impl TrustBundlePublisher {
    /// Whether there is an authority to publish.
    #[must_use]
    pub fn has_any(&self) -> bool {
        let pems = x509_parser::pem::Pem::iter_from_buffer(self.root_ca.as_bytes());
        pems.filter_map(Result::ok).any(|it| it.parse_x509().is_ok())
    }
}

impl Controller for TrustBundlePublisher {
    const NAME: &'static str = "kube-apiserver-serving-clustertrustbundle-publisher-controller";
    const ACCOUNT: &'static str = "kube-apiserver-serving-clustertrustbundle-publisher";
    const QUEUE: &'static str = "ca_cert_publisher_cluster_trust_bundles";
    /// There is one only.
    type Key = ();
    /// The signer's bundles.
    type Observed = Vec<Value>;
    type Memory = ();

    fn watches(&self, watches: Watches<()>) -> Watches<()> {
        watches
            .on::<Namespace>(
                |change, _| {
                    if change.key().name == FIRST { vec![()] } else { Vec::new() }
                },
            )
            .on_resource(bundles(), |change, _| {
                let mut sides = [&change.old, &change.new].into_iter().flatten();
                if sides.any(|it| is_ours(&it.value())) { vec![()] } else { Vec::new() }
            })
    }

    fn observe(&self, snapshot: &Snapshot, (): &()) -> Option<Vec<Value>> {
        let all = snapshot.store_for(&bundles()).list("");
        Some(all.iter().map(|it| it.to_value()).filter(is_ours).collect())
    }

    fn timed(&self, (): &mut (), failure: Option<&Failure>, took: Duration) {
        self.metrics.count(failure, took);
    }

    fn plan(&self, observed: &Vec<Value>, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let name = name_of(&self.root_ca);
        let is_it = |it: &&Value| it.str_at(&["metadata", "name"]) == name;
        let spec = value!({"signerName": SIGNER, "trustBundle": (&*self.root_ca)});
        match observed.iter().find(is_it) {
            None => {
                let object = value!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
                    "metadata": {"name": (name.as_str())}, "spec": spec});
                plan.act(Action::Create {
                    resource: bundles(),
                    namespace: String::new(),
                    object,
                    exists_is_fine: false,
                });
            }
            Some(current) if current.get("spec") != Some(&spec) => {
                let mut object = current.clone();
                object.set_at(&["spec"], spec);
                plan.act(Action::Update { resource: bundles(), subresource: "", object });
            }
            Some(_) => {}
        }
        plan.then();
        // Those of an authority before this one.
        for other in observed.iter().filter(|it| !is_it(it)) {
            plan.act(Action::Delete {
                resource: bundles(),
                key: ObjectKey::new("", other.str_at(&["metadata", "name"])),
                uid: String::new(),
                propagation: None,
                grace_period_seconds: None,
                resource_version: String::new(),
            });
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str, text: &str) -> Value {
        value!({"metadata": {"name": name}, "spec": {"signerName": SIGNER, "trustBundle": text}})
    }

    #[test]
    fn there_is_one_bundle_of_todays_authority() {
        let name = name_of("ca");
        assert_eq!(name, "kubernetes.io:kube-apiserver-serving:6959097001d10501ac7d54c0");
        let planned = |bundles: &[Value]| {
            let controller = TrustBundlePublisher {
                root_ca: "ca".into(),
                metrics: publisher::Metrics::default(),
            };
            let plan = controller.plan(&bundles.to_vec(), &mut (), Timestamp::UNIX_EPOCH);
            let kind = |action: &Action| match action {
                Action::Create { .. } => "create",
                Action::Update { .. } => "update",
                Action::Delete { .. } => "delete",
                _ => "other",
            };
            let actions = plan.stages.iter().flat_map(|it| &it.actions);
            actions.map(|it| kind(&it.action)).collect::<Vec<_>>()
        };
        assert_eq!(planned(&[]), ["create"]);
        assert_eq!(planned(&[bundle(&name, "ca")]), [""; 0]);
        assert_eq!(planned(&[bundle(&name, "other")]), ["update"]);
        assert_eq!(planned(&[bundle("old", "other"), bundle(&name, "ca")]), ["delete"]);
    }

    #[test]
    fn what_is_no_certificate_is_not_published() {
        let controller = |text: &str| TrustBundlePublisher {
            root_ca: text.into(),
            metrics: publisher::Metrics::default(),
        };
        assert!(!controller("-----BEGIN CERTIFICATE-----").has_any());
        assert!(!controller("").has_any());
    }
}
