//! Clusters to ask about, written as YAML.

use std::sync::Arc;

use apimachinery::{Value, yaml};
use client::{ObjectKey, Resource};
use jiff::Timestamp;
use scheduler::decide::How;
use scheduler::framework::Cycle;
use scheduler::{Decision, PodLite, Profile, decide};
use why::objects::key_of;
use why::{Explainer, Gathered, Objects, Subject, picture};

/// Kinds by name: group, version, plural, whether in namespaces.
const KINDS: [(&str, &str, &str, &str, bool); 23] = [
    ("PodGroup", "scheduling.k8s.io", "v1beta1", "podgroups", true),
    ("Node", "", "v1", "nodes", false),
    ("Namespace", "", "v1", "namespaces", false),
    ("Pod", "", "v1", "pods", true),
    ("Service", "", "v1", "services", true),
    ("Event", "", "v1", "events", true),
    ("ConfigMap", "", "v1", "configmaps", true),
    ("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims", true),
    ("PersistentVolume", "", "v1", "persistentvolumes", false),
    ("Deployment", "apps", "v1", "deployments", true),
    ("ReplicaSet", "apps", "v1", "replicasets", true),
    ("StatefulSet", "apps", "v1", "statefulsets", true),
    ("DaemonSet", "apps", "v1", "daemonsets", true),
    ("Job", "batch", "v1", "jobs", true),
    ("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", true),
    ("PriorityClass", "scheduling.k8s.io", "v1", "priorityclasses", false),
    ("StorageClass", "storage.k8s.io", "v1", "storageclasses", false),
    ("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices", true),
    ("APIService", "apiregistration.k8s.io", "v1", "apiservices", false),
    ("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions", false),
    ("ResourceClaim", "resource.k8s.io", "v1", "resourceclaims", true),
    ("VolumeAttachment", "storage.k8s.io", "v1", "volumeattachments", false),
    ("Widget", "example.com", "v1", "widgets", true),
];

fn kind(name: &str) -> Resource {
    let (kind, group, version, resource, namespaced) =
        KINDS.into_iter().find(|it| it.0 == name).unwrap_or_else(|| panic!("no kind {name}"));
    Resource {
        group: group.into(),
        version: version.into(),
        plural: resource.into(),
        kind: kind.into(),
        namespaced,
    }
}

/// The objects of several documents; uids are kinds with names where there are none.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|it| !it.trim().is_empty());
    let mut all: Vec<Value> = documents
        .map(|it| yaml::parse(it.as_bytes()).unwrap_or_else(|error| panic!("{it}: {error}")))
        .collect();
    for it in &mut all {
        let kind = kind(it.str_at(&["kind"]));
        if kind.namespaced {
            it.default_at(&["metadata", "namespace"], "default");
        }
        let uid = format!("{}-{}", kind.plural, it.str_at(&["metadata", "name"]));
        it.default_at(&["metadata", "uid"], uid);
    }
    all
}

/// A cluster of these objects.
pub(crate) fn cluster(text: &str) -> Gathered {
    let mut gathered = Gathered::serving(KINDS.iter().map(|it| kind(it.0)).collect());
    for object in objects(text) {
        let kind = kind(object.str_at(&["kind"]));
        gathered.set(&kind.group, &kind.plural, object);
    }
    gathered
}

/// The moment of every question.
pub(crate) fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

/// The explanation of an object of the namespace `default`, as JSON.
pub(crate) fn explain(cluster: &Gathered, of: &str, name: &str) -> Value {
    explain_by(&Explainer::default(), cluster, of, name)
}

/// The same as other schedulers decide.
pub(crate) fn explain_by(by: &Explainer, cluster: &Gathered, of: &str, name: &str) -> Value {
    let kind = kind(of);
    let namespace = if kind.namespaced { "default" } else { "" };
    let subject = Subject { kind, key: ObjectKey::new(namespace, name) };
    let explanation = by.explain(cluster, &subject, now());
    explanation.unwrap_or_else(|| panic!("there is no {of} {name}")).to_value()
}

/// What is said to help.
pub(crate) fn suggestions(explanation: &Value) -> Vec<String> {
    let all = explanation.items_at(&["scheduling", "suggestions"]).iter();
    all.map(|it| it.str_at(&["summary"]).to_owned()).collect()
}

/// Applies each suggestion to the objects and schedules: it has to fit, on as many nodes as is said. And without it not.
pub(crate) fn prove(cluster: &Gathered, pod: &str, explanation: &Value) -> usize {
    let key = ObjectKey::new("default", pod);
    assert!(!fits(cluster, &key), "it fits already");
    let all = explanation.items_at(&["scheduling", "suggestions"]);
    for suggestion in all {
        let mut changed = cluster.clone();
        for change in suggestion.items_at(&["changes"]) {
            let (resource, key) = match change.str_at(&["kind"]) {
                "Pod" => ("pods", key.clone()),
                _ => ("nodes", ObjectKey::new("", change.str_at(&["name"]))),
            };
            let before = changed.get("", resource, &key).unwrap();
            let patch = change.at(&["patch"]).unwrap();
            let after = apimachinery::patch::json_patch::apply(&before, patch).unwrap();
            changed.set("", resource, after);
        }
        assert!(fits(&changed, &key), "does not help: {suggestion:?}");
    }
    all.len()
}

/// Whether the scheduler would place a pod.
pub(crate) fn fits(cluster: &Gathered, key: &ObjectKey) -> bool {
    let pod = cluster.get("", "pods", key).unwrap();
    let pod: PodLite = PodLite::from_value(&pod);
    let picture = picture::of(cluster);
    let cycle = Cycle { pod: &pod, cluster: &picture };
    matches!(decide(cycle, &Profile::default(), How::default()), Decision::Place(_))
}

/// All findings of an explanation, those that explain others too: `reason object message`.
pub(crate) fn findings(explanation: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect(explanation.items_at(&["findings"]), &mut all);
    all
}

fn collect(findings: &[Value], all: &mut Vec<String>) {
    for it in findings {
        all.push(format!(
            "{} {} {}",
            it.str_at(&["reason"]),
            it.str_at(&["object"]),
            it.str_at(&["message"])
        ));
        collect(it.items_at(&["because"]), all);
    }
}

/// That a text has all of these in it.
pub(crate) fn has(text: &str, wanted: &[&str]) {
    for it in wanted {
        assert!(text.contains(it), "{it:?} is not in:\n{text}");
    }
}

/// A node.
pub(crate) fn node(name: &str, cpu: &str, memory: &str) -> String {
    format!(
        "kind: Node\nmetadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}, zone: z-{name}}}}}\n\
         spec: {{}}\nstatus:\n  allocatable: {{cpu: '{cpu}', memory: {memory}, pods: '10'}}\n  \
         conditions: [{{type: Ready, status: 'True'}}]\n---\n"
    )
}

/// A pod that asks for so much CPU; `more` are lines of its spec, two spaces in.
pub(crate) fn pod(name: &str, cpu: &str, more: &str) -> String {
    format!(
        "kind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  containers:\n  - name: main\n    \
         image: x\n    resources: {{requests: {{cpu: '{cpu}', memory: 64Mi}}}}\n{more}\n---\n"
    )
}

/// The same, running and ready on a node, of a ReplicaSet `owner`.
pub(crate) fn running(name: &str, cpu: &str, node: &str, owner: &str) -> String {
    let reference =
        format!("{{kind: ReplicaSet, name: {owner}, uid: replicasets-{owner}, controller: true}}");
    format!(
        "kind: Pod\nmetadata: {{name: {name}, labels: {{app: {owner}}}, ownerReferences: [{reference}]}}\nspec:\n  \
         nodeName: {node}\n  containers:\n  - name: main\n    image: x\n    \
         resources: {{requests: {{cpu: '{cpu}', memory: 64Mi}}}}\n\
         status: {{phase: Running, conditions: [{{type: Ready, status: 'True'}}]}}\n---\n"
    )
}

/// An object, changed.
pub(crate) fn change(
    cluster: &mut Gathered,
    of: &str,
    name: &str,
    change: impl FnOnce(&mut Value),
) {
    let kind = kind(of);
    let namespace = if kind.namespaced { "default" } else { "" };
    let object = cluster.get(&kind.group, &kind.plural, &ObjectKey::new(namespace, name)).unwrap();
    let mut object = Arc::unwrap_or_clone(object);
    change(&mut object);
    assert_eq!(key_of(&object).name, name);
    cluster.set(&kind.group, &kind.plural, object);
}
