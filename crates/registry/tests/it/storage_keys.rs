//! Where objects are kept: under upstream's keys, so that an upstream server finds ours and we find its.

use registry::Registry;

/// What upstream keeps elsewhere than under the resource's name, mostly since the resource had another one once.
const ELSEWHERE: [(&str, &str); 7] = [
    ("apiservices", "apiregistration.k8s.io/apiservices"),
    ("customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions"),
    ("endpoints", "services/endpoints"),
    ("ingresses", "ingress"),
    ("nodes", "minions"),
    ("replicationcontrollers", "controllers"),
    ("services", "services/specs"),
];
/// How many resources there have to be, so that the test cannot pass by finding none.
const RESOURCES_MIN: usize = 50;

#[test]
fn objects_are_kept_under_upstreams_keys() {
    let registry = Registry::built_in();
    let mut seen = Vec::new();
    for resource in registry.resources() {
        let name = resource.served()[0].facts.resource;
        let found = ELSEWHERE.iter().find(|(it, _)| *it == name);
        let place = found.map_or(name, |(_, place)| place);
        assert_eq!(resource.storage_prefix(), format!("/registry/{place}/"));
        seen.push(name);
    }
    assert!(seen.len() >= RESOURCES_MIN, "only {seen:?}");
    assert!(ELSEWHERE.iter().all(|(name, _)| seen.contains(name)), "{seen:?}");
}
