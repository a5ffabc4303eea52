//! Arbitrary bytes as a patch of each kind on a pod: a pod, something that does not conform, or an error; never a
//! panic, and never something that cannot be written and read again.

#![no_main]

use std::sync::OnceLock;

use apimachinery::patch::{json_patch, merge, strategic};
use apimachinery::schema::NodeId;
use apimachinery::{Value, conform, json, managed_fields, value, yaml};
use libfuzzer_sys::fuzz_target;

fn node() -> NodeId {
    api::type_of_kind("", "v1", "Pod").expect("because pods are built in")
}

fn write(manager: &str) -> managed_fields::Write<'_> {
    managed_fields::Write {
        schema: api::schema(),
        node: node(),
        manager,
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &[&["status"]],
    }
}

/// A pod that two managers own.
fn pod() -> &'static Value {
    static POD: OnceLock<Value> = OnceLock::new();
    POD.get_or_init(|| {
        let applied = value!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"x": "y"}},
            "spec": {"containers": [
                {"name": "one", "image": "i", "env": [{"name": "A", "value": "1"}],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}], "command": ["c", "d"]},
                {"name": "two", "image": "i"}],
                "tolerations": [{"key": "k", "operator": "Exists"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "c"}}]}});
        let applied = managed_fields::apply(&write("one"), None, &applied, false);
        let mut pod = applied.ok().flatten().expect("because the pod is sound");
        let live = pod.clone();
        pod.set_at(&["spec", "nodeName"], "n");
        managed_fields::update(&write("two"), Some(&live), &mut pod);
        pod
    })
}

fn sound(mut patched: Value) {
    let _ = conform::conform(api::schema(), node(), &mut patched);
    let text = json::to_vec(&patched);
    let again = json::parse(&text).expect("because what was written is JSON");
    assert_eq!(text, json::to_vec(&again), "written twice, differently");
    let mut tracked = patched.clone();
    managed_fields::update(&write("three"), Some(pod()), &mut tracked);
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(patch) = json::parse(bytes) {
        let _ = json_patch::unknown_fields(&patch);
        let patched = [
            json_patch::apply(pod(), &patch),
            merge::apply(pod(), &patch),
            strategic::apply(pod(), &patch, api::schema(), node()),
        ];
        patched.into_iter().flatten().for_each(sound);
    }
    if let Ok(mut applied) = yaml::parse(bytes) {
        if applied.as_object().is_some() {
            applied.set_at(&["apiVersion"], "v1");
            applied.set_at(&["kind"], "Pod");
        }
        for (live, force) in [(Some(pod()), false), (Some(pod()), true), (None, false)] {
            let merged = managed_fields::apply(&write("four"), live, &applied, force);
            merged.ok().flatten().into_iter().for_each(sound);
        }
    }
});
