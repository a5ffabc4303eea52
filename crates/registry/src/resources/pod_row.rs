//! The row of a pod in a table.

use apimachinery::duration::{Duration, human};
use apimachinery::time::parse_time;
use apimachinery::{Value, value};
use jiff::Timestamp;

use super::printing;
use crate::table;

/// What a walk over the containers' statuses finds.
#[derive(Default)]
struct Found {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    sidecar_restarts: i64,
    last_sidecar_restart: Option<Timestamp>,
    /// Whether a container that runs before the others is not done.
    starting: bool,
}

/// The cells of a pod's row, the wide ones last.
pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |list| pod.items_at(&["spec", list]);
    let sidecars = spec("initContainers").iter().filter(|it| is_sidecar(it)).count();
    let total = spec("containers").len() + sidecars;
    let mut found = Found { reason: reason(pod), ..Found::default() };
    before_containers(pod, &mut found);
    if !found.starting || has_condition(pod, "Initialized") {
        containers(pod, &mut found);
    }
    if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
        let over = matches!(pod.str_at(&["status", "phase"]), "Failed" | "Succeeded");
        if pod.str_at(&["status", "reason"]) == "NodeLost" {
            found.reason = "Unknown".into();
        } else if !over {
            found.reason = "Terminating".into();
        }
    }
    let restarts = match found.last_restart {
        Some(then) if found.restarts != 0 => {
            let ago = human(Duration::from_seconds(now.duration_since(then).as_secs()));
            format!("{} ({ago} ago)", found.restarts)
        }
        _ => found.restarts.to_string(),
    };
    let ip = pod.items_at(&["status", "podIPs"]).first().map_or("", |it| it.str_at(&["ip"]));
    vec![
        pod.str_at(&["metadata", "name"]).into(),
        value!(format!("{}/{total}", found.ready)),
        found.reason.into(),
        restarts.into(),
        table::created(pod, now),
        printing::or_none(ip),
        printing::or_none(pod.str_at(&["spec", "nodeName"])),
        printing::or_none(pod.str_at(&["status", "nominatedNodeName"])),
        readiness_gates(pod).into(),
    ]
}

fn reason(pod: &Value) -> String {
    let conditions = pod.items_at(&["status", "conditions"]);
    let gated = |it: &Value| {
        it.str_at(&["type"]) == "PodScheduled" && it.str_at(&["reason"]) == "SchedulingGated"
    };
    let said = pod.str_at(&["status", "reason"]);
    if conditions.iter().any(gated) {
        "SchedulingGated".into()
    } else if said.is_empty() {
        pod.str_at(&["status", "phase"]).into()
    } else {
        said.into()
    }
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == kind && it.str_at(&["status"]) == "True")
}

fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == "Always"
}

fn restarted(status: &Value) -> (i64, Option<Timestamp>) {
    let ended = status.str_at(&["lastState", "terminated", "finishedAt"]);
    (status.i64_at(&["restartCount"]).unwrap_or_default(), parse_time(ended).ok())
}

fn before_containers(pod: &Value, found: &mut Found) {
    let specs = pod.items_at(&["spec", "initContainers"]);
    for (index, status) in pod.items_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        let name = status.str_at(&["name"]);
        let sidecar = specs.iter().any(|it| it.str_at(&["name"]) == name && is_sidecar(it));
        let (count, last) = restarted(status);
        found.restarts += count;
        found.last_restart = found.last_restart.max(last);
        if sidecar {
            found.sidecar_restarts += count;
            found.last_sidecar_restart = found.last_sidecar_restart.max(last);
        }
        let ended = status.at(&["state", "terminated"]);
        if ended.is_some_and(|it| it.i64_at(&["exitCode"]).unwrap_or_default() == 0) {
            continue;
        }
        if sidecar && status.bool_at(&["started"]) {
            found.ready += usize::from(status.bool_at(&["ready"]));
            continue;
        }
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        found.reason = match ended {
            Some(ended) => format!("Init:{}", end(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!("Init:{index}/{}", specs.len()),
        };
        found.starting = true;
        return;
    }
}

/// How a container ended.
fn end(ended: &Value) -> String {
    let number = |member: &str| ended.i64_at(&[member]).unwrap_or_default();
    match (ended.str_at(&["reason"]), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn containers(pod: &Value, found: &mut Found) {
    found.restarts = found.sidecar_restarts;
    found.last_restart = found.last_sidecar_restart;
    let mut running = false;
    for status in pod.items_at(&["status", "containerStatuses"]).iter().rev() {
        let (count, last) = restarted(status);
        found.restarts += count;
        found.last_restart = found.last_restart.max(last);
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            found.reason = waiting.into();
        } else if let Some(ended) = status.at(&["state", "terminated"]) {
            found.reason = end(ended);
        } else if status.bool_at(&["ready"]) && status.at(&["state", "running"]).is_some() {
            running = true;
            found.ready += 1;
        }
    }
    // One container may be done while the others go on.
    if found.reason == "Completed" && running {
        found.reason = if has_condition(pod, "Ready") { "Running" } else { "NotReady" }.into();
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod.items_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|it| has_condition(pod, it.str_at(&["conditionType"]))).count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Value, expected: &str) {
        let pod = value!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "initContainers": [{"name": "a"}, {"name": "b", "restartPolicy": "Always"}],
                "containers": [{"name": "c"}]
            },
            "status": (status)
        });
        let now = parse_time("2026-01-01T00:10:00Z").unwrap();
        let cells = row(&pod, now);
        let text: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
        assert_eq!(text.join(" "), expected);
    }

    #[test]
    fn the_status_says_what_a_pod_waits_for() {
        check(value!({"phase": "Pending"}), "0/2 Pending 0");
        check(
            value!({"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
            ]}),
            "0/2 Init:0/2 0",
        );
        check(
            value!({"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "restartCount": 2, "state": {"terminated": {"exitCode": 3}},
                 "lastState": {"terminated": {"exitCode": 3, "finishedAt": "2026-01-01T00:05:00Z"}}}
            ]}),
            "0/2 Init:ExitCode:3 2 (5m ago)",
        );
        check(
            value!({"phase": "Running", "containerStatuses": [
                {"name": "c", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:09:00Z"}}}
            ]}),
            "0/2 CrashLoopBackOff 1 (60s ago)",
        );
    }
}
