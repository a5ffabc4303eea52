//! Writes that meet.

use apimachinery::{Value, value};

use crate::cluster::{Cluster, admin};

#[tokio::test]
async fn patches_that_meet_are_all_made() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/configmaps/shared";
    let map = value!({"metadata": {"name": "shared"}});
    cluster.done("POST /api/v1/namespaces/default/configmaps", Some(&map)).await;
    let patch = |key: &str| value!({"data": {key: "there"}});
    let [a, b, c] = ["a", "b", "c"].map(patch);
    let request = format!("PATCH {path}");
    let user = admin();
    let answers = futures::join!(
        cluster.send(&user, &request, Some(&a)),
        cluster.send(&user, &request, Some(&b)),
        cluster.send(&user, &request, Some(&c)),
    );
    assert_eq!((answers.0.0, answers.1.0, answers.2.0), (200, 200, 200));
    let made = cluster.done(&format!("GET {path}"), None).await;
    assert_eq!(made.get("data"), Some(&value!({"a": "there", "b": "there", "c": "there"})));
    // A patch that names a version is made of that one only.
    let stale = value!({"metadata": {"resourceVersion": "1"}, "data": {"d": "late"}});
    assert_eq!(cluster.send(&user, &request, Some(&stale)).await.0, 409);
}

#[tokio::test]
async fn a_collection_is_deleted_by_pages_where_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        let map = value!({"metadata": {"name": name, "labels": {"page": "yes"}}});
        cluster.done(&format!("POST {path}"), Some(&map)).await;
    }
    let mut gone = Vec::new();
    let mut from = String::new();
    for wanted in [2, 1] {
        let request = format!("DELETE {path}?labelSelector=page&limit=2&continue={from}");
        let list = cluster.done(&request, None).await;
        let items = list.items_at(&["items"]);
        assert_eq!(items.len(), wanted, "{list:?}");
        gone.extend(items.iter().map(|it| it.str_at(&["metadata", "name"]).to_owned()));
        from = list.str_at(&["metadata", "continue"]).to_owned();
        assert_eq!(from.is_empty(), wanted == 1, "{list:?}");
    }
    assert_eq!(gone, ["a", "b", "c"]);
    let left = cluster.done(&format!("GET {path}?labelSelector=page"), None).await;
    assert!(left.items_at(&["items"]).is_empty(), "{left:?}");
}

/// Events go without anybody looking at them, but for those that somebody holds and where somebody judges.
#[tokio::test]
async fn events_are_deleted_as_a_collection_unless_somebody_minds() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/events";
    let event = |name: &str| {
        value!({"metadata": {"name": name}, "type": "Normal", "reason": "R", "message": "m",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}})
    };
    let make = async || {
        for name in ["a", "b"] {
            cluster.done(&format!("POST {path}"), Some(&event(name))).await;
        }
    };
    let names = |list: &Value| -> Vec<String> {
        let items = list.items_at(&["items"]).iter();
        items.map(|it| it.str_at(&["metadata", "name"]).to_owned()).collect()
    };
    make().await;
    let mut held = event("held");
    held.set_at(&["metadata", "finalizers"], value!(["example.com/mine"]));
    cluster.done(&format!("POST {path}"), Some(&held)).await;
    let deleted = cluster.done(&format!("DELETE {path}"), None).await;
    assert_eq!(names(&deleted), ["a", "b", "held"]);
    let left = cluster.done(&format!("GET {path}"), None).await;
    assert_eq!(names(&left), ["held"]);
    let going = &left.items_at(&["items"])[0];
    assert!(going.at(&["metadata", "deletionTimestamp"]).is_some(), "{going:?}");
    // A policy that keeps events is asked about each.
    let policies = "/apis/admissionregistration.k8s.io/v1";
    let policy = value!({"metadata": {"name": "keep"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["events"]}]},
        "validations": [{"expression": "oldObject.metadata.name != 'a'", "message": "a stays"}]}});
    cluster.done(&format!("POST {policies}/validatingadmissionpolicies"), Some(&policy)).await;
    let binding = value!({"metadata": {"name": "keep"}, "spec": {"policyName": "keep", "validationActions": ["Deny"]}});
    let bindings = format!("POST {policies}/validatingadmissionpolicybindings");
    cluster.done(&bindings, Some(&binding)).await;
    make().await;
    let (code, answer) = cluster.send(&admin(), &format!("DELETE {path}"), None).await;
    assert_eq!(code, 422, "{answer:?}");
    assert!(answer.str_at(&["message"]).contains("a stays"), "{answer:?}");
    let left = cluster.done(&format!("GET {path}"), None).await;
    assert!(names(&left).contains(&"a".to_owned()), "{left:?}");
}
