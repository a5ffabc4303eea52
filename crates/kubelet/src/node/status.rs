//! The node object and its status. Pure.

use apimachinery::{Object, Value, time, value};
use cri::{Image, RuntimeStatus};
use jiff::Timestamp;

use super::machine::Machine;
use crate::config::Config;
use crate::pressure::Short;
use crate::resources;

/// Images that a status names at most.
const MAX_IMAGES: usize = 50;
/// Names of one image at most.
const MAX_IMAGE_NAMES: usize = 5;

/// What a status is made from.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) config: &'a Config,
    pub(super) machine: &'a Machine,
    pub(super) short: Short,
    pub(super) runtime_version: &'a str,
    /// How the runtime is, or why it does not answer.
    pub(super) runtime: Result<RuntimeStatus, String>,
    pub(super) images: &'a [Image],
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels of a node.
pub(super) fn labels(config: &Config) -> Value {
    let mut labels = value!({
        "kubernetes.io/hostname": (config.node_name.as_str()),
        "kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": (architecture()), "beta.kubernetes.io/arch": (architecture())
    });
    for (key, text) in &config.labels {
        labels.set_at(&[key.as_str()], text.as_str());
    }
    labels
}

/// The status but for its conditions.
pub(super) fn status(facts: &Facts<'_>) -> Value {
    let Facts { config, machine, .. } = facts;
    let amounts = |all: &resources::Amounts| {
        let mut map = value!({});
        for (name, quantity) in resources::to_quantities(all) {
            map.set_at(&[name.as_str()], quantity.0.as_str());
        }
        map
    };
    let mut addresses: Vec<Value> = config
        .node_ips
        .iter()
        .map(|ip| value!({"type": "InternalIP", "address": (ip.to_string())}))
        .collect();
    addresses.push(value!({"type": "Hostname", "address": (config.node_name.as_str())}));
    let mut status = value!({
        "capacity": (amounts(&machine.capacity(config))),
        "allocatable": (amounts(&machine.allocatable(config))),
        "addresses": (Value::Array(addresses)),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": (i64::from(config.port))}},
        "nodeInfo": {
            "machineID": (machine.machine_id.as_str()), "systemUUID": (machine.system_uuid.as_str()),
            "bootID": (machine.boot_id.as_str()), "kernelVersion": (machine.kernel.as_str()),
            "osImage": (machine.os_image.as_str()), "containerRuntimeVersion": (facts.runtime_version),
            "kubeletVersion": (config.version.as_str()), "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": (architecture())
        },
        "images": (Value::Array(images(facts.images))),
        "runtimeHandlers": (Value::Array(handlers(&facts.runtime))),
        "features": {"supplementalGroupsPolicy": true}
    });
    if machine.swap_bytes > 0 {
        status.set_at(&["nodeInfo", "swap"], value!({"capacity": (machine.swap_bytes)}));
    }
    status
}

/// What a runtime class may name; the first is what pods get that name none.
fn handlers(runtime: &Result<RuntimeStatus, String>) -> Vec<Value> {
    let more = runtime.iter().flat_map(|it| &it.runtime_handlers).filter(|it| !it.is_empty());
    let names = std::iter::once("").chain(more.map(String::as_str));
    let features = value!({"recursiveReadOnlyMounts": true, "userNamespaces": false});
    names.map(|name| value!({"name": name, "features": (features.clone())})).collect()
}

/// The annotations of a node: volumes are attached by the controller where anybody attaches them.
pub(super) fn annotations() -> Value {
    value!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"})
}

/// What a change of a condition is called in events.
fn transition(type_: &str, holds: bool) -> &'static str {
    match (type_, holds) {
        ("MemoryPressure", true) => "NodeHasInsufficientMemory",
        ("MemoryPressure", false) => "NodeHasSufficientMemory",
        ("DiskPressure", true) => "NodeHasDiskPressure",
        ("DiskPressure", false) => "NodeHasNoDiskPressure",
        ("PIDPressure", true) => "NodeHasInsufficientPID",
        ("PIDPressure", false) => "NodeHasSufficientPID",
        (_, true) => "NodeReady",
        (_, false) => "NodeNotReady",
    }
}

/// The events that tell how conditions changed. A node that was never ready before does not tell that it is not.
pub(super) fn transitions(before: &[Value], after: &[Value]) -> Vec<&'static str> {
    let changed = after.iter().filter_map(|new| {
        let type_ = new.str_at(&["type"]);
        let old = before.iter().find(|it| it.str_at(&["type"]) == type_);
        let was = old.map(|it| it.str_at(&["status"]));
        let status = new.str_at(&["status"]);
        let told = was != Some(status) && (type_ != "Ready" || was.is_some());
        told.then(|| transition(type_, status == "True"))
    });
    changed.collect()
}

/// Resources that others advertised in the node's capacity can be had whole; what has gone from there cannot any more.
pub(super) fn advertised(node: &Value, body: &mut Value) {
    let amounts = |name: &str| node.at(&["status", name]).and_then(Value::as_object);
    let ours = body.at(&["capacity"]).cloned().unwrap_or_default();
    let others = |name| {
        let all = amounts(name).into_iter().flat_map(Object::iter);
        all.filter(|(key, _)| ours.get(key).is_none())
    };
    for (key, amount) in others("capacity") {
        body.set_at(&["allocatable", key], amount.clone());
    }
    for (key, _) in others("allocatable") {
        if body.at(&["allocatable", key]).is_none() {
            body.set_at(&["allocatable", key], Value::Null);
        }
    }
}

fn images(images: &[Image]) -> Vec<Value> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by_key(|it| std::cmp::Reverse(it.size));
    let told = sorted.into_iter().take(MAX_IMAGES).map(|it| {
        let names = it.repo_digests.iter().chain(&it.repo_tags).take(MAX_IMAGE_NAMES);
        let names: Vec<Value> = names.map(|it| it.as_str().into()).collect();
        value!({"names": (Value::Array(names)), "sizeBytes": (i64::try_from(it.size).unwrap_or(i64::MAX))})
    });
    told.collect()
}

/// The conditions; those that did not change keep the time of their last change.
pub(super) fn conditions(facts: &Facts<'_>, before: &[Value], now: Timestamp) -> Value {
    let Short { memory, disk } = facts.short;
    let has = |holds: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        let (reason, message) = if holds { yes } else { no };
        (holds, reason, message.to_owned())
    };
    let all = [
        (
            "MemoryPressure",
            has(
                memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            has(
                disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            has(
                false,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
        ),
        ("Ready", ready(facts)),
    ];
    let now = time::format_time(now);
    let list = all.into_iter().map(|(type_, (holds, reason, message))| {
        let status = if holds { "True" } else { "False" };
        let known = before
            .iter()
            .find(|it| it.str_at(&["type"]) == type_ && it.str_at(&["status"]) == status);
        let changed = known.map_or(now.as_str(), |it| it.str_at(&["lastTransitionTime"]));
        value!({
            "type": type_, "status": status, "reason": reason, "message": (message.as_str()),
            "lastHeartbeatTime": (now.as_str()), "lastTransitionTime": changed
        })
    });
    Value::Array(list.collect())
}

fn ready(facts: &Facts<'_>) -> (bool, &'static str, String) {
    let problems: Vec<String> = match &facts.runtime {
        Err(error) => vec![format!("container runtime is down: {error}")],
        Ok(status) => status
            .conditions
            .iter()
            .filter(|it| !it.status)
            .map(|it| match it.condition_type.as_str() {
                cri::conditions::NETWORK_READY => format!(
                    "container runtime network not ready: {}=false reason:{} message:{}",
                    it.condition_type, it.reason, it.message
                ),
                _ => format!(
                    "container runtime not ready: {}=false reason:{} message:{}",
                    it.condition_type, it.reason, it.message
                ),
            })
            .collect(),
    };
    if problems.is_empty() {
        (true, "KubeletReady", "kubelet is posting ready status".into())
    } else if let [one] = problems.as_slice() {
        (false, "KubeletNotReady", one.clone())
    } else {
        (false, "KubeletNotReady", format!("[{}]", problems.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(config: &Config, runtime: Result<RuntimeStatus, String>) -> String {
        let machine = Machine { cpus: 2, memory_bytes: 8 << 30, ..Machine::default() };
        let facts = Facts {
            config,
            machine: &machine,
            short: Short { memory: true, disk: false },
            runtime_version: "kubelith://0.1.0",
            runtime,
            images: &[],
        };
        let before =
            [value!({"type": "DiskPressure", "status": "False", "lastTransitionTime": "then"})];
        let all = conditions(&facts, &before, Timestamp::UNIX_EPOCH);
        let list = all.as_array().unwrap().iter().map(|it| {
            format!(
                "{}={} {} {}",
                it.str_at(&["type"]),
                it.str_at(&["status"]),
                it.str_at(&["reason"]),
                it.str_at(&["lastTransitionTime"])
            )
        });
        list.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_others_advertise_is_allocatable_as_long_as_it_is_advertised() {
        let node = value!({"status": {"capacity": {"cpu": "1", "example.com/dongle": "4"},
            "allocatable": {"cpu": "1", "example.com/gone": "1"}}});
        let mut body = value!({"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}});
        advertised(&node, &mut body);
        let expected = value!({"cpu": "2", "example.com/dongle": "4", "example.com/gone": null});
        assert_eq!(body.get("allocatable"), Some(&expected));
        assert_eq!(body.get("capacity"), Some(&value!({"cpu": "2"})));
    }

    #[test]
    fn changes_of_conditions_are_told() {
        let all = |pairs: &[(&str, &str)]| -> Vec<Value> {
            pairs.iter().map(|(t, s)| value!({"type": (*t), "status": (*s)})).collect()
        };
        let first =
            all(&[("MemoryPressure", "False"), ("DiskPressure", "True"), ("Ready", "False")]);
        assert_eq!(transitions(&[], &first), ["NodeHasSufficientMemory", "NodeHasDiskPressure"]);
        let second =
            all(&[("MemoryPressure", "False"), ("DiskPressure", "False"), ("Ready", "True")]);
        assert_eq!(transitions(&first, &second), ["NodeHasNoDiskPressure", "NodeReady"]);
        let unknown =
            all(&[("MemoryPressure", "Unknown"), ("DiskPressure", "False"), ("Ready", "Unknown")]);
        assert_eq!(transitions(&unknown, &second), ["NodeHasSufficientMemory", "NodeReady"]);
    }

    #[test]
    fn conditions_say_what_is_short_and_since_when() {
        let config = Config::new("n", std::path::Path::new("/tmp"));
        let text = facts(&config, Ok(RuntimeStatus::default()));
        assert_eq!(
            text,
            "MemoryPressure=True KubeletHasInsufficientMemory 1970-01-01T00:00:00Z\n\
             DiskPressure=False KubeletHasNoDiskPressure then\n\
             PIDPressure=False KubeletHasSufficientPID 1970-01-01T00:00:00Z\n\
             Ready=True KubeletReady 1970-01-01T00:00:00Z"
        );
        let text = facts(&config, Err("gone".into()));
        assert!(text.ends_with("Ready=False KubeletNotReady 1970-01-01T00:00:00Z"), "{text}");
    }
}
