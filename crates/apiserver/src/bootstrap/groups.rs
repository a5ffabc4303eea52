//! What those may besides who have to do with groups of pods, where `GenericWorkload` is on.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac/bootstrappolicy` of Kubernetes v1.37.

use apimachinery::{Value, value};

const READ: [&str; 3] = ["get", "list", "watch"];

/// Adds the roles, and the rules to roles that are there anyway; those for jobs that make groups where they do.
pub(super) fn add(objects: &mut Vec<Value>, jobs: bool) {
    let reading: Value = READ.into_iter().collect();
    for role in objects.iter_mut().filter(|it| it.str_at(&["kind"]) == "ClusterRole") {
        if role.str_at(&["metadata", "name"]) == "system:kube-scheduler" {
            let rules = [
                value!({"verbs": (reading.clone()), "apiGroups": ["scheduling.k8s.io"],
                    "resources": ["podgroups"]}),
                value!({"verbs": ["patch", "update"], "apiGroups": ["scheduling.k8s.io"],
                    "resources": ["podgroups/status"]}),
            ];
            let mut all = role.items_at(&["rules"]).to_vec();
            all.extend(rules);
            role.set_at(&["rules"], all);
        }
    }
    let job = |it: &&mut Value| {
        let name = it.str_at(&["metadata", "name"]);
        it.str_at(&["kind"]) == "ClusterRole" && name == "system:controller:job-controller"
    };
    if let Some(role) = objects.iter_mut().find(job).filter(|_| jobs) {
        let mut rules = role.items_at(&["rules"]).to_vec();
        rules.push(value!({"verbs": ["create", "get", "list", "patch", "update", "watch"],
            "apiGroups": ["scheduling.k8s.io"], "resources": ["podgroups", "workloads"]}));
        role.set_at(&["rules"], rules);
    }
    let rules = value!([
        {"verbs": ["get", "list", "update", "watch"], "apiGroups": ["scheduling.k8s.io"],
            "resources": ["podgroups"]},
        {"verbs": (reading), "apiGroups": [""], "resources": ["pods"]}]);
    objects.extend(super::controller_role("podgroup-protection-controller", rules));
}
