//! Writes that meet.

use apimachinery::{Value, json, value};
use apiserver::Body;

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

/// Applies of an object that nobody has made yet meet like those of one that is there: one makes it, the others change it.
#[tokio::test]
async fn applies_that_meet_where_nothing_is_are_all_made() {
    let cluster = Cluster::start().await;
    for round in 0..20 {
        let path = format!("/api/v1/namespaces/default/configmaps/shared-{round}");
        let applied = |key: usize| {
            value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": (format!("shared-{round}"))},
                "data": {(&*format!("k{key}")): "there"}})
        };
        let all = (0..8).map(|key| {
            let (cluster, path, applied) = (&cluster, &path, applied(key));
            async move {
                let request = format!("PATCH {path}?fieldManager=m{key}&force=true");
                cluster.send(&admin(), &request, Some(&applied)).await.0
            }
        });
        let mut codes = futures::future::join_all(all).await;
        codes.sort_unstable();
        assert_eq!(codes, [200, 200, 200, 200, 200, 200, 200, 201]);
        let made = cluster.done(&format!("GET {path}"), None).await;
        assert_eq!(made.get("data").and_then(Value::as_object).map(|it| it.len()), Some(8));
    }
}

/// However many write at once, who names no version is told of none.
#[tokio::test]
async fn patches_and_deletes_that_name_no_version_are_never_late() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    cluster.done(&format!("POST {maps}"), Some(&value!({"metadata": {"name": "shared"}}))).await;
    let patches = (0..40).map(|key| {
        let cluster = &cluster;
        async move {
            let patch = value!({"data": {(&*format!("k{key}")): "there"}});
            cluster.send(&admin(), &format!("PATCH {maps}/shared"), Some(&patch)).await.0
        }
    });
    assert!(futures::future::join_all(patches).await.iter().all(|code| *code == 200));
    let made = cluster.done(&format!("GET {maps}/shared"), None).await;
    assert_eq!(made.get("data").and_then(Value::as_object).map(|it| it.len()), Some(40));
}

/// A patch that changes the uid is told that it cannot be changed; an object that is put has to be the one meant.
#[tokio::test]
async fn a_uid_is_part_of_a_patch_and_a_condition_of_an_update() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let map = value!({"metadata": {"name": "one"}});
    let made = cluster.done(&format!("POST {path}"), Some(&map)).await;
    let other = value!({"metadata": {"name": "one", "uid": "other"}});
    let (code, answer) = cluster.send(&admin(), &format!("PATCH {path}/one"), Some(&other)).await;
    let immutable =
        "ConfigMap \"one\" is invalid: metadata.uid: Invalid value: \"other\": field is immutable";
    assert_eq!((code, answer.str_at(&["message"])), (422, immutable));
    let same = value!({"metadata": {"uid": (made["metadata"]["uid"].clone())}, "data": {"a": "b"}});
    cluster.done(&format!("PATCH {path}/one"), Some(&same)).await;
    for (name, actual) in [("one", made.str_at(&["metadata", "uid"])), ("gone", "")] {
        let other = value!({"metadata": {"name": name, "uid": "other"}});
        let (code, answer) =
            cluster.send(&admin(), &format!("PUT {path}/{name}"), Some(&other)).await;
        let why = format!("UID in precondition: other, UID in object meta: {actual}");
        let message = answer.str_at(&["message"]);
        assert!(code == 409 && message.ends_with(&why), "{code} {message}");
    }
}

/// `scale` has columns of its own, and is for the object whose uid it names.
#[tokio::test]
async fn a_scale_is_shown_as_a_table() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = value!({"metadata": {"name": "d"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.done(&format!("POST {path}"), Some(&deployment)).await;
    let request = format!("GET {path}/d/scale");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let response = cluster.respond_with(&admin(), &request, &table, None).await;
    let Body::Full(Some(bytes)) = response.into_body() else { panic!("a table is one piece") };
    let table = json::parse(&bytes).unwrap();
    let names: Vec<&str> =
        table.items_at(&["columnDefinitions"]).iter().map(|it| it.str_at(&["name"])).collect();
    assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    let described = |it: &Value| !it.str_at(&["description"]).is_empty();
    assert!(table.items_at(&["columnDefinitions"]).iter().all(described));
    let row = &table.items_at(&["rows"])[0];
    assert_eq!(row["cells"].as_array().unwrap()[..3], *value!(["d", 3, 0]).as_array().unwrap());
    assert_eq!(row.str_at(&["object", "kind"]), "PartialObjectMetadata");
    let scale = value!({"metadata": {"name": "d", "uid": "other"}, "spec": {"replicas": 1}});
    let (code, answer) = cluster.send(&admin(), &format!("PUT {path}/d/scale"), Some(&scale)).await;
    assert_eq!(code, 409);
    let message = answer.str_at(&["message"]);
    assert!(
        message.starts_with("Operation cannot be fulfilled on deployments/scale.apps \"d\""),
        "{message}"
    );
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

/// Who deletes jobs without a word about their pods is told that those stay, and of nothing that is no route.
#[tokio::test]
async fn deletes_and_old_kinds_warn_where_they_are_done() {
    let cluster = Cluster::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let containers = value!([{"name": "c", "image": "i"}]);
    let template = value!({"spec": {"restartPolicy": "Never", "containers": (containers)}});
    let job = value!({"metadata": {"name": "a"}, "spec": {"template": (template)}});
    cluster.done(&format!("POST {jobs}"), Some(&job)).await;
    let warnings = async |request: &str, body: Option<Value>| {
        let answer = cluster.respond(&admin(), request, body.as_ref()).await;
        answer.headers().get_all("warning").iter().count()
    };
    let (one, all) = (format!("DELETE {jobs}/a?dryRun=All"), format!("DELETE {jobs}?dryRun=All"));
    let options = |name: &str, value: Value| Some(value!({"dryRun": ["All"], name: value}));
    assert_eq!(warnings(&one, None).await, 1);
    assert_eq!(warnings(&all, None).await, 1);
    assert_eq!(warnings(&format!("{one}&propagationPolicy=Background"), None).await, 0);
    assert_eq!(warnings(&one, options("propagationPolicy", "Background".into())).await, 0);
    assert_eq!(warnings(&one, options("orphanDependents", false.into())).await, 0);

    let endpoints = "GET /api/v1/namespaces/default/endpoints";
    assert_eq!(warnings(endpoints, None).await, 1);
    assert_eq!(warnings(&format!("{endpoints}/a/status"), None).await, 0);
}

/// What a delete says in its query, what stays of an object that is held, and what is said of it then.
#[tokio::test]
async fn deletes_keep_to_their_conditions_and_objects_that_go_are_told() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let held = value!(["foregroundDeletion", "example.com/x"]);
    let map = value!({"metadata": {"name": "a", "finalizers": (held.clone())}});
    cluster.done(&format!("POST {maps}"), Some(&map)).await;
    let check = async |request: &str, body: Option<&Value>, code: u16, words: &str| {
        let (found, answer) = cluster.send(&admin(), request, body).await;
        assert_eq!(found, code, "{request} {answer:?}");
        assert!(answer.str_at(&["message"]).contains(words), "{request} {answer:?}");
        answer
    };
    let one = format!("{maps}/a");
    check(&format!("DELETE {one}?uid=x"), None, 409, "the UID in the precondition (x)").await;
    let version = format!("DELETE {one}?resourceVersion=1");
    check(&version, None, 409, "the ResourceVersion in the precondition (1)").await;
    let going = value!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
    let shown = "Invalid value: 2020-01-01 00:00:00 +0000 UTC: field is immutable";
    check(&format!("PATCH {one}"), Some(&going), 422, shown).await;

    let all = format!("DELETE {maps}?fieldSelector=metadata.name=a");
    let listed = cluster.done(&all, None).await;
    assert_eq!(listed.items_at(&["items"])[0].at(&["metadata", "deletionTimestamp"]), None);
    let left = cluster.done(&format!("GET {one}"), None).await;
    assert_eq!(left["metadata"]["finalizers"], held, "in their order");
    let again = "object is being deleted: configmaps \"a\" already exists";
    check(&format!("POST {maps}"), Some(&map), 409, again).await;
    let cascading = value!({"orphanDependents": false});
    check(&format!("DELETE {one}"), Some(&cascading), 202, "").await;
}

/// A driver has a generation from its first change on, as upstream's, and a class of priorities one that stays.
#[tokio::test]
async fn some_generations_begin_late_or_stay() {
    let cluster = Cluster::start().await;
    let generations = async |resource: &str, object: Value, changes: &[Value]| {
        let made = cluster.done(&format!("POST /apis/{resource}"), Some(&object)).await;
        let mut all = vec![made.i64_at(&["metadata", "generation"])];
        for change in changes {
            let request =
                format!("PATCH /apis/{resource}/{}", object.str_at(&["metadata", "name"]));
            let changed = cluster.done(&request, Some(change)).await;
            all.push(changed.i64_at(&["metadata", "generation"]));
        }
        all
    };
    let changes = [
        value!({"metadata": {"labels": {"a": "b"}}}),
        value!({"spec": {"requiresRepublish": true}}),
        value!({"spec": {"requiresRepublish": false}}),
    ];
    let driver = value!({"metadata": {"name": "a.b"}});
    let all = generations("storage.k8s.io/v1/csidrivers", driver, &changes).await;
    assert_eq!(all, [None, None, Some(1), Some(2)]);
    let class = value!({"metadata": {"name": "a"}, "value": 1});
    let changes = [value!({"description": "b"})];
    let all = generations("scheduling.k8s.io/v1/priorityclasses", class, &changes).await;
    assert_eq!(all, [Some(1), Some(1)]);
}

/// A job's own labels are its own, also where its template has the same; those that it has of its template grow with them.
#[tokio::test]
async fn labels_of_jobs_are_as_they_were_sent() {
    let cluster = Cluster::start().await;
    let path = "/apis/batch/v1/namespaces/default/jobs";
    for (labels, count) in [(value!({"a": "b"}), 1), (Value::Null, 5)] {
        let name = format!("j{count}");
        let job = value!({"metadata": {"name": (name), "labels": (labels)}, "spec": {"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        let made = cluster.done(&format!("POST {path}"), Some(&job)).await;
        let labels = made.at(&["metadata", "labels"]).and_then(Value::as_object);
        assert_eq!(labels.map(apimachinery::Object::len), Some(count), "{made:?}");
    }
}

/// A patched scale is one, of the name in the path.
#[tokio::test]
async fn patches_of_a_scale_do_not_rename_it() {
    let cluster = Cluster::start().await;
    let labels = value!({"a": "b"});
    let set = value!({"metadata": {"name": "r"}, "spec": {"selector": {"matchLabels": (labels.clone())}, "template": {
        "metadata": {"labels": (labels)}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    cluster.done(&format!("POST {sets}"), Some(&set)).await;
    for (patch, code) in [
        (value!({"spec": {"replicas": 2}}), 200),
        (value!({"metadata": {"name": "x"}}), 400),
        (value!({"metadata": {"name": null}}), 400),
        (value!({"metadata": {"namespace": "x"}}), 400),
    ] {
        let path = format!("PATCH {sets}/r/scale");
        assert_eq!(cluster.send(&admin(), &path, Some(&patch)).await.0, code, "{patch:?}");
    }
}
