//! Autoscalers, of workloads whose use is modelled (`crate::usage`).

use apimachinery::{Value, value};

use super::{Driver, objects, resource};
use crate::usage::TARGET_PERCENT;

const KIND: &str = "HorizontalPodAutoscaler";

impl Driver {
    /// An autoscaler of some workload.
    pub(super) async fn autoscaler(&self) {
        let kinds = ["Deployment", "Deployment", "StatefulSet", "ReplicationController"];
        let Some((kind, place)) = self.some(&kinds) else { return self.namespace().await };
        let version = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
        let mut it = objects::object("autoscaling/v2", KIND, &place.namespace, &place.name);
        let least = self.dice.between(1, 2);
        let most = self.dice.between(least, 4);
        let metric = value!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": TARGET_PERCENT}}});
        it.set_at(
            &["spec"],
            value!({"scaleTargetRef": {"apiVersion": version, "kind": kind, "name": (place.name.as_str())},
                "minReplicas": least, "maxReplicas": most, "metrics": [metric]}),
        );
        if self.dice.chance(500) {
            let window = self.dice.between(0, 60);
            it.set_at(&["spec", "behavior", "scaleDown", "stabilizationWindowSeconds"], window);
        }
        let made = self.user.create(&resource(KIND), &it).await;
        self.written(KIND, made).await;
    }

    /// Other bounds.
    pub(super) async fn change_autoscaler(&self) {
        let Some((kind, place)) = self.some(&[KIND]) else { return self.autoscaler().await };
        let least = self.dice.between(1, 2);
        let most = self.dice.between(least, 4);
        let patch: Value = value!({"spec": {"minReplicas": least, "maxReplicas": most}});
        let done = self.user.patch(&resource(kind), &place, "", &patch).await;
        self.written(kind, done).await;
    }
}
