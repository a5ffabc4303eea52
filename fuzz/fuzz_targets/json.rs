//! Arbitrary bytes as JSON, and what is JSON as an object of a kind: never a panic; writing, reading and conforming
//! a second time change nothing.

#![no_main]

use apimachinery::{conform, json};
use libfuzzer_sys::fuzz_target;

/// Group, version, kind.
const KINDS: [(&str, &str, &str); 6] = [
    ("", "v1", "Pod"),
    ("apps", "v1", "Deployment"),
    ("", "v1", "ConfigMap"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
];

fuzz_target!(|bytes: &[u8]| {
    let Ok((mut value, _)) = json::parse_reporting(bytes) else { return };
    let text = json::to_vec(&value);
    let again = json::parse(&text).expect("because what was written is JSON");
    assert_eq!(text, json::to_vec(&again), "written twice, differently");
    let (group, version, kind) = KINDS[bytes.len() % KINDS.len()];
    let node = api::type_of_kind(group, version, kind).expect("because the kind is built in");
    if conform::conform(api::schema(), node, &mut value).is_err() {
        return;
    }
    let once = json::to_vec(&value);
    let unknown = conform::conform(api::schema(), node, &mut value)
        .expect("because it conformed a moment ago");
    assert!(unknown.is_empty(), "unknown fields were left: {unknown:?}");
    assert_eq!(once, json::to_vec(&value), "conformed twice, differently");
});
