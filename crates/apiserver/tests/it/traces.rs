//! Spans of requests, as a collector gets them.

use std::sync::Arc;

use apimachinery::value;
use apiserver::Operating;
use apiserver::traces::{Tracer, TracingConfiguration};
use auth::UserInfo;
use bytes::{Bytes, BytesMut};
use component_base::{RealClock, SeededRandom, Shutdown};
use grpc::wire::{Field, fields};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cluster::{As, Cluster, With, admin};
use crate::hooks::{Hook, response};

/// A span as it was sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sent {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    attributes: Vec<(String, String)>,
    links: usize,
}

impl Sent {
    /// A text, or a number.
    fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(it, _)| it == name);
        found.map_or("", |(_, value)| value.trim_matches('"'))
    }
}

/// A collector on a port, and what it gets.
async fn collector() -> (String, UnboundedReceiver<Sent>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, tell.clone()));
        }
    });
    (address, told)
}

async fn serve(stream: TcpStream, tell: UnboundedSender<Sent>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let tell = tell.clone();
        tokio::spawn(async move { take(request, respond, &tell).await });
    }
}

async fn take(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    tell: &UnboundedSender<Sent>,
) {
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    assert_eq!(request.uri().path(), path);
    let (mut body, mut message) = (request.into_body(), BytesMut::new());
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        message.extend_from_slice(&piece);
    }
    for resource in messages(&message[5..], 1) {
        for scope in messages(&resource, 2) {
            for span in messages(&scope, 2) {
                let _ = tell.send(sent(&span));
            }
        }
    }
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    stream.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

fn messages(bytes: &[u8], wanted: u32) -> Vec<Vec<u8>> {
    let all = fields(bytes).unwrap().into_iter();
    all.filter_map(|it| match it {
        (number, Field::Bytes(bytes)) if number == wanted => Some(bytes.to_vec()),
        _ => None,
    })
    .collect()
}

fn one(bytes: &[u8], wanted: u32) -> Vec<u8> {
    messages(bytes, wanted).into_iter().next().unwrap_or_default()
}

fn sent(span: &[u8]) -> Sent {
    let hex = |number| one(span, number).iter().map(|it| format!("{it:02x}")).collect::<String>();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let any = |it: &[u8]| match fields(it).unwrap().into_iter().next() {
        Some((1, Field::Bytes(text))) => format!("{:?}", String::from_utf8_lossy(text)),
        Some((3, Field::Varint(number))) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let pair = |it: &Vec<u8>| (text(one(it, 1)), any(&one(it, 2)));
    let kind = fields(span).unwrap().into_iter().find_map(|it| match it {
        (6, Field::Varint(kind)) => Some(kind),
        _ => None,
    });
    Sent {
        trace: hex(1),
        id: hex(2),
        parent: hex(4),
        name: text(one(span, 5)),
        kind: kind.unwrap_or_default(),
        attributes: messages(span, 9).iter().map(pair).collect(),
        links: messages(span, 13).len(),
    }
}

/// A server that follows so many requests of a million, and what a collector gets of it.
async fn followed(rate: u32) -> (Cluster, UnboundedReceiver<Sent>, Shutdown) {
    let (address, told) = collector().await;
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: {address}\nsamplingRatePerMillion: {rate}\n"
    );
    let configuration = TracingConfiguration::parse(text.as_bytes()).unwrap();
    let stop = Shutdown::new();
    let given = (Arc::new(RealClock) as _, Arc::new(SeededRandom::new(7)) as _);
    let (tracer, _) = Tracer::start(&configuration, given, "here", stop.signal());
    let operating = Some(Operating { tracer: Some(tracer), ..Operating::default() });
    let cluster = Cluster::start_changed(With { operating, ..With::default() }).await;
    (cluster, told, stop)
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// The request's own span for the path, and what else there is of its trace.
async fn trace_of(told: &mut UnboundedReceiver<Sent>, path: &str) -> (Sent, Vec<Sent>) {
    let mut others: Vec<Sent> = Vec::new();
    loop {
        let span = told.recv().await.unwrap();
        if span.name == "KubernetesAPI" && span.attribute("url.path") == path {
            others.retain(|it| it.trace == span.trace);
            return (span, others);
        }
        others.push(span);
    }
}

#[tokio::test]
async fn a_request_has_a_span_with_its_parts() {
    let (cluster, mut told, stop) = followed(1_000_000).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let map = value!({"metadata": {"name": "m"}});
    cluster.done(&format!("POST {path}"), Some(&map)).await;
    stop.request();
    let (root, parts) = trace_of(&mut told, path).await;
    assert_eq!((root.kind, root.parent.as_str(), root.links), (2, "", 0));
    let code = ("http.response.status_code".to_owned(), "201".to_owned());
    assert!(root.attributes.contains(&code), "a number: {root:?}");
    assert_eq!(root.attribute("http.request.method"), "POST");
    assert!(parts.iter().all(|it| it.parent == root.id && it.kind == 1), "{parts:?}");
    let names: Vec<_> =
        parts.iter().map(|it| (it.name.as_str(), it.attribute("operation"))).collect();
    let expected = [("admission", "mutate"), ("admission", "validate"), ("storage", "put")];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_webhook_is_told_of_the_span_that_it_is_asked_in() {
    let (cluster, mut told, stop) = followed(1_000_000).await;
    let hook = Hook::start(|review| response(review, &value!({"allowed": true}))).await;
    let configuration = value!({"metadata": {"name": "v"}, "webhooks": [{
        "name": "v.example.com", "clientConfig": (hook.config()), "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": [{"operations": ["CREATE"],
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]});
    let group = "POST /apis/admissionregistration.k8s.io/v1";
    let configurations = format!("{group}/validatingwebhookconfigurations");
    cluster.done(&configurations, Some(&configuration)).await;
    let path = "/api/v1/namespaces/default/configmaps";
    cluster.done(&format!("POST {path}"), Some(&value!({"metadata": {"name": "m"}}))).await;
    stop.request();
    let (root, parts) = trace_of(&mut told, path).await;
    let find = |name: &str, operation: &str| {
        let mut found = parts.iter();
        found.find(|it| it.name == name && it.attribute("operation") == operation).unwrap()
    };
    let (call, validate) = (find("HTTP POST", ""), find("admission", "validate"));
    assert_eq!((call.parent.as_str(), validate.parent.as_str()), (&*validate.id, &*root.id));
    assert_eq!((call.kind, call.attribute("http.response.status_code")), (3, "200"));
    assert!(call.attribute("url.full").starts_with("https://127.0.0.1:"));
    assert_eq!(*hook.parent.lock(), format!("00-{}-{}-01", root.trace, call.id));
    assert_eq!(find("storage", "put").attribute("resource"), "configmaps");
}

#[tokio::test]
async fn only_who_is_believed_says_which_trace_a_request_is_of() {
    let (cluster, mut told, stop) = followed(0).await;
    let parent = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
    let ask = async |who: &As<'_>, path: &str, flags: &str| {
        let headers = [("traceparent", parent(flags))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        cluster.respond_with(who, &format!("GET {path}"), &headers, None).await;
    };
    let somebody = As::User(UserInfo::new("somebody", &["system:authenticated"]));
    ask(&somebody, "/version?n=1", "01").await;
    ask(&admin(), "/version?n=2", "00").await;
    ask(&admin(), "/version?n=3", "01").await;
    stop.request();
    // The first that is told of is the last that was asked: nothing is told of the others.
    let first = told.recv().await.unwrap();
    assert_eq!(first.attribute("url.path"), "/version?n=3");
    assert_eq!((first.trace.as_str(), first.parent.as_str()), (TRACE, SPAN));
}

#[tokio::test]
async fn a_trace_that_is_not_believed_is_linked() {
    let (cluster, mut told, stop) = followed(1_000_000).await;
    let somebody = As::User(UserInfo::new("somebody", &["system:authenticated"]));
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let headers = [("traceparent", parent.as_str())];
    cluster.respond_with(&somebody, "GET /version", &headers, None).await;
    stop.request();
    let (root, _) = trace_of(&mut told, "/version").await;
    assert_ne!(root.trace, TRACE);
    assert_eq!((root.parent.as_str(), root.links), ("", 1));
}
