//! What a part that runs alone tells of itself: health to anybody, metrics to who may read them.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value, value};
use apiserver::query::Query;
use bytes::Bytes;
use client::{Client, Resource};
use component_base::health::{self, Found};
use component_base::{RealClock, ShutdownSignal, metrics as text};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::pki::Identity;
use crate::tls::Serving;

/// How many connections there may be at once.
const MAX_CONNECTIONS: usize = 64;

/// Flags of serving.
#[derive(Debug, clap::Args)]
#[group(id = "serving")]
#[command(next_help_heading = "Serving")]
pub(crate) struct Options {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind_address: IpAddr,
    /// Port of health and metrics; 0 for none (default: upstream's of this part)
    #[arg(long, value_name = "PORT")]
    secure_port: Option<u16>,
    /// Certificate of the port, in PEM (default: one that this process makes for itself)
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
}

/// What is shown of a part.
pub(crate) struct Pages {
    /// `/metrics`
    pub(crate) registry: Registry,
    /// `/metrics/resources`, where there is such a page.
    pub(crate) resources: Option<Box<dyn Fn() -> String + Send + Sync>>,
    /// Whether profiles may be asked for.
    pub(crate) profiling: bool,
    /// What its health depends on.
    pub(crate) checks: Vec<Check>,
    /// What runs in it now, each of which is well as long as it does.
    pub(crate) running: Option<Box<dyn Fn() -> Vec<&'static str> + Send + Sync>>,
}

/// Something that a part's health depends on.
pub(crate) struct Check {
    name: &'static str,
    /// Asked for `/readyz` alone.
    of_readiness: bool,
    is_well: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Check {
    /// Whose lease is lost ends, and tells nothing any more.
    pub(crate) fn leader_election() -> Self {
        Self { name: "leaderElection", of_readiness: false, is_well: Box::new(|| true) }
    }

    /// One of `/readyz`.
    pub(crate) fn of_readiness(
        name: &'static str,
        is_well: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { name, of_readiness: true, is_well: Box::new(is_well) }
    }
}

impl From<Registry> for Pages {
    fn from(registry: Registry) -> Self {
        let (checks, running) = Default::default();
        Self { registry, resources: None, profiling: true, checks, running }
    }
}

struct Told {
    client: Client,
    pages: Pages,
    /// What was found of its health.
    found: Found,
}

/// Whose health and metrics are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
}

impl Options {
    /// Serves until `stop`; where.
    pub(crate) async fn start(
        &self,
        part: Part,
        client: &Client,
        pages: Pages,
        stop: ShutdownSignal,
    ) -> Result<Option<SocketAddr>> {
        let port = self.secure_port.unwrap_or(part.port);
        if port == 0 {
            return Ok(None);
        }
        let address = SocketAddr::new(self.bind_address, port);
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("could not listen on {address}; --secure-port gives another, 0 none")
        })?;
        let tls = Serving::new(&self.identity(part.name)?)?.plain_config()?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let found = Found::default();
        let told = Arc::new(Told { client: client.clone(), pages, found });
        tokio::spawn(accept(listener, acceptor, told, stop));
        Ok(Some(address))
    }

    fn identity(&self, name: &str) -> Result<Identity> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| format!("could not read {}", path.display()))
        };
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => {
                Ok(Identity { certificate: read(certificate)?, key: read(key)? })
            }
            (None, None) => {
                let names = vec!["localhost".to_owned(), name.to_owned()];
                let made = rcgen::generate_simple_self_signed(names)?;
                let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
                Ok(Identity { certificate, key })
            }
            _ => bail!("--tls-cert-file and --tls-private-key-file belong together"),
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    told: Arc<Told>,
    stop: ShutdownSignal,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
        tokio::spawn(async move {
            let _permit = permit;
            serve(stream, acceptor, told).await;
        });
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, told: Arc<Told>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let told = Arc::clone(&told);
        async move { Ok::<_, Infallible>(answer(&told, &request).await) }
    });
    let builder =
        hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    // A client that goes away, or speaks something else.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(told: &Told, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    if let Some(health) = health(told, request) {
        return health;
    }
    if let Err(status) = may_read(told, request, path).await {
        return refused(&status);
    }
    match path {
        "/metrics" => {
            let mut all = text::text(&told.pages.registry);
            all.push_str(&text::process());
            metrics(&all)
        }
        "/metrics/slis" => metrics(&told.found.text()),
        "/metrics/resources" => {
            told.pages.resources.as_ref().map_or_else(not_found, |page| metrics(&page()))
        }
        _ => match path.strip_prefix("/debug/pprof/").filter(|_| told.pages.profiling) {
            Some(below) => profile(below, request.uri().query().unwrap_or_default()).await,
            None => not_found(),
        },
    }
}

/// What a page of health tells; none where the path is no such page.
fn health(told: &Told, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let mut parts = request.uri().path().strip_prefix('/')?.splitn(2, '/');
    let which = parts.next().filter(|it| matches!(*it, "healthz" | "livez" | "readyz"))?;
    let pages = &told.pages;
    let asked = pages.checks.iter().filter(|it| which == "readyz" || !it.of_readiness);
    let asked = asked.map(|it| health::Check { name: it.name, healthy: (it.is_well)() });
    let running = pages.running.as_ref().map(|it| it()).unwrap_or_default();
    let running = running.into_iter().map(|name| health::Check { name, healthy: true });
    let mut checks: Vec<_> = asked.chain(running).collect();
    if checks.is_empty() {
        checks.push(health::Check { name: "ping", healthy: true });
    }
    checks.iter().for_each(|check| told.found.checked(which, check));
    let page = match parts.next() {
        Some(name) => match checks.iter().find(|it| it.name == name) {
            Some(check) => health::one(check),
            None => return Some(not_found()),
        },
        None => {
            let query = Query::parse(request.uri().query().unwrap_or_default());
            let verbose = query.get("verbose").is_some();
            health::all(which, &checks, query.all("exclude"), verbose)
        }
    };
    let code = StatusCode::from_u16(page.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Some(plain(code, &page.text))
}

fn not_found() -> Response<Full<Bytes>> {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn refused(status: &Status) -> Response<Full<Bytes>> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Full::new(apiserver::status_bytes(status)));
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A page of `/debug/pprof/`.
async fn profile(below: &str, query: &str) -> Response<Full<Bytes>> {
    let seconds = query.split('&').find_map(|it| it.strip_prefix("seconds="));
    let page = profiling::page(below, seconds, &RealClock).await;
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() =
        StatusCode::from_u16(page.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static(page.media_type);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn metrics(all: &str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::OK, all);
    let kind = HeaderValue::from_static(text::TEXT);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn plain(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Asks the API server who asks, and whether they may. Who has no credentials is `system:anonymous`.
async fn may_read(told: &Told, request: &Request<Incoming>, path: &str) -> Result<(), Status> {
    let (user, groups) = who(told, request).await?;
    let review = value!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": (user.as_str()), "groups": groups, "nonResourceAttributes": {"verb": "get", "path": path}}
    });
    let reviews = Resource::built_in("authorization.k8s.io", "subjectaccessreviews");
    match told.client.create(&reviews, "", &review).await {
        Ok(answer) if answer.bool_at(&["status", "allowed"]) => Ok(()),
        Ok(_) => {
            let why = format!("User {user:?} cannot get path {path:?}");
            Err(Status::forbidden(GroupResource { group: "", resource: "" }, "", &why))
        }
        Err(error) => {
            tracing::warn!(%error, user, "could not ask what a user may do");
            Err(Status::internal(format!("Authorization error (user={user}, verb=get)")))
        }
    }
}

/// The name and groups of who asks.
async fn who(told: &Told, request: &Request<Incoming>) -> Result<(String, Value), Status> {
    let Some(header) = request.headers().get(AUTHORIZATION) else {
        return Ok(("system:anonymous".into(), value!(["system:unauthenticated"])));
    };
    let token = header.to_str().ok().and_then(|it| it.strip_prefix("Bearer "));
    let token = token.ok_or_else(Status::unauthorized)?;
    let review = value!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}
    });
    let reviews = Resource::built_in("authentication.k8s.io", "tokenreviews");
    let who = told.client.create(&reviews, "", &review).await.map_err(|error| {
        tracing::warn!(%error, "could not ask who a token is");
        Status::unauthorized()
    })?;
    if !who.bool_at(&["status", "authenticated"]) {
        return Err(Status::unauthorized());
    }
    let user = who.str_at(&["status", "user", "username"]).to_owned();
    Ok((user, Value::Array(who.items_at(&["status", "user", "groups"]).to_vec())))
}
