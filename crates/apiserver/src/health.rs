//! Paths that are no resources: health, version.

mod hooks;

use std::sync::Arc;

use apimachinery::{Status, json, value};
use component_base::health::{self, Check};
use futures::future::BoxFuture;
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response};

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::negotiate::{self, Encoding, Form, Include, Transform};
use crate::{discovery, profiles, respond, zpages};
use hooks::{HOOKS, Needs};

/// Asks whether something is well.
type Ask = dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// Something that the server's health depends on.
#[derive(Clone)]
pub struct HealthCheck {
    name: String,
    ask: Arc<Ask>,
}

impl std::fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HealthCheck({})", self.name)
    }
}

impl HealthCheck {
    /// A check of this name.
    pub fn new(
        name: impl Into<String>,
        ask: impl Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), ask: Arc::new(ask) }
    }

    /// What is wrong, where something is; the log says so too.
    async fn asked(&self) -> Option<String> {
        let failure = (self.ask)().await.err();
        if let Some(error) = &failure {
            tracing::warn!(check = self.name, error, "not healthy");
        }
        failure
    }
}

/// Answers a path.
pub(crate) async fn answer(
    server: &Arc<Server>,
    exchange: &Exchange,
) -> Result<Response<Body>, Status> {
    let path = exchange.info.path.as_str();
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        // Upstream's mux knows each path as it is, its router knows no empty parts.
        ("healthz" | "livez" | "readyz" | "metrics", "") if path.ends_with('/') => Ok(not_found()),
        ("version", "") if exchange.parts.method != Method::GET => {
            Err(Status::method_not_allowed())
        }
        ("healthz" | "livez" | "readyz", rest) => health(server, exchange, rest).await,
        (".well-known", "openid-configuration" | "openid-configuration/") => {
            openid(server, exchange)
        }
        ("openid", "v1/jwks" | "v1/jwks/") => key_set(server, exchange),
        ("version", "") => version(server, exchange),
        ("statusz", "") if zpages::tells_status(server) => zpages::status(server, exchange),
        ("flagz", "") if zpages::tells_flags(server) => zpages::flags(server, exchange),
        ("debug", rest) if rest == "pprof" || rest.starts_with("pprof/") => {
            Ok(profiles::answer(server, exchange).await)
        }
        ("logs", rest) if let Some(directory) = &server.operating.logs => {
            Ok(crate::logs::answer(directory, exchange, rest).await)
        }
        ("metrics", "") => Ok(crate::metrics::answer(server)),
        ("metrics", "slis") => Ok(crate::metrics::slis(server)),
        ("metrics", "resources") => Ok(crate::metrics::resources(server).unwrap_or_else(not_found)),
        ("", "") if path.starts_with('/') => Ok(root(server)),
        ("api", _) => Err(Status::no_route()),
        ("apis", _) if path.split('/').count() > 3 => Err(Status::no_route()),
        _ => Ok(not_found()),
    }
}

/// What upstream's mux answers where no handler is.
pub(crate) fn not_found() -> Response<Body> {
    respond::text(404, "404 page not found\n")
}

/// What every server's health begins with, whichever of the three paths is asked. The server's own clients need no
/// certificate, so that the one of `loopback-serving-certificate` never ends.
const FIRST: [&str; 4] = ["ping", "log", "loopback-serving-certificate", "etcd"];
/// Those of `/readyz` alone, before what was given and behind it: caches are full before the server listens.
const READINESS: [&str; 2] = ["etcd-readiness", "informer-sync"];
/// The last of `/readyz`.
const SHUTDOWN: &str = "shutdown";
/// That of `/readyz` where the memory is limited.
const BUDGET: &str = "memory-budget";
/// JSON for people, whatever the client accepts (upstream: `WriteRawJSON`).
const RAW: Form = Form {
    encoding: Encoding::Json,
    transform: Transform::None,
    pretty: true,
    include: Include::Metadata,
};
/// The paths that tell of health.
const HEALTH: [&str; 3] = ["healthz", "livez", "readyz"];

/// The names of the checks behind one of the three paths, in upstream's order.
fn names<'s>(server: &'s Server, which: &str) -> impl Iterator<Item = &'s str> {
    let ready = which == "readyz";
    let if_ready = |name: &'static str| ready.then_some(name);
    let [store, caches] = READINESS.map(if_ready);
    let given = server.checks.iter().map(|it| it.name.as_str());
    let hooks = HOOKS.into_iter().filter(|(_, needs)| match needs {
        Needs::Nothing => true,
        Needs::Fairness => server.fairness.is_some(),
        Needs::Tokens => server.access.tokens.is_some(),
    });
    let budget = server.operating.memory.is_some().then_some(BUDGET).and_then(if_ready);
    FIRST
        .into_iter()
        .chain(store)
        .chain(given)
        .chain(caches)
        .chain(hooks.map(|(name, _)| name))
        .chain(budget)
        .chain(if_ready(SHUTDOWN))
}

/// What each of the checks behind one of the three paths says now.
async fn checks<'s>(server: &'s Server, which: &str) -> Vec<Check<'s>> {
    let asked = tokio::time::timeout(server.store_check_timeout, server.hub.store().progress());
    let store = match asked.await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("context deadline exceeded".to_owned()),
    };
    let mut all = Vec::new();
    for name in names(server, which) {
        let unless = |well: bool, why: &str| (!well).then(|| why.to_owned());
        let failure = match name {
            "etcd" | "etcd-readiness" => store.clone(),
            SHUTDOWN => unless(!server.ending.is_asked(), "process is shutting down"),
            BUDGET => {
                let budget = server.operating.memory.as_ref();
                unless(budget.is_none_or(|it| !it.is_pressed()), "the memory budget is used up")
            }
            _ => match server.checks.iter().find(|it| it.name == name) {
                Some(check) => check.asked().await,
                // What has begun before the server listens.
                None => None,
            },
        };
        all.push(Check { name, failure });
    }
    all
}

async fn health(server: &Server, exchange: &Exchange, one: &str) -> Result<Response<Body>, Status> {
    let which = exchange.info.path.split('/').nth(1).unwrap_or_default();
    let checks = checks(server, which).await;
    checks.iter().for_each(|check| server.metrics.health.checked(which, check));
    let told = if one.is_empty() {
        let verbose = exchange.query.get("verbose").is_some();
        health::all(which, &checks, exchange.query.all("exclude"), verbose)
    } else {
        let Some(check) = checks.iter().find(|check| check.name == one) else {
            return Ok(not_found());
        };
        health::one(check)
    };
    let mut response = respond::text(told.code, told.text);
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    Ok(response)
}

/// Where the keys are that service accounts' tokens are checked with, for those outside the cluster.
fn openid(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    let Some(tokens) = &server.access.tokens else { return Ok(not_found()) };
    negotiate::produces(exchange, "application/json")?;
    let host = match exchange.header(http::header::HOST) {
        _ if !server.external.is_empty() => server.external.as_str(),
        given => given,
    };
    let document = tokens.discovery(&format!("https://{host}/openid/v1/jwks"));
    let mut response = respond::bytes(200, "application/json", json::to_vec(&document));
    cache_publicly(&mut response);
    Ok(response)
}

fn key_set(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    const MEDIA_TYPE: &str = "application/jwk-set+json";
    let Some(tokens) = &server.access.tokens else { return Ok(not_found()) };
    negotiate::produces(exchange, MEDIA_TYPE)?;
    let keys = json::to_vec(&tokens.key_set());
    let mut response = respond::bytes(200, MEDIA_TYPE, keys);
    cache_publicly(&mut response);
    Ok(response)
}

/// Both documents change when keys do, which is seldom (upstream's hour).
fn cache_publicly(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
}

fn version(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    negotiate::produces(exchange, "application/json")?;
    let version = &server.version;
    let document = value!({
        "major": (version.major.as_str()), "minor": (version.minor.as_str()), "gitVersion": (version.git.as_str()),
        "emulationMajor": (version.major.as_str()), "emulationMinor": (version.minor.as_str()),
        "minCompatibilityMajor": (version.major.as_str()), "minCompatibilityMinor": "36",
        "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": "linux/amd64"
    });
    Ok(respond::plain(RAW, 200, &document))
}

/// Names every path that tells something, sorted. Upstream: `routes.Index`.
fn root(server: &Server) -> Response<Body> {
    let mut paths: Vec<String> = server.catalog.with_discovery(discovery::Documents::paths);
    let mut others = vec!["/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/"];
    if server.access.tokens.is_some() {
        others.extend(["/.well-known/openid-configuration", "/openid/v1/jwks"]);
    }
    if server.operating.logs.is_some() {
        others.push("/logs");
    }
    paths.extend(others.into_iter().chain(zpages::paths(server)).map(str::to_owned));
    for which in HEALTH {
        paths.extend(names(server, which).map(|it| format!("/{which}/{it}")));
    }
    paths.sort_unstable();
    let document = value!({"paths": (paths.into_iter().collect::<apimachinery::Value>())});
    respond::plain(RAW, 200, &document)
}
