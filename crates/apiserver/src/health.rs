//! Paths that are no resources: health, version.

use std::sync::Arc;

use apimachinery::{Status, json, value};
use futures::future::BoxFuture;
use http::{Method, Response};

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::negotiate::plain as form_of;
use crate::{discovery, profiles, respond, zpages};

/// Something whose health is told, and whether it is well.
struct Check<'c> {
    name: &'c str,
    healthy: bool,
}

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

    /// Whether it is well; if not, the log says why.
    async fn asked(&self) -> bool {
        let answer = (self.ask)().await;
        if let Err(error) = &answer {
            tracing::warn!(check = self.name, error, "not healthy");
        }
        answer.is_ok()
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
        ("version", "") if path.ends_with('/') => Err(Status::no_route()),
        ("version", "") if exchange.parts.method != Method::GET => {
            Err(Status::method_not_allowed())
        }
        ("healthz" | "livez" | "readyz", rest) => health(server, exchange, rest).await,
        (".well-known", "openid-configuration" | "openid-configuration/") => {
            openid(server, exchange)
        }
        ("openid", "v1/jwks" | "v1/jwks/") => key_set(server),
        ("version", "") => Ok(version(server, exchange)),
        ("statusz", "") if zpages::tells_status(server) => zpages::status(server, exchange),
        ("flagz", "") if zpages::tells_flags(server) => zpages::flags(server, exchange),
        ("debug", rest) if rest == "pprof" || rest.starts_with("pprof/") => {
            Ok(profiles::answer(server, exchange).await)
        }
        ("logs", rest) if let Some(directory) = &server.operating.logs => {
            Ok(crate::logs::answer(directory, exchange, rest).await)
        }
        ("metrics", "") => Ok(crate::metrics::answer(server)),
        ("metrics", "resources") => Ok(crate::metrics::resources(server).unwrap_or_else(not_found)),
        ("", "") if path.starts_with('/') => Ok(root(server, exchange)),
        ("api", _) => Err(Status::no_route()),
        ("apis", _) if path.split('/').count() > 3 => Err(Status::no_route()),
        _ => Ok(not_found()),
    }
}

/// What upstream's mux answers where no handler is.
pub(crate) fn not_found() -> Response<Body> {
    respond::text(404, "404 page not found\n")
}

/// The checks that every server has, whichever of the three paths is asked.
const LASTING: [&str; 4] =
    ["ping", "log", "etcd", "poststarthook/generic-apiserver-start-informers"];
/// Those of `/readyz` alone.
const READINESS: [&str; 2] = ["etcd-readiness", "shutdown"];
/// That of `/readyz` where the memory is limited.
const BUDGET: &str = "memory-budget";
/// The paths that tell of health.
const HEALTH: [&str; 3] = ["healthz", "livez", "readyz"];

/// The names of the checks behind one of the three paths.
fn names<'s>(server: &'s Server, which: &str) -> impl Iterator<Item = &'s str> {
    let ready = which == "readyz";
    let more = server.checks.iter().map(|it| it.name.as_str());
    let budget = (ready && server.operating.memory.is_some()).then_some(BUDGET);
    let readiness = READINESS.into_iter().filter(move |_| ready);
    LASTING.into_iter().chain(more).chain(budget).chain(readiness)
}

/// What each of the checks behind one of the three paths says now.
async fn checks<'s>(server: &'s Server, which: &str) -> Vec<Check<'s>> {
    let asked = tokio::time::timeout(server.store_check_timeout, server.hub.store().progress());
    let store = matches!(asked.await, Ok(Ok(_)));
    let mut all = Vec::new();
    for name in names(server, which) {
        let healthy = match name {
            "etcd" | "etcd-readiness" => store,
            "shutdown" => !server.ending.is_asked(),
            BUDGET => server.operating.memory.as_ref().is_none_or(|it| !it.is_pressed()),
            _ => match server.checks.iter().find(|it| it.name == name) {
                Some(check) => check.asked().await,
                // What has begun before the server listens.
                None => true,
            },
        };
        all.push(Check { name, healthy });
    }
    all
}

async fn health(server: &Server, exchange: &Exchange, one: &str) -> Result<Response<Body>, Status> {
    let which = exchange.info.path.split('/').nth(1).unwrap_or_default();
    let mut checks = checks(server, which).await;
    for check in &checks {
        server.metrics.health.checked(which, check.name, check.healthy);
    }
    if !one.is_empty() {
        return Ok(match checks.iter().find(|check| check.name == one) {
            Some(check) if check.healthy => respond::text(200, "ok"),
            Some(check) => respond::text(
                500,
                format!("internal server error: {} is not healthy\n", check.name),
            ),
            None => not_found(),
        });
    }
    let excluded: Vec<&str> = exchange.query.all("exclude").collect();
    checks.retain(|check| !excluded.contains(&check.name));
    let healthy = checks.iter().all(|check| check.healthy);
    let verbose = exchange.query.get("verbose").is_some();
    if healthy && !verbose {
        return Ok(respond::text(200, "ok"));
    }
    let mut text = String::new();
    for check in &checks {
        text.push_str(if check.healthy { "[+]" } else { "[-]" });
        text.push_str(check.name);
        text.push_str(if check.healthy { " ok\n" } else { " failed: reason withheld\n" });
    }
    let verdict = if healthy { "passed" } else { "failed" };
    text.push_str(&format!("{which} check {verdict}\n"));
    Ok(respond::text(if healthy { 200 } else { 500 }, text))
}

/// Where the keys are that service accounts' tokens are checked with, for those outside the cluster.
fn openid(server: &Server, exchange: &Exchange) -> Result<Response<Body>, Status> {
    let Some(tokens) = &server.access.tokens else { return Ok(not_found()) };
    let host = match exchange.header(http::header::HOST) {
        _ if !server.external.is_empty() => server.external.as_str(),
        given => given,
    };
    let document = tokens.discovery(&format!("https://{host}/openid/v1/jwks"));
    let mut response = respond::bytes(200, "application/json", json::to_vec(&document));
    cache_publicly(&mut response);
    Ok(response)
}

fn key_set(server: &Server) -> Result<Response<Body>, Status> {
    let Some(tokens) = &server.access.tokens else { return Ok(not_found()) };
    let keys = json::to_vec(&tokens.key_set());
    let mut response = respond::bytes(200, "application/jwk-set+json", keys);
    cache_publicly(&mut response);
    Ok(response)
}

/// Both documents change when keys do, which is seldom (upstream's hour).
fn cache_publicly(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("public, max-age=3600"),
    );
}

fn version(server: &Server, exchange: &Exchange) -> Response<Body> {
    let version = &server.version;
    let document = value!({
        "major": (version.major.as_str()), "minor": (version.minor.as_str()), "gitVersion": (version.git.as_str()),
        "emulationMajor": (version.major.as_str()), "emulationMinor": (version.minor.as_str()),
        "minCompatibilityMajor": (version.major.as_str()), "minCompatibilityMinor": "36",
        "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": "linux/amd64"
    });
    respond::plain(form_of(exchange), 200, &document)
}

/// Names every path that tells something, sorted. Upstream: `routes.Index`.
fn root(server: &Server, exchange: &Exchange) -> Response<Body> {
    let mut paths: Vec<String> = server.catalog.with_discovery(discovery::Documents::paths);
    let mut others = vec!["/openapi/v2", "/openapi/v3", "/openapi/v3/"];
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
    respond::plain(form_of(exchange), 200, &document)
}
