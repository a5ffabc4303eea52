//! A server behind a real socket with TLS, and a client that sends it whatever bytes it is given.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, json, value};
use apiserver::NodeDialer;
use apiserver::client_certificates::{Tls, accepting};
use component_base::tls::Trust;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cluster::{Cluster, admin};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much the process may grow over all the requests of a test, in bytes; other tests run beside it.
const GROWTH_MAX: usize = 512 << 20;

/// A certificate of a client, and its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Signs certificates of clients.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// The certificate of `name`, good until the end of `year`.
    pub(crate) fn identity(&self, name: &str, year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity { certificate, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }
}

/// What a request was answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 where the connection ended without an answer.
    pub(crate) code: u16,
    /// The message of a Status, the kind of an object, or the text.
    pub(crate) says: String,
}

pub(crate) struct Front {
    pub(crate) cluster: Cluster,
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    before: Mark,
    /// Over when the server takes nothing any more, and everything is answered.
    pub(crate) listening: JoinHandle<std::io::Result<()>>,
}

/// What must be the same after broken requests as before.
struct Mark {
    objects: Vec<(String, Value)>,
    resident: usize,
}

impl Front {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// A server that has a way to nodes.
    pub(crate) async fn start_with(nodes: Option<NodeDialer>) -> Self {
        Self::of(Cluster::start_with(nodes).await).await
    }

    /// The socket of a server.
    pub(crate) async fn of(cluster: Cluster) -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = tls(&authority);
        let server = Arc::clone(&cluster.server);
        let listening = tokio::spawn(apiserver::listen::listen(server, listener, tls));
        let before = Mark { objects: Vec::new(), resident: 0 };
        let mut front = Self { cluster, authority, address, before, listening };
        front.mark().await;
        front
    }

    /// Remembers how the server is.
    pub(crate) async fn mark(&mut self) {
        self.before = Mark { objects: self.objects().await, resident: resident() };
    }

    /// Every object there is, by resource.
    async fn objects(&self) -> Vec<(String, Value)> {
        let mut lists = Vec::new();
        for facts in api::resources() {
            if !facts.verbs.contains(&"list") {
                continue;
            }
            let root = if facts.group.is_empty() { "/api" } else { "/apis" };
            let path = format!("{root}/{}/{}", facts.api_version(), facts.resource);
            let (_, list) = self.cluster.send(&admin(), &format!("GET {path}"), None).await;
            lists.push((path, list));
        }
        lists
    }

    /// Checks that the server has what it had, has not grown, and still takes writes.
    pub(crate) async fn is_unharmed(&mut self, after: &str) {
        for ((path, before), (_, now)) in self.before.objects.iter().zip(self.objects().await) {
            assert_eq!(*before, now, "{path} is another after {after}");
        }
        let grown = resident().saturating_sub(self.before.resident);
        assert!(grown < GROWTH_MAX, "{grown} bytes more after {after}");
        let probe = r#"{"metadata":{"name":"probe"}}"#;
        let path = "/api/v1/namespaces/default/configmaps";
        let json = ["Content-Type: application/json"];
        let made = self.send(&request(&format!("POST {path}"), &json, probe.as_bytes())).await;
        assert_eq!(made.code, 201, "{} after {after}", made.says);
        let gone = self.send(&request(&format!("DELETE {path}/probe"), &[], b"")).await;
        assert_eq!(gone.code, 200, "{} after {after}", gone.says);
        let list = self.cluster.send(&admin(), &format!("GET {path}"), None).await;
        assert_eq!(list.0, 200, "after {after}");
        self.mark().await;
    }

    pub(crate) async fn plain(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn connect(
        &self,
        protocol: &str,
        identity: Option<&Identity>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        // The server is ours: its certificate is not what is tested.
        let builder = component_base::tls::client(Trust::Anybody).unwrap();
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(it) => builder
                .with_client_auth_cert(vec![it.certificate.clone()], it.key.clone_key())
                .unwrap(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, self.plain().await).await
    }

    /// What these bytes on a connection of HTTP/1.1 are answered with.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        self.send_as(None, bytes).await
    }

    /// The body of the answer to these bytes.
    pub(crate) async fn body(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect("http/1.1", None).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let read = read_all(&mut stream).await;
        let end = read.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let body = &read[end + 4..];
        if head.contains("transfer-encoding: chunked") { joined(body) } else { body.to_vec() }
    }

    pub(crate) async fn send_as(&self, identity: Option<&Identity>, bytes: &[u8]) -> Answer {
        let Ok(stream) = self.connect("http/1.1", identity).await else { return no_answer() };
        let (mut reader, mut writer) = tokio::io::split(stream);
        // The server may answer, and hang up, before it has read everything.
        let write = async {
            let _ = writer.write_all(bytes).await;
            let _ = writer.flush().await;
        };
        let ((), read) = tokio::join!(write, read_all(&mut reader));
        answer_of(&read)
    }
}

/// A pod that runs on node `n`, and the account that it needs.
pub(crate) async fn pod_on_a_node(front: &mut Front) {
    let account = value!({"metadata": {"name": "default"}});
    let path = "POST /api/v1/namespaces/default/serviceaccounts";
    front.cluster.done(path, Some(&account)).await;
    for (name, node) in [("p", "n"), ("q", "")] {
        let mut pod = value!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}});
        if !node.is_empty() {
            pod.set_at(&["spec", "nodeName"], node);
        }
        front.cluster.done("POST /api/v1/namespaces/default/pods", Some(&pod)).await;
    }
    front.mark().await;
}

/// All bytes until the other side hangs up.
pub(crate) async fn read_all(reader: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    let done = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut read)).await;
    assert!(done.is_ok(), "no end of the answer: {}", String::from_utf8_lossy(&read));
    read
}

/// A request of the administrator, after which the connection is closed.
pub(crate) fn request(line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    if !headers.iter().any(|it| it.starts_with("Authorization")) {
        text.push_str("Authorization: Bearer admin-token\r\n");
    }
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() && !headers.iter().any(|it| it.starts_with("Transfer-Encoding")) {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

pub(crate) fn no_answer() -> Answer {
    Answer { code: 0, says: String::new() }
}

pub(crate) fn answer_of(bytes: &[u8]) -> Answer {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { return no_answer() };
    let (head, body) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 4..]);
    let code = head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { joined(body) } else { body.to_vec() };
    let says = match json::parse(&body) {
        Ok(value) if !value.str_at(&["message"]).is_empty() => value.str_at(&["message"]).into(),
        Ok(value) if !value.str_at(&["kind"]).is_empty() => value.str_at(&["kind"]).into(),
        _ => String::from_utf8_lossy(&body).into_owned(),
    };
    Answer { code, says }
}

/// A chunked body in one piece.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|it| it == b"\r\n") {
        let length = String::from_utf8_lossy(&rest[..end]).into_owned();
        let length = usize::from_str_radix(&length, 16).unwrap_or_default();
        rest = &rest[end + 2..];
        body.extend_from_slice(&rest[..length.min(rest.len())]);
        rest = rest.get(length + 2..).unwrap_or_default();
    }
    body
}

/// The sum of what `/metrics` tells in lines that begin so.
pub(crate) async fn metric(cluster: &Cluster, beginning: &str) -> f64 {
    let (_, text) = cluster.send(&admin(), "GET /metrics", None).await;
    let text = text.as_str().unwrap().to_owned();
    let lines = text.lines().filter(|it| it.starts_with(beginning));
    lines.map(|it| it.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// How much memory the process has, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn tls(authority: &Authority) -> Tls {
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(accepting(Arc::clone(&clients)))
        .with_single_cert(
            vec![own.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Tls { config: Arc::new(config), clients, front_proxies: None }
}

/// A Deployment, for patches to work on.
pub(crate) fn deployment() -> Value {
    value!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "annotations": {"a": ("x".repeat(1000))}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}
