//! Custom resources whose versions a webhook converts, through the whole server.

use apimachinery::{Value, value};
use futures::StreamExt;

use crate::cluster::{Cluster, admin};
use crate::custom::establish;
use crate::hooks::{Hook, Reply, response};

/// A definition of which v1 is stored and has a size, which v2 calls count.
fn definition(client: &Value) -> Value {
    let version = |name: &str, member: &str, stored: bool| {
        let mut spec = Value::object();
        spec.set_at(&[member], value!({"type": "integer", "maximum": 100}));
        value!({"name": name, "served": true, "storage": stored,
            "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": (spec)},
                "status": {"type": "object", "properties": {"ok": {"type": "boolean"}}}}}}})
    };
    value!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boxes.conv.example"},
        "spec": {"group": "conv.example", "scope": "Namespaced",
            "names": {"plural": "boxes", "kind": "Box"},
            "versions": [(version("v1", "size", true)), (version("v2", "count", false))],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"], "clientConfig": (client.clone())}}}})
}

fn convert(object: &Value, to: &str) -> Value {
    let mut object = object.clone();
    let (from, into) = if to == "conv.example/v2" { ("size", "count") } else { ("count", "size") };
    object.set_at(&["apiVersion"], to);
    if let Some(number) = object.remove_at(&["spec", from]) {
        object.set_at(&["spec", into], number);
    }
    object
}

/// Converts, after `change` of each converted object.
fn converted(review: &Value, change: impl Fn(&mut Value)) -> Reply {
    let to = review.str_at(&["request", "desiredAPIVersion"]);
    let objects = review.items_at(&["request", "objects"]).iter();
    let objects: Value = objects
        .map(|it| {
            let mut object = convert(it, to);
            change(&mut object);
            object
        })
        .collect();
    response(review, &value!({"convertedObjects": (objects), "result": {"status": "Success"}}))
}

fn path(version: &str) -> String {
    format!("/apis/conv.example/{version}/namespaces/default/boxes")
}

fn v2(name: &str, count: i64) -> Value {
    value!({"apiVersion": "conv.example/v2", "kind": "Box", "metadata": {"name": name},
        "spec": {"count": count}})
}

#[tokio::test]
async fn every_version_is_read_and_written() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|review| converted(review, |_| {})).await;
    establish(&cluster, &definition(&hook.config())).await;
    let (one, two) = (path("v1"), path("v2"));
    let mut events = cluster.watch(&format!("{two}?watch=1&resourceVersion=0")).await;
    let made = cluster.done(&format!("POST {two}"), Some(&v2("a", 3))).await;
    assert_eq!(
        (made.str_at(&["apiVersion"]), &made["spec"]),
        ("conv.example/v2", &value!({"count": 3}))
    );
    let event = events.next().await.unwrap();
    assert_eq!(event["object"]["spec"], value!({"count": 3}));
    assert_eq!(event["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let stored = cluster.done(&format!("GET {one}/a"), None).await;
    assert_eq!(
        (stored.str_at(&["apiVersion"]), &stored["spec"]),
        ("conv.example/v1", &value!({"size": 3}))
    );
    assert_eq!(stored["metadata"]["uid"], made["metadata"]["uid"]);
    let patch = value!({"spec": {"count": 4}});
    let patched = cluster.done(&format!("PATCH {two}/a"), Some(&patch)).await;
    assert_eq!(patched["spec"], value!({"count": 4}));
    assert_eq!(patched.i64_at(&["metadata", "generation"]), Some(2));
    let again = cluster.done(&format!("PATCH {two}/a"), Some(&patch)).await;
    assert_eq!(again["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
    let status = value!({"status": {"ok": true}});
    cluster.done(&format!("PATCH {two}/a/status"), Some(&status)).await;
    assert!(cluster.done(&format!("GET {one}/a"), None).await.bool_at(&["status", "ok"]));
    let (code, answer) = cluster.send(&admin(), &format!("POST {two}"), Some(&v2("b", 101))).await;
    assert!(code == 422 && answer.str_at(&["message"]).contains("spec.count"), "{answer:?}");
    for name in ["b", "c"] {
        cluster.done(&format!("POST {one}"), Some(&convert(&v2(name, 1), "conv.example/v1"))).await;
    }
    let before = hook.asked();
    let list = cluster.done(&format!("GET {two}"), None).await;
    assert_eq!(hook.asked(), before + 1);
    let count = hook.asked();
    let line = format!(
        "apiserver_conversion_webhook_request_total{{failure_type=\"\",result=\"success\"}} {count}"
    );
    cluster.counts(&[&line]).await;
    let counts: Vec<_> =
        list.items_at(&["items"]).iter().map(|it| it.i64_at(&["spec", "count"])).collect();
    assert_eq!(counts, [Some(4), Some(1), Some(1)]);
    cluster.done(&format!("DELETE {two}/a"), None).await;
    let (code, _) = cluster.send(&admin(), &format!("GET {one}/a"), None).await;
    assert_eq!(code, 404);
    let rest = cluster.done(&format!("DELETE {two}"), None).await;
    assert_eq!(rest.items_at(&["items"])[0].str_at(&["apiVersion"]), "conv.example/v2");
}

/// The names, versions and specs of a list.
fn shown(list: &Value) -> Vec<(String, String, Value)> {
    let shown = list.items_at(&["items"]).iter().map(|it| {
        let (name, version) = (it.str_at(&["metadata", "name"]), it.str_at(&["apiVersion"]));
        (name.to_owned(), version.to_owned(), it["spec"].clone())
    });
    shown.collect()
}

/// Lets another version be stored from now on: v2, which there is an object of then.
async fn store_v2(cluster: &Cluster, hook: &Hook, definition: &Value, new: &Value) {
    let mut versions = definition["spec"]["versions"].clone();
    for (place, stored) in [(0, false), (1, true)] {
        versions.items_at_mut(&[])[place].set_at(&["storage"], stored);
    }
    let name = definition.str_at(&["metadata", "name"]);
    let request = format!("PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    cluster.done(&request, Some(&value!({"spec": {"versions": (versions)}}))).await;
    let (all, one) = (path("v2"), format!("{}/{}", path("v2"), new.str_at(&["metadata", "name"])));
    // The definition may still be looked at.
    loop {
        cluster.done(&format!("POST {all}"), Some(new)).await;
        let asked = hook.asked();
        cluster.done(&format!("GET {one}"), None).await;
        if hook.asked() == asked {
            break;
        }
        cluster.done(&format!("DELETE {one}"), None).await;
    }
}

/// The first object that a watch tells of this name.
async fn told(cluster: &Cluster, watch: &str, name: &str) -> Value {
    let mut events = cluster.watch(watch).await;
    loop {
        let object = events.next().await.expect("an event")["object"].clone();
        if object.str_at(&["metadata", "name"]) == name {
            return object;
        }
    }
}

#[tokio::test]
async fn what_was_stored_in_another_version_stays_so_until_it_is_written() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|review| converted(review, |_| {})).await;
    let mut definition = definition(&hook.config());
    let versions = definition.items_at_mut(&["spec", "versions"]);
    versions[0].set_at(&["selectableFields"], value!([{"jsonPath": ".spec.size"}]));
    versions[1].set_at(&["selectableFields"], value!([{"jsonPath": ".spec.count"}]));
    establish(&cluster, &definition).await;
    let (one, two) = (path("v1"), path("v2"));
    let old = convert(&v2("old", 3), "conv.example/v1");
    let made = cluster.done(&format!("POST {one}"), Some(&old)).await;
    let version = |it: &Value| it.str_at(&["metadata", "resourceVersion"]).to_owned();
    let before = version(&made).parse::<u64>().unwrap() - 1;
    store_v2(&cluster, &hook, &definition, &v2("new", 4)).await;
    let row = |name: &str, version: &str, member: &str, number: i64| {
        let mut spec = Value::object();
        spec.set_at(&[member], number);
        (name.to_owned(), format!("conv.example/{version}"), spec)
    };
    let now = version(&cluster.done(&format!("GET {two}"), None).await);
    let exactly = format!("?resourceVersionMatch=Exact&resourceVersion={now}");
    for (path, version, field) in [(&two, "v2", "count"), (&one, "v1", "size")] {
        let rows = [row("new", version, field, 4), row("old", version, field, 3)];
        for query in ["", "?limit=5", "?resourceVersion=0", &exactly] {
            let list = cluster.done(&format!("GET {path}{query}"), None).await;
            assert_eq!(shown(&list), rows, "{path}{query}");
        }
        for (place, number) in [(0, 4), (1, 3)] {
            let (name, _, spec) = &rows[place];
            assert_eq!(&cluster.done(&format!("GET {path}/{name}"), None).await["spec"], spec);
            let selector = format!("fieldSelector=spec.{field}%3D{number}");
            let list = cluster.done(&format!("GET {path}?{selector}&limit=1"), None).await;
            assert_eq!(shown(&list), rows[place..=place], "{path} {selector}");
            for since in [0, before] {
                let watch = format!("{path}?watch=1&{selector}&resourceVersion={since}");
                assert_eq!(&told(&cluster, &watch, name).await["spec"], spec, "{watch}");
            }
        }
    }
    // Written, it is of the new version, although nothing else changes.
    let current = cluster.done(&format!("GET {two}/old"), None).await;
    let written = cluster.done(&format!("PUT {two}/old"), Some(&current)).await;
    assert_ne!(version(&written), version(&current));
    let asked = hook.asked();
    let read = cluster.done(&format!("GET {two}/old"), None).await;
    assert_eq!((hook.asked(), &read["spec"]), (asked, &value!({"count": 3})));
    let again = cluster.done(&format!("PUT {two}/old"), Some(&read)).await;
    assert_eq!(version(&again), version(&read));
}

#[tokio::test]
async fn a_conversion_may_change_labels_and_no_other_metadata() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|review| {
        converted(review, |it| {
            it.set_at(&["metadata", "labels", "by"], "webhook");
            it.set_at(&["metadata", "finalizers"], ["x.example/y"].into_iter().collect::<Value>());
        })
    })
    .await;
    establish(&cluster, &definition(&hook.config())).await;
    let made = cluster.done(&format!("POST {}", path("v2")), Some(&v2("a", 3))).await;
    let read = cluster.done(&format!("GET {}/a", path("v2")), None).await;
    assert!(made.at(&["metadata", "finalizers"]).is_none());
    assert_eq!(read.str_at(&["metadata", "labels", "by"]), "webhook");
    assert!(read.at(&["metadata", "finalizers"]).is_none());
}

#[tokio::test]
async fn what_a_bad_conversion_is_answered() {
    let failed = |result: Value| {
        move |review: &Value| response(review, &value!({"result": (result.clone())}))
    };
    type Act = Box<dyn Fn(&Value) -> Reply + Send + Sync>;
    let cases: Vec<(Act, &str)> = vec![
        (Box::new(failed(value!({"status": "Failure", "message": "no"}))), "failed: no"),
        (Box::new(failed(value!({}))), "failed: response.result.status was '', not 'Success'"),
        (Box::new(failed(value!({"status": "Success"}))), "returned 0 objects, expected 1"),
        (
            Box::new(|_| Reply::Raw(200, b"hello".to_vec())),
            "failed: couldn't get version/kind; json parse error",
        ),
        (
            Box::new(|_| Reply::Raw(503, Vec::new())),
            "failed: the server is currently unable to handle the request",
        ),
        (
            Box::new(|review| converted(review, |it| it.set_at(&["metadata", "name"], "other"))),
            "must have the same name: a != other",
        ),
        (
            Box::new(|review| converted(review, |it| it.set_at(&["kind"], "Bag"))),
            "invalid kind (expected Box, received Bag)",
        ),
        (
            Box::new(|review| converted(review, |it| it.set_at(&["apiVersion"], "v9"))),
            "invalid groupVersion (expected conv.example/v1, received v9)",
        ),
    ];
    for (act, expected) in cases {
        let cluster = Cluster::start().await;
        let hook = Hook::start(act).await;
        establish(&cluster, &definition(&hook.config())).await;
        let request = format!("POST {}", path("v2"));
        let (code, answer) = cluster.send(&admin(), &request, Some(&v2("a", 3))).await;
        let message = answer.str_at(&["message"]);
        let begin = "conversion webhook for conv.example/v2, Kind=Box ";
        assert!(code == 500 && message.starts_with(begin), "{message}");
        assert!(message.contains(expected), "{message}");
        // What needs no conversion goes on.
        let stored = convert(&v2("a", 3), "conv.example/v1");
        cluster.done(&format!("POST {}", path("v1")), Some(&stored)).await;
    }
}

#[tokio::test]
async fn parameters_of_policies_are_of_the_version_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|review| converted(review, |_| {})).await;
    establish(&cluster, &definition(&hook.config())).await;
    cluster.done(&format!("POST {}", path("v2")), Some(&v2("most", 3))).await;
    let root = "POST /apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
    let policy = value!({"metadata": {"name": "p"}, "spec": {
        "paramKind": {"apiVersion": "conv.example/v2", "kind": "Box"},
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "size(object.data) <= params.spec.count"}]}});
    cluster.done(&format!("{root}ies"), Some(&policy)).await;
    let binding = value!({"metadata": {"name": "p"}, "spec": {"policyName": "p",
        "paramRef": {"name": "most", "namespace": "default", "parameterNotFoundAction": "Deny"},
        "validationActions": ["Deny"]}});
    cluster.done(&format!("{root}ybindings"), Some(&binding)).await;
    cluster.server.hub().catch_up().await.unwrap();
    let maps = "POST /api/v1/namespaces/default/configmaps";
    let few = value!({"metadata": {"name": "few"}, "data": {"a": "1", "b": "2", "c": "3"}});
    cluster.done(maps, Some(&few)).await;
    let many =
        value!({"metadata": {"name": "many"}, "data": {"a": "1", "b": "2", "c": "3", "d": "4"}});
    let (code, answer) = cluster.send(&admin(), maps, Some(&many)).await;
    let message = answer.str_at(&["message"]);
    assert_eq!(code, 422, "{message}");
    assert!(message.ends_with("failed expression: size(object.data) <= params.spec.count"));
}
