//! How a server ends, how long requests may take, and what makes connections end.

use std::time::Duration;

use apimachinery::json;
use apiserver::{Body, Component, Cors, Operating, ShutdownPlan};
use bytes::Bytes;
use futures::StreamExt;
use h2::client::SendRequest;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::bad_input::front::{Front, answer_of, read_all, request};
use crate::cluster::{Cluster, With, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const BODY: &[u8] = br#"{"metadata":{"name":"slow"}}"#;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

async fn front(operating: Operating) -> Front {
    let with = With { operating: Some(operating), ..With::default() };
    Front::of(Cluster::start_changed(with).await).await
}

/// A create of which all has come but the last byte of its body.
async fn begun(front: &Front, query: &str) -> TlsStream<TcpStream> {
    let mut stream = front.connect("http/1.1", None).await.unwrap();
    let json = ["Content-Type: application/json"];
    let whole = request(&format!("POST {MAPS}{query}"), &json, BODY);
    stream.write_all(&whole[..whole.len() - 1]).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// Waits until so many requests that change something are in flight.
async fn in_flight(front: &Front, count: usize) {
    let wanted =
        format!("apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {count}");
    loop {
        let (_, text) = front.cluster.send(&admin(), "GET /metrics", None).await;
        if text.as_str().is_some_and(|it| it.contains(&wanted)) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_ends_answers_what_has_begun_and_takes_nothing_new() {
    let plan = ShutdownPlan { sends_retry_after: true, ..ShutdownPlan::default() };
    let mut front = front(Operating { shutdown: plan, ..Operating::default() }).await;
    let mut watch = front.cluster.watch(&format!("{MAPS}?watch=1")).await;
    let mut slow = begun(&front, "").await;
    in_flight(&front, 1).await;
    assert_eq!(front.send(&request("GET /readyz", &[], b"")).await.code, 200);
    front.cluster.end();
    // The watch ends, which says that the server takes nothing new from now on.
    while watch.next().await.is_some() {}
    let readyz = front.send(&request("GET /readyz?verbose", &[], b"")).await;
    assert_eq!(readyz.code, 500);
    assert!(readyz.says.contains("[-]shutdown failed: reason withheld"), "{}", readyz.says);
    assert_eq!(front.send(&request("GET /livez", &[], b"")).await.code, 200);
    let mut late = front.connect("http/1.1", None).await.unwrap();
    // Not asked to be closed by the client.
    late.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let late = String::from_utf8(read_all(&mut late).await).unwrap().to_lowercase();
    assert!(late.starts_with("http/1.1 429"), "{late}");
    assert!(
        late.contains("retry-after: 5\r\n") && late.contains("connection: close\r\n"),
        "{late}"
    );
    assert!(late.ends_with("the apiserver is shutting down, please try again later.\n"), "{late}");
    // What had begun is done, and then the server is gone.
    slow.write_all(&BODY[BODY.len() - 1..]).await.unwrap();
    let made = answer_of(&read_all(&mut slow).await);
    assert_eq!((made.code, made.says.as_str()), (201, "ConfigMap"));
    tokio::time::timeout(LONG, &mut front.listening).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(front.address).await.is_err());
}

#[tokio::test]
async fn a_server_goes_on_as_before_while_it_says_that_it_ends() {
    let plan = ShutdownPlan { delay: LONG, ..ShutdownPlan::default() };
    let front = front(Operating { shutdown: plan, ..Operating::default() }).await;
    front.cluster.end();
    assert_eq!(front.send(&request("GET /readyz", &[], b"")).await.code, 500);
    assert_eq!(front.send(&request("GET /readyz/shutdown", &[], b"")).await.code, 500);
    let excluded = front.send(&request("GET /readyz?exclude=shutdown", &[], b"")).await;
    assert_eq!((excluded.code, excluded.says.as_str()), (200, "ok"));
    assert_eq!(front.send(&request(&format!("GET {MAPS}"), &[], b"")).await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn the_ends_of_watches_are_spread() {
    let grace = Duration::from_secs(100);
    let plan = ShutdownPlan { watch_grace: grace, ..ShutdownPlan::default() };
    let operating = Some(Operating { shutdown: plan, ..Operating::default() });
    let cluster = Cluster::start_changed(With { operating, ..With::default() }).await;
    let mut ends = Vec::new();
    for _ in 0..20 {
        let mut watch = cluster.watch(&format!("{MAPS}?watch=1")).await;
        ends.push(async move {
            while watch.next().await.is_some() {}
            tokio::time::Instant::now()
        });
    }
    let begun = tokio::time::Instant::now();
    cluster.end();
    let ends = futures::future::join_all(ends).await;
    let after: Vec<u64> = ends.iter().map(|it| (*it - begun).as_secs()).collect();
    let (first, last) = (after.iter().min().unwrap(), after.iter().max().unwrap());
    assert!(*first < 30 && *last > 70 && *last <= 100, "{after:?}");
}

#[tokio::test]
async fn requests_have_the_time_that_they_ask_for_and_no_more_than_the_server_gives() {
    let short = Operating { request_timeout: Duration::from_millis(200), ..Operating::default() };
    let gone = "Timeout: request did not complete within the allotted timeout";
    for (operating, query) in [(Operating::default(), "?timeout=100ms"), (short, "?timeout=1h")] {
        let front = front(operating).await;
        let mut slow = begun(&front, query).await;
        let late = answer_of(&read_all(&mut slow).await);
        assert_eq!((late.code, late.says.as_str()), (504, gone));
        let ended = "apiserver_request_terminations_total{code=\"504\",component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"}";
        assert_eq!(front.cluster.metric(ended).await, 1.0);
        let none = front.send(&request(&format!("GET {MAPS}?timeout=0s"), &[], b"")).await;
        assert_eq!(none.code, 200);
    }
    let cluster = Cluster::start().await;
    let (code, status) = cluster.send(&admin(), &format!("GET {MAPS}?timeout=soon"), None).await;
    let why = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
    assert_eq!((code, status.str_at(&["message"])), (400, why));
    // Watches have another limit, and no use for this one.
    let watch = cluster.respond(&admin(), &format!("GET {MAPS}?watch=1&timeout=soon"), None).await;
    assert_eq!(watch.status(), 200);
}

async fn version(requests: SendRequest<Bytes>) -> Result<SendRequest<Bytes>, h2::Error> {
    let mut requests = requests.ready().await?;
    let asked = http::Request::get("https://localhost/version").body(()).unwrap();
    let (response, _) = requests.send_request(asked, true)?;
    let mut body = response.await?.into_body();
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        whole.extend_from_slice(&piece?);
    }
    assert_eq!(json::parse(&whole).unwrap().str_at(&["minor"]), "37");
    Ok(requests)
}

#[tokio::test]
async fn connections_of_http2_end_by_chance_and_those_of_http1_do_not() {
    let front = front(Operating { goaway_chance: 1.0, ..Operating::default() }).await;
    let stream = front.connect("h2", None).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    // The answer is whole; then the connection is over.
    let requests = version(requests).await.unwrap();
    tokio::time::timeout(LONG, connection).await.unwrap().unwrap().unwrap();
    assert!(version(requests).await.is_err());

    let mut stream = front.connect("http/1.1", None).await.unwrap();
    let asked = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(asked).await.unwrap();
    stream.write_all(&request("GET /version", &[], b"")).await.unwrap();
    let both = String::from_utf8(read_all(&mut stream).await).unwrap();
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2, "{both}");
}

#[tokio::test]
async fn an_operator_says_how_many_streams_a_connection_has() {
    let front = front(Operating { http2_max_streams: 7, ..Operating::default() }).await;
    let stream = front.connect("h2", None).await.unwrap();
    let (requests, mut connection) = h2::client::handshake(stream).await.unwrap();
    let asked = version(requests);
    let mut asked = std::pin::pin!(asked);
    let kept = tokio::select! {
        done = &mut asked => done.unwrap(),
        ended = &mut connection => panic!("{ended:?}"),
    };
    assert_eq!(connection.max_concurrent_send_streams(), 7);
    drop(kept);
}

#[tokio::test]
async fn pages_of_sites_that_are_named_may_ask() {
    let cors = Some(Cors::new(&["^https://good\\.example$".to_owned()]).unwrap());
    let directives = Some(http::HeaderValue::from_static("max-age=5"));
    let operating = Operating { cors, transport_security: directives, ..Operating::default() };
    let front = front(operating).await;
    for (line, origin, code, allowed) in [
        ("OPTIONS /api", "https://good.example", "204", true),
        ("GET /version", "https://good.example", "200", true),
        ("GET /version", "https://bad.example", "200", false),
    ] {
        let mut stream = front.connect("http/1.1", None).await.unwrap();
        let origin = format!("Origin: {origin}");
        stream.write_all(&request(line, &[&origin], b"")).await.unwrap();
        let answer = String::from_utf8(read_all(&mut stream).await).unwrap().to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {code}")), "{answer}");
        assert_eq!(
            answer.contains("access-control-allow-origin: https://good"),
            allowed,
            "{answer}"
        );
        assert!(answer.contains("strict-transport-security: max-age=5\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn an_operator_may_want_no_privileged_containers() {
    let operating = Some(Operating { allow_privileged: false, ..Operating::default() });
    let cluster = Cluster::start_changed(With { operating, ..With::default() }).await;
    let pod = apimachinery::value!({"containers": [
        {"name": "a", "image": "i"},
        {"name": "b", "image": "i", "securityContext": {"privileged": true}}]});
    let set = apimachinery::value!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}});
    let path = "POST /apis/apps/v1/namespaces/default/daemonsets";
    let (code, status) = cluster.send(&admin(), path, Some(&set)).await;
    let message = status.str_at(&["message"]);
    let why = "spec.template.spec.containers[1].securityContext.privileged: Forbidden: disallowed by cluster policy";
    assert!(code == 422 && message.contains(why), "{code} {message}");
}

#[tokio::test]
async fn a_server_tells_what_it_is_and_what_it_was_started_with() {
    let flags = vec![("a".to_owned(), "1".to_owned()), ("b-c".to_owned(), "[x,y]".to_owned())];
    let operating = Operating { component: Component { flags }, ..Operating::default() };
    let cluster =
        Cluster::start_changed(With { operating: Some(operating), ..With::default() }).await;
    let ask = async |path: &str, accept: &str| {
        let headers = [("accept", accept)];
        let answer = cluster.respond_with(&admin(), &format!("GET {path}"), &headers, None).await;
        let code = answer.status().as_u16();
        let Body::Full(bytes) = answer.into_body() else { panic!("{path} is a stream") };
        (code, String::from_utf8(bytes.unwrap().to_vec()).unwrap())
    };
    let (code, text) = ask("/statusz", "*/*").await;
    assert_eq!(code, 200);
    let lines = ["kube-apiserver statusz\n", "Up: 0 hr 00 min", "Binary version: 1.37.1\n"];
    assert!(lines.iter().all(|it| text.contains(it)), "{text}");
    let (code, text) = ask("/flagz", "text/plain").await;
    assert!(code == 200 && text.ends_with("only.\n\na=1\nb-c=[x,y]\n"), "{text}");
    let named = |kind: &str| format!("application/json;v=v1beta1;g=config.k8s.io;as={kind}");
    let status = json::parse(ask("/statusz", &named("Statusz")).await.1.as_bytes()).unwrap();
    assert_eq!(status.str_at(&["apiVersion"]), "config.k8s.io/v1beta1");
    assert_eq!(status.str_at(&["emulationVersion"]), "1.37");
    let flags = json::parse(ask("/flagz", &named("Flagz")).await.1.as_bytes()).unwrap();
    assert_eq!(flags.str_at(&["flags", "b-c"]), "[x,y]");
    for (path, accept) in
        [("/statusz", "application/json".to_owned()), ("/flagz", named("Statusz"))]
    {
        assert_eq!(ask(path, &accept).await.0, 406, "{path} {accept}");
    }
    assert_eq!(ask("/debug/pprof/goroutine", "*/*").await.0, 501);
    let (code, index) = ask("/debug/pprof/", "*/*").await;
    assert!(code == 200 && index.contains("href=\"profile\""), "{index}");
    assert_eq!(ask("/debug/pprof", "*/*").await.0, 301);
    assert_eq!(ask("/debug/pprof/profile?seconds=100000", "*/*").await.0, 400);
    let (code, _) = cluster.send(&crate::cluster::As::Nobody, "GET /flagz", None).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn what_is_read_and_how_the_server_is_found_is_counted() {
    let cluster = Cluster::start().await;
    let map = apimachinery::value!({"metadata": {"name": "m"}});
    cluster.done(&format!("POST {MAPS}"), Some(&map)).await;
    // A list in pieces is counted when it is over.
    let list = cluster.respond(&admin(), &format!("GET {MAPS}"), None).await;
    match list.into_body() {
        Body::Full(_) => {}
        Body::Stream(pieces) => drop(pieces.collect::<Vec<_>>().await),
    }
    let watch = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let mut frames = cluster.watch(&watch).await;
    while frames.next().await.unwrap().str_at(&["type"]) != "BOOKMARK" {}
    cluster.done("GET /readyz/ping", None).await;
    cluster.server.hub().catch_up().await.unwrap();
    let (_, text) = cluster.send(&admin(), "GET /metrics", None).await;
    let text = text.as_str().unwrap();
    for expected in [
        "apiserver_response_sizes_count{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
        "apiserver_watch_list_duration_seconds_count{group=\"\",resource=\"configmaps\",scope=\"namespace\",version=\"v1\"} 1",
        "apiserver_storage_events_received_total{group=\"\",resource=\"configmaps\"} ",
        "kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 1",
        "kubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 1",
        "kubernetes_build_info{",
    ] {
        assert!(text.contains(expected), "{expected}");
    }
}
