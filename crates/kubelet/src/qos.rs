//! The groups above those of pods: what all pods together may use, and how the classes stand to each other when the
//! processor is short.

use k8s_openapi::api::core::v1::Pod;
use sys::cgroup::{CgroupError, Hierarchies, Limits, Op};

use crate::config::Config;
use crate::node::Machine;
use crate::resources::{self, QosClass};

/// Makes the groups; all pods together get what is not reserved. What pods are evicted for is not taken off: the
/// kernel must not be faster than the eviction.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn enforce(
    config: &Config,
    machine: &Machine,
    hierarchies: &Hierarchies,
) -> Result<(), CgroupError> {
    sys::cgroup::apply(
        &hierarchies.plan_create(&config.cgroup_root, &node_limits(config, machine)),
    )?;
    sys::cgroup::apply(&plan_shares(config, hierarchies, &[]))
}

fn node_limits(config: &Config, machine: &Machine) -> Limits {
    let capacity = machine.capacity(config);
    let left = |name: &str| {
        let all = capacity.get(name).copied().unwrap_or_default();
        (all - config.reserved.get(name).copied().unwrap_or_default()).max(0)
    };
    Limits {
        cpu_shares: u64::try_from(resources::cpu_shares(left("cpu"))).unwrap_or_default(),
        memory: left("memory"),
        ..Limits::default()
    }
}

/// Gives the classes their weights: what burstable pods ask for together, and next to nothing for best effort.
/// Guaranteed pods stand beside them with weights of their own.
pub(crate) fn plan_shares(config: &Config, hierarchies: &Hierarchies, pods: &[Pod]) -> Vec<Op> {
    let burstable: i64 = pods
        .iter()
        .filter(|it| resources::qos_class(it) == QosClass::Burstable)
        .map(|it| resources::pod_requests(it).get("cpu").copied().unwrap_or_default())
        .sum();
    let classes = [("burstable", burstable), ("besteffort", 0)];
    let plans = classes.map(|(class, milli)| {
        let cpu_shares = u64::try_from(resources::cpu_shares(milli)).unwrap_or_default();
        let limits = Limits { cpu_shares, ..Limits::default() };
        hierarchies.plan_create(&format!("{}/{class}", config.cgroup_root), &limits)
    });
    plans.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn writes(ops: &[Op]) -> Vec<String> {
        let text = |op: &Op| match op {
            Op::Write { path, value, .. } => Some(format!("{}={value}", path.display())),
            Op::MakeDir(_) | Op::Inherit { .. } | Op::RemoveDir(_) => None,
        };
        ops.iter().filter_map(text).collect()
    }

    #[test]
    fn classes_weigh_what_their_pods_ask_for() {
        let pod = |resources: &str| -> Pod {
            serde_json::from_str(&format!(
                r#"{{"metadata":{{}},"spec":{{"containers":[{{"name":"c","resources":{resources}}}]}}}}"#
            ))
            .unwrap()
        };
        let hierarchies = Hierarchies {
            version: sys::cgroup::Version::V1,
            v1: [("cpu".to_owned(), "/c".into())].into(),
            v2: None,
        };
        let config = Config::new("n", Path::new("/tmp"));
        let pods = [
            pod(r#"{"requests":{"cpu":"250m"}}"#),
            pod(r#"{"requests":{"cpu":"750m"}}"#),
            pod(r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#),
            pod("{}"),
        ];
        assert_eq!(
            writes(&plan_shares(&config, &hierarchies, &pods)),
            ["/c/kubepods/burstable/cpu.shares=1024", "/c/kubepods/besteffort/cpu.shares=2"]
        );
    }

    #[test]
    fn pods_together_get_what_is_not_reserved() {
        let mut config = Config::new("n", Path::new("/tmp"));
        config.reserved = [("memory".to_owned(), 1 << 30), ("cpu".to_owned(), 500)].into();
        let machine = Machine { cpus: 2, memory_bytes: 8 << 30, ..Machine::default() };
        let limits = node_limits(&config, &machine);
        assert_eq!((limits.memory, limits.cpu_shares), (7 << 30, 1536));
    }
}
