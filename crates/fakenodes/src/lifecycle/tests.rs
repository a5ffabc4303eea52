use std::fmt::Write as _;

use super::*;

const PLACE: Place =
    Place { node: Ipv4Addr::new(198, 18, 0, 1), pod: Some(Ipv4Addr::new(100, 64, 0, 1)) };

fn pod(more: &Value) -> Value {
    let mut pod = value!({"metadata": {"namespace": "default", "name": "a", "uid": "u1", "generation": 1},
        "spec": {"nodeName": "fake-0", "restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}});
    for (path, value) in more.as_object().into_iter().flat_map(|it| it.iter()) {
        let path: Vec<&str> = path.split('/').collect();
        pod.set_at(&path, value.clone());
    }
    pod
}

/// The plan in a line.
fn said(pod: &Value, place: &Place, now: &str) -> String {
    let plan = next(pod, place, now.parse().unwrap());
    let mut text = String::new();
    for action in plan.stages.iter().flat_map(|it| &it.actions) {
        match &action.action {
            Action::Patch { patch, .. } => {
                let phase = patch.str_at(&["status", "phase"]);
                let mut ready = patch.items_at(&["status", "conditions"]).iter();
                let ready = ready.find(|it| it.str_at(&["type"]) == "Ready").unwrap();
                write!(text, "{phase} ready={}; ", ready.str_at(&["status"])).unwrap();
            }
            Action::Delete { grace_period_seconds, uid, .. } => {
                write!(text, "delete {uid} {grace_period_seconds:?}; ").unwrap();
            }
            other => write!(text, "{other:?}; ").unwrap(),
        }
    }
    if let Some(at) = plan.requeue_at {
        write!(text, "at {at}").unwrap();
    }
    text + plan.error.as_deref().unwrap_or_default()
}

#[test]
fn pods_go_through_their_lives() {
    let now = "2026-01-01T00:00:10Z";
    let ready = value!([{"type": "Ready", "status": "True"}]);
    let job = value!([{"kind": "Job", "controller": true}]);
    let delay = value!({COMPLETES_AFTER: "1m"});
    let gate = value!([{"conditionType": "lb"}]);
    let gone = "2026-01-01T00:00:05Z";
    for (more, expected) in [
        (value!({}), "Running ready=True; "),
        (value!({"status/phase": "Running", "status/conditions": (ready.clone())}), ""),
        (value!({"spec/readinessGates": (gate.clone())}), "Running ready=False; "),
        (value!({"status/phase": "Running", "spec/readinessGates": gate}), ""),
        (value!({"status/phase": "Running"}), "Running ready=True; "),
        (
            value!({"status/phase": "Running", "status/conditions": (ready.clone()), "spec/restartPolicy": "Never",
                "metadata/ownerReferences": (job.clone()), "status/startTime": now}),
            "Succeeded ready=False; ",
        ),
        (
            value!({"status/phase": "Running", "status/conditions": (ready.clone()), "spec/restartPolicy": "OnFailure",
                "metadata/annotations": (delay.clone()), "status/startTime": now}),
            "at 2026-01-01T00:01:10Z",
        ),
        (
            value!({"status/phase": "Running", "status/conditions": ready, "metadata/annotations": delay}),
            "",
        ),
        (value!({"status/phase": "Succeeded"}), ""),
        (value!({"metadata/deletionTimestamp": gone}), "delete u1 Some(0); "),
        (
            value!({"metadata/deletionTimestamp": gone, "metadata/finalizers": ["batch.kubernetes.io/job-tracking"], "status/phase": "Running"}),
            "Failed ready=False; delete u1 Some(0); ",
        ),
        (
            value!({"metadata/deletionTimestamp": gone, "metadata/finalizers": ["x"], "status/phase": "Failed",
                "metadata/deletionGracePeriodSeconds": 0}),
            "",
        ),
    ] {
        assert_eq!(said(&pod(&more), &PLACE, now), expected, "{more:?}");
    }
    let full = Place { pod: None, ..PLACE };
    assert_eq!(said(&pod(&value!({})), &full, now), "the node has no address left");
}
