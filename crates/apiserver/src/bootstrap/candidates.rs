//! What those may besides who stand for leases, where `CoordinatedLeaderElection` is on.

use apimachinery::{Value, value};

const STANDING: [&str; 2] = ["system:kube-controller-manager", "system:kube-scheduler"];

/// Adds the rules to roles that are there anyway.
pub(super) fn add(objects: &mut [Value]) {
    for role in objects.iter_mut().filter(|it| it.str_at(&["kind"]) == "ClusterRole") {
        if STANDING.contains(&role.str_at(&["metadata", "name"])) {
            let mut rules = role.items_at(&["rules"]).to_vec();
            rules.push(value!({"verbs": ["create", "get", "list", "update", "watch"],
                "apiGroups": ["coordination.k8s.io"], "resources": ["leasecandidates"]}));
            role.set_at(&["rules"], rules);
        }
    }
}
