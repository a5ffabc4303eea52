//! Custom resources from their definitions on: served, checked, shown, and gone.

use std::time::Duration;

use apimachinery::{Value, json, value};
use apiserver::{Body, Peer, RequestBody};
use futures::StreamExt;

use crate::cluster::{As, Cluster, admin};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long a state is waited for; it is there in far less.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn definition(plural: &str, kind: &str) -> Value {
    value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": (format!("{plural}.ex.example"))},
        "spec": {
            "group": "ex.example", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "shortNames": [(plural[..2].to_owned())]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "size": {"type": "integer", "minimum": 1, "default": 3},
                        "color": {"type": "string"},
                        "list": {"type": "array", "x-kubernetes-list-type": "map",
                            "x-kubernetes-list-map-keys": ["k"],
                            "items": {"type": "object", "required": ["k"], "properties": {
                                "k": {"type": "string"}, "v": {"type": "integer"}}}},
                    }, "x-kubernetes-validations": [{"rule": "self.size < 10", "message": "too big"}]},
                    "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
                }}},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            }],
        },
    })
}

/// Asks until the answer is as it should be.
pub(crate) async fn until(
    cluster: &Cluster,
    request: &str,
    good: impl Fn(u16, &Value) -> bool,
) -> Value {
    let user = admin();
    let asked = async {
        loop {
            let (code, answer) = cluster.send(&user, request, None).await;
            if good(code, &answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{request}"))
}

fn condition<'v>(definition: &'v Value, kind: &str) -> (&'v str, &'v str, &'v str) {
    let found = definition.items_at(&["status", "conditions"]).iter();
    let found = found.clone().find(|it| it.str_at(&["type"]) == kind);
    found.map_or(("", "", ""), |it| {
        (it.str_at(&["status"]), it.str_at(&["reason"]), it.str_at(&["message"]))
    })
}

/// Creates a definition and waits until it is established.
pub(crate) async fn establish(cluster: &Cluster, definition: &Value) -> Value {
    cluster.done(&format!("POST {DEFINITIONS}"), Some(definition)).await;
    let name = definition.str_at(&["metadata", "name"]);
    let request = format!("GET {DEFINITIONS}/{name}");
    until(cluster, &request, |_, it| condition(it, "Established").0 == "True").await
}

fn widget(name: &str, spec: &Value) -> Value {
    value!({"apiVersion": "ex.example/v1", "kind": "Widget", "metadata": {"name": name},
        "spec": (spec.clone())})
}

const WIDGETS: &str = "/apis/ex.example/v1/namespaces/default/widgets";

#[tokio::test]
async fn a_custom_resource_is_served_as_soon_as_it_is_established() {
    let cluster = Cluster::start().await;
    let (code, _) = cluster.send(&admin(), &format!("GET {WIDGETS}"), None).await;
    assert_eq!(code, 404);
    let made = establish(&cluster, &definition("widgets", "Widget")).await;
    assert_eq!(condition(&made, "NamesAccepted"), ("True", "NoConflicts", "no conflicts found"));
    assert_eq!(made.str_at(&["status", "acceptedNames", "listKind"]), "WidgetList");
    let (post, one) = (format!("POST {WIDGETS}"), widget("a", &value!({"extra": 1})));
    let made = cluster.done(&post, Some(&one)).await;
    assert_eq!(made["spec"], value!({"size": 3}));
    assert_eq!(made.i64_at(&["metadata", "generation"]), Some(1));
    let list = cluster.done(&format!("GET {WIDGETS}"), None).await;
    assert_eq!(list.str_at(&["kind"]), "WidgetList");
    assert_eq!(list.str_at(&["items"]), "");
    assert_eq!(list.items_at(&["items"])[0].str_at(&["kind"]), "Widget");
    let all = cluster.done("GET /apis/ex.example/v1/widgets", None).await;
    assert_eq!(all.items_at(&["items"]).len(), 1);
    let user = admin();
    for (spec, message) in [
        (value!({"size": 0}), "should be greater than or equal to 1"),
        (value!({"size": 10}), "spec: Invalid value: too big"),
    ] {
        let (code, answer) = cluster.send(&user, &post, Some(&widget("b", &spec))).await;
        assert_eq!(code, 422);
        assert!(answer.str_at(&["message"]).contains(message), "{answer:?}");
    }
    cluster
        .counts(&[
            "apiserver_cel_compilation_duration_seconds_count 1",
            "apiserver_cel_evaluation_duration_seconds_count 3",
        ])
        .await;
}

#[tokio::test]
async fn its_parts_are_written_apart() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition("widgets", "Widget")).await;
    let mut one = widget("a", &value!({"size": 2}));
    one.set_at(&["status"], value!({"size": 9}));
    let made = cluster.done(&format!("POST {WIDGETS}"), Some(&one)).await;
    assert!(made.get("status").is_none(), "{made:?}");
    let patch = |part: &str| format!("PATCH {WIDGETS}/a{part}");
    let both = value!({"spec": {"size": 7}, "status": {"size": 1}});
    let made = cluster.done(&patch("/status"), Some(&both)).await;
    assert_eq!((&made["spec"], &made["status"]), (&value!({"size": 2}), &value!({"size": 1})));
    assert_eq!(made.i64_at(&["metadata", "generation"]), Some(1));
    let made = cluster.done(&patch(""), Some(&both)).await;
    assert_eq!((&made["spec"], &made["status"]), (&value!({"size": 7}), &value!({"size": 1})));
    assert_eq!(made.i64_at(&["metadata", "generation"]), Some(2));
    let scale = cluster.done(&patch("/scale"), Some(&value!({"spec": {"replicas": 4}}))).await;
    assert_eq!(scale["spec"], value!({"replicas": 4}));
    assert_eq!(scale["status"], value!({"replicas": 1}));
    let (code, answer) =
        cluster.send(&admin(), &patch("/scale"), Some(&value!({"spec": {"replicas": 40}}))).await;
    assert_eq!(code, 422, "{answer:?}");
}

/// A request with a body of this type.
async fn send(cluster: &Cluster, request: &str, media: &str, body: &Value) -> (u16, Value) {
    let (method, path) = request.split_once(' ').unwrap();
    let As::User(user) = admin() else { unreachable!("the administrator is a user") };
    let peer = Peer { user: Some(user.into()), ..Peer::default() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.body(RequestBody::Bytes(json::to_vec(body).into())).unwrap();
    let response = cluster.server.serve(request, peer).await;
    let code = response.status().as_u16();
    let Body::Full(bytes) = response.into_body() else { return (code, Value::Null) };
    (code, json::parse(&bytes.unwrap_or_default()).unwrap_or_default())
}

#[tokio::test]
async fn applied_lists_merge_by_the_keys_of_the_schema() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition("widgets", "Widget")).await;
    let apply = |manager: &str| format!("PATCH {WIDGETS}/a?fieldManager={manager}");
    let yaml = "application/apply-patch+yaml";
    let with = |k: &str, v: i64| widget("a", &value!({"list": [{"k": k, "v": v}]}));
    let (code, _) = send(&cluster, &apply("one"), yaml, &with("x", 1)).await;
    assert_eq!(code, 201);
    let (code, made) = send(&cluster, &apply("two"), yaml, &with("y", 2)).await;
    assert_eq!(code, 200);
    assert_eq!(made["spec"]["list"], value!([{"k": "x", "v": 1}, {"k": "y", "v": 2}]));
    let (code, answer) = send(&cluster, &apply("two"), yaml, &with("x", 3)).await;
    assert_eq!(code, 409);
    assert_eq!(
        answer.str_at(&["message"]),
        "Apply failed with 1 conflict: conflict with \"one\": .spec.list[k=\"x\"].v"
    );
    let unknown = widget("a", &value!({"nope": 1}));
    let (code, answer) = send(&cluster, &apply("two"), yaml, &unknown).await;
    assert_eq!(code, 500);
    assert!(answer.str_at(&["message"]).ends_with(".spec.nope: field not declared in schema"));
    let strategic = "application/strategic-merge-patch+json";
    let (code, _) = send(&cluster, &apply("two"), strategic, &value!({})).await;
    assert_eq!(code, 415);
}

#[tokio::test]
async fn names_are_given_once_in_a_group() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition("widgets", "Widget")).await;
    let mut rival = definition("winners", "Winner");
    cluster.done(&format!("POST {DEFINITIONS}"), Some(&rival)).await;
    let request = format!("GET {DEFINITIONS}/winners.ex.example");
    let told =
        until(&cluster, &request, |_, it| !condition(it, "NamesAccepted").0.is_empty()).await;
    let taken = ("False", "ShortNamesConflict", "\"wi\" is already in use");
    assert_eq!(condition(&told, "NamesAccepted"), taken);
    assert_eq!(condition(&told, "Established").0, "False");
    let winners = "/apis/ex.example/v1/winners";
    assert_eq!(cluster.send(&admin(), &format!("GET {winners}"), None).await.0, 404);
    // The name is free once its owner is gone.
    cluster.done(&format!("DELETE {DEFINITIONS}/widgets.ex.example"), None).await;
    until(&cluster, &request, |_, it| condition(it, "Established").0 == "True").await;
    cluster.done(&format!("GET {winners}"), None).await;
    rival.set_at(&["metadata", "name"], "winners.other.example");
    let (code, _) = cluster.send(&admin(), &format!("POST {DEFINITIONS}"), Some(&rival)).await;
    assert_eq!(code, 422, "a definition is named by what it defines");
}

#[tokio::test]
async fn head_is_for_custom_objects_only() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition("widgets", "Widget")).await;
    cluster.done(&format!("POST {WIDGETS}"), Some(&widget("one", &value!({})))).await;
    let maps = "/api/v1/namespaces/default/configmaps".to_owned();
    let one = format!("{WIDGETS}/one");
    for (path, expected) in
        [(one, 200), (WIDGETS.to_owned(), 200), (format!("{WIDGETS}/two"), 404), (maps, 405)]
    {
        let (code, _) = cluster.send(&admin(), &format!("HEAD {path}"), None).await;
        assert_eq!(code, expected, "{path}");
    }
}

#[tokio::test]
async fn a_definition_goes_when_its_objects_are_gone() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition("widgets", "Widget")).await;
    let mut held = widget("held", &value!({}));
    held.set_at(&["metadata", "finalizers"], value!(["test.example/hold"]));
    cluster.done(&format!("POST {WIDGETS}"), Some(&held)).await;
    cluster.done(&format!("POST {WIDGETS}"), Some(&widget("free", &value!({})))).await;
    let mut watch = watch(&cluster, &format!("{WIDGETS}?watch=1")).await;
    let name = format!("{DEFINITIONS}/widgets.ex.example");
    let going = cluster.done(&format!("DELETE {name}"), None).await;
    let finalizer = "customresourcecleanup.apiextensions.k8s.io";
    assert_eq!(going["metadata"]["finalizers"], value!([finalizer]));
    until(&cluster, &format!("GET {WIDGETS}/free"), |code, _| code == 404).await;
    let (code, answer) =
        cluster.send(&admin(), &format!("POST {WIDGETS}"), Some(&widget("new", &value!({})))).await;
    assert_eq!(code, 405);
    assert_eq!(
        answer.str_at(&["message"]),
        "create not allowed while custom resource definition is terminating"
    );
    let told = cluster.done(&format!("GET {name}"), None).await;
    assert_eq!(condition(&told, "Terminating").1, "InstanceDeletionInProgress");
    let free = value!({"metadata": {"finalizers": []}});
    cluster.done(&format!("PATCH {WIDGETS}/held"), Some(&free)).await;
    until(&cluster, &format!("GET {name}"), |code, _| code == 404).await;
    until(&cluster, &format!("GET {WIDGETS}"), |code, _| code == 404).await;
    // The watch tells of the end of each object, and then ends itself.
    let rest = async {
        let mut text = String::new();
        while let Some(piece) = watch.next().await {
            text.push_str(&String::from_utf8_lossy(&piece));
        }
        text
    };
    let text = tokio::time::timeout(PATIENCE, rest).await.expect("the watch ends");
    assert_eq!(text.matches("DELETED").count(), 2, "{text}");
}

/// The pieces of a watch.
async fn watch(cluster: &Cluster, path: &str) -> futures::stream::BoxStream<'static, bytes::Bytes> {
    let As::User(user) = admin() else { unreachable!("the administrator is a user") };
    let peer = Peer { user: Some(user.into()), ..Peer::default() };
    let request = http::Request::get(path).body(RequestBody::Bytes(Default::default())).unwrap();
    let Body::Stream(stream) = cluster.server.serve(request, peer).await.into_body() else {
        panic!("{path} is no stream")
    };
    stream
}

#[tokio::test]
async fn discovery_and_openapi_tell_of_it() {
    let cluster = Cluster::start().await;
    let index = cluster.done("GET /openapi/v3", None).await;
    assert!(index.at(&["paths", "apis/ex.example/v1"]).is_none());
    establish(&cluster, &definition("widgets", "Widget")).await;
    let group = cluster.done("GET /apis/ex.example", None).await;
    assert_eq!(group.str_at(&["preferredVersion", "groupVersion"]), "ex.example/v1");
    let list = cluster.done("GET /apis/ex.example/v1", None).await;
    let names: Vec<&str> =
        list.items_at(&["resources"]).iter().map(|it| it.str_at(&["name"])).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    assert_eq!(list.items_at(&["resources"])[0]["shortNames"], value!(["wi"]));
    let index = cluster.done("GET /openapi/v3", None).await;
    let url = index.str_at(&["paths", "apis/ex.example/v1", "serverRelativeURL"]).to_owned();
    let document = cluster.done(&format!("GET {url}"), None).await;
    let schema = &document["components"]["schemas"]["example.ex.v1.Widget"];
    assert_eq!(schema.i64_at(&["properties", "spec", "properties", "size", "default"]), Some(3));
    let kinds = &schema["x-kubernetes-group-version-kind"];
    assert_eq!(kinds, &value!([{"group": "ex.example", "version": "v1", "kind": "Widget"}]));
    let path = "/apis/ex.example/v1/namespaces/{namespace}/widgets/{name}";
    assert!(document["paths"].get(path).is_some());
    let whole = cluster.done("GET /openapi/v2", None).await;
    assert!(whole["definitions"].get("example.ex.v1.WidgetList").is_some());
    assert!(whole["definitions"].get("io.k8s.api.core.v1.Pod").is_some());
    cluster.done(&format!("DELETE {DEFINITIONS}/widgets.ex.example"), None).await;
    until(&cluster, "GET /apis/ex.example", |code, _| code == 404).await;
}

/// Clients of OpenAPI 2.0 take everything where nothing is listed, and nothing else where something is.
#[tokio::test]
async fn an_open_schema_is_published_without_members() {
    let cluster = Cluster::start().await;
    let open = value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.ex.example"},
        "spec": {"group": "ex.example", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "description": "any", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    establish(&cluster, &open).await;
    let name = "example.ex.v1.Thing";
    let published = |code, body: &Value| code == 200 && body["definitions"].get(name).is_some();
    let whole = until(&cluster, "GET /openapi/v2", published).await;
    let expected = value!({"type": "object", "x-kubernetes-group-version-kind":
        [{"group": "ex.example", "version": "v1", "kind": "Thing"}]});
    assert_eq!(whole["definitions"][name], expected);
}

#[tokio::test]
async fn another_schema_is_in_force_at_once() {
    let cluster = Cluster::start().await;
    let made = establish(&cluster, &definition("widgets", "Widget")).await;
    cluster.done(&format!("POST {WIDGETS}"), Some(&widget("a", &value!({"color": "red"})))).await;
    cluster.done(&format!("POST {WIDGETS}"), Some(&widget("b", &value!({"color": "blue"})))).await;
    let red = format!("GET {WIDGETS}?fieldSelector=spec.color%3Dred");
    let list = cluster.done(&red, None).await;
    assert_eq!(list.items_at(&["items"]).len(), 1);
    let mut watch = watch(&cluster, &format!("{WIDGETS}?watch=1&resourceVersion=0")).await;
    // A second version, which is stored from now on and knows another member.
    let mut changed = made.clone();
    let mut second = changed.items_at(&["spec", "versions"])[0].clone();
    second.set_at(&["name"], "v2");
    let added = value!({"type": "string", "default": "new"});
    let spec = ["schema", "openAPIV3Schema", "properties", "spec", "properties", "more"];
    second.set_at(&spec, added);
    changed.items_at_mut(&["spec", "versions"])[0].set_at(&["storage"], false);
    let versions = changed.at_mut(&["spec", "versions"]).and_then(Value::as_array_mut).unwrap();
    versions.push(second);
    cluster.done(&format!("PUT {DEFINITIONS}/widgets.ex.example"), Some(&changed)).await;
    let newer = "/apis/ex.example/v2/namespaces/default/widgets/a";
    let seen = until(&cluster, &format!("GET {newer}"), |code, _| code == 200).await;
    assert_eq!(seen["spec"], value!({"color": "red", "more": "new", "size": 3}));
    assert_eq!(seen.str_at(&["apiVersion"]), "ex.example/v2");
    let older = cluster.done(&format!("GET {WIDGETS}/a"), None).await;
    assert_eq!(older["spec"], value!({"color": "red", "size": 3}));
    assert_eq!(older.str_at(&["apiVersion"]), "ex.example/v1");
    let told = cluster.done(&format!("GET {DEFINITIONS}/widgets.ex.example"), None).await;
    assert_eq!(told["status"]["storedVersions"], value!(["v1", "v2"]));
    // Whoever watched comes back and sees the new form.
    let ended = async { while watch.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the watch ends");
}

#[tokio::test]
async fn it_is_served_from_the_first_moment_of_a_server_s_next_life() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition("widgets", "Widget")).await;
    cluster.done(&format!("POST {WIDGETS}"), Some(&widget("a", &value!({})))).await;
    let cluster = cluster.restarted().await;
    let list = cluster.done(&format!("GET {WIDGETS}"), None).await;
    assert_eq!(list.items_at(&["items"]).len(), 1);
    cluster.done(&format!("POST {WIDGETS}"), Some(&widget("b", &value!({})))).await;
    let list = cluster.done(&format!("GET {WIDGETS}"), None).await;
    assert_eq!(list.items_at(&["items"]).len(), 2);
}

#[tokio::test]
async fn rules_of_rights_hold_for_it() {
    let cluster = Cluster::start().await;
    establish(&cluster, &definition("widgets", "Widget")).await;
    let bob = As::Token("bob-token");
    assert_eq!(cluster.send(&bob, &format!("GET {WIDGETS}"), None).await.0, 403);
    let role = value!({"metadata": {"name": "reads"}, "rules": [
        {"apiGroups": ["ex.example"], "resources": ["widgets"], "verbs": ["list"]}]});
    cluster.done("POST /apis/rbac.authorization.k8s.io/v1/clusterroles", Some(&role)).await;
    let binding = value!({"metadata": {"name": "reads"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reads"},
        "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings = "POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    cluster.done(bindings, Some(&binding)).await;
    assert_eq!(cluster.send(&bob, &format!("GET {WIDGETS}"), None).await.0, 200);
    assert_eq!(cluster.send(&bob, &format!("GET {WIDGETS}/a"), None).await.0, 403);
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused() {
    let cluster = Cluster::start().await;
    let mut odd = definition("widgets", "Widget");
    let rule = value!([{"rule": "self.sizes < 10"}]);
    let version = &mut odd.items_at_mut(&["spec", "versions"])[0];
    let spec = ["schema", "openAPIV3Schema", "properties", "spec", "x-kubernetes-validations"];
    version.set_at(&spec, rule);
    let (code, answer) = cluster.send(&admin(), &format!("POST {DEFINITIONS}"), Some(&odd)).await;
    assert_eq!(code, 422);
    let message = answer.str_at(&["message"]);
    assert!(message.contains("undefined field 'sizes'"), "{message}");
}
