//! What the nodes say of themselves.

use apimachinery::{Value, time, value};
use jiff::Timestamp;

use crate::{PREFIX, Settings, addresses};

/// How long a lease is good, in seconds (upstream: `--node-lease-duration`).
const LEASE_SECONDS: i64 = 40;

/// The name of a node.
pub(crate) fn name(number: u32) -> String {
    format!("{PREFIX}{number}")
}

/// A node as it is registered.
pub(crate) fn node(number: u32, settings: &Settings, now: Timestamp) -> Value {
    let (name, range) = (name(number), addresses::range_of_node(number));
    value!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": (name.as_str()), "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {
            "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": (name.as_str()), "kubernetes.io/os": "linux",
            "kubernetes.io/role": "agent", "node-role.kubernetes.io/agent": "", "type": "kwok"}},
        "spec": {"podCIDR": (range.as_str()), "podCIDRs": [(range.as_str())]},
        "status": (status(number, settings, now))})
}

/// The status of a healthy node.
pub(crate) fn status(number: u32, settings: &Settings, now: Timestamp) -> Value {
    let of = &settings.capacity;
    let has = value!({"cpu": (of.cpu.as_str()), "memory": (of.memory.as_str()), "pods": (of.pods.as_str()),
        "ephemeral-storage": "1Ti", "hugepages-1Gi": "0", "hugepages-2Mi": "0"});
    let (name, address) = (name(number), addresses::of_node(number).to_string());
    let mut status = value!({"allocatable": (has.clone()), "capacity": has, "phase": "Running",
        "addresses": [{"type": "InternalIP", "address": (address.as_str())}, {"type": "Hostname", "address": (name.as_str())}],
        "nodeInfo": {"architecture": "amd64", "bootID": "", "containerRuntimeVersion": "fake://1", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": (settings.version.as_str()), "machineID": "",
            "operatingSystem": "linux", "osImage": "fake", "systemUUID": ""}});
    status.set_at(&["conditions"], conditions(now));
    status
}

/// The conditions of a healthy node.
fn conditions(now: Timestamp) -> Vec<Value> {
    let now = time::format_time(now);
    let of = |name: &str, status: &str, reason: &str, message: &str| {
        value!({"type": name, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": (now.as_str()), "lastTransitionTime": (now.as_str())})
    };
    vec![
        of(
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        of("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        of(
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        of("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
}

/// The lease of a node that has none.
pub(crate) fn lease(name: &str, uid: &str, now: Timestamp) -> Value {
    let now = time::format_micro_time(now);
    value!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": (now.as_str())}})
}
