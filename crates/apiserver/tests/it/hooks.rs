//! Webhooks for tests: real servers on loopback, with certificates of an authority of their own.

use std::sync::Arc;

use apimachinery::{Value, json, value};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What a webhook does with a review.
pub(crate) enum Reply {
    /// Answers with this.
    Json(Value),
    /// Answers with these bytes.
    Raw(u16, Vec<u8>),
    /// Never answers.
    Silence,
}

/// A webhook; it stops when this is dropped.
pub(crate) struct Hook {
    /// `https://127.0.0.1:PORT`
    pub(crate) url: String,
    /// Its authority, as configurations have it.
    pub(crate) bundle: String,
    /// What it was asked.
    pub(crate) seen: Arc<Mutex<Vec<Value>>>,
    /// Who asked it last, by the header `Authorization`.
    pub(crate) caller: Arc<Mutex<String>>,
    /// The last `traceparent`.
    pub(crate) parent: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    /// A webhook that answers every review.
    pub(crate) async fn start(reply: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        Self::named("127.0.0.1", reply).await
    }

    /// The same with a certificate for this name; after `CN=`, for nothing but this common name.
    pub(crate) async fn named(
        name: &str,
        reply: impl Fn(&Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = match name.strip_prefix("CN=") {
            None => CertificateParams::new(vec![name.to_owned()]).unwrap(),
            Some(name) => {
                let mut leaf = CertificateParams::new(Vec::new()).unwrap();
                leaf.distinguished_name.push(rcgen::DnType::CommonName, name);
                leaf
            }
        };
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (caller, parent) = (Arc::default(), Arc::default());
        let noted = (Arc::clone(&seen), Arc::clone(&caller), Arc::clone(&parent));
        let task = tokio::spawn(serve(listener, acceptor, Arc::new(reply), noted));
        let bundle = BASE64_STANDARD.encode(authority.pem());
        Self { url, bundle, seen, caller, parent, task }
    }

    /// Its `clientConfig`.
    pub(crate) fn config(&self) -> Value {
        value!({"url": (self.url.as_str()), "caBundle": (self.bundle.as_str())})
    }

    /// A kubeconfig of it in a directory, for who shows this token.
    pub(crate) fn kubeconfig(
        &self,
        directory: &std::path::Path,
        token: &str,
    ) -> std::path::PathBuf {
        let config = value!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "a", "cluster": {"server": (self.url.as_str()),
                "certificate-authority-data": (self.bundle.as_str())}}],
            "users": [{"name": "b", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "a", "user": "b"}}]});
        let file = directory.join(format!("{}.kubeconfig", self.url.rsplit(':').next().unwrap()));
        std::fs::write(&file, json::to_vec(&config)).unwrap();
        file
    }

    /// Its authority, in PEM.
    pub(crate) fn authority(&self) -> String {
        String::from_utf8(BASE64_STANDARD.decode(&self.bundle).unwrap()).unwrap()
    }

    pub(crate) fn asked(&self) -> usize {
        self.seen.lock().len()
    }
}

/// What is noted of a request: its body, who sent it, and of which trace it is.
type Noted = (Arc<Mutex<Vec<Value>>>, Arc<Mutex<String>>, Arc<Mutex<String>>);
type Act = dyn Fn(&Value) -> Reply + Send + Sync;

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, reply: Arc<Act>, noted: Noted) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, reply, noted) = (acceptor.clone(), Arc::clone(&reply), noted.clone());
        tokio::spawn(async move {
            let _ = tcp.set_nodelay(true);
            // Who does not trust this server breaks off.
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service =
                service_fn(move |request| answer(request, Arc::clone(&reply), noted.clone()));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    reply: Arc<Act>,
    (seen, caller, parent): Noted,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    for (name, noted) in [("authorization", caller), ("traceparent", parent)] {
        let told = request.headers().get(name).and_then(|it| it.to_str().ok());
        told.unwrap_or_default().clone_into(&mut noted.lock());
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    // What is only read has no body.
    let review = match body.is_empty() {
        true => value!({"path": path}),
        false => json::parse(&body).unwrap(),
    };
    let reply = reply(&review);
    seen.lock().push(review);
    let (code, bytes) = match reply {
        Reply::Json(value) => (200, json::to_vec(&value)),
        Reply::Raw(code, bytes) => (code, bytes),
        Reply::Silence => std::future::pending().await,
    };
    let mut response = Response::new(Full::new(bytes.into()));
    *response.status_mut() = code.try_into().unwrap();
    Ok(response)
}

/// A review that answers another one, with these members of the response.
pub(crate) fn response(review: &Value, members: &Value) -> Reply {
    let mut response = members.clone();
    response.set_at(&["uid"], review.str_at(&["request", "uid"]));
    Reply::Json(value!({"apiVersion": (review.str_at(&["apiVersion"])),
        "kind": (review.str_at(&["kind"])), "response": (response)}))
}

/// Allows, with a patch.
pub(crate) fn patch(review: &Value, operations: &Value) -> Reply {
    let patch = BASE64_STANDARD.encode(json::to_string(operations));
    response(review, &value!({"allowed": true, "patchType": "JSONPatch", "patch": (patch)}))
}
