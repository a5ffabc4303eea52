//! What an agent says of a pod and of its node.

use apimachinery::{Value, time, value};
use jiff::Timestamp;

use super::process::{Process, Stage};
use super::{CPU_MILLI, MEMORY_MIB, PODS};

/// What the API is to say of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    phase: &'static str,
    ready: bool,
    restarts: i64,
    exited: Option<i64>,
    reason: &'static str,
}

impl Wanted {
    /// What there is to be said of a process; nothing before it has begun.
    pub(crate) fn of(process: &Process, pod: &Value, deleting: bool) -> Option<Self> {
        let restarts = process.restarts;
        let base = Self { phase: "Running", ready: false, restarts, exited: None, reason: "" };
        match process.stage {
            Stage::Waiting(_) if restarts > 0 => Some(base),
            Stage::Waiting(_) => None,
            Stage::Running => Some(Self { ready: process.is_ready(), ..base }),
            Stage::Refused => Some(Self { phase: "Failed", reason: "OutOfcpu", ..base }),
            Stage::Exited(code) if deleting || is_final(pod, code) => {
                let phase = if code == 0 { "Succeeded" } else { "Failed" };
                Some(Self { phase, exited: Some(code), ..base })
            }
            Stage::Exited(code) => Some(Self { exited: Some(code), ..base }),
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.phase, "Succeeded" | "Failed")
    }

    /// Whether the API says so already.
    pub(crate) fn is_told(&self, pod: &Value) -> bool {
        let conditions = pod.items_at(&["status", "conditions"]);
        let ready = conditions.iter().find(|it| it.str_at(&["type"]) == "Ready");
        let ready = ready.is_some_and(|it| it.str_at(&["status"]) == "True");
        let restarts = pod.items_at(&["status", "containerStatuses"]).first();
        let restarts = restarts.and_then(|it| it.i64_at(&["restartCount"])).unwrap_or(-1);
        pod.str_at(&["status", "phase"]) == self.phase
            && ready == self.ready
            && (restarts == self.restarts || self.reason == "OutOfcpu")
    }

    /// The patch that says it.
    pub(crate) fn patch(&self, pod: &Value, ip: &str, now: Timestamp) -> Value {
        let now = time::format_time(now);
        let uid = pod.str_at(&["metadata", "uid"]);
        let mut status = value!({"phase": (self.phase), "startTime": (now.as_str())});
        if let Some(began) = pod.at(&["status", "startTime"]).filter(|it| !it.is_null()) {
            status.set_at(&["startTime"], began.clone());
        }
        if !self.reason.is_empty() {
            status.set_at(&["reason"], self.reason);
            status.set_at(&["message"], "Pod was rejected: Node didn't have enough resource: cpu");
            return value!({"metadata": {"uid": uid}, "status": status});
        }
        let truth = if self.ready { "True" } else { "False" };
        let over = if self.is_terminal() { "PodCompleted" } else { "ContainersNotReady" };
        let condition = |r#type: &str, truth: &str| {
            let mut condition =
                value!({"type": r#type, "status": truth, "lastTransitionTime": (now.as_str())});
            if truth == "False" {
                condition.set_at(&["reason"], over);
            }
            condition
        };
        let conditions = vec![
            condition("Initialized", "True"),
            condition("Ready", truth),
            condition("ContainersReady", truth),
        ];
        status.set_at(&["conditions"], conditions);
        status.set_at(&["hostIP"], "192.0.2.9");
        status.set_at(&["podIP"], ip);
        status.set_at(&["podIPs"], vec![value!({"ip": ip})]);
        status.set_at(&["containerStatuses"], vec![self.container(now.as_str())]);
        value!({"metadata": {"uid": uid}, "status": status})
    }

    fn container(&self, now: &str) -> Value {
        let state = match self.exited {
            Some(code) => {
                let reason = if code == 0 { "Completed" } else { "Error" };
                value!({"terminated": {"exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now}})
            }
            None => value!({"running": {"startedAt": now}}),
        };
        value!({"name": "c", "image": "i", "imageID": "i", "restartCount": (self.restarts),
            "ready": (self.ready), "started": (self.ready), "state": state})
    }
}

/// Whether a process that exited so is not started again.
pub(crate) fn is_final(pod: &Value, code: i64) -> bool {
    match pod.str_at(&["spec", "restartPolicy"]) {
        "Never" => true,
        "OnFailure" => code == 0,
        _ => false,
    }
}

/// A node as its agent registers it.
pub(crate) fn node(name: &str, number: usize, now: Timestamp) -> Value {
    let zone = format!("zone-{}", number % 3);
    let mut node = value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}, "labels": {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": (zone.as_str())}},
        "spec": {}});
    node.set_at(&["status"], node_status(now));
    node
}

/// What a healthy node says of itself.
pub(crate) fn node_status(now: Timestamp) -> Value {
    let now = time::format_time(now);
    let resources = value!({"cpu": (format!("{CPU_MILLI}m")), "memory": (format!("{MEMORY_MIB}Mi")),
        "pods": (PODS.to_string()), "ephemeral-storage": "100Gi"});
    let condition = |r#type: &str, status: &str, reason: &str| {
        value!({"type": r#type, "status": status, "reason": reason, "message": "kubelet is posting",
            "lastHeartbeatTime": (now.as_str()), "lastTransitionTime": (now.as_str())})
    };
    value!({"capacity": (resources.clone()), "allocatable": resources, "conditions": [
        (condition("MemoryPressure", "False", "KubeletHasSufficientMemory")),
        (condition("DiskPressure", "False", "KubeletHasNoDiskPressure")),
        (condition("PIDPressure", "False", "KubeletHasSufficientPID")),
        (condition("Ready", "True", "KubeletReady"))]})
}

/// The lease that says that a node lives.
pub(crate) fn lease(name: &str, uid: &str, now: Timestamp) -> Value {
    let now = time::format_micro_time(now);
    value!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": (now.as_str())}})
}
