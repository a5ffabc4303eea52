//! Servers behind this one, through the whole server.

use apimachinery::{Value, json, value};
use auth::UserInfo;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bad_input::front::{Front, read_all, request};
use crate::cluster::{As, Cluster, admin};
use crate::extension::{Authorities, Extension, GROUP, Mood, ROOT};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn api_service(port: u16, bundle: &str) -> Value {
    let mut object = value!({"metadata": {"name": NAME}, "spec": {"group": GROUP, "version": "v1alpha1",
        "groupPriorityMinimum": 2000, "versionPriority": 200,
        "service": {"namespace": "default", "name": "api", "port": (i64::from(port))}}});
    if bundle.is_empty() {
        object.set_at(&["spec", "insecureSkipTLSVerify"], true);
    } else {
        object.set_at(&["spec", "caBundle"], bundle);
    }
    object
}

/// A service that is found on this machine: endpoints may not be.
async fn make_service(cluster: &Cluster) {
    let service = value!({"metadata": {"name": "api"},
        "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
    cluster.done("POST /api/v1/namespaces/default/services", Some(&service)).await;
}

/// The condition of the APIService, once it has this reason.
async fn told(cluster: &Cluster, name: &str, reason: &str) -> Value {
    let path = format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut frames = cluster.watch(&path).await;
    let waiting = async {
        while let Some(frame) = frames.next().await {
            let mut conditions = frame["object"].items_at(&["status", "conditions"]).iter();
            if let Some(found) = conditions.find(|it| it.str_at(&["reason"]) == reason) {
                return found.clone();
            }
        }
        panic!("the watch of {name} ended")
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
    waited.unwrap_or_else(|_| panic!("{name} never says {reason}"))
}

async fn gone(cluster: &Cluster, name: &str) {
    let path = format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut frames = cluster.watch(&path).await;
    loop {
        let (code, _) = cluster.send(&admin(), &format!("GET {SERVICES}/{name}"), None).await;
        if code == 404 {
            return;
        }
        frames.next().await.expect("the watch goes on");
    }
}

struct Aggregated {
    front: Front,
    extension: Extension,
    authorities: Authorities,
}

impl Aggregated {
    async fn start(mood: Mood) -> Self {
        let authorities = Authorities::new();
        let extension = Extension::start(&authorities, mood).await;
        let cluster = Cluster::behind(authorities.proxy_client()).await;
        let front = Front::of(cluster).await;
        make_service(&front.cluster).await;
        let service = api_service(extension.port, &authorities.bundle());
        front.cluster.done(&format!("POST {SERVICES}"), Some(&service)).await;
        Self { front, extension, authorities }
    }

    fn cluster(&self) -> &Cluster {
        &self.front.cluster
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let answer = self.front.send(&request(&format!("GET {path}"), &[], b"")).await;
        (answer.code, answer.says)
    }

    async fn aggregated(&self) -> Value {
        let accept = format!("Accept: {AGGREGATED}");
        let bytes = request("GET /apis", &[&accept], b"");
        json::parse(&self.front.body(&bytes).await).unwrap()
    }
}

fn group_of(document: &Value) -> Value {
    let mut items = document.items_at(&["items"]).iter();
    let found = items.find(|it| it.str_at(&["metadata", "name"]) == GROUP);
    found.cloned().unwrap_or_default()
}

#[tokio::test]
async fn another_server_is_reached_in_the_name_of_who_asks() {
    let it = Aggregated::start(Mood::Well).await;
    let cluster = it.cluster();
    let passed = told(cluster, NAME, "Passed").await;
    assert_eq!(passed.str_at(&["message"]), "all checks passed");
    let list = cluster.send(&admin(), &format!("GET {FLUNDERS}"), None).await;
    assert_eq!(list.0, 200, "{list:?}");
    let mut user = UserInfo::new("bob", &["system:masters", "g"]);
    user.uid = "u-1".into();
    user.extra.insert("example.com/k".into(), vec!["v".into()]);
    let (code, answer) = cluster.send(&As::User(user), &format!("GET {FLUNDERS}"), None).await;
    assert_eq!((code, answer.str_at(&["kind"])), (200, ""), "a stream, not an object at hand");
    let headers = it.extension.headers_of(FLUNDERS);
    let of = |name: &str| {
        let all = headers.get_all(name).iter().map(|it| it.to_str().unwrap().to_owned());
        all.collect::<Vec<_>>()
    };
    assert_eq!(of("x-remote-user"), ["bob"]);
    assert_eq!(of("x-remote-uid"), ["u-1"]);
    assert!(of("x-remote-group").contains(&"g".to_owned()));
    assert_eq!(of("x-remote-extra-example.com%2fk"), ["v"]);
    assert!(!of("audit-id")[0].is_empty());
    // What a client says of itself is worth nothing, and its secrets go nowhere.
    let spoof = ["X-Remote-User: root", "X-Remote-Group: system:masters", "X-Remote-Extra-A: b"];
    let before = ["Authorization: Bearer admin-token", "X-Forwarded-For: 192.0.2.7"];
    let spoof = [&spoof[..], &before].concat();
    let answer = it.front.send(&request(&format!("GET {FLUNDERS}"), &spoof, b"")).await;
    assert_eq!((answer.code, answer.says.as_str()), (200, "FlunderList"));
    let headers = it.extension.headers_of(FLUNDERS);
    assert_eq!(headers.get_all("x-remote-user").iter().count(), 1);
    assert_eq!(headers["x-remote-user"], "admin");
    assert_eq!(headers["x-forwarded-for"], "192.0.2.7, 127.0.0.1");
    assert!(!headers.contains_key("x-remote-extra-a") && !headers.contains_key("authorization"));
    // Who may not here may not there.
    let bob = ["Authorization: Bearer bob-token"];
    assert_eq!(it.front.send(&request(&format!("GET {FLUNDERS}"), &bob, b"")).await.code, 403);
}

#[tokio::test]
async fn bodies_watches_upgrades_and_redirects() {
    let it = Aggregated::start(Mood::Well).await;
    told(it.cluster(), NAME, "Passed").await;
    let json = ["Content-Type: application/json"];
    let post = request(&format!("POST {FLUNDERS}"), &json, br#"{"kind":"Flunder","a":1}"#);
    let made = it.front.send(&post).await;
    assert_eq!((made.code, made.says.as_str()), (201, "Flunder"));
    // Bodies have the length that whoever sent them said, both ways.
    assert_eq!(it.extension.headers_of(FLUNDERS)["content-length"], "24");
    let stream = it.front.connect("h2", None).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let post = http::Request::post(format!("https://localhost{FLUNDERS}"))
        .header("authorization", "Bearer admin-token")
        .header("content-length", "25");
    let (answer, mut body) = requests.send_request(post.body(()).unwrap(), false).unwrap();
    for (piece, is_last) in [(&br#"{"kind":"Flunder","#[..], false), (br#""a":12}"#, true)] {
        body.send_data(bytes::Bytes::from_static(piece), is_last).unwrap();
    }
    assert_eq!(answer.await.unwrap().status(), 201);
    assert_eq!(it.extension.headers_of(FLUNDERS)["content-length"], "25");
    let mut stream = it.front.connect("http/1.1", None).await.unwrap();
    let head = format!(
        "GET {FLUNDERS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answered = Vec::new();
    stream.read_to_end(&mut answered).await.unwrap();
    let answered = String::from_utf8(answered).unwrap().to_lowercase();
    let (head, body) = answered.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{answered}");
    let mut frames = it.cluster().watch(&format!("{FLUNDERS}?watch=true")).await;
    for name in ["a", "b"] {
        let frame = frames.next().await.unwrap();
        assert_eq!(frame.str_at(&["object", "metadata", "name"]), name);
    }
    assert_eq!(it.text(&format!("{FLUNDERS}/nope")).await, (404, "none".into()));
    let away = it.text(&format!("{FLUNDERS}/away")).await;
    let what = "the backend attempted to redirect this request, which is not permitted\n";
    assert_eq!(away, (502, what.into()));
    let mut stream = it.front.connect("http/1.1", None).await.unwrap();
    let head = format!(
        "POST {FLUNDERS}/a/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\n\
         Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    let answered = String::from_utf8(read).unwrap();
    assert!(answered.starts_with("HTTP/1.1 101"), "{answered}");
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"HELLO");
    assert_eq!(it.extension.headers_of(&format!("{FLUNDERS}/a/exec"))["x-remote-user"], "admin");
}

#[tokio::test]
async fn what_another_server_serves_is_told_with_what_this_one_does() {
    let it = Aggregated::start(Mood::Well).await;
    let cluster = it.cluster();
    told(cluster, NAME, "Passed").await;
    let version = group_of(&it.aggregated().await)["versions"].items_at(&[])[0].clone();
    assert_eq!(version.str_at(&["freshness"]), "Current");
    assert_eq!(version["resources"].items_at(&[])[0].str_at(&["resource"]), "flunders");
    let groups = cluster.done("GET /apis", None).await;
    let groups: Vec<&str> =
        groups.items_at(&["groups"]).iter().map(|it| it.str_at(&["name"])).collect();
    assert_eq!(groups[0], "apiregistration.k8s.io");
    assert_eq!(groups.last(), Some(&GROUP), "{groups:?}");
    let group = cluster.done(&format!("GET /apis/{GROUP}"), None).await;
    assert_eq!(group.str_at(&["preferredVersion", "groupVersion"]), "wardle.example.com/v1alpha1");
    assert_eq!(it.text(ROOT).await, (200, "APIResourceList".into()));
    let place = ROOT.trim_start_matches('/');
    let index = cluster.done("GET /openapi/v3", None).await;
    let url = index.str_at(&["paths", place, "serverRelativeURL"]).to_owned();
    assert_eq!(url, format!("/openapi/v3{ROOT}?hash=ABC"));
    let (code, document) = it.text(&url).await;
    assert!(code == 200 && document.contains("wardle"), "{document}");
    let merged = cluster.done("GET /openapi/v2", None).await;
    let path = format!("{ROOT}/namespaces/{{namespace}}/flunders");
    assert!(merged.at(&["paths", path.as_str(), "get"]).is_some());
    assert!(merged.at(&["paths", "/elsewhere"]).is_none());
    // Its own idea of metadata has another name now.
    let flunder = &merged["definitions"]["com.example.wardle.Flunder"];
    let renamed = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2";
    assert_eq!(flunder.str_at(&["properties", "metadata", "$ref"]), renamed);
    let odd = &merged["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2"];
    assert!(odd.at(&["properties", "odd"]).is_some());
    cluster.done(&format!("DELETE {SERVICES}/{NAME}"), None).await;
    cluster.server.hub().catch_up().await.unwrap();
    // The task that follows is told, and then nothing of it is left.
    for _ in 0..1_000 {
        if group_of(&it.aggregated().await).is_null() {
            assert_eq!(it.text(ROOT).await.0, 404);
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it is still told");
}

#[tokio::test]
async fn the_old_form_of_discovery_is_enough() {
    let it = Aggregated::start(Mood::Old).await;
    told(it.cluster(), NAME, "Passed").await;
    let version = group_of(&it.aggregated().await)["versions"].items_at(&[])[0].clone();
    assert_eq!(version.str_at(&["freshness"]), "Current");
    assert_eq!(version["resources"].items_at(&[])[0].str_at(&["responseKind", "kind"]), "Flunder");
}

#[tokio::test]
async fn who_does_not_answer_well_is_not_available() {
    for (mood, expected) in [
        (Mood::Nonsense, "failing or missing response from https://127.0.0.1:"),
        (Mood::Silent, "context deadline exceeded"),
    ] {
        let it = Aggregated::start(mood).await;
        let failed = told(it.cluster(), NAME, "FailedDiscoveryCheck").await;
        assert!(failed.str_at(&["message"]).contains(expected), "{failed:?}");
        let text = it.cluster().done("GET /metrics", None).await.as_str().unwrap().to_owned();
        let ended = "apiserver_request_terminations_total{code=\"503\",component=\"aggregator\"";
        assert!(!text.contains(ended));
        assert_eq!(it.text(FLUNDERS).await, (503, "service unavailable\n".into()));
        it.cluster().counts(&[&format!("{ended},group=\"\",resource=\"\",scope=\"\",subresource=\"\",verb=\"GET\",version=\"\"}} 1")]).await;
        let version = group_of(&it.aggregated().await)["versions"].items_at(&[])[0].clone();
        assert_eq!(version.str_at(&["freshness"]), "Stale");
        // It comes to its senses, and is asked again before long.
        *it.extension.mood.lock() = Mood::Well;
        told(it.cluster(), NAME, "Passed").await;
        assert_eq!(it.text(FLUNDERS).await, (200, "FlunderList".into()));
    }
}

#[tokio::test]
async fn a_server_that_proves_nothing_is_not_believed() {
    let it = Aggregated::start(Mood::Well).await;
    let cluster = it.cluster();
    told(cluster, NAME, "Passed").await;
    let stranger = Authorities::new();
    let mut service = cluster.done(&format!("GET {SERVICES}/{NAME}"), None).await;
    service.set_at(&["spec", "caBundle"], stranger.bundle());
    cluster.done(&format!("PUT {SERVICES}/{NAME}"), Some(&service)).await;
    let unknown = "error trying to reach service: tls: failed to verify certificate: x509: certificate signed by unknown authority\n";
    for _ in 0..1_000 {
        if it.text(FLUNDERS).await == (503, unknown.to_owned()) {
            let mut service = cluster.done(&format!("GET {SERVICES}/{NAME}"), None).await;
            service.set_at(&["spec", "caBundle"], it.authorities.bundle());
            cluster.done(&format!("PUT {SERVICES}/{NAME}"), Some(&service)).await;
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?}", it.text(FLUNDERS).await);
}

#[tokio::test]
async fn who_is_gone_is_not_available_and_a_service_taken_away_makes_it_local() {
    let it = Aggregated::start(Mood::Well).await;
    told(it.cluster(), NAME, "Passed").await;
    let Aggregated { front, extension, .. } = it;
    let address = format!("127.0.0.1:{}", extension.port);
    drop(extension);
    // The listener is closed once its task has ended.
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let answer = front.send(&request(&format!("GET {FLUNDERS}"), &[], b"")).await;
    let refused =
        format!("error trying to reach service: dial tcp {address}: connect: connection refused\n");
    assert_eq!((answer.code, answer.says), (503, refused));
    let cluster = &front.cluster;
    cluster.done("DELETE /api/v1/namespaces/default/services/api", None).await;
    let gone = told(cluster, NAME, "ServiceNotFound").await;
    assert_eq!(gone.str_at(&["message"]), "service/api in \"default\" is not present");
    let patch = value!({"spec": {"service": null, "caBundle": null}});
    cluster.done(&format!("PATCH {SERVICES}/{NAME}"), Some(&patch)).await;
    told(cluster, NAME, "Local").await;
}

#[tokio::test]
async fn the_caches_say_why_nobody_can_answer() {
    let cluster = Cluster::start().await;
    let service = api_service(443, "");
    cluster.done(&format!("POST {SERVICES}"), Some(&service)).await;
    told(&cluster, NAME, "ServiceNotFound").await;
    let service = value!({"metadata": {"name": "api"}, "spec": {"ports": [{"port": 80}]}});
    cluster.done("POST /api/v1/namespaces/default/services", Some(&service)).await;
    told(&cluster, NAME, "ServicePortError").await;
    let ports = value!({"spec": {"ports": [{"name": "https", "port": 443}]}});
    cluster.done("PATCH /api/v1/namespaces/default/services/api", Some(&ports)).await;
    told(&cluster, NAME, "EndpointsNotFound").await;
    let slice = value!({"metadata": {"name": "api-1", "labels": {"kubernetes.io/service-name": "api"}},
        "addressType": "IPv4", "endpoints": [], "ports": [{"name": "https", "port": 8443}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    cluster.done(&format!("POST {slices}"), Some(&slice)).await;
    let missing = told(&cluster, NAME, "MissingEndpoints").await;
    assert_eq!(
        missing.str_at(&["message"]),
        "endpointslices for service/api in \"default\" have no addresses with port name \"https\""
    );
}

#[tokio::test]
async fn custom_resources_have_api_services_of_their_own() {
    let cluster = Cluster::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = value!({"metadata": {"name": "xs.own.example.com"}, "spec": {
        "group": "own.example.com", "scope": "Namespaced", "names": {"plural": "xs", "kind": "X"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    cluster.done(&format!("POST {definitions}"), Some(&definition)).await;
    told(&cluster, "v1.own.example.com", "Local").await;
    let service = cluster.done(&format!("GET {SERVICES}/v1.own.example.com"), None).await;
    let label = "kube-aggregator.kubernetes.io/automanaged";
    assert_eq!(service.str_at(&["metadata", "labels", label]), "true");
    assert_eq!(service.i64_at(&["spec", "groupPriorityMinimum"]), Some(1000));
    assert_eq!(service.i64_at(&["spec", "versionPriority"]), Some(100));
    cluster.done(&format!("DELETE {definitions}/xs.own.example.com"), None).await;
    gone(&cluster, "v1.own.example.com").await;
}

#[tokio::test]
async fn connections_that_end_are_no_answers() {
    let it = Aggregated::start(Mood::Well).await;
    told(it.cluster(), NAME, "Passed").await;
    *it.extension.mood.lock() = Mood::Nonsense;
    let (code, says) = it.text(FLUNDERS).await;
    assert!(code == 503 && says.starts_with("error trying to reach service: "), "{says}");
    let mut stream = it.front.connect("http/1.1", None).await.unwrap();
    stream.write_all(&request("GET /healthz", &[], b"")).await.unwrap();
    assert!(!read_all(&mut stream).await.is_empty());
}
