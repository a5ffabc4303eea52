//! The cluster's authority, in a ConfigMap of every namespace. Upstream: `pkg/controller/certificates/rootcacertpublisher`.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};

use crate::owner::is_terminating;
use crate::publisher;

/// The controller.
#[derive(Debug, Clone)]
pub struct RootCaPublisher {
    /// The authority's certificate, as PEM.
    pub root_ca: Arc<str>,
    /// What it counts.
    pub metrics: publisher::Metrics,
}

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// What it sees of a namespace.
#[derive(Debug)]
pub struct Observed {
    name: String,
    config_map: Option<Value>,
}

impl Controller for RootCaPublisher {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";
    const ACCOUNT: &'static str = "root-ca-cert-publisher";
    const QUEUE: &'static str = "root_ca_cert_publisher";
    /// A namespace.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Namespace>().on::<ConfigMap>(|change, _| {
            let key = change.key();
            if key.name == NAME { vec![ObjectKey::new("", key.namespace)] } else { Vec::new() }
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let namespace: Namespace = snapshot.get(key)?;
        if is_terminating(&namespace) {
            return None;
        }
        let config_map = snapshot.store::<ConfigMap>().get(&ObjectKey::new(key.name.clone(), NAME));
        Some(Observed {
            name: key.name.to_string(),
            config_map: config_map.map(|it| it.to_value()),
        })
    }

    fn timed(&self, (): &mut (), failure: Option<&Failure>, took: Duration) {
        self.metrics.count(failure, took);
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let resource = Resource::of::<ConfigMap>();
        let Some(current) = &observed.config_map else {
            let object = value!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": (observed.name.as_str()), "annotations": {DESCRIPTION_KEY: DESCRIPTION}},
                "data": {KEY: (&*self.root_ca)}});
            plan.act(Action::Create {
                resource,
                namespace: observed.name.clone(),
                object,
                exists_is_fine: true,
            });
            return plan;
        };
        let data = value!({KEY: (&*self.root_ca)});
        let described =
            current.str_at(&["metadata", "annotations", DESCRIPTION_KEY]) == DESCRIPTION;
        if current.get("data") != Some(&data) || !described {
            let mut object = current.clone();
            object.set_at(&["data"], data);
            object.set_at(&["metadata", "annotations", DESCRIPTION_KEY], DESCRIPTION);
            plan.act(Action::Update { resource, subresource: "", object });
        }
        plan
    }
}
