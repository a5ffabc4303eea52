//! What clients see on the wire: protobuf, watch events of a forced delete, evictions, documents, metrics.

use std::io::Read as _;
use std::sync::Arc;

use apimachinery::{Value, json, protobuf, value};
use apiserver::{Body, Peer, RequestBody};
use auth::UserInfo;
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderMap;

use crate::cluster::{Cluster, admin};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const POD: &str = "/api/v1/namespaces/ns/pods/p";

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let named = |name: &str| value!({"metadata": {"name": name}});
    cluster.done("POST /api/v1/namespaces", Some(&named("ns"))).await;
    cluster.done("POST /api/v1/namespaces/ns/serviceaccounts", Some(&named("default"))).await;
    cluster
}

/// A pod that runs on a node.
async fn running_pod(cluster: &Cluster) -> Value {
    let pod = value!({"metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let mut pod = cluster.done("POST /api/v1/namespaces/ns/pods", Some(&pod)).await;
    pod.set_at(
        &["status"],
        value!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
    );
    cluster.done(&format!("PUT {POD}/status"), Some(&pod)).await
}

struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Body,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }

    fn bytes(self) -> Bytes {
        match self.body {
            Body::Full(bytes) => bytes.unwrap_or_default(),
            Body::Stream(_) => panic!("a stream where one piece was expected"),
        }
    }

    /// The next piece of a stream that has one.
    async fn piece(&mut self) -> Bytes {
        match &mut self.body {
            Body::Stream(stream) => stream.next().await.unwrap(),
            Body::Full(bytes) => bytes.take().unwrap(),
        }
    }
}

async fn send(cluster: &Cluster, request: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let mut builder = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let user = Some(Arc::new(UserInfo::new("admin", &["system:masters"])));
    let request = builder.body(RequestBody::Bytes(body.into())).unwrap();
    let response = cluster.server.serve(request, Peer { user, ..Peer::default() }).await;
    let (parts, body) = response.into_parts();
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

fn message(api_version: &str, kind: &str, value: &Value) -> Vec<u8> {
    let node = api::type_of_kind("", api_version, kind).unwrap();
    let mut out = Vec::new();
    protobuf::wrap(api_version, kind, &mut out, |out| {
        protobuf::encode(api::schema(), api::protobuf_tags(), node, value, out);
    });
    out
}

fn read(bytes: &[u8]) -> (String, Value) {
    let envelope = protobuf::unwrap(bytes).unwrap();
    let node = api::type_of_kind("", &envelope.api_version, &envelope.kind).unwrap();
    let value = protobuf::decode(api::schema(), api::protobuf_tags(), node, envelope.raw).unwrap();
    (envelope.kind, value)
}

#[tokio::test]
async fn objects_go_in_and_out_in_protobuf() {
    let cluster = cluster().await;
    let map = value!({"metadata": {"name": "m"}, "data": {"k": "v"}});
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let path = "/api/v1/namespaces/ns/configmaps";
    let made =
        send(&cluster, &format!("POST {path}"), &headers, message("v1", "ConfigMap", &map)).await;
    assert_eq!((made.code, made.header("content-type")), (201, PROTOBUF));
    let (kind, made) = read(&made.bytes());
    assert_eq!((kind.as_str(), made.str_at(&["data", "k"])), ("ConfigMap", "v"));
    let stored = cluster.done(&format!("GET {path}/m"), None).await;
    assert_eq!(stored.str_at(&["metadata", "uid"]), made.str_at(&["metadata", "uid"]));
    let list = send(&cluster, &format!("GET {path}"), &headers, Vec::new()).await;
    let (kind, list) = read(&list.bytes());
    assert_eq!((kind.as_str(), list.items_at(&["items"]).len()), ("ConfigMapList", 1));
    let missing = send(&cluster, &format!("GET {path}/x"), &headers, Vec::new()).await;
    assert_eq!((missing.code, missing.header("content-type")), (404, PROTOBUF));
    let wrong = message("v1", "Secret", &value!({"metadata": {"name": "m"}}));
    let json_answer = [("content-type", PROTOBUF)];
    let wrong = send(&cluster, &format!("POST {path}"), &json_answer, wrong).await;
    assert_eq!(wrong.code, 400);
}

#[tokio::test]
async fn options_of_a_delete_are_in_protobuf_whatever_is_deleted() {
    let cluster = cluster().await;
    crate::custom::establish(&cluster, &crate::custom::definition("things", "Thing")).await;
    let thing = value!({"apiVersion": "ex.example/v1", "kind": "Thing", "metadata": {"name": "t"}});
    let path = "/apis/ex.example/v1/namespaces/ns/things";
    cluster.done(&format!("POST {path}"), Some(&thing)).await;
    let headers = [("content-type", PROTOBUF)];
    let mut options = Vec::new();
    protobuf::wrap("v1", "DeleteOptions", &mut options, |_| {});
    let posted = send(&cluster, &format!("POST {path}"), &headers, options.clone()).await;
    assert_eq!(posted.code, 415);
    for one in ["/t", ""] {
        let gone = send(&cluster, &format!("DELETE {path}{one}"), &headers, options.clone()).await;
        assert_eq!(gone.code, 200, "{one}");
    }
}

/// Upstream's clients of 1.20 read the resources of a group so.
#[tokio::test]
async fn verbs_are_a_message_in_protobuf() {
    let cluster = cluster().await;
    let accept = [("accept", PROTOBUF)];
    let list = send(&cluster, "GET /apis/apps/v1", &accept, Vec::new()).await.bytes();
    let all = |bytes: &[u8], wanted: u32| {
        let (mut reader, mut found) = (protobuf::Reader::new(bytes), Vec::new());
        while let Some((number, value)) = reader.field().unwrap() {
            if let (true, protobuf::WireValue::Bytes(bytes)) = (number == wanted, value) {
                found.push(bytes.to_vec());
            }
        }
        found
    };
    let resources = all(protobuf::unwrap(&list).unwrap().raw, 2);
    let controller_revisions = &resources[0];
    let [verbs] = &*all(controller_revisions, 4) else { panic!("verbs are told once") };
    let verbs: Vec<String> =
        all(verbs, 1).into_iter().map(|it| String::from_utf8(it).unwrap()).collect();
    let expected =
        ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    assert_eq!(verbs, expected);
    let (_, value) = read(&list);
    assert_eq!(value.items_at(&["resources"])[0].items_at(&["verbs"]).len(), expected.len());
}

/// Upstream's controllers and scheduler of 1.20 speak so. Of budgets the message is today's, of Ingresses it is not.
#[tokio::test]
async fn removed_versions_are_in_protobuf() {
    let cluster = Cluster::with_removed_versions().await;
    let budget = value!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"a": "b"}}}});
    let ingress = value!({"metadata": {"name": "b"},
        "spec": {"backend": {"serviceName": "s", "servicePort": 80}}});
    for (group, resource, kind, value) in [
        ("policy", "poddisruptionbudgets", "PodDisruptionBudget", &budget),
        ("extensions", "ingresses", "Ingress", &ingress),
        ("networking.k8s.io", "ingresses", "Ingress", &ingress),
    ] {
        let version = format!("{group}/v1beta1");
        let own = api::type_of_removed(group, "v1beta1", kind);
        let node = own.or_else(|| api::type_of_kind(group, "v1", kind)).unwrap();
        let mut body = Vec::new();
        protobuf::wrap(&version, kind, &mut body, |out| {
            protobuf::encode(api::schema(), api::protobuf_tags(), node, value, out);
        });
        let path = format!("/apis/{version}/namespaces/default/{resource}");
        let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
        let made = send(&cluster, &format!("POST {path}"), &headers, body).await;
        assert_eq!((made.code, made.header("content-type")), (201, PROTOBUF), "{path}");
        let bytes = made.bytes();
        let made = protobuf::unwrap(&bytes).unwrap();
        assert_eq!((made.api_version.as_str(), made.kind.as_str()), (version.as_str(), kind));
        let (schema, tags) = (api::schema(), api::protobuf_tags());
        let made = protobuf::decode(schema, tags, node, made.raw).unwrap();
        for (member, expected) in value["spec"].as_object().unwrap().iter() {
            assert_eq!(&made["spec"][member], expected, "{path}");
        }
        let list = send(&cluster, &format!("GET {path}"), &headers, Vec::new()).await;
        assert_eq!((list.code, list.header("content-type")), (200, PROTOBUF), "{path}");
        let bytes = list.bytes();
        let list = protobuf::unwrap(&bytes).unwrap();
        assert_eq!((list.api_version, list.kind), (version, format!("{kind}List")));
        cluster.done(&format!("DELETE {path}/b"), None).await;
    }
}

/// Upstream's router refuses by media type alone, its aggregator, which tells of groups, reads wildcards and parameters.
#[tokio::test]
async fn documents_are_refused_to_who_accepts_none_of_their_forms() {
    let cluster = cluster().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let check = async |path: &str, accept: &str, code: u16, content_type: &str| {
        let answer = send(&cluster, &format!("GET {path}"), &[("accept", accept)], vec![]).await;
        let found = (answer.code, answer.header("content-type"));
        assert_eq!(found, (code, content_type), "{path} {accept}");
    };
    for path in ["/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1"] {
        check(path, "text/html", 406, "application/json").await;
        check(path, table, 406, "application/json").await;
        check(path, &format!("{table},application/yaml"), 200, "application/yaml").await;
        check(path, PROTOBUF, 200, PROTOBUF).await;
        let code = if matches!(path, "/apis" | "/apis/apps") { 200 } else { 406 };
        check(path, "application/*", code, "application/json").await;
    }
    check("/version", table, 200, "application/json").await;
    check("/version", "application/yaml", 406, "application/yaml").await;
    check("/version", "text/html, */*;q=0.1", 200, "application/json").await;
}

#[tokio::test]
async fn what_is_only_asked_has_no_rows() {
    let cluster = cluster().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let review = value!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let path = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let check = async |accept: &str, expected: u16| {
        let headers = [("accept", accept), ("content-type", "application/json")];
        let answer = send(&cluster, path, &headers, json::to_vec(&review)).await;
        assert_eq!(answer.code, expected, "{accept}");
    };
    check(table, 406).await;
    check(&format!("{table},application/json"), 201).await;
}

#[tokio::test]
async fn events_are_selected_by_the_names_of_their_version() {
    let cluster = cluster().await;
    let event = value!({"metadata": {"name": "e", "namespace": "ns"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "ns"}});
    let newer = "/apis/events.k8s.io/v1/namespaces/ns/events";
    cluster.done(&format!("POST {newer}"), Some(&event)).await;
    let check = async |path: &str, selector: &str, expected: Option<usize>| {
        let request = format!("GET {path}?fieldSelector={selector}");
        let answer = send(&cluster, &request, &[], Vec::new()).await;
        let code = answer.code;
        let body = json::parse(&answer.bytes()).unwrap();
        let found = (code == 200).then(|| body.items_at(&["items"]).len());
        assert_eq!(found, expected, "{path} {selector}: {}", body.str_at(&["message"]));
    };
    check(newer, "reportingController=c,regarding.name=p", Some(1)).await;
    check(newer, "reportingController=d", Some(0)).await;
    check(newer, "involvedObject.name=p", None).await;
    let core = "/api/v1/namespaces/ns/events";
    check(core, "reportingComponent=c,involvedObject.name=p", Some(1)).await;
    check(core, "regarding.name=p", None).await;
}

#[tokio::test]
async fn a_watch_in_protobuf_sends_frames() {
    let cluster = cluster().await;
    let request = "GET /api/v1/namespaces/ns/serviceaccounts?watch=1&resourceVersion=0";
    let mut watch = send(&cluster, request, &[("accept", PROTOBUF)], Vec::new()).await;
    assert_eq!(watch.header("content-type"), "application/vnd.kubernetes.protobuf;stream=watch");
    let piece = watch.piece().await;
    let len = u32::from_be_bytes(piece[..4].try_into().unwrap()) as usize;
    assert_eq!(piece.len(), 4 + len, "one event");
    let event = api::type_of_definition("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent").unwrap();
    let mut reader = protobuf::Reader::new(&piece[4..]);
    assert_eq!(reader.field().unwrap(), Some((1, protobuf::WireValue::Bytes(b"ADDED"))));
    let Some((2, protobuf::WireValue::Bytes(raw))) = reader.field().unwrap() else {
        panic!("no object in the event of {event}")
    };
    let Some((1, protobuf::WireValue::Bytes(object))) = protobuf::Reader::new(raw).field().unwrap()
    else {
        panic!("no bytes in the object")
    };
    let (kind, account) = read(object);
    assert_eq!(
        (kind.as_str(), account.str_at(&["metadata", "name"])),
        ("ServiceAccount", "default")
    );
}

#[tokio::test]
async fn a_forced_delete_says_when_and_with_which_grace_the_pod_went() {
    let cluster = cluster().await;
    let pod = running_pod(&cluster).await;
    let version = pod.str_at(&["metadata", "resourceVersion"]);
    let watch = format!("GET /api/v1/namespaces/ns/pods?watch=1&resourceVersion={version}");
    let mut watch = send(&cluster, &watch, &[], Vec::new()).await;
    cluster.done(&format!("DELETE {POD}?gracePeriodSeconds=0"), None).await;
    let mut text = String::new();
    while text.lines().count() < 2 {
        text.push_str(std::str::from_utf8(&watch.piece().await).unwrap());
    }
    let kinds: Vec<String> = text
        .lines()
        .map(|line| {
            let event = json::parse(line.as_bytes()).unwrap();
            let metadata = event.at(&["object", "metadata"]).unwrap();
            assert!(metadata.get("deletionTimestamp").is_some(), "{line}");
            assert_eq!(metadata.i64_at(&["deletionGracePeriodSeconds"]), Some(0), "{line}");
            event.str_at(&["type"]).to_owned()
        })
        .collect();
    assert_eq!(kinds, ["MODIFIED", "DELETED"]);
}

#[tokio::test]
async fn an_eviction_is_charged_to_the_budget_or_refused_by_it() {
    let cluster = cluster().await;
    running_pod(&cluster).await;
    let budgets = "/apis/policy/v1/namespaces/ns/poddisruptionbudgets";
    let budget = value!({"metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    let mut budget = cluster.done(&format!("POST {budgets}"), Some(&budget)).await;
    let mut allow = async |count: i64| {
        budget.set_at(
            &["status"],
            value!({"observedGeneration": 1, "disruptionsAllowed": count,
            "currentHealthy": (count + 1), "desiredHealthy": 1, "expectedPods": 1}),
        );
        budget.remove_at(&["metadata", "resourceVersion"]);
        cluster.done(&format!("PUT {budgets}/b/status"), Some(&budget)).await;
    };
    allow(0).await;
    cluster.server.hub().catch_up().await.unwrap();
    let evict = value!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let request = format!("POST {POD}/eviction");
    let (code, refused) = cluster.send(&admin(), &request, Some(&evict)).await;
    assert_eq!(code, 429, "{refused:?}");
    let cause = &refused.items_at(&["details", "causes"])[0];
    assert_eq!(cause.str_at(&["reason"]), "DisruptionBudget");
    let needs = "The disruption budget b needs 1 healthy pods and has 1 currently";
    assert_eq!(cause.str_at(&["message"]), needs);
    allow(1).await;
    cluster.done(&request, Some(&evict)).await;
    let pod = cluster.done(&format!("GET {POD}"), None).await;
    assert!(pod.at(&["metadata", "deletionTimestamp"]).is_some(), "{pod:?}");
    let why = pod.items_at(&["status", "conditions"]).iter();
    assert!(why.clone().any(|it| it.str_at(&["type"]) == "DisruptionTarget"), "{pod:?}");
    let charged = cluster.done(&format!("GET {budgets}/b"), None).await;
    assert_eq!(charged.i64_at(&["status", "disruptionsAllowed"]), Some(0));
    assert!(charged.at(&["status", "disruptedPods", "p"]).is_some(), "{charged:?}");
}

#[tokio::test]
async fn documents_are_kept_by_their_hash() {
    let cluster = cluster().await;
    let index = cluster.done("GET /openapi/v3", None).await;
    let url = index.str_at(&["paths", "apis/apps/v1", "serverRelativeURL"]).to_owned();
    let found =
        send(&cluster, &format!("GET {url}"), &[("accept-encoding", "gzip")], Vec::new()).await;
    assert_eq!((found.code, found.header("cache-control")), (200, "public, immutable"));
    assert_eq!(found.header("content-encoding"), "gzip");
    let etag = found.header("etag").to_owned();
    assert!(url.ends_with(etag.trim_matches('"')), "{url} {etag}");
    let known =
        send(&cluster, &format!("GET {url}"), &[("if-none-match", &etag)], Vec::new()).await;
    assert_eq!(known.code, 304);
    let old = send(&cluster, "GET /openapi/v3/apis/apps/v1?hash=OLD", &[], Vec::new()).await;
    assert_eq!((old.code, old.header("location")), (301, url.as_str()));
    let odd = send(&cluster, "GET /openapi/v2", &[("accept", "text/html")], Vec::new()).await;
    assert_eq!(odd.code, 406);
}

#[tokio::test]
async fn requests_events_and_objects_are_counted() {
    let cluster = cluster().await;
    let watch = "GET /api/v1/namespaces/ns/serviceaccounts?watch=1&resourceVersion=0";
    let mut watch = send(&cluster, watch, &[], Vec::new()).await;
    watch.piece().await;
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let metrics = text(send(&cluster, "GET /metrics", &[], Vec::new()).await.bytes());
    let about = |verb: &str, resource: &str, scope: &str| {
        format!(
            "component=\"apiserver\",group=\"\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\""
        )
    };
    let accounts = about("POST", "serviceaccounts", "resource");
    for wanted in [
        format!("apiserver_request_total{{code=\"201\",dry_run=\"\",{accounts}}} 1\n"),
        format!("apiserver_request_duration_seconds_count{{dry_run=\"\",{accounts}}} 1\n"),
        format!(
            "apiserver_longrunning_requests{{{}}} 1\n",
            about("WATCH", "serviceaccounts", "namespace")
        ),
        "apiserver_watch_events_total{group=\"\",resource=\"serviceaccounts\",version=\"v1\"} 1\n"
            .into(),
        "apiserver_storage_objects{resource=\"serviceaccounts\"} 1\n".into(),
        "apiserver_resource_objects{group=\"\",resource=\"serviceaccounts\"} 1\n".into(),
        "\nprocess_resident_memory_bytes ".into(),
    ] {
        assert!(metrics.contains(&wanted), "{wanted} is not in\n{metrics}");
    }
    drop(watch);
    let metrics = text(send(&cluster, "GET /metrics", &[], Vec::new()).await.bytes());
    let closed = format!("{}}} 0\n", about("WATCH", "serviceaccounts", "namespace"));
    assert!(metrics.contains(&closed), "{metrics}");
}

#[tokio::test]
async fn a_scale_can_be_applied_and_owns_the_count() {
    let cluster = cluster().await;
    let path = "/apis/apps/v1/namespaces/ns/deployments";
    let deployment = value!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.done(&format!("POST {path}?fieldManager=me"), Some(&deployment)).await;
    let scale = value!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3}});
    let headers = [("content-type", "application/apply-patch+yaml")];
    let apply = async |query: &str| {
        let request = format!("PATCH {path}/d/scale?fieldManager=scaler{query}");
        send(&cluster, &request, &headers, json::to_vec(&scale)).await
    };
    assert_eq!(apply("").await.code, 409, "the count is somebody else's");
    let answer = apply("&force=true").await;
    assert_eq!(answer.code, 200);
    let answer = json::parse(&answer.bytes()).unwrap();
    assert_eq!(
        (answer.str_at(&["kind"]), answer.i64_at(&["spec", "replicas"])),
        ("Scale", Some(3))
    );
    let stored = cluster.done(&format!("GET {path}/d"), None).await;
    assert_eq!(stored.i64_at(&["spec", "replicas"]), Some(3));
    let entry = stored.items_at(&["metadata", "managedFields"]).iter();
    let entry = entry.clone().find(|it| it.str_at(&["manager"]) == "scaler").unwrap();
    let parts = ["operation", "apiVersion", "subresource"].map(|it| entry.str_at(&[it]));
    assert_eq!(parts, ["Apply", "apps/v1", "scale"]);
    assert_eq!(json::to_string(&entry["fieldsV1"]), r#"{"f:spec":{"f:replicas":{}}}"#);
}

/// The whole body of an answer.
async fn whole(answer: Answer) -> Vec<u8> {
    match answer.body {
        Body::Full(bytes) => bytes.unwrap_or_default().to_vec(),
        Body::Stream(pieces) => pieces.collect::<Vec<Bytes>>().await.concat(),
    }
}

#[tokio::test]
async fn lists_are_packed_for_who_accepts_it_and_broken_into_lines_for_people() {
    let cluster = cluster().await;
    const MAPS: &str = "GET /api/v1/namespaces/ns/configmaps";
    let list = async |headers: &[(&str, &str)], query: &str| {
        send(&cluster, &format!("{MAPS}{query}"), headers, Vec::new()).await
    };
    let map = |name: &str, size: usize| value!({"metadata": {"name": name}, "data": {"text": ("a b".repeat(size / 3))}});
    cluster.done(&MAPS.replace("GET", "POST"), Some(&map("a", 30))).await;
    let gzip = [("accept-encoding", "gzip, br")];
    // Little is sent as it is.
    let small = list(&gzip, "").await;
    assert_eq!((small.header("content-encoding"), small.header("vary")), ("", ""));
    let small = whole(small).await;
    let lines = whole(list(&[("user-agent", "curl/8")], "").await).await;
    let lines = String::from_utf8(lines).unwrap();
    assert!(
        lines.starts_with("{\n  \"kind\": \"ConfigMapList\",\n  \"apiVersion\": \"v1\",\n"),
        "{lines}"
    );
    assert_eq!(json::parse(lines.as_bytes()).unwrap(), json::parse(&small).unwrap());
    let asked = whole(list(&[("user-agent", "curl/8")], "?pretty=0").await).await;
    assert_eq!(asked, small);
    for name in ["b", "c", "d"] {
        cluster.done(&MAPS.replace("GET", "POST"), Some(&map(name, 200_000))).await;
    }
    let plain = whole(list(&[], "").await).await;
    for (accept, query) in [
        ("application/json", ""),
        ("application/json", "?pretty=1"),
        ("application/yaml", ""),
        (PROTOBUF, ""),
    ] {
        let as_it_is = whole(list(&[("accept", accept)], query).await).await;
        let packed = list(&[("accept", accept), gzip[0]], query).await;
        assert_eq!((packed.code, packed.header("content-encoding")), (200, "gzip"), "{accept}");
        assert_eq!(packed.header("vary"), "Accept-Encoding");
        let packed = whole(packed).await;
        assert!(packed.len() < plain.len() / 10, "{accept}: {}", packed.len());
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&*packed).read_to_end(&mut read).unwrap();
        assert!(read == as_it_is, "{accept}");
    }
    // What is at hand is told whole.
    let page = json::parse(&whole(list(&[], "?limit=1").await).await).unwrap();
    assert_eq!(page.items_at(&["items"]).len(), 1);
    let at_hand = whole(list(&[], "?limit=1&resourceVersion=0").await).await;
    assert!(at_hand == plain);
    // Writes are answered as they are, and say what they are written in, in any letters.
    let made = json::to_vec(&map("e", 200_000));
    let headers = [gzip[0], ("content-type", "Application/JSON; charset=utf-8")];
    let made = send(&cluster, &MAPS.replace("GET", "POST"), &headers, made).await;
    assert_eq!((made.code, made.header("content-encoding")), (201, ""));
}

/// Upstream looks for repeated keys once the apply has been merged, and says each in a warning of its own.
#[tokio::test]
async fn repeated_keys_of_an_apply_are_told_after_its_conflicts() {
    let cluster = cluster().await;
    let path = "/api/v1/namespaces/ns/configmaps";
    let map = value!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    cluster.done(&format!("POST {path}?fieldManager=me"), Some(&map)).await;
    let headers = [("content-type", "application/apply-patch+yaml")];
    let apply = async |query: &str| {
        let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: a, k: b}\n";
        let request = format!("PATCH {path}/a?fieldManager=other&dryRun=All{query}");
        let answer = send(&cluster, &request, &headers, body.into()).await;
        let warning = answer.headers.get("warning").cloned();
        let message = json::parse(&answer.bytes()).unwrap().str_at(&["message"]).to_owned();
        (warning.map(|it| it.to_str().unwrap().to_owned()), message)
    };
    let conflict = "Apply failed with 1 conflict: conflict with \"me\" using v1: .data.k";
    assert_eq!(apply("").await, (None, conflict.into()));
    assert_eq!(apply("&fieldValidation=Strict").await, (None, conflict.into()));
    let line = "line 4: key \\\"k\\\" already set in map";
    assert_eq!(apply("&force=true").await, (Some(format!("299 - \"{line}\"")), String::new()));
    let strict = "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 4: key \"k\" already set in map";
    assert_eq!(apply("&force=true&fieldValidation=Strict").await, (None, strict.into()));
    assert_eq!(apply("&force=true&fieldValidation=Ignore").await, (None, String::new()));
}
