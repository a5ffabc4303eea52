//! Workloads that are not there yet: the pods that their controllers would make.

use std::sync::Arc;

use apimachinery::{Object, Value, value};
use client::ObjectKey;
use scheduler::PodLite;
use scheduler::decide::verdict_on;
use scheduler::framework::Cycle;

use super::place::Pending;
use super::{MAX_PLACED, Noted, Play, WhatIfError};
use crate::objects::{controller_uid, key_of};

/// What the DaemonSet controller lets its pods tolerate.
const DAEMON_TAINTS: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Refusals that mean that a node is to have no pod of a DaemonSet.
const NOT_MEANT: [&str; 4] = ["NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity"];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

impl Play<'_> {
    pub(super) fn apply(&mut self, objects: &[Value], namespace: &str) -> Result<(), WhatIfError> {
        let mut names = Vec::new();
        let mut objects: Vec<Value> = objects.to_vec();
        let kinds = self.objects.kinds();
        for object in &mut objects {
            let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
            let group = version.split_once('/').map_or("", |(group, _)| group);
            let wide =
                kinds.iter().any(|it| it.group == group && it.kind == kind && !it.namespaced);
            if wide {
                object.remove_at(&["metadata", "namespace"]);
            } else if object.str_at(&["metadata", "namespace"]).is_empty() {
                object.set_at(&["metadata", "namespace"], namespace);
            }
            names.push(format!("{}/{}", object.str_at(&["kind"]), key_of(object).name));
        }
        self.report.action = format!("apply {}", names.join(", "));
        // What pods are judged by comes before the pods.
        objects.iter().for_each(|it| self.learn(it));
        for (object, name) in objects.iter().zip(&names) {
            self.add(object, name)?;
        }
        self.settle()
    }

    /// Objects that others are judged by.
    fn learn(&mut self, object: &Value) {
        let key = key_of(object);
        match object.str_at(&["kind"]) {
            "Service" => self.cluster.set_service(&key, Some(object)),
            "PersistentVolumeClaim" => self.cluster.volumes.set_claim(&key, Some(object)),
            "PersistentVolume" => self.cluster.volumes.set_volume(&key.name, Some(object)),
            "StorageClass" => self.cluster.volumes.set_class(&key.name, Some(object)),
            "Namespace" => self.cluster.set_namespace(&key.name, Some(object)),
            "PriorityClass" => self.around.classes.push(Arc::new(object.clone())),
            kind @ ("ReplicaSet" | "StatefulSet" | "ReplicationController") => {
                self.cluster.set_workload(kind, &key, Some(object));
            }
            _ => {}
        }
    }

    fn add(&mut self, object: &Value, name: &str) -> Result<(), WhatIfError> {
        let replicas = object.i64_at(&["spec", "replicas"]).unwrap_or(1);
        let count = match object.str_at(&["kind"]) {
            "Pod" => {
                let pod = self.completed(object.clone());
                self.cluster.remove_pod(&key_of(&pod));
                self.queue.push_back(Pending::new(pod, ""));
                return Ok(());
            }
            "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController" => replicas,
            "Job" if object.bool_at(&["spec", "suspend"]) => 0,
            "Job" => {
                let most = object.i64_at(&["spec", "completions"]).unwrap_or(1);
                object.i64_at(&["spec", "parallelism"]).unwrap_or(1).min(most)
            }
            "DaemonSet" => {
                self.think_away(object);
                self.add_daemons(object, name);
                return Ok(());
            }
            _ => {
                let (pod, note) = (key_of(object), format!("{name} brings no pods"));
                self.report.ignored.push(Noted { pod, node: String::new(), note });
                return Ok(());
            }
        };
        let count = usize::try_from(count).unwrap_or_default();
        if count > MAX_PLACED {
            return Err(WhatIfError::TooMany(count));
        }
        self.think_away(object);
        for nth in 0..count {
            let mut pod = self.completed(of_template(object, nth));
            self.claim_volumes(object, nth, &mut pod);
            self.queue.push_back(Pending::new(pod, name));
        }
        Ok(())
    }

    /// A workload of this name that is there is replaced, pods and all.
    fn think_away(&mut self, object: &Value) {
        let (key, kind) = (key_of(object), object.str_at(&["kind"]));
        let Some((group, resource)) = (match kind {
            "Deployment" => Some(("apps", "deployments")),
            "ReplicaSet" => Some(("apps", "replicasets")),
            "StatefulSet" => Some(("apps", "statefulsets")),
            "DaemonSet" => Some(("apps", "daemonsets")),
            "ReplicationController" => Some(("", "replicationcontrollers")),
            "Job" => Some(("batch", "jobs")),
            _ => None,
        }) else {
            return;
        };
        let Some(there) = self.objects.get(group, resource, &key) else { return };
        let mut owners = vec![there.str_at(&["metadata", "uid"]).to_owned()];
        if kind == "Deployment" {
            let sets = self.objects.list("apps", "replicasets", &key.namespace);
            let own = sets.iter().filter(|it| controller_uid(it) == owners[0]);
            let uids: Vec<String> =
                own.map(|it| it.str_at(&["metadata", "uid"]).to_owned()).collect();
            owners.extend(uids);
        }
        for pod in self.objects.list("", "pods", &key.namespace) {
            if owners.iter().any(|it| it == controller_uid(&pod)) {
                self.cluster.remove_pod(&key_of(&pod));
                let note =
                    format!("{kind}/{} is replaced: its old pods are thought away", key.name);
                self.report.ignored.push(super::leave::noted(&pod, &note));
            }
        }
    }

    /// What admission and defaulting would add, as far as it decides where a pod fits.
    fn completed(&self, mut pod: Value) -> Value {
        let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
        let class = self.around.classes.iter().find(|it| match name.as_str() {
            "" => it.bool_at(&["globalDefault"]),
            name => it.str_at(&["metadata", "name"]) == name,
        });
        if let Some(class) = class {
            pod.default_at(&["spec", "priority"], class.i64_at(&["value"]).unwrap_or_default());
            if class.str_at(&["preemptionPolicy"]) == "Never" {
                pod.default_at(&["spec", "preemptionPolicy"], "Never");
            }
        }
        for list in ["containers", "initContainers"] {
            for container in pod.items_at_mut(&["spec", list]) {
                let limits =
                    container.at(&["resources", "limits"]).and_then(Value::as_object).cloned();
                for (name, amount) in limits.iter().flat_map(Object::iter) {
                    container.default_at(&["resources", "requests", name], amount.clone());
                }
            }
        }
        pod
    }

    /// The claims that a StatefulSet makes for a pod.
    fn claim_volumes(&mut self, set: &Value, nth: usize, pod: &mut Value) {
        let key = key_of(set);
        for template in set.items_at(&["spec", "volumeClaimTemplates"]) {
            let volume = template.str_at(&["metadata", "name"]);
            let claim = format!("{volume}-{}-{nth}", key.name);
            let source =
                value!({"name": volume, "persistentVolumeClaim": {"claimName": (claim.as_str())}});
            let volumes = pod.object_at_mut(&["spec"]).entry("volumes");
            match volumes.as_array_mut() {
                Some(all) => all.push(source),
                None => *volumes = Value::Array(vec![source]),
            }
            let claim_key = ObjectKey::new(key.namespace.clone(), claim.as_str());
            if self.cluster.volumes.claim(&claim_key).is_none() {
                let mut made = template.clone();
                made.set_at(&["metadata", "name"], claim);
                made.set_at(&["metadata", "namespace"], key.namespace.as_str());
                made.set_at(&["metadata", "uid"], claim_key.to_string());
                self.cluster.volumes.set_claim(&claim_key, Some(&made));
            }
        }
    }

    /// A pod for each node that is meant.
    fn add_daemons(&mut self, set: &Value, name: &str) {
        let nodes: Vec<String> =
            self.cluster.rows().iter().map(|row| row.node.name.to_string()).collect();
        let Some(profile) =
            self.explainer.profile(set.str_at(&["spec", "template", "spec", "schedulerName"]))
        else {
            return;
        };
        for (nth, node) in nodes.iter().enumerate() {
            let pod = self.completed(daemon(of_template(set, nth), node));
            let lite = PodLite::from_value(&pod);
            let cycle = Cycle { pod: &lite, cluster: &self.cluster };
            let refused = self.cluster.row(node).and_then(|row| verdict_on(cycle, profile, row));
            if !refused.is_some_and(|(plugin, _)| NOT_MEANT.contains(&plugin)) {
                self.queue.push_back(Pending::new(pod, name));
            }
        }
    }
}

/// The pod that a template makes.
fn of_template(owner: &Value, nth: usize) -> Value {
    let key = key_of(owner);
    let template = owner.at(&["spec", "template"]).unwrap_or(&Value::Null);
    let mut pod = value!({"metadata": {}, "spec": {}});
    for part in ["metadata", "spec"] {
        if let Some(given) = template.get(part).filter(|it| !it.is_null()) {
            pod.set_at(&[part], given.clone());
        }
    }
    let name = format!("{}-{nth}", key.name);
    pod.set_at(&["metadata", "uid"], format!("{}/{name}", key.namespace));
    pod.set_at(&["metadata", "name"], name);
    pod.set_at(&["metadata", "namespace"], key.namespace.as_str());
    let kind = owner.str_at(&["kind"]);
    let reference = value!({"kind": kind, "name": (key.name.as_str()), "controller": true});
    pod.set_at(&["metadata", "ownerReferences"], Value::Array(vec![reference]));
    pod
}

/// A pod for one node, as the DaemonSet controller makes it.
fn daemon(mut pod: Value, node: &str) -> Value {
    let field = value!({"key": "metadata.name", "operator": "In", "values": [node]});
    let at = ["spec", "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
    let mut terms = pod.items_at(&at).to_vec();
    if terms.is_empty() {
        terms.push(Value::object());
    }
    for term in &mut terms {
        term.set_at(&["matchFields"], Value::Array(vec![field.clone()]));
    }
    pod.set_at(&at, Value::Array(terms));
    let mut tolerations = pod.items_at(&["spec", "tolerations"]).to_vec();
    let tolerated = DAEMON_TAINTS.into_iter();
    tolerations.extend(
        tolerated.map(|(key, effect)| value!({"key": key, "operator": "Exists", "effect": effect})),
    );
    pod.set_at(&["spec", "tolerations"], Value::Array(tolerations));
    pod
}
