//! Fields that a feature brings. Where it is off they are dropped from what is written, unless the object had them before.

use apimachinery::Value;

use crate::apis::Features;

type Paths = &'static [&'static [&'static str]];

const GROUP: &str = "schedulingGroup";
const POD: Paths = &[&["spec", GROUP]];
const TEMPLATE: Paths = &[&["template", "spec", GROUP]];
const WORKLOAD: Paths = &[&["spec", "template", "spec", GROUP]];
const CRON: Paths = &[&["spec", "jobTemplate", "spec", "template", "spec", GROUP]];

/// The fields of a resource that features bring which are off.
pub(crate) fn dropped(group: &str, resource: &str, features: Features) -> Paths {
    if features.generic_workload {
        return &[];
    }
    match (group, resource) {
        ("", "pods") => POD,
        ("", "podtemplates") => TEMPLATE,
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => WORKLOAD,
        ("batch", "cronjobs") => CRON,
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
