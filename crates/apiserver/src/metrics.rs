//! What the server counts about itself, in upstream's names, and `/metrics`.
//!
//! Labels are text that lives as long as the program, so that counting a request allocates nothing.

mod certificates;
mod conversions;
mod expressions;
mod logs;
mod requests;
mod state;
mod watching;

pub(crate) use certificates::Issued;
pub(crate) use conversions::Conversions;
pub(crate) use expressions::Expressions;
pub(crate) use requests::{Ended, Timed};
pub(crate) use state::follow_size;
pub(crate) use watching::{OfCache, OfWatch};

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::ResourceFacts;
use component_base::metrics;
use futures::StreamExt;
use http::{Method, Response};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::respond;
use certificates::Certificates;
use logs::Logs;
use requests::Requests;
use watching::Watching;

const COMPONENT: &str = "apiserver";
/// Paths that are counted by name; others would let a client make labels at will.
const PATHS: [&str; 12] = [
    "/api",
    "/apis",
    "/flagz",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/statusz",
    "/version",
    "/",
];

/// What a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct About {
    component: &'static str,
    group: &'static str,
    resource: &'static str,
    scope: &'static str,
    subresource: &'static str,
    verb: &'static str,
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stored {
    group: &'static str,
    resource: &'static str,
}

/// A resource with its group: `deployments.apps`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestKind {
    request_kind: &'static str,
}

/// A store, by the name that upstream gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StorageCluster {
    storage_cluster_id: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Deprecated {
    group: &'static str,
    removed_release: &'static str,
    resource: &'static str,
    subresource: &'static str,
    version: &'static str,
}

/// A gauge that belongs to who holds it as long as it is held.
#[derive(Debug)]
pub(crate) struct Held(Gauge<i64, AtomicI64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A page that is made when it is asked for.
struct Page(Box<dyn Fn() -> String + Send + Sync>);

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page")
    }
}

/// The server's metrics, and those that others in the process register beside them.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Requests,
    long_running: Family<About, Gauge<i64, AtomicI64>>,
    watching: Watching,
    certificates: Certificates,
    /// Logs that are asked for at nodes.
    pub(crate) logs: Logs,
    in_flight: Family<RequestKind, Gauge<i64, AtomicI64>>,
    waiting: Family<RequestKind, Gauge<i64, AtomicI64>>,
    objects: Family<Stored, Gauge<i64, AtomicI64>>,
    stored: Family<Named, Gauge<i64, AtomicI64>>,
    deprecated: Family<Deprecated, Gauge<i64, AtomicI64>>,
    pub(crate) conversions: Arc<Conversions>,
    storage_size: Family<StorageCluster, Gauge<i64, AtomicI64>>,
    /// `/metrics/resources`, where there is a scheduler that knows them.
    resources: OnceLock<Page>,
    /// How long rules of custom resources take.
    pub(crate) expressions: Arc<Expressions>,
    /// What health checks have found.
    pub(crate) health: component_base::health::Found,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let (long_running, deprecated) = (Family::default(), Family::default());
        let (in_flight, waiting, objects) = Default::default();
        let mut registry = Registry::default();
        let requests = Requests::new(&mut registry);
        let watching = Watching::new(&mut registry);
        let certificates = Certificates::new(&mut registry);
        let logs = Logs::new(&mut registry);
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and logs that are open",
            Family::clone(&long_running),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that hold a place among those in flight",
            Family::clone(&in_flight),
        );
        registry.register(
            "apiserver_current_inqueue_requests",
            "Requests that wait for their turn",
            Family::clone(&waiting),
        );
        let stored = Family::default();
        registry.register(
            "apiserver_resource_objects",
            "Objects stored, by group and resource",
            Family::clone(&objects),
        );
        registry.register(
            "apiserver_storage_objects",
            "The same by what upstream called resources before",
            Family::clone(&stored),
        );
        registry.register(
            "apiserver_requested_deprecated_apis",
            "Deprecated versions that were asked for since the start, with the release that has them no more",
            Family::clone(&deprecated),
        );
        let conversions = Arc::new(Conversions::new(&mut registry));
        let storage_size = Family::default();
        registry.register(
            "apiserver_storage_size_bytes",
            "How many bytes the store takes",
            Family::clone(&storage_size),
        );
        let expressions = Arc::new(Expressions::new(&mut registry));
        let health = component_base::health::Found::default();
        health.register(&mut registry);
        let registry = Mutex::new(registry);
        Self {
            resources: OnceLock::new(),
            expressions,
            health,
            registry,
            requests,
            watching,
            certificates,
            logs,
            long_running,
            in_flight,
            waiting,
            objects,
            stored,
            deprecated,
            conversions,
            storage_size,
        }
    }

    /// What `/metrics/resources` shows from now on: what pods ask for, as a scheduler of the process knows it.
    pub fn show_resources(&self, page: impl Fn() -> String + Send + Sync + 'static) {
        let _ = self.resources.set(Page(Box::new(page)));
    }

    /// Lets another component of the process register what it counts.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// Counts a request that was answered, and the bytes of its answer as they are written.
    pub(crate) fn answered(
        &self,
        exchange: &Exchange,
        response: Response<Body>,
        took: Duration,
    ) -> Response<Body> {
        let (about, code) = (About::of(exchange), response.status().as_u16());
        if let Some(ended) = exchange.ended {
            self.requests.terminated(ended, about, code);
        }
        match self.requests.answered(exchange, about, (code, took)) {
            Some(sizes) => sized(sizes, response),
            None => response,
        }
    }

    /// A filter has let a request pass.
    pub(crate) fn filtered(&self, filter: Timed, took: Duration) {
        self.requests.filtered(filter, took);
    }

    /// An answer was broken off that should have been sent by now.
    pub(crate) fn aborted(&self, about: About) {
        self.requests.aborted(about);
    }

    fn storage_sized(&self, bytes: u64) {
        let of = StorageCluster { storage_cluster_id: "etcd-0" };
        self.storage_size.get_or_create(&of).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Remembers that a deprecated version was asked for.
    pub(crate) fn deprecated(
        &self,
        facts: &'static ResourceFacts,
        subresource: Option<&'static api::SubresourceFacts>,
        removed_release: &'static str,
    ) {
        let ResourceFacts { group, resource, version, .. } = *facts;
        let subresource = subresource.map_or("", |it| it.name);
        let of = Deprecated { group, removed_release, resource, subresource, version };
        self.deprecated.get_or_create(&of).set(1);
    }

    /// Counts a long-running request until what comes back is dropped.
    pub(crate) fn hold(&self, exchange: &Exchange) -> Held {
        let gauge = self.long_running.get_or_create_owned(&About::of(exchange));
        gauge.inc();
        Held(gauge)
    }

    /// A certificate was issued.
    pub(crate) fn issued(&self, issued: &Issued) {
        self.certificates.issued(issued);
    }

    /// What is counted of a watch of these.
    pub(crate) fn of_watch(&self, facts: &'static ResourceFacts) -> OfWatch {
        self.watching.of_watch(facts)
    }

    /// What is counted of those who read a resource's cache.
    pub(crate) fn of_cache(&self, facts: &'static ResourceFacts) -> Arc<OfCache> {
        self.watching.of_cache(facts)
    }

    /// A watcher was told that it has what there was.
    pub(crate) fn watch_listed(&self, facts: &ResourceFacts, scope: &'static str, took: Duration) {
        self.watching.listed(facts, scope, took);
    }

    /// A watch was ended whose client does not read it.
    pub(crate) fn terminated(&self, facts: &ResourceFacts) {
        self.watching.terminated(facts);
    }
}

/// Counts the bytes of an answer as they are written.
fn sized(histogram: metrics::Histogram, response: Response<Body>) -> Response<Body> {
    response.map(|body| match body {
        Body::Full(bytes) => {
            histogram.observe_number(bytes.as_ref().map_or(0, bytes::Bytes::len));
            Body::Full(bytes)
        }
        Body::Stream(pieces) => {
            let mut sized = Sized { histogram, bytes: 0 };
            let counted = pieces.map(move |piece| {
                sized.add(piece.len());
                piece
            });
            Body::Stream(counted.boxed())
        }
    })
}

/// An answer in pieces: its size is known when it is over.
struct Sized {
    histogram: metrics::Histogram,
    bytes: usize,
}

impl Sized {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

impl Drop for Sized {
    fn drop(&mut self) {
        self.histogram.observe_number(self.bytes);
    }
}

/// Whether requests of this verb last as long as the client likes.
pub(crate) fn is_long_running(verb: &str) -> bool {
    matches!(verb, "WATCH" | "CONNECT")
}

impl About {
    pub(crate) fn of(exchange: &Exchange) -> Self {
        let info = &exchange.info;
        let Some(facts) = exchange.facts else {
            let path = info.path.trim_end_matches('/');
            return Self {
                component: COMPONENT,
                group: "",
                resource: "",
                scope: "",
                subresource: PATHS.iter().find(|it| **it == path).copied().unwrap_or_default(),
                verb: method(&exchange.parts.method),
                version: "",
            };
        };
        let subresource = facts.subresource(&info.subresource).map_or("", |it| it.name);
        Self {
            component: COMPONENT,
            group: facts.group,
            resource: facts.resource,
            scope: match info.verb {
                _ if !info.name.is_empty() || info.verb == "create" => "resource",
                _ if !info.namespace.is_empty() => "namespace",
                _ => "cluster",
            },
            subresource,
            verb: verb(exchange, subresource),
            version: facts.version,
        }
    }
}

/// Upstream's names of verbs.
fn verb(exchange: &Exchange, subresource: &str) -> &'static str {
    if matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy") {
        return "CONNECT";
    }
    match exchange.info.verb {
        "list" => "LIST",
        "watch" => "WATCH",
        "deletecollection" => "DELETECOLLECTION",
        "patch"
            if exchange
                .header(http::header::CONTENT_TYPE)
                .starts_with("application/apply-patch") =>
        {
            "APPLY"
        }
        _ => method(&exchange.parts.method),
    }
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// `/metrics/resources`, where somebody knows them.
pub(crate) fn resources(server: &Server) -> Option<Response<Body>> {
    let Page(page) = server.metrics.resources.get()?;
    Some(respond::bytes(200, metrics::TEXT, page()))
}

/// `/metrics/slis`: what health checks have found.
pub(crate) fn slis(server: &Server) -> Response<Body> {
    respond::bytes(200, metrics::TEXT, server.metrics.health.text())
}

/// `/metrics`: what was counted, and what is so right now.
pub(crate) fn answer(server: &Arc<Server>) -> Response<Body> {
    let metrics = &server.metrics;
    if let Some(fairness) = &server.fairness {
        fairness.observe();
    }
    let limits = &server.limits;
    let counts = [("mutating", &limits.mutating), ("readOnly", &limits.reading)];
    for (request_kind, count) in counts {
        let count = i64::try_from(count.load(Ordering::Acquire)).unwrap_or(i64::MAX);
        metrics.in_flight.get_or_create(&RequestKind { request_kind }).set(count);
    }
    let waiting = server.fairness.as_ref().map_or((0, 0), |it| it.waiting());
    for (request_kind, count) in [("mutating", waiting.0), ("readOnly", waiting.1)] {
        metrics.waiting.get_or_create(&RequestKind { request_kind }).set(count.into());
    }
    // What is not served any more is not counted any more.
    metrics.objects.clear();
    metrics.stored.clear();
    let custom = server.catalog.custom();
    let custom = custom.installed().map(|it| &it.cache);
    for cache in server.hub.caches().iter().chain(custom) {
        let Some(served) = cache.resource().served().first() else { continue };
        let count = i64::try_from(cache.len()).unwrap_or(i64::MAX);
        let ResourceFacts { group, resource, .. } = *served.facts;
        metrics.objects.get_or_create(&Stored { group, resource }).set(count);
        let resource = match group {
            "" => resource.to_owned(),
            group => format!("{resource}.{group}"),
        };
        metrics.stored.get_or_create(&Named { resource }).set(count);
    }
    let mut text = metrics::text(&metrics.registry.lock());
    if let Some(fairness) = &server.fairness {
        fairness.text(&mut text);
    }
    server.access.admission.text(&mut text);
    text.push_str(&state::text(server));
    crate::allocate::text(server, &mut text);
    text.push_str(&metrics::process());
    respond::bytes(200, metrics::TEXT, text)
}
