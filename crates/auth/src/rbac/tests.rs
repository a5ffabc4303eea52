//! Roles, bindings and what they come to.

use apimachinery::{Value, json};

use super::*;
use crate::fixed::FixedObjects;

fn put(objects: &FixedObjects, resource: &str, text: &str) {
    let mut value: Value = json::parse(text.as_bytes()).unwrap();
    value.set_at(&["kind"], "Any");
    value.set_at(&["apiVersion"], "rbac.authorization.k8s.io/v1");
    objects.put(GROUP, resource, &value);
}

fn cluster() -> FixedObjects {
    let objects = FixedObjects::default();
    put(
        &objects,
        "clusterroles",
        r#"{"metadata":{"name":"reader"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}"#,
    );
    put(
        &objects,
        "clusterroles",
        r#"{"metadata":{"name":"health"},"rules":[{"verbs":["get"],"nonResourceURLs":["/healthz"]}]}"#,
    );
    put(
        &objects,
        "roles",
        r#"{"metadata":{"name":"writer","namespace":"a"},"rules":[{"verbs":["create"],"apiGroups":[""],"resources":["pods"]}]}"#,
    );
    put(
        &objects,
        "clusterrolebindings",
        r#"{"metadata":{"name":"everybody"},"roleRef":{"kind":"ClusterRole","name":"health"},"subjects":[{"kind":"Group","name":"system:authenticated"}]}"#,
    );
    put(
        &objects,
        "rolebindings",
        r#"{"metadata":{"name":"read","namespace":"a"},"roleRef":{"kind":"ClusterRole","name":"reader"},"subjects":[{"kind":"User","name":"jane"},{"kind":"ServiceAccount","name":"robot"}]}"#,
    );
    put(
        &objects,
        "rolebindings",
        r#"{"metadata":{"name":"write","namespace":"a"},"roleRef":{"kind":"Role","name":"writer"},"subjects":[{"kind":"ServiceAccount","name":"robot","namespace":"b"}]}"#,
    );
    objects
}

fn ask(rbac: &Rbac, user: &UserInfo, verb: &str, namespace: &str) -> Decision {
    let asked = Attributes { verb, resource: "pods", namespace, ..Attributes::of(user) };
    rbac.decide(&asked).unwrap()
}

#[test]
fn bindings_give_their_subjects_the_rules_of_their_role() {
    let rbac = Rbac::new(&cluster());
    let jane = UserInfo::new("jane", &[]);
    let check = |user: &UserInfo, verb: &str, namespace: &str, reason: Option<&str>| {
        let decision = ask(&rbac, user, verb, namespace);
        let expected =
            reason.map_or(Decision::NoOpinion(String::new()), |it| Decision::Allow(it.into()));
        assert_eq!(decision, expected, "{} {verb} in {namespace}", user.name);
    };
    let read = "RBAC: allowed by RoleBinding \"read/a\" of ClusterRole \"reader\" to ";
    check(&jane, "get", "a", Some(&format!("{read}User \"jane\"")));
    check(&jane, "get", "b", None);
    check(&jane, "get", "", None);
    check(&jane, "create", "a", None);
    let robot_a = UserInfo::service_account("a", "robot");
    check(&robot_a, "get", "a", Some(&format!("{read}ServiceAccount \"robot/a\"")));
    let robot_b = UserInfo::service_account("b", "robot");
    check(&robot_b, "get", "a", None);
    let write =
        "RBAC: allowed by RoleBinding \"write/a\" of Role \"writer\" to ServiceAccount \"robot/b\"";
    check(&robot_b, "create", "a", Some(write));

    let healthz = Attributes { verb: "get", path: "/healthz", ..Attributes::of(&jane) };
    assert!(rbac.decide(&healthz).unwrap().is_allowed());
    let stranger = UserInfo::anonymous();
    let healthz = Attributes { user: &stranger, ..healthz };
    assert!(!rbac.decide(&healthz).unwrap().is_allowed());
}

#[test]
fn the_index_follows_changes() {
    let objects = cluster();
    let rbac = Rbac::new(&objects);
    let jane = UserInfo::new("jane", &[]);
    assert!(ask(&rbac, &jane, "get", "a").is_allowed());
    objects.delete(GROUP, "clusterroles", "", "reader");
    assert_eq!(
        ask(&rbac, &jane, "get", "a"),
        Decision::NoOpinion(
            "RBAC: clusterrole.rbac.authorization.k8s.io \"reader\" not found".into()
        )
    );
    put(
        &objects,
        "clusterroles",
        r#"{"metadata":{"name":"reader"},"rules":[{"verbs":["list"],"apiGroups":[""],"resources":["pods"]}]}"#,
    );
    assert!(!ask(&rbac, &jane, "get", "a").is_allowed());
    assert!(ask(&rbac, &jane, "list", "a").is_allowed());
    objects.delete(GROUP, "rolebindings", "a", "read");
    assert_eq!(ask(&rbac, &jane, "list", "a"), Decision::NoOpinion(String::new()));
}

#[test]
fn ones_own_rules_are_listed_once_a_binding() {
    let rbac = Rbac::new(&cluster());
    let jane = UserInfo::new("jane", &["system:authenticated"]);
    let rules = rbac.rules_for(&jane, "a").unwrap();
    assert_eq!(
        format!("{:?} {:?}", rules.resource, rules.non_resource),
        r#"[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}] [{"nonResourceURLs":["/healthz"],"verbs":["get"]}]"#
    );
    let missing = rbac.role_rules(RoleRef { kind: "Role", name: "no", namespace: "a" });
    assert_eq!(missing.unwrap_err(), "role.rbac.authorization.k8s.io \"no\" not found");
}
