//! The API server: filters, one handler a verb, the watch cache, discovery.
//!
//! A request goes `serve -> FILTERS -> handlers::VERB -> registry (data) + admission -> storage`. The same way for a
//! socket and for a client in the process; only the socket is left out.

mod admin_access;
mod aggregator;
pub mod allocate;
mod attended;
mod audited;
pub mod body;
pub mod bootstrap;
pub mod cache;
mod catalog;
mod cbor;
pub mod client_certificates;
mod coalesce;
pub mod component_statuses;
mod compress;
pub mod computed;
mod connections;
mod conversion;
mod corrupt;
mod cors;
mod dates;
mod deadline;
mod decode;
mod definitions;
mod discovery;
mod ending;
mod error;
mod exchange;
pub mod explain;
mod fairness;
mod filters;
mod forward;
mod handlers;
mod health;
mod http2;
pub mod hub;
mod idle;
mod impersonation;
mod in_process;
mod leaves;
pub mod legacy_tokens;
mod lingering;
pub mod listen;
pub mod listing;
mod logs;
pub mod masterleases;
pub mod memory;
pub mod metrics;
pub mod negotiate;
pub mod node_metrics;
mod noted;
mod objects;
mod openapi;
mod operating;
mod options;
mod outgoing;
mod over_websocket;
mod persist;
mod posted;
mod pretty;
mod privileged;
mod profiles;
mod proto;
pub mod query;
pub mod request;
mod respond;
mod shown;
mod storage_versions;
mod stored;
mod target;
pub mod tended;
pub mod traces;
mod unbuilt;
mod warnings;
pub mod zpages;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use admission::Chain;
use apimachinery::Status;
use auth::{Authenticator, Authorizer, UserInfo};
use bytes::Bytes;
use component_base::{Clock, Random, ShutdownSignal};
use http::{Request, Response};
use registry::Registry;
use storage::{StorageError, Store};

pub use aggregator::ProxyClient;
pub use body::Body;
pub use cors::Cors;
pub use exchange::RequestBody;
pub use handlers::connect::NodeDialer;
pub use health::HealthCheck;
pub use hub::Hub;
pub use in_process::InProcess;
pub use memory::MemoryBudget;
pub use objects::CachedObjects;
pub use operating::{Component, Operating, ShutdownPlan};
pub use stored::{StoredForms, WriteAs};

/// How many bytes a request's body may have (upstream: `MaxRequestBodyBytes`).
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// What a server is made of.
#[derive(Debug)]
pub struct Config {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// The resources it serves.
    pub registry: Registry,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Uids and generated names.
    pub random: Arc<dyn Random>,
    /// How many requests that change something may be in flight.
    pub max_mutating_in_flight: usize,
    /// How many others may be, watches aside.
    pub max_in_flight: usize,
    /// Whether both together are shared out by priority and fairness, instead of counted alone.
    pub priority_and_fairness: bool,
    /// Where services get their addresses.
    pub service_range: allocate::ServiceRange,
    /// How nodes are reached; streams to them answer an error without it.
    pub nodes: Option<NodeDialer>,
    /// How old what is told of the use of nodes and pods may be; where there is none, or no way to nodes,
    /// `metrics.k8s.io` is not served.
    pub metrics_resolution: Option<Duration>,
    /// How the server proves to others behind it who it is.
    pub proxy_client: Option<ProxyClient>,
    /// The version that `/version` tells.
    pub version: Version,
    /// `host:port` under which clients reach this server.
    pub external_address: String,
    /// Records requests.
    pub audit: Option<Arc<audit::Audit>>,
    /// What the server's health depends on besides.
    pub checks: Vec<HealthCheck>,
    /// How long the store may take to answer before the server is not healthy.
    pub store_check_timeout: Duration,
    /// Whether other servers write to the store too.
    pub shares_store: bool,
    /// How long things may take, and how the server ends.
    pub operating: Operating,
    /// Says why objects are as they are; without it `.../NAME/why` is not there.
    pub explain: Option<Arc<dyn explain::Explain>>,
}

/// The version a server says it is.
#[derive(Debug, Clone)]
pub struct Version {
    /// `1`
    pub major: String,
    /// `37`
    pub minor: String,
    /// `v1.37.1+kubelith0.1.0`
    pub git: String,
}

/// Who asks and what they may, which needs the server's caches and so comes after them.
#[derive(Debug, Clone)]
pub struct Access {
    /// Asked in turn; the first that knows the credentials decides.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Says who may.
    pub authorizer: Arc<dyn Authorizer>,
    /// What a write must pass.
    pub admission: Chain,
    /// Whose word is taken for who sends a request; without it nobody's.
    pub front_proxy: Option<Arc<auth::front_proxy::FrontProxy>>,
    /// Whether somebody without credentials is `system:anonymous` instead of refused, and for what.
    pub anonymous: auth::anonymous::Anonymous,
    /// Where is counted who asks and who may.
    pub metrics: auth::metrics::Metrics,
    /// Makes the tokens of service accounts; where there is none, token requests are refused.
    pub tokens: Option<Arc<auth::service_account::TokenIssuer>>,
}

/// A server.
#[derive(Debug)]
pub struct Server {
    aggregator: aggregator::Aggregator,
    catalog: Arc<catalog::Catalog>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    access: Access,
    limits: Limits,
    /// Nothing, where requests are only counted.
    fairness: Option<Arc<fairness::Fairness>>,
    version: Version,
    /// Nothing new is taken any more.
    stop: ShutdownSignal,
    ending: Arc<ending::Ending>,
    connections: Arc<connections::Connections>,
    operating: Operating,
    metrics: metrics::Metrics,
    allocator: allocate::Allocator,
    nodes: Option<NodeDialer>,
    node_metrics: Option<node_metrics::NodeMetrics>,
    computed: arc_swap::ArcSwapOption<Arc<dyn computed::Computed>>,
    control_parts: std::sync::OnceLock<Vec<component_statuses::ControlPart>>,
    reviews: handlers::reviews::Reviews,
    /// Finds the services that convert custom resources.
    /// What webhooks that convert are called with.
    conversions: Arc<conversion::Calls>,
    external: String,
    audit: Option<Arc<audit::Audit>>,
    checks: Vec<HealthCheck>,
    store_check_timeout: Duration,
    shares_store: bool,
    /// When it was started.
    began: tokio::time::Instant,
    explanations: Option<explain::Explanations>,
    cbor: bool,
    dates: dates::Dates,
}

#[derive(Debug)]
struct Limits {
    mutating: AtomicUsize,
    max_mutating: usize,
    reading: AtomicUsize,
    max_reading: usize,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The client's certificates, where they are by the authority of clients.
    pub certificates: Arc<auth::Shown>,
    /// The same where they are by the authority of front proxies.
    pub proxy_certificates: Arc<auth::Shown>,
    /// Whether it presented one that is not by the authority of clients.
    pub has_bad_certificate: bool,
    /// Where it is, for clients at a socket.
    pub address: Option<std::net::IpAddr>,
    /// Set for clients in the process, which need no credentials: who they are.
    pub user: Option<Arc<UserInfo>>,
}

impl Limits {
    fn new(max_mutating: usize, max_reading: usize) -> Self {
        let (mutating, reading) = Default::default();
        Self { mutating, max_mutating, reading, max_reading }
    }
}

impl Server {
    /// A server whose caches are filled. `access` is made once the caches are there to read from. Once `stop` is
    /// requested it ends stage by stage, as [`Operating::shutdown`] says.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(
        config: Config,
        stop: ShutdownSignal,
        access: impl FnOnce(&Arc<CachedObjects>) -> Access,
    ) -> Result<Arc<Self>, StorageError> {
        let hub = Arc::new(Hub::load(Arc::clone(&config.store), &config.registry).await?);
        let measured = config.nodes.clone().zip(config.metrics_resolution);
        let node_metrics = measured.map(|(it, every)| node_metrics::NodeMetrics::new(it, every));
        let computed = node_metrics.as_ref().map(|it| it.definitions().to_vec());
        let catalog = Arc::new(catalog::Catalog::new(
            config.registry,
            Arc::clone(&hub),
            &config.version.git,
            computed.unwrap_or_default(),
            config.operating.features.enabled("StorageVersionHash"),
        ));
        let objects = Arc::new(CachedObjects::new(Arc::clone(&hub), Arc::clone(&catalog)));
        let services = Arc::new(objects::Services::new(&objects));
        let metrics = metrics::Metrics::new();
        let conversions = conversion::Calls::new(&services, &config.random, &metrics);
        definitions::install_all(&catalog, &hub, &conversions, &metrics.expressions).await?;
        let access = access(&objects);
        let explanations =
            config.explain.map(|it| explain::Explanations::new(it, Arc::clone(&objects)));
        Self::register(&metrics, &access, config.audit.as_ref(), &services);
        let aggregator = aggregator::Aggregator::new(config.proxy_client, &objects);
        metrics.register(|it| aggregator.register(it));
        let seats = config.max_in_flight.saturating_add(config.max_mutating_in_flight);
        let fairness = config.priority_and_fairness.then(|| fairness::Fairness::new(seats));
        if let Some(fairness) = &fairness {
            metrics.register(|it| fairness.register(it));
            tended::digest(fairness, objects.as_ref());
        }
        let ending = Arc::new(ending::Ending::new(stop.clone()));
        let node_ports = config.operating.node_ports.clone();
        let allocator = allocate::Allocator::new(config.service_range, node_ports);
        metrics.register(|it| allocator.register(it));
        let server = Arc::new(Self {
            aggregator,
            fairness,
            metrics,
            conversions,
            catalog,
            hub,
            clock: config.clock,
            random: config.random,
            access,
            limits: Limits::new(config.max_mutating_in_flight, config.max_in_flight),
            allocator,
            reviews: handlers::reviews::Reviews::new(),
            external: config.external_address,
            audit: config.audit,
            checks: config.checks,
            store_check_timeout: config.store_check_timeout,
            shares_store: config.shares_store,
            explanations,
            version: config.version,
            nodes: config.nodes,
            node_metrics,
            computed: arc_swap::ArcSwapOption::empty(),
            control_parts: std::sync::OnceLock::new(),
            stop: ending.draining(),
            ending,
            cbor: config.operating.features.enabled("CBORServingAndStorage"),
            dates: dates::Dates::default(),
            connections: Arc::new(connections::Connections::new()),
            operating: config.operating,
            began: tokio::time::Instant::now(),
        });
        let every = server.operating.size_poll_interval;
        tokio::spawn(metrics::follow_size(Arc::downgrade(&server), every, stop.clone()));
        tokio::spawn(ending::run(Arc::downgrade(&server), stop));
        Ok(server)
    }

    fn register(
        metrics: &metrics::Metrics,
        access: &Access,
        audit: Option<&Arc<audit::Audit>>,
        services: &objects::Services,
    ) {
        services.count_in(access.metrics.calls());
        metrics.register(|it| access.admission.metrics().register(it));
        metrics.register(|it| access.metrics.register(it));
        if let Some(audit) = audit {
            metrics.register(|it| audit.register(it));
        }
    }

    /// How many requests hold a place among those in flight.
    fn in_flight(&self) -> usize {
        let count = |it: &AtomicUsize| it.load(Ordering::Acquire);
        count(&self.limits.mutating) + count(&self.limits.reading)
    }

    /// The resources that are served besides those of a server that is told nothing of its APIs.
    #[must_use]
    pub fn optional_resources(&self) -> Vec<client::Resource> {
        let built_in = self.catalog.built_in();
        let usual = |facts: &api::ResourceFacts| {
            let mut all = api::resources().iter();
            all.any(|it| (it.group, it.resource) == (facts.group, facts.resource))
        };
        let all = built_in.resources().iter();
        let first = all.filter_map(|it| built_in.versions(it.as_ref()).next());
        first.map(|it| it.facts).filter(|it| !usual(it)).map(Into::into).collect()
    }

    /// The caches, whose [`Hub::run`] the caller spawns.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Follows the definitions of custom resources until the server stops: names, conditions, the end of one. The caller
    /// spawns it, as [`Hub::run`].
    pub async fn follow_definitions(self: Arc<Self>) {
        definitions::follow(self).await;
    }

    /// Follows APIServices until the server stops: where other servers are, whether they answer, and what they serve. The
    /// caller spawns it, as [`Hub::run`].
    pub async fn follow_api_services(self: Arc<Self>) {
        aggregator::follow(self).await;
    }

    /// What the server counts; other components may register theirs beside it.
    #[must_use]
    pub fn metrics(&self) -> &metrics::Metrics {
        &self.metrics
    }

    /// Answers a request.
    pub fn serve(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        peer: Peer,
    ) -> impl Future<Output = Response<Body>> + Send {
        let began = tokio::time::Instant::now();
        let (parts, body) = request.into_parts();
        // In its place once and for all, and the body with it: what carries a request is handed on from task to task.
        let mut exchange = Box::new(exchange::Exchange::new(parts, peer));
        exchange.cbor = self.cbor;
        self.serve_exchange(exchange, body, began)
    }

    async fn serve_exchange(
        self: &Arc<Self>,
        mut exchange: Box<exchange::Exchange>,
        body: RequestBody,
        began: tokio::time::Instant,
    ) -> Response<Body> {
        let exchange = &mut *exchange;
        let tracer = self.operating.tracer.as_ref();
        let trace = tracer.and_then(|it| it.begin(&exchange.parts.headers));
        let work = async {
            if self.audit.is_some() {
                audited::guarded(self, exchange, body).await
            } else {
                self.answer(exchange, body).await
            }
        };
        let answer = traces::within(trace.as_ref(), std::pin::pin!(work)).await;
        let (mut response, failure) = match answer {
            Ok(response) => (response, None),
            Err(status) if exchange.turned_away => (respond::turned_away(&status), Some(status)),
            Err(status) => (respond::failure(exchange, &status), Some(status)),
        };
        respond::add_headers(exchange, response.headers_mut());
        response = self.metrics.answered(exchange, response, began.elapsed());
        self.set_terms(exchange, began, &mut response);
        if let Some(trace) = &trace {
            trace.end(exchange, response.status().as_u16());
        }
        if exchange.audit.is_some() {
            response = Box::pin(audited::answered(exchange, failure, response)).await;
        }
        compress::packed(exchange, response)
    }

    /// Leaves word with an answer how long it may take to be sent, for the socket that it goes to.
    fn set_terms(
        &self,
        exchange: &exchange::Exchange,
        began: tokio::time::Instant,
        response: &mut Response<Body>,
    ) {
        if exchange.peer.user.is_some() || outgoing::is_small(response.body()) {
            return;
        }
        let lasts = filters::is_stream(exchange);
        let is_watch = exchange.info.verb == "watch";
        let terms = outgoing::Terms {
            until: deadline::limit(self, exchange).map(|limit| began + limit),
            patience: if lasts { attended::LASTING } else { self.operating.request_timeout },
            is_exempt: exchange.is_exempt,
            lasts,
            watched: exchange.facts.filter(|_| is_watch),
            about: Some(metrics::About::of(exchange)),
        };
        response.extensions_mut().insert(terms);
    }

    /// The answer, within the time that the request has.
    async fn answer(
        self: &Arc<Self>,
        exchange: &mut exchange::Exchange,
        body: RequestBody,
    ) -> Result<Response<Body>, Status> {
        let limit = deadline::limit(self, exchange);
        let in_time = {
            // In its place once and for all: it is large, and would be there twice otherwise.
            let work = std::pin::pin!(self.carry_out(exchange, body));
            let Some(limit) = limit else { return work.await };
            let end = tokio::time::Instant::now() + limit;
            let answer = tokio::time::timeout_at(end, work).await;
            // Nothing has been sent of what is only just ready: who waits is told, not cut off.
            answer.ok().filter(|_| tokio::time::Instant::now() < end)
        };
        in_time.unwrap_or_else(|| {
            exchange.ended = Some(metrics::Ended::Here);
            Err(deadline::exceeded())
        })
    }

    /// Filters, then the handler.
    async fn carry_out(
        self: &Arc<Self>,
        exchange: &mut exchange::Exchange,
        body: RequestBody,
    ) -> Result<Response<Body>, Status> {
        match filters::run(self, exchange).await {
            Ok(admitted) => {
                let body = body.charged(exchange.charge.as_ref())?;
                let answer = handlers::handle(self, exchange, body).await;
                let answer = answer.and_then(|answer| over_websocket::carry(exchange, answer));
                // Seats and memory of what is still being written are given back at its end.
                let seat = std::mem::take(&mut exchange.seat);
                let charge = exchange.charge.take().filter(|_| !filters::is_stream(exchange));
                drop(admitted);
                answer.map(|answer| fairness::hold(seat, memory::keep(charge, answer)))
            }
            Err(status) => {
                let info = &exchange.info;
                exchange.facts = self.catalog.facts(&info.group, &info.version, &info.resource);
                Err(status)
            }
        }
    }
}

/// The bytes of a status as JSON, for where there is no request to shape it by.
#[must_use]
pub fn status_bytes(status: &Status) -> Bytes {
    let mut bytes = status.to_json();
    bytes.push(b'\n');
    bytes.into()
}
