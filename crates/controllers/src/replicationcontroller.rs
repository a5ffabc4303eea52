//! ReplicationController: a ReplicaSet by an older name, and treated as one. Upstream: `pkg/controller/replication`.

use std::sync::Arc;

use client::ObjectKey;
use client::reflector::StoreChange;
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus,
};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::replicaset::{self, Kind, Observed};
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct ReplicationControllers {
    /// What it counts.
    pub metrics: replicaset::Metrics,
}

const KIND: Kind = Kind {
    api_version: "v1",
    kind: "ReplicationController",
    group: "",
    plural: "replicationcontrollers",
    counts_terminating: false,
};

impl Controller for ReplicationControllers {
    const NAME: &'static str = "replicationcontroller-controller";
    const ACCOUNT: &'static str = "replication-controller";
    const SOURCE: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";
    type Key = ObjectKey;
    type Observed = Observed;
    /// Why the last plan failed.
    type Memory = Option<String>;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<ReplicationController>().on::<Pod>(concerned)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let cached = snapshot.store::<ReplicationController>().get(key)?;
        let set = as_set(cached.decode()?);
        Some(replicaset::observe(snapshot, &KIND, Arc::clone(&cached.value()), set))
    }

    fn plan(&self, observed: &Observed, failure: &mut Option<String>, now: Timestamp) -> Plan {
        let plan = replicaset::plan(observed, failure.as_deref(), now);
        self.metrics.told(observed, &plan, now);
        plan
    }

    fn applied(&self, memory: &mut Option<String>, failure: Option<&Failure>) {
        *memory = failure.filter(|it| replicaset::is_of_pods(it)).map(|it| it.why.clone());
    }
}

/// The ReplicationControllers that a change of a pod concerns: its controller, or those that might adopt it.
fn concerned(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let mut keys = controller::watches::controllers(change, KIND.kind);
    keys.extend(select::adopters::<ReplicationController>(snapshot, change, |it| {
        let selector = it.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.map_or_else(Selector::nothing, Selector::from_pairs)
    }));
    keys
}

fn as_set(controller: ReplicationController) -> ReplicaSet {
    let spec = controller.spec.unwrap_or_default();
    ReplicaSet {
        metadata: controller.metadata,
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
            template: spec.template,
        },
        status: controller.status.map(as_set_status),
    }
}

fn as_set_status(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let conditions = status.conditions.map(|conditions| {
        let condition =
            |it: k8s_openapi::api::core::v1::ReplicationControllerCondition| ReplicaSetCondition {
                last_transition_time: it.last_transition_time,
                message: it.message,
                reason: it.reason,
                status: Some(it.status),
                type_: Some(it.type_),
            };
        conditions.into_iter().map(condition).collect()
    });
    ReplicaSetStatus {
        available_replicas: status.available_replicas,
        conditions,
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
        terminating_replicas: None,
    }
}
