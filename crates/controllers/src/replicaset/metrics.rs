//! What is told of scale-downs, in upstream's name.

use std::collections::BTreeSet;

use client::ObjectKey;
use controller::{Action, Plan};
use jiff::Timestamp;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Observed;

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    ratios: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { ratios: Histogram::new([0.25, 0.5, 1.0, 2.0, 4.0, 8.0]) }
    }
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[ALPHA] The ratio of chosen deleted pod's ages to the current youngest pod's age (at the time). \
            Should be <2. The intent of this metric is to measure the rough efficacy of the LogarithmicScaleDown feature \
            gate's effect on the sorting (and deletion) of pods when a replicaset scales down. This only considers Ready \
            pods when calculating and reporting.";
        let name = "replicaset_controller_sorting_deletion_age_ratio";
        registry.register(name, help, self.ratios.clone());
    }

    /// Some of the pods go. Ages are compared as upstream does, in whole times (`reportSortingDeletionAgeRatioMetric`).
    pub(crate) fn told(&self, observed: &Observed, plan: &Plan, now: Timestamp) {
        let actions = plan.stages.iter().flat_map(|it| &it.actions);
        let gone = actions.filter_map(|it| match &it.action {
            Action::Delete { key, .. } => Some(key),
            _ => None,
        });
        let gone: BTreeSet<&ObjectKey> = gone.collect();
        let active = || observed.pods.iter().filter(|it| it.pod().is_active());
        if gone.is_empty() || active().all(|it| gone.contains(&it.key)) {
            return;
        }
        let ready = || active().filter(|it| it.pod().ready);
        let age = |created: Timestamp| now.duration_since(created).as_millis();
        let youngest = ready().filter_map(|it| it.pod().created).max().map(age);
        let Some(youngest @ 1..) = youngest else { return };
        for pod in ready().filter(|it| gone.contains(&it.key)) {
            let ratio = pod.pod().created.map(|it| age(it) / youngest);
            let ratio = ratio.and_then(|it| u32::try_from(it).ok());
            self.ratios.observe(ratio.map_or(f64::MAX, f64::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use apimachinery::{Value, value};
    use client::reflector::Cached;

    use super::*;

    #[test]
    fn pods_that_go_are_compared_with_the_youngest_that_is_ready() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let set = value!({"kind": "ReplicaSet", "apiVersion": "apps/v1", "metadata": {"name": "web", "namespace": "n", "uid": "u"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {}}});
        let pod = |name: &str, created: &str, ready: &str| {
            let owner = value!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true});
            Arc::new(Cached::new(
                value!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "n",
                "uid": name, "labels": {"a": "b"}, "creationTimestamp": created, "ownerReferences": [(owner)]},
                "spec": {"nodeName": "n"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready,
                "lastTransitionTime": created}]}}),
            ))
        };
        let pods = vec![
            pod("old", "2026-01-01T00:00:00Z", "True"),
            pod("young", "2026-01-01T00:00:30Z", "True"),
            pod("younger", "2026-01-01T00:00:50Z", "True"),
            pod("broken", "2026-01-01T00:00:55Z", "False"),
        ];
        let text = apimachinery::json::to_vec(&set);
        let observed = Observed {
            kind: &super::super::REPLICA_SET,
            set: serde_json::from_slice(&text).unwrap(),
            object: Arc::<Value>::new(set),
            pods,
            on_node: BTreeMap::new(),
        };
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let plan = super::super::plan(&observed, None, now);
        metrics.told(&observed, &plan, now);
        let told = component_base::metrics::text(&registry);
        // The broken one goes first and is not told of; then the youngest, which is as old as itself.
        for line in [
            "replicaset_controller_sorting_deletion_age_ratio_bucket{le=\"0.5\"} 0",
            "replicaset_controller_sorting_deletion_age_ratio_bucket{le=\"1.0\"} 1",
            "replicaset_controller_sorting_deletion_age_ratio_count 1",
        ] {
            assert!(told.lines().any(|it| it == line), "{line}: {told}");
        }
        metrics.told(&observed, &Plan::nothing(), now);
        assert_eq!(component_base::metrics::text(&registry), told);
    }
}
