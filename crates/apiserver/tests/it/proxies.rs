//! `proxy` of pods and services, as far as it comes without anybody to reach.

use apimachinery::{Value, value};

use futures::StreamExt;

use crate::cluster::{As, Cluster, With, admin};

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let account = value!({"metadata": {"name": "default"}});
    cluster.done("POST /api/v1/namespaces/default/serviceaccounts", Some(&account)).await;
    cluster.server.hub().catch_up().await.unwrap();
    let pod = value!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}
    ]}});
    cluster.done("POST /api/v1/namespaces/default/pods", Some(&pod)).await;
    let service =
        value!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    cluster.done("POST /api/v1/namespaces/default/services", Some(&service)).await;
    cluster.server.hub().catch_up().await.unwrap();
    cluster
}

async fn check(cluster: &Cluster, path: &str, expected: (u16, &str)) {
    let request = format!("GET /api/v1/namespaces/default/{path}");
    let (code, answer) = cluster.send(&admin(), &request, None::<&Value>).await;
    assert_eq!((code, answer.str_at(&["message"])), expected, "{path}");
}

#[tokio::test]
async fn logs_are_shown_where_they_are_asked_for() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.send(&admin(), "GET /logs/", None).await.0, 404);
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().to_owned();
    std::fs::write(logs.join("a&b.log"), "first\nlast\n").unwrap();
    std::fs::create_dir(logs.join("pods")).unwrap();
    std::fs::write(directory.path().join("pods/blob"), [0, 1, 2]).unwrap();
    let operating = apiserver::Operating { logs: Some(logs), ..Default::default() };
    let changed = With { operating: Some(operating), ..With::default() };
    let cluster = Cluster::start_changed(changed).await;
    let get = async |path: &str| {
        let response = cluster.respond(&admin(), &format!("GET {path}"), None).await;
        let header = |name: &str| {
            let value = response.headers().get(name).and_then(|it| it.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let told = (response.status().as_u16(), header("content-type"), header("location"));
        let bytes = match response.into_body() {
            apiserver::Body::Full(bytes) => bytes.unwrap_or_default().to_vec(),
            apiserver::Body::Stream(pieces) => pieces.collect::<Vec<_>>().await.concat(),
        };
        (told, bytes)
    };
    let (told, page) = get("/logs/").await;
    assert_eq!((told.0, told.1.as_str()), (200, "text/html; charset=utf-8"));
    let page = String::from_utf8(page).unwrap();
    assert!(
        page.contains("<a href=\"a%26b.log\">a&amp;b.log</a>\n<a href=\"pods/\">pods/</a>\n"),
        "{page}"
    );
    let (told, text) = get("/logs/a%26b.log").await;
    assert_eq!((told.0, told.1.as_str()), (200, "text/plain; charset=utf-8"));
    assert_eq!(text, b"first\nlast\n");
    assert_eq!(get("/logs/pods/blob").await.0.1, "application/octet-stream");
    let (told, _) = get("/logs/pods").await;
    assert_eq!((told.0, told.2.as_str()), (301, "pods/"));
    assert_eq!(get("/logs/none").await.0.0, 404);
    assert_eq!(get("/logs/../secret").await.0.0, 400);
    assert_eq!(get("/logs/%2e%2e/secret").await.0.0, 400);
    for (range, code, told, expected) in [
        ("bytes=2-4", 206, "bytes 2-4/11", "rst"),
        ("bytes=-5", 206, "bytes 6-10/11", "last\n"),
        ("bytes=11-", 416, "bytes */11", "invalid range: failed to overlap\n"),
    ] {
        let headers = [("range", range)];
        let path = "GET /logs/a%26b.log";
        let response = cluster.respond_with(&admin(), path, &headers, None).await;
        assert_eq!(response.status(), code);
        assert_eq!(response.headers()["content-range"], told);
        let bytes = match response.into_body() {
            apiserver::Body::Full(bytes) => bytes.unwrap_or_default().to_vec(),
            apiserver::Body::Stream(pieces) => pieces.collect::<Vec<_>>().await.concat(),
        };
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
    let nobody = cluster.send(&As::Nobody, "GET /logs/", None).await;
    assert_eq!(nobody.0, 403);
}

#[tokio::test]
async fn what_cannot_be_reached_is_refused_as_upstream_does() {
    let cluster = cluster().await;
    check(&cluster, "pods/ftp:p:80/proxy/", (400, "invalid pod request \"ftp:p:80\"")).await;
    check(&cluster, "pods/p/proxy/", (400, "address not allowed")).await;
    check(&cluster, "pods/nobody:80/proxy/", (404, "pods \"nobody\" not found")).await;
    check(&cluster, "services/a:b:c:d/proxy/", (400, "invalid service request \"a:b:c:d\"")).await;
    let none = "no endpoints available for service \"s\"";
    check(&cluster, "services/s/proxy", (503, none)).await;
    check(&cluster, "services/nobody/proxy/", (404, "endpoints \"nobody\" not found")).await;
    check(&cluster, "services/nobody:80/proxy/", (404, "services \"nobody\" not found")).await;
    let port = "no service port 81 found for service \"s\"";
    check(&cluster, "services/s:81/proxy/", (503, port)).await;
    // A node says itself where it is: what else listens on this machine is not to be reached by that.
    let node = value!({"metadata": {"name": "here"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 6443}}}});
    cluster.done("POST /api/v1/nodes", Some(&node)).await;
    let (code, answer) = cluster.send(&admin(), "GET /api/v1/nodes/here/proxy/api", None).await;
    assert_eq!((code, answer.str_at(&["message"])), (400, "address not allowed"));
    let slice = |name: &str, ready: bool, port: &str| {
        value!({"metadata": {"name": (name), "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.255.255.1"], "conditions": {"ready": ready}}],
            "ports": [{"name": (port), "port": 1}]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    for slice in [slice("one", true, "other"), slice("two", false, "web")] {
        cluster.done(&format!("POST {slices}"), Some(&slice)).await;
    }
    cluster.server.hub().catch_up().await.unwrap();
    let none = "no endpoints available for service \"s:80\"";
    check(&cluster, "services/s:80/proxy/", (503, none)).await;
    // Whoever is ready is asked: an address that is nobody's pod says so.
    let ready = value!({"metadata": {"name": "three", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["224.1.1.1"]}], "ports": [{"name": "web", "port": 1}]});
    cluster.done(&format!("POST {slices}"), Some(&ready)).await;
    cluster.server.hub().catch_up().await.unwrap();
    check(&cluster, "services/s:80/proxy/", (400, "address not allowed")).await;
}

#[tokio::test]
async fn a_path_without_its_slash_is_sent_to_the_one_with_it() {
    let cluster = cluster().await;
    // Where there is nobody to reach, that is said first.
    check(&cluster, "pods/p/proxy", (400, "address not allowed")).await;
    let status = value!({"status": {"podIP": "10.1.1.1", "podIPs": [{"ip": "10.1.1.1"}]}});
    cluster.done("PATCH /api/v1/namespaces/default/pods/p/status", Some(&status)).await;
    cluster.server.hub().catch_up().await.unwrap();
    let request = "GET /api/v1/namespaces/default/pods/p/proxy?a=b";
    let (code, _) = cluster.send(&admin(), request, None::<&Value>).await;
    assert_eq!(code, 301);
}
