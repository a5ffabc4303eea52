//! An API server of somebody else, for tests: a real server on loopback that believes only the front proxy, and serves
//! one kind with discovery, OpenAPI, lists, watches, an upgrade, and answers that no server should give.

use std::convert::Infallible;
use std::sync::Arc;

use apimachinery::{Value, json, value};
use apiserver::ProxyClient;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, UPGRADE};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub(crate) const GROUP: &str = "wardle.example.com";
pub(crate) const ROOT: &str = "/apis/wardle.example.com/v1alpha1";

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    Well,
    /// It knows only the old form of discovery.
    Old,
    /// It never answers.
    Silent,
    /// It answers with what is no HTTP that anybody wants.
    Nonsense,
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// The authority of the front proxy, and of this server.
pub(crate) struct Authorities {
    front: Issuer,
    serving: Issuer,
}

fn issuer() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Authorities {
    pub(crate) fn new() -> Self {
        Self { front: issuer(), serving: issuer() }
    }

    /// What the aggregator proves itself by.
    pub(crate) fn proxy_client(&self) -> ProxyClient {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "front-proxy-client");
        let certificate = params.signed_by(&key, &self.front).unwrap();
        ProxyClient::new(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }

    pub(crate) fn bundle(&self) -> String {
        BASE64_STANDARD.encode(self.serving.pem())
    }

    fn tls(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.front.der().clone()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["api.default.svc".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &self.serving).unwrap();
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap()
    }
}

/// What was asked: the path and the headers.
type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

pub(crate) struct Extension {
    pub(crate) port: u16,
    pub(crate) seen: Seen,
    pub(crate) mood: Arc<Mutex<Mood>>,
    task: JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Extension {
    pub(crate) async fn start(authorities: &Authorities, mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, mood) = (Seen::default(), Arc::new(Mutex::new(mood)));
        let acceptor = TlsAcceptor::from(Arc::new(authorities.tls()));
        let task = tokio::spawn(serve(listener, acceptor, Arc::clone(&mood), Arc::clone(&seen)));
        Self { port, seen, mood, task }
    }

    /// The headers of the last request for a path.
    pub(crate) fn headers_of(&self, path: &str) -> HeaderMap {
        let seen = self.seen.lock();
        seen.iter().rev().find(|(it, _)| it == path).map(|it| it.1.clone()).unwrap_or_default()
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, mood: Arc<Mutex<Mood>>, seen: Seen) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, mood, seen) = (acceptor.clone(), Arc::clone(&mood), Arc::clone(&seen));
        tokio::spawn(async move {
            // Who is not the front proxy breaks off here.
            let Ok(mut tls) = acceptor.accept(tcp).await else { return };
            let now = *mood.lock();
            if now == Mood::Nonsense {
                let _ = tls.read(&mut [0; 4096]).await;
                let _ = tls.write_all(b"220 mail.example.com ESMTP\r\n").await;
                let _ = tls.shutdown().await;
                return;
            }
            let service = service_fn(move |request| answer(request, now, Arc::clone(&seen)));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(tls), service);
            let _ = connection.with_upgrades().await;
        });
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

fn body(pieces: Vec<Vec<u8>>, stays_open: bool) -> Body {
    let pieces = pieces.into_iter().map(|it| Ok(Frame::data(Bytes::from(it))));
    let pieces = futures::stream::iter(pieces.collect::<Vec<_>>());
    StreamBody::new(if stays_open {
        pieces.chain(futures::stream::pending()).boxed()
    } else {
        pieces.boxed()
    })
}

fn object(code: u16, media: &str, value: &Value) -> Response<Body> {
    let bytes = json::to_vec(value);
    let length = bytes.len().into();
    let mut response = Response::new(body(vec![bytes], false));
    *response.status_mut() = code.try_into().unwrap();
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response.headers_mut().insert(CONTENT_TYPE, media.parse().unwrap());
    response
}

fn flunder(name: &str) -> Value {
    value!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": "1"}})
}

async fn answer(
    request: Request<Incoming>,
    mood: Mood,
    seen: Seen,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    seen.lock().push((path.clone(), request.headers().clone()));
    if mood == Mood::Silent {
        std::future::pending::<()>().await;
    }
    if request.headers().contains_key(UPGRADE) {
        return Ok(switched(request));
    }
    let accept = request.headers().get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let rest = path.strip_prefix(ROOT).unwrap_or(&path).to_owned();
    Ok(match rest.as_str() {
        "/apis" if accept.contains("as=APIGroupDiscoveryList") && mood != Mood::Old => object(
            200,
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            &aggregated(),
        ),
        "/apis" => object(200, "application/json", &value!({"kind": "APIGroupList", "groups": []})),
        "" => object(200, "application/json", &resource_list()),
        "/openapi/v3" => {
            let url = format!("/openapi/v3{ROOT}?hash=ABC");
            let mut index = value!({"paths": {}});
            index.set_at(&["paths", ROOT.trim_start_matches('/'), "serverRelativeURL"], url);
            object(200, "application/json", &index)
        }
        "/openapi/v2" => object(200, "application/json", &openapi_v2()),
        _ if path.starts_with("/openapi/v3/") => object(
            200,
            "application/json",
            &value!({"openapi": "3.0.0", "info": {"title": "wardle"}}),
        ),
        "/namespaces/default/flunders" if query.contains("watch") => {
            let frame = |name: &str| {
                let mut frame = json::to_vec(&value!({"type": "ADDED", "object": (flunder(name))}));
                frame.push(b'\n');
                frame
            };
            Response::new(body(vec![frame("a"), frame("b")], true))
        }
        "/namespaces/default/flunders" if request.method() == http::Method::POST => {
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            object(201, "application/json", &json::parse(&sent).unwrap())
        }
        "/namespaces/default/flunders" => object(
            200,
            "application/json",
            &value!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "FlunderList", "metadata": {"resourceVersion": "1"},
                "items": [(flunder("a"))]}),
        ),
        "/namespaces/default/flunders/away" => {
            let mut response = object(302, "text/plain", &Value::Null);
            response
                .headers_mut()
                .insert(LOCATION, "https://elsewhere.example.com/".parse().unwrap());
            response
        }
        _ => object(
            404,
            "application/json",
            &value!({"kind": "Status", "apiVersion": "v1",
            "status": "Failure", "reason": "NotFound", "message": "none", "code": 404}),
        ),
    })
}

/// Says everything back in capital letters after a switch of protocols.
fn switched(request: Request<Incoming>) -> Response<Body> {
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut io = TokioIo::new(upgraded);
        let mut buffer = [0; 256];
        while let Ok(read @ 1..) = io.read(&mut buffer).await {
            buffer[..read].make_ascii_uppercase();
            if io.write_all(&buffer[..read]).await.is_err() || io.flush().await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(body(Vec::new(), false));
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    response.headers_mut().insert(UPGRADE, "echo".parse().unwrap());
    response
}

fn aggregated() -> Value {
    value!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [
        {"metadata": {"name": GROUP}, "versions": [{"version": "v1alpha1", "freshness": "Current", "resources": [
            {"resource": "flunders", "responseKind": {"group": "", "version": "", "kind": "Flunder"},
                "scope": "Namespaced", "singularResource": "flunder", "verbs": ["create", "get", "list", "watch"]}
        ]}]}
    ]})
}

fn resource_list() -> Value {
    value!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
        {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
            "verbs": ["create", "get", "list", "watch"]}
    ]})
}

/// One definition that is this server's own, and one under a name of the cluster's that says something else.
fn openapi_v2() -> Value {
    let reference = "#/definitions/com.example.wardle.Flunder";
    let meta = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let mut document = value!({"swagger": "2.0", "info": {"title": "wardle", "version": "1"},
    "definitions": {
        "com.example.wardle.Flunder": {"type": "object", "properties": {"metadata": {"$ref": meta}}},
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "properties": {"odd": {"type": "string"}}}
    }});
    let get = value!({"get": {"operationId": "listFlunder", "responses": {"200": {"description": "OK", "schema": {"$ref": reference}}}}});
    let path = format!("{ROOT}/namespaces/{{namespace}}/flunders");
    document.set_at(&["paths", path.as_str()], get);
    document.set_at(&["paths", "/elsewhere"], value!({}));
    document
}
