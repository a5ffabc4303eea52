//! Ending pods when memory or disk run short, those first that use most beyond what they asked for.

use k8s_openapi::api::core::v1::Pod;

use crate::manager::Manager;
use crate::node::Usage;
use crate::pod::config::cgroup_of;
use crate::pod::memory::Failure;
use crate::resources;
use crate::shared::Shared;
use crate::spec;

/// How a pod stands when one has to go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Those within their requests go last.
    within_request: bool,
    priority: i32,
    /// Negative: the most beyond the request comes first.
    beyond: i64,
}

fn rank(pod: &Pod, used: i64) -> Rank {
    let request = resources::pod_requests(pod).get("memory").copied().unwrap_or_default();
    Rank {
        within_request: used <= request,
        priority: spec::spec(pod).priority.unwrap_or_default(),
        beyond: request - used,
    }
}

/// Ends one pod if memory is short; the next look tells whether that was enough.
pub(crate) fn check(shared: &Shared, manager: &Manager, usage: Usage) {
    let threshold = shared.config.eviction_memory_bytes;
    if usage.memory_available >= threshold {
        return;
    }
    let Some(hierarchies) = &shared.hierarchies else { return };
    let mut ranked: Vec<(Rank, i64, Pod)> = manager
        .active_pods()
        .into_iter()
        .filter(|it| spec::spec(it).priority.is_none_or(|it| it < resources::SYSTEM_CRITICAL))
        .map(|pod| {
            let stats = hierarchies.stats(&cgroup_of(&shared.config, &pod));
            let used = i64::try_from(stats.memory.working_set).unwrap_or(i64::MAX);
            (rank(&pod, used), used, pod)
        })
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    let Some((_, used, pod)) = ranked.into_iter().next() else { return };
    let text = |bytes: i64| resources::quantity("memory", bytes).0;
    let message = format!(
        "The node was low on resource: memory. Threshold quantity: {}, available: {}. The pod was using {}. ",
        text(threshold),
        text(usage.memory_available),
        text(used)
    );
    shared.event(&pod, client::events::EventType::Warning, "Evicted", &message);
    let failure = Failure {
        reason: "Evicted".into(),
        message,
        grace_period_seconds: Some(0),
        rejected: false,
    };
    manager.fail(spec::uid(&pod), failure);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_most_beyond_its_request_goes_first() {
        let pod = |name: &str, request: &str, priority: i32| -> Pod {
            serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"{name}"}},"spec":{{"priority":{priority},"containers":[{{"name":"c","resources":{{"requests":{{"memory":"{request}"}}}}}}]}}}}"#
            ))
            .unwrap()
        };
        let mut all = [
            (pod("within", "100", 0), 90),
            (pod("little", "100", 0), 150),
            (pod("much", "0", 0), 500),
            (pod("important", "0", 9), 900),
        ];
        all.sort_by_key(|(pod, used)| rank(pod, *used));
        let names: Vec<&str> = all.iter().map(|it| spec::name(&it.0)).collect();
        assert_eq!(names, ["much", "little", "important", "within"]);
    }
}
