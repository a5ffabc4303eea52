//! What a part that runs alone tells of itself: health to anybody, the rest to who may read it.

mod access;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use access::{Access, AccessOptions, Counted};
use anyhow::{Context, Result, bail};
use apimachinery::Status;
use apiserver::query::Query;
use apiserver::{Peer, zpages};
use bytes::Bytes;
use client::Client;
use component_base::feature_gates::FeatureGates;
use component_base::health::{self, Found};
use component_base::{Clock, RealClock, ShutdownSignal, metrics};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::pki::{self, Identity};
use crate::presenting;
use crate::tls::{LimitOptions, Serving};

/// How many connections there may be at once.
const MAX_CONNECTIONS: usize = 64;
/// How many requests a connection may have in flight, where nobody says (upstream's number).
const MAX_STREAMS: u32 = 250;
/// The minor version that parts behave as.
const EMULATED: &str = "1.37";
/// Paths that tell something, which `/statusz` names.
const PATHS: [&str; 6] = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"];
/// How long a client may take to begin.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
    /// Certificate of the port, in PEM (default: one that this process makes for itself). Read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Where that certificate is kept which this process makes for itself (default: nowhere)
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// How many requests a connection of HTTP/2 may have in flight; 0 for 250
    #[arg(long, default_value_t = 0, value_name = "N")]
    http2_max_streams_per_connection: u32,
    /// Whether profiles may be asked for, below /debug/pprof/
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    profiling: bool,
    #[command(flatten)]
    tls: LimitOptions,
    #[command(flatten)]
    access: AccessOptions,
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
    /// What it was started with, and which of upstream's features are on.
    pub(crate) started_with: (Vec<(String, String)>, Arc<FeatureGates>),
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

impl Pages {
    /// Metrics, and what the part was started with.
    pub(crate) fn new(
        registry: Registry,
        flags: Vec<(String, String)>,
        features: Arc<FeatureGates>,
    ) -> Self {
        let (checks, running, started_with) = (Vec::new(), None, (flags, features));
        Self { registry, resources: None, profiling: true, checks, started_with, running }
    }
}

struct Told {
    /// Upstream's name of the part, and when it began.
    name: &'static str,
    began: (Timestamp, Instant),
    access: Access,
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
        let certificate = self.certificate(part.name, &stop)?;
        let mut pages = Pages { profiling: pages.profiling && self.profiling, ..pages };
        let counted = Counted::new(&mut pages.registry);
        let access = self.access.start(part, client, (certificate, counted), stop.clone()).await?;
        let began = (RealClock.now(), Instant::now());
        let found = Found::default();
        let told = Arc::new(Told { name: part.name, began, access, pages, found });
        let streams = NonZeroU32::new(self.http2_max_streams_per_connection);
        let streams = streams.map_or(MAX_STREAMS, NonZeroU32::get);
        tokio::spawn(accept(listener, streams, told, stop));
        Ok(Some(address))
    }

    /// What is presented.
    fn certificate(&self, name: &str, stop: &ShutdownSignal) -> Result<Serving> {
        let files = match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => Some([certificate.clone(), key.clone()]),
            (None, None) => None,
            _ => bail!("--tls-cert-file and --tls-private-key-file belong together"),
        };
        let identity = match (&files, &self.cert_dir) {
            (Some(files), _) => read(files)?,
            (None, Some(directory)) if !directory.as_os_str().is_empty() => {
                pki::unsigned(directory, name, names(name))?
            }
            (None, _) => {
                let made = rcgen::generate_simple_self_signed(names(name))?;
                Identity { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
            }
        };
        let certificate = Serving::new(&identity)?.with_limits(self.tls.limits()?);
        if let Some(files) = files {
            let following = certificate.clone();
            let (all, changed) = (files.to_vec(), "the port's certificate has changed");
            presenting::renew(all, stop.clone(), changed, move || {
                following.replace(&read(&files)?)
            });
        }
        Ok(certificate)
    }
}

/// Whom a certificate is for that a part makes for itself.
fn names(part: &str) -> Vec<String> {
    vec!["localhost".to_owned(), part.to_owned()]
}

fn read([certificate, key]: &[PathBuf; 2]) -> Result<Identity> {
    let text = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
    };
    Ok(Identity { certificate: text(certificate)?, key: text(key)? })
}

async fn accept(listener: TcpListener, streams: u32, told: Arc<Told>, stop: ShutdownSignal) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            let _permit = permit;
            serve(stream, streams, told).await;
        });
    }
}

async fn serve(stream: TcpStream, streams: u32, told: Arc<Told>) {
    let acceptor = TlsAcceptor::from(told.access.tls());
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let client = Arc::new(told.access.client(certificates));
    let service = service_fn(move |request: Request<Incoming>| {
        let (told, client) = (Arc::clone(&told), Arc::clone(&client));
        async move { Ok::<_, Infallible>(answer(&told, &client.now(), &request).await) }
    });
    let mut builder =
        hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    builder.http2().max_concurrent_streams(streams);
    // A client that goes away, or speaks something else.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(told: &Told, client: &Peer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    if let Err(status) = told.access.allows(client, request).await {
        return refused(&status);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    if let Some(health) = health(told, path, query) {
        return health;
    }
    if let Some(page) = zpage(told, request) {
        return page;
    }
    match path {
        "/metrics" => {
            let mut all = metrics::text(&told.pages.registry);
            all.push_str(&metrics::process());
            page(&all)
        }
        "/metrics/slis" => page(&told.found.text()),
        "/metrics/resources" => {
            told.pages.resources.as_ref().map_or_else(not_found, |text| page(&text()))
        }
        _ => match path.strip_prefix("/debug/pprof/").filter(|_| told.pages.profiling) {
            Some(below) => profile(below, query).await,
            None => not_found(),
        },
    }
}

/// What a page about the part itself tells; none where the path is no such page.
fn zpage(told: &Told, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let (flags, features) = &told.pages.started_with;
    let accepted = request.headers().get(ACCEPT).and_then(|it| it.to_str().ok());
    let accepted = accepted.unwrap_or_default();
    let on = |path: &str| match path {
        "/statusz" => features.enabled("ComponentStatusz"),
        "/flagz" => features.enabled("ComponentFlagz"),
        _ => true,
    };
    let page = match request.uri().path() {
        // Upstream tells its whole configuration, with the defaults of what nobody said.
        "/configz" => {
            return Some(plain(StatusCode::NOT_IMPLEMENTED, "configz is not built yet\n"));
        }
        path if !on(path) => return None,
        "/statusz" => {
            let component = zpages::Component {
                name: told.name,
                binary: crate::VERSION.trim_start_matches('v'),
                emulated: EMULATED.to_owned(),
            };
            let paths: Vec<&str> = PATHS.into_iter().filter(|it| on(it)).collect();
            let (began, since) = told.began;
            zpages::statusz(&component, accepted, (began, since.elapsed()), &paths)
        }
        "/flagz" => zpages::flagz(told.name, accepted, flags),
        _ => return None,
    };
    Some(match page {
        Ok(page) => {
            let (kind, content) = page.content();
            let mut response = Response::new(Full::new(content.into()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        Err(status) => refused(&status),
    })
}

/// What a page of health tells; none where the path is no such page.
fn health(told: &Told, path: &str, query: &str) -> Option<Response<Full<Bytes>>> {
    let mut parts = path.strip_prefix('/')?.splitn(2, '/');
    let which = parts.next().filter(|it| matches!(*it, "healthz" | "livez" | "readyz"))?;
    let pages = &told.pages;
    let asked = pages.checks.iter().filter(|it| which == "readyz" || !it.of_readiness);
    let asked = asked.map(|it| {
        let failure = (!(it.is_well)()).then(|| format!("{} is not well", it.name));
        health::Check { name: it.name, failure }
    });
    let running = pages.running.as_ref().map(|it| it()).unwrap_or_default();
    let running = running.into_iter().map(health::Check::well);
    let mut checks: Vec<_> = asked.chain(running).collect();
    if checks.is_empty() {
        checks.push(health::Check::well("ping"));
    }
    checks.iter().for_each(|check| told.found.checked(which, check));
    let page = match parts.next() {
        Some(name) => match checks.iter().find(|it| it.name == name) {
            Some(check) => health::one(check),
            None => return Some(not_found()),
        },
        None => {
            let query = Query::parse(query);
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

fn page(all: &str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::OK, all);
    let kind = HeaderValue::from_static(metrics::TEXT);
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
