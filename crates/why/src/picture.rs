//! The scheduler's picture of a cluster, made of its objects. Knows no watch.

use std::sync::Arc;

use apimachinery::Value;
use scheduler::groups::GroupSpec;
use scheduler::{Cluster, NodeLite, PodLite};

use crate::objects::{Objects, key_of};

/// The resources that a picture is made of, by group and plural name.
pub const NEEDED: [(&str, &str); 18] = [
    ("", "nodes"),
    ("", "namespaces"),
    ("", "services"),
    ("", "replicationcontrollers"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("policy", "poddisruptionbudgets"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("resource.k8s.io", "resourceclaims"),
    ("", "pods"),
];

/// What it is made of besides, where a cluster has groups of pods.
const GROUPS: (&str, &str) = ("scheduling.k8s.io", "podgroups");

/// The cluster as the scheduler sees it.
#[must_use]
pub fn of(objects: &dyn Objects) -> Cluster {
    let mut cluster = Cluster::default();
    for (group, resource) in NEEDED.into_iter().chain([GROUPS]) {
        for object in objects.list(group, resource, "") {
            put(&mut cluster, resource, &object);
        }
    }
    cluster
}

fn put(cluster: &mut Cluster, resource: &str, object: &Value) {
    let key = key_of(object);
    match resource {
        "nodes" => cluster.set_node(NodeLite::from_value(object)),
        "resourceclaims" => drop(cluster.devices.set_claim(&key, Some(object))),
        "pods" => put_pod(cluster, object),
        "podgroups" => drop(cluster.groups.set(&key, Some(GroupSpec::from_value(object)))),
        other => cluster.set(other, &key, Some(object)),
    }
}

/// A pod is where it is bound, or waits for the node that is being emptied for it.
fn put_pod(cluster: &mut Cluster, pod: &Value) {
    let bound = !pod.str_at(&["spec", "nodeName"]).is_empty();
    let promised = !pod.str_at(&["status", "nominatedNodeName"]).is_empty();
    let is_member = pod.at(&["spec", "schedulingGroup"]).is_some();
    if PodLite::has_ended(pod) || !(bound || promised || is_member) {
        return;
    }
    let pod = Arc::new(PodLite::from_value(pod));
    if bound {
        return cluster.set_pod(pod);
    }
    cluster.groups.waits(&pod);
    if promised {
        let node = pod.ask.nominated_node.clone();
        cluster.nominate(&pod, Some(&node));
    }
}
