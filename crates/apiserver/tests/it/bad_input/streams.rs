//! Streams to nodes that are no streams: exec, attach and port-forward asked for in the wrong way, and agents that
//! answer in the wrong way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apimachinery::value;
use apiserver::NodeDialer;
use component_base::tls::{self, Trust};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::front::{Front, answer_of, metric, pod_on_a_node, read_all, request};
use super::{Case, case, check};

const POD: &str = "/api/v1/namespaces/default/pods/p";
const WEBSOCKET: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Version: 13",
];

/// A node's agent that answers each connection with what the query wants, after it has read a request.
pub(crate) struct Agent {
    pub(crate) dialer: NodeDialer,
    /// The same that does not believe this agent.
    stranger: NodeDialer,
    pub(crate) port: u16,
    asked: Arc<AtomicUsize>,
}

/// What the agent answers where the query has this.
const ANSWERS: [(&str, &str); 6] = [
    ("told", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nlog"),
    ("refuse", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
    ("explain", "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"),
    ("garbage", "\0\0\0garbage\r\n\r\n"),
    ("hangup", ""),
    (
        "switch",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
];

impl Agent {
    pub(crate) async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let dialer = |trust| {
            let client = tls::client(Trust::Authorities(trust)).unwrap().with_no_client_auth();
            NodeDialer::new(Arc::new(client))
        };
        let (dialer, stranger) = (dialer(roots), dialer(RootCertStore::empty()));
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let acceptor = TlsAcceptor::from(Arc::new(server));
        tokio::spawn(serve(listener, acceptor, Arc::clone(&asked)));
        Self { dialer, stranger, port, asked }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, asked: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        asked.fetch_add(1, Ordering::Relaxed);
        let mut read = Vec::new();
        while !read.windows(4).any(|it| it == b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                break;
            }
        }
        let head = String::from_utf8_lossy(&read).into_owned();
        let answer = ANSWERS.iter().find(|(word, _)| head.contains(word));
        stream.write_all(answer.map_or("", |it| it.1).as_bytes()).await.unwrap();
        if head.contains("switch") {
            // As a WebSocket server does that is sent frames which are none.
            let mut first = [0; 1];
            if stream.read_exact(&mut first).await.is_ok() {
                stream.write_all(&first).await.unwrap();
            }
        }
        // A client that is gone needs no goodbye.
        let _ = stream.shutdown().await;
    }
}

async fn front() -> (Front, Agent) {
    front_by(|agent| &agent.dialer).await
}

async fn front_by(way: fn(&Agent) -> &NodeDialer) -> (Front, Agent) {
    let agent = Agent::start().await;
    let mut front = Front::start_with(Some(way(&agent).clone())).await;
    let node = value!({"metadata": {"name": "n"}});
    let mut node = front.cluster.done("POST /api/v1/nodes", Some(&node)).await;
    node.set_at(
        &["status"],
        value!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": (i64::from(agent.port))}}}),
    );
    front.cluster.done("PUT /api/v1/nodes/n/status", Some(&node)).await;
    pod_on_a_node(&mut front).await;
    (front, agent)
}

fn plain(line: &str, code: u16, says: &str) -> Case {
    case(line, &[], "", code, says)
}

/// Logs that are no node's business.
fn no_logs() -> Vec<Case> {
    let invalid = |query: &str, why: &str| {
        let says = format!("PodLogOptions \"p\" is invalid: {why}");
        plain(&format!("GET {POD}/log?{query}"), 422, &says)
    };
    let parsed = "strconv.ParseInt: parsing \"x\": invalid syntax";
    let time =
        "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"";
    vec![
        plain(&format!("GET {POD}/log?tailLines=x"), 400, parsed),
        plain(&format!("GET {POD}/log?sinceTime=x"), 400, time),
        plain("GET /api/v1/namespaces/default/pods/none/log?limitBytes=x", 400, parsed),
        invalid("tailLines=-1", "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        invalid("limitBytes=0", "limitBytes: Invalid value: 0: must be greater than 0"),
        invalid("sinceSeconds=0", "sinceSeconds: Invalid value: 0: must be greater than 0"),
        invalid(
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            ": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        ),
        invalid("stream=Stdout", "stream: Forbidden: may not be specified"),
        plain(
            "GET /api/v1/namespaces/default/pods/q/log?container=x",
            400,
            "container x is not valid for pod q",
        ),
        plain("GET /api/v1/namespaces/default/pods/q/log?container=c", 204, ""),
    ]
}

/// Requests that end before a node is asked.
fn unasked() -> Vec<Case> {
    let mut cases = no_logs();
    for verb in ["exec", "attach"] {
        for method in ["GET", "POST"] {
            let line = format!("{method} {POD}/{verb}?container=c&command=x&stdout=1");
            cases.push(plain(&line, 400, "Upgrade request required"));
        }
        let line = format!("GET {POD}/{verb}");
        cases.push(plain(
            &line,
            400,
            "a container name must be specified for pod p, choose one of: [c d]",
        ));
        let line = format!("GET {POD}/{verb}?container=x");
        cases.push(plain(&line, 400, "container x is not valid for pod p"));
        let line = format!("GET /api/v1/namespaces/default/pods/q/{verb}?container=c");
        cases.push(plain(&line, 400, "pod q does not have a host assigned"));
        for method in ["PUT", "PATCH", "DELETE"] {
            let no_method = "the server does not allow this method on the requested resource";
            cases.push(plain(&format!("{method} {POD}/{verb}?container=c"), 405, no_method));
        }
        // The header alone does not ask for anything.
        cases.push(case(
            &format!("GET {POD}/{verb}?container=c"),
            &["Upgrade: websocket"],
            "",
            400,
            "Upgrade request required",
        ));
    }
    cases.push(plain(&format!("GET {POD}/portforward"), 400, "Upgrade request required"));
    cases.push(plain(&format!("POST {POD}/portforward"), 400, "Upgrade request required"));
    cases
}

#[tokio::test]
async fn what_asks_for_no_stream_is_refused_before_the_node_is_asked() {
    let (mut front, agent) = front().await;
    check(&mut front, vec![("no streams", unasked())]).await;
    assert_eq!(agent.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_the_agent_answers_is_passed_on_and_what_it_does_not_is_told() {
    let (mut front, _agent) = front().await;
    let ask = |answer: &str, code, says: &str| {
        let line = format!("GET {POD}/exec?container=c&command={answer}");
        case(&line, &WEBSOCKET, "", code, says)
    };
    let dialing = "Internal error occurred: error dialing backend: ...";
    let cases = vec![
        ask("refuse", 403, ""),
        ask("explain", 400, "no"),
        ask("garbage", 500, dialing),
        ask("hangup", 500, dialing),
    ];
    check(&mut front, vec![("answers of agents", cases)]).await;

    // What comes after the switch is between client and agent; its end is the end of both.
    let line = format!("GET {POD}/exec?container=c&command=switch");
    let mut stream = front.connect("http/1.1", None).await.unwrap();
    stream.write_all(&request(&line, &WEBSOCKET, b"")).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "it ended");
    }
    // As long as it goes on it counts: among streams, and among connections.
    let open = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",\
        scope=\"resource\",subresource=\"exec\",verb=\"CONNECT\"";
    assert_eq!(metric(&front.cluster, open).await, 1.0);
    assert_eq!(metric(&front.cluster, "apiserver_connections ").await, 1.0);
    stream.write_all(b"\x07garbage").await.unwrap();
    read.extend(read_all(&mut stream).await);
    while metric(&front.cluster, open).await > 0.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(answer_of(&read).code, 101);
    assert!(read.ends_with(b"\r\n\r\n\x07"), "{:?}", String::from_utf8_lossy(&read));
    front.is_unharmed("a stream").await;
}

#[tokio::test]
async fn a_node_that_proves_nothing_is_believed_for_a_log_where_that_is_asked_for() {
    let (mut front, agent) = front_by(|agent| &agent.stranger).await;
    let line = format!("GET {POD}/log?container=c&x=told");
    let unproven = "Internal error occurred: error dialing backend: ...";
    let unverified = format!("{line}&insecureSkipTLSVerifyBackend=true");
    let verified = format!("{line}&insecureSkipTLSVerifyBackend=false");
    let cases = vec![
        plain(&line, 500, unproven),
        plain(&unverified, 200, "log"),
        plain(&verified, 500, unproven),
    ];
    check(&mut front, vec![("logs", cases)]).await;
    assert_eq!(agent.asked.load(Ordering::Relaxed), 1);
    let of = "kube_apiserver_pod_logs_";
    for (name, expected) in [
        ("insecure_backend_total{usage=\"enforce_tls\"}", 2.0),
        ("insecure_backend_total{usage=\"skip_tls_allowed\"}", 1.0),
        ("backend_tls_failure_total", 2.0),
    ] {
        assert_eq!(front.cluster.metric(&format!("{of}{name}")).await, expected, "{name}");
    }
}
