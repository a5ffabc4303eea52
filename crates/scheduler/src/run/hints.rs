//! Whom a pod that came to a node, or changed there, may help: upstream's queueing hints of the plugins that look at other
//! pods.

use std::sync::Arc;

use super::Running;
use crate::cluster::Cluster;
use crate::pod::PodLite;
use crate::queue::Happened;
use crate::terms::PodTerm;

impl Running {
    /// A pod came to a node, or is not there what it was before.
    pub(super) fn placed(&mut self, before: Option<&Arc<PodLite>>, pod: &PodLite) {
        let begun = self.scheduler.clock.monotonic();
        let cluster = &self.state.cluster;
        let helps = |plugin: &str, waiting: &PodLite| {
            may_help(cluster, plugin, waiting, (before.map(|it| &**it), pod))
        };
        self.state.queue.happened_where(Happened::PodPlaced, begun, helps);
        let took = self.scheduler.clock.monotonic() - begun;
        self.scheduler.metrics.handled(Happened::PodPlaced.name(), took);
        if before.is_some_and(|it| pod.requests.exact.lacks_of(&it.requests.exact)) {
            self.happened(Happened::PodShrunk);
        }
    }
}

/// Whether a pod that a plugin refused may fit now that another is what it is.
fn may_help(
    cluster: &Cluster,
    plugin: &str,
    waiting: &PodLite,
    (before, pod): (Option<&PodLite>, &PodLite),
) -> bool {
    match plugin {
        "InterPodAffinity" => {
            let Some(terms) = waiting.terms.as_deref() else { return false };
            let means = |it: &PodTerm, pod: &PodLite| {
                let namespace = &pod.key.namespace;
                it.matches(namespace, cluster.namespace_labels(namespace), &pod.labels)
            };
            let wanted = |pod: &PodLite| {
                !terms.affinity.is_empty() && terms.affinity.iter().all(|it| means(it, pod))
            };
            let in_the_way = |pod| terms.anti_affinity.iter().any(|it| means(it, pod));
            let comes = wanted(pod) && !before.is_some_and(wanted);
            comes || (before.is_some_and(in_the_way) && !in_the_way(pod))
        }
        "PodTopologySpread" => {
            let own = &waiting.ask.spread;
            if own.is_empty() {
                // Those of the profile count.
                return true;
            }
            let same_namespace = waiting.key.namespace == pod.key.namespace;
            let mut required = own.iter().filter(|it| it.required);
            same_namespace
                && required.any(|it| {
                    let counts = |pod: &PodLite| {
                        !pod.terminating && it.selector.matches(|key| pod.labels.get(key))
                    };
                    counts(pod) != before.is_some_and(counts)
                })
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{Value, value};

    use super::*;

    fn pod(app: &str, spec: Value) -> PodLite {
        PodLite::from_value(
            &value!({"metadata": {"name": app, "namespace": "d", "labels": {"app": app}}, "spec": spec}),
        )
    }

    #[test]
    fn pods_that_nobody_asked_for_help_nobody() {
        let cluster = Cluster::default();
        let term =
            value!([{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "host"}]);
        let required = |kind: &str| {
            let mut spec = Value::object();
            let path = ["affinity", kind, "requiredDuringSchedulingIgnoredDuringExecution"];
            spec.set_at(&path, term.clone());
            pod("waits", spec)
        };
        let spread = pod("waits", value!({"topologySpreadConstraints": (term.clone())}));
        let (a, b) = (pod("a", Value::object()), pod("b", Value::object()));
        let (affinity, spreading) = ("InterPodAffinity", "PodTopologySpread");
        for (plugin, waiting, before, now, expected) in [
            (affinity, required("podAffinity"), None, &a, true),
            (affinity, required("podAffinity"), None, &b, false),
            (affinity, required("podAffinity"), Some(&a), &a, false),
            (affinity, required("podAffinity"), Some(&b), &a, true),
            (affinity, required("podAntiAffinity"), None, &a, false),
            (affinity, required("podAntiAffinity"), Some(&a), &b, true),
            (affinity, b.clone(), None, &a, false),
            (spreading, spread.clone(), None, &a, true),
            (spreading, spread.clone(), None, &b, false),
            (spreading, spread.clone(), Some(&a), &a, false),
            (spreading, spread, Some(&a), &b, true),
            (spreading, b.clone(), None, &a, true),
        ] {
            let helps = may_help(&cluster, plugin, &waiting, (before, now));
            assert_eq!(helps, expected, "{plugin}: {before:?}, then {now:?}");
        }
    }
}
