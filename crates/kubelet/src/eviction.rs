//! Ending pods: those that keep more on the disk than they may, and, when memory or disk run short, those first that use
//! most beyond what they asked for.

mod local;

use std::collections::BTreeMap;

use client::events::EventType;
use cri::ContainerStatsFilter;
use k8s_openapi::api::core::v1::Pod;

use crate::manager::Manager;
use crate::node::Usage;
use crate::pod::config::cgroup_of;
use crate::pod::memory::Failure;
use crate::pod::observed::marks;
use crate::pressure::{Short, disk_threshold};
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

fn rank(pod: &Pod, resource: &str, used: i64) -> Rank {
    let request = resources::pod_requests(pod).get(resource).copied().unwrap_or_default();
    Rank {
        within_request: used <= request,
        priority: spec::spec(pod).priority.unwrap_or_default(),
        beyond: request - used,
    }
}

/// A resource that is short.
struct Shortage {
    /// As events name it.
    resource: &'static str,
    threshold: i64,
    available: i64,
}

/// Use of the containers of a pod by name: those that run.
type Used = BTreeMap<String, i64>;

/// Looks at the node and its pods, and ends what must end. The next look tells whether that was enough.
pub(crate) async fn check(shared: &Shared, manager: &Manager, usage: Usage) {
    let short = Short::of(usage, &shared.config);
    shared.pressure.note(short, shared.clock.monotonic());
    local::check(shared, manager).await;
    let shortage = if short.memory {
        let threshold = shared.config.eviction_memory_bytes;
        Shortage { resource: "memory", threshold, available: usage.memory_available }
    } else if short.disk {
        let threshold = disk_threshold(usage, &shared.config);
        Shortage { resource: "ephemeral-storage", threshold, available: usage.disk_available }
    } else {
        return;
    };
    relieve(shared, manager, &shortage).await;
}

/// Ends the pod that has to go first.
async fn relieve(shared: &Shared, manager: &Manager, shortage: &Shortage) {
    let mut ranked = Vec::new();
    for pod in manager.active_pods() {
        if spec::spec(&pod).priority.is_some_and(|it| it >= resources::SYSTEM_CRITICAL) {
            continue;
        }
        let used = match shortage.resource {
            "memory" => {
                let Some(hierarchies) = &shared.hierarchies else { return };
                let stats = hierarchies.stats(&cgroup_of(&shared.config, &pod));
                i64::try_from(stats.memory.working_set).unwrap_or(i64::MAX)
            }
            _ => local::used(shared, &pod).await.whole(),
        };
        ranked.push((rank(&pod, shortage.resource, used), pod));
    }
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    let Some((_, pod)) = ranked.into_iter().next() else { return };
    let used = match shortage.resource {
        "memory" => memory_of_containers(shared, &pod).await,
        _ => local::used(shared, &pod).await.containers,
    };
    evict(shared, manager, &pod, message(&pod, shortage, &used), Some(0));
}

async fn memory_of_containers(shared: &Shared, pod: &Pod) -> Used {
    let label_selector = crate::pod::worker::selector(spec::uid(pod));
    let filter = ContainerStatsFilter { label_selector, ..ContainerStatsFilter::default() };
    let all = shared.runtime.list_container_stats(&filter).await.unwrap_or_default();
    let bytes = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
    let named = all.into_iter().filter_map(|it| {
        Some((it.labels.get(marks::CONTAINER_NAME)?.clone(), bytes(it.memory.working_set_bytes)))
    });
    named.collect()
}

/// What people are told, in upstream's words.
fn message(pod: &Pod, shortage: &Shortage, used: &Used) -> String {
    let resource = shortage.resource;
    let text = |amount: i64| resources::quantity(resource, amount).0;
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        text(shortage.threshold),
        // Upstream tells kibibytes: nobody needs more.
        text(shortage.available / 1024 * 1024)
    );
    for (_, container) in spec::all_containers(pod) {
        let Some(used) = used.get(&container.name) else { continue };
        let request = resources::requests(&container);
        let request = request.get(resource).map_or(0, |it| resources::amount(resource, it));
        if *used > request {
            message += &format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                text(used / 1024 * 1024),
                text(request)
            );
        }
    }
    message
}

/// Ends a pod.
fn evict(shared: &Shared, manager: &Manager, pod: &Pod, message: String, grace: Option<i64>) {
    shared.event(pod, EventType::Warning, "Evicted", &message);
    let failure = Failure {
        reason: "Evicted".into(),
        message,
        grace_period_seconds: grace,
        rejected: false,
        disrupted: true,
    };
    manager.fail(spec::uid(pod), failure);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, request: &str, priority: i32) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"priority":{priority},"containers":[{{"name":"c","resources":{{"requests":{{"memory":"{request}"}}}}}}]}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn who_uses_most_beyond_its_request_goes_first() {
        let mut all = [
            (pod("within", "100", 0), 90),
            (pod("little", "100", 0), 150),
            (pod("much", "0", 0), 500),
            (pod("important", "0", 9), 900),
        ];
        all.sort_by_key(|(pod, used)| rank(pod, "memory", *used));
        let names: Vec<&str> = all.iter().map(|it| spec::name(&it.0)).collect();
        assert_eq!(names, ["much", "little", "important", "within"]);
    }

    #[test]
    fn people_are_told_what_was_short_and_who_took_it() {
        let shortage =
            Shortage { resource: "memory", threshold: 100 << 20, available: (50 << 20) + 17 };
        let used = Used::from([("c".to_owned(), 60 << 20)]);
        assert_eq!(
            message(&pod("p", "10Mi", 0), &shortage, &used),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 60Mi, request is 10Mi, has larger consumption of memory. "
        );
        assert_eq!(
            message(&pod("p", "70Mi", 0), &shortage, &used),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        );
    }
}
