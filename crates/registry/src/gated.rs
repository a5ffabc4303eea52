//! Fields that a feature brings. Where it is off they are dropped from what is written, unless the object had them before.

use apimachinery::Value;

use crate::apis::Features;

type Paths = &'static [&'static [&'static str]];

const GROUP: &str = "schedulingGroup";
const POD: Paths = &[&["spec", GROUP]];
const TEMPLATE: Paths = &[&["template", "spec", GROUP]];
const WORKLOAD: Paths = &[&["spec", "template", "spec", GROUP]];
/// What may not be available of a StatefulSet while it is updated, and its pods' group.
const STATEFUL_SET: Paths = &[
    &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"],
    &["spec", "template", "spec", GROUP],
];
/// How coordinated leader election finds the holder of a Lease.
const LEASE: Paths = &[&["spec", "strategy"], &["spec", "preferredHolder"]];

/// How a job's pods are scheduled together.
const JOB: Paths = &[&["spec", "template", "spec", GROUP], &["spec", "scheduling"]];
const CRON_JOB: Paths = &[
    &["spec", "jobTemplate", "spec", "template", "spec", GROUP],
    &["spec", "jobTemplate", "spec", "scheduling"],
];
const SCHEDULING: Paths = &[&["spec", "scheduling"]];
const CRON_SCHEDULING: Paths = &[&["spec", "jobTemplate", "spec", "scheduling"]];
/// What of that belongs to `DRAWorkloadResourceClaims`, which is off, and to `TopologyAwareWorkloadScheduling`, which may be.
const IN_SCHEDULING: Paths =
    &[&["spec", "scheduling", "resourceClaims"], &["spec", "scheduling", "schedulingConstraints"]];
const IN_CRON_SCHEDULING: Paths = &[
    &["spec", "jobTemplate", "spec", "scheduling", "resourceClaims"],
    &["spec", "jobTemplate", "spec", "scheduling", "schedulingConstraints"],
];

/// The fields of a resource that features bring which are off.
pub(crate) fn dropped(group: &str, resource: &str, features: Features) -> Paths {
    let (grouped, jobs) = (features.generic_workload, features.workload_with_job);
    // The last is there where its feature is on.
    let off = IN_SCHEDULING.len() - usize::from(features.topology_aware_workloads);
    match (group, resource) {
        ("coordination.k8s.io", "leases") if !features.coordinated_leader_election => LEASE,
        ("batch", "jobs") => match (grouped, jobs) {
            (false, _) => JOB,
            (true, false) => SCHEDULING,
            (true, true) => &IN_SCHEDULING[..off],
        },
        ("batch", "cronjobs") => match (grouped, jobs) {
            (false, _) => CRON_JOB,
            (true, false) => CRON_SCHEDULING,
            (true, true) => &IN_CRON_SCHEDULING[..off],
        },
        ("apps", "statefulsets") => {
            let first = usize::from(features.max_unavailable_stateful_set);
            &STATEFUL_SET[first..STATEFUL_SET.len() - usize::from(grouped)]
        }
        _ if grouped => &[],
        ("", "pods") => POD,
        ("", "podtemplates") => TEMPLATE,
        ("", "replicationcontrollers") | ("apps", "daemonsets" | "deployments" | "replicasets") => {
            WORKLOAD
        }
        _ => &[],
    }
}

/// Drops them from a new object.
pub(crate) fn drop_new(paths: Paths, value: &mut Value) {
    for path in paths {
        value.remove_at(path);
    }
}

/// Drops them from a changed object that did not have them.
pub(crate) fn drop_changed(paths: Paths, value: &mut Value, old: &Value) {
    for path in paths.iter().filter(|path| old.at(path).is_none()) {
        value.remove_at(path);
    }
}
