//! The API server of a run: the real one, which may crash and start again over the same store.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use admission::{Chain, Parts};
use apimachinery::Value;
use apiserver::allocate::ServiceRange;
use apiserver::{Access, CachedObjects, Config, Server, Version, bootstrap, tended};
use auth::Authorizer;
use auth::node::NodeAuthorizer;
use auth::privileged::PrivilegedGroup;
use auth::rbac::Rbac;
use auth::union::Union;
use component_base::{Clock, Random, Shutdown};
use parking_lot::Mutex;
use registry::Registry;
use storage::Store;

use crate::observer::Observer;

/// The range of service addresses.
pub(crate) const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 20);

/// One life of a server.
#[derive(Debug)]
pub(crate) struct Incarnation {
    pub(crate) server: Arc<Server>,
    life: Shutdown,
}

impl Incarnation {
    /// Resolves when it crashes.
    pub(crate) async fn crashed(&self) {
        self.life.signal().requested().await;
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.life.signal().is_requested()
    }
}

/// What a server is made of, life after life.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) observer: Arc<Observer>,
}

/// Where the server is found, if there is one now.
#[derive(Debug)]
pub(crate) struct Slot {
    parent: Parent,
    current: Mutex<Option<Arc<Incarnation>>>,
}

impl Slot {
    /// No server yet.
    pub(crate) fn new(parent: Parent) -> Arc<Self> {
        Arc::new(Self { parent, current: Mutex::new(None) })
    }

    /// Who sees what is so.
    pub(crate) fn observer(&self) -> &Observer {
        &self.parent.observer
    }

    /// The time of day, as servers have it.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.parent.clock.now()
    }

    /// The server, where one answers.
    pub(crate) fn current(&self) -> Option<Arc<Incarnation>> {
        self.current.lock().clone()
    }

    /// Ends the server in the middle of what it does.
    pub(crate) fn crash(&self) {
        if let Some(incarnation) = self.current.lock().take() {
            incarnation.life.request();
        }
    }

    /// Starts a server over the store, which answers from the end of this on.
    ///
    /// # Errors
    /// When the store cannot be read, or what every cluster has cannot be made.
    pub(crate) async fn start(&self) -> Result<(), String> {
        let life = Shutdown::new();
        let parent = &self.parent;
        let access = |objects: &Arc<CachedObjects>| access(objects, parent);
        let server = Server::start(config(parent), life.signal(), access).await;
        let server = server.map_err(|error| format!("could not load the store: {error}"))?;
        let (hub, stop) = (Arc::clone(server.hub()), life.signal());
        tokio::spawn(async move { hub.run(stop).await });
        tokio::spawn(Arc::clone(&server).follow_definitions());
        tokio::spawn(Arc::clone(&server).follow_api_services());
        let settings = settings();
        let made = bootstrap::ensure(&server, &settings).await;
        made.map_err(|error| format!("could not make what every cluster has: {error}"))?;
        tokio::spawn(tended::run(Arc::clone(&server), life.signal()));
        tokio::spawn(apiserver::allocate::repair::run(Arc::clone(&server), life.signal()));
        let lasting = bootstrap::lasting(&server, &settings);
        tokio::spawn(bootstrap::keep(Arc::clone(&server), lasting, life.signal()));
        *self.current.lock() = Some(Arc::new(Incarnation { server, life }));
        Ok(())
    }
}

fn config(parent: &Parent) -> Config {
    Config {
        store: Arc::clone(&parent.store),
        registry: Registry::built_in(),
        clock: Arc::clone(&parent.clock),
        random: Arc::clone(&parent.random),
        max_mutating_in_flight: 200,
        max_in_flight: 400,
        priority_and_fairness: true,
        service_range: ServiceRange::new(SERVICES.0, SERVICES.1),
        external_address: "192.0.2.1:6443".into(),
        nodes: None,
        metrics_resolution: None,
        audit: None,
        checks: Vec::new(),
        store_check_timeout: Duration::from_secs(2),
        shares_store: false,
        explain: None,
        proxy_client: None,
        operating: apiserver::Operating::default(),
        version: Version { major: "1".into(), minor: "37".into(), git: "v1.37.1".into() },
    }
}

fn settings() -> bootstrap::Settings {
    bootstrap::Settings {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        port: 6443,
        service_ranges: ServiceRange::new(SERVICES.0, SERVICES.1).texts(),
        service_address: ServiceRange::new(SERVICES.0, SERVICES.1).address(1),
        client_authority: "-----BEGIN CERTIFICATE-----".into(),
        front_proxy: None,
        shares_store: false,
    }
}

/// Authorizers and admission as the server of a real cluster has them. Nobody comes with credentials: all are in the
/// process.
fn access(objects: &Arc<CachedObjects>, parent: &Parent) -> Access {
    let read = || Arc::clone(objects) as Arc<dyn auth::Objects>;
    let rbac = Arc::new(Rbac::new(objects.as_ref()));
    let all: Vec<Value> = api::bootstrap_objects().collect();
    let node_rules = auth::node::rules_of(all.iter());
    let metrics = auth::metrics::Metrics::default();
    let authorizer: Arc<dyn Authorizer> = Arc::new(Union(vec![
        Arc::new(PrivilegedGroup),
        Arc::new(NodeAuthorizer::new(read(), node_rules, metrics.clone())),
        Arc::clone(&rbac) as Arc<dyn Authorizer>,
    ]));
    let parts = Parts {
        objects: Arc::clone(objects) as Arc<dyn admission::Objects>,
        rbac,
        authorizer: Arc::clone(&authorizer),
        clock: Arc::clone(&parent.clock),
        random: Arc::clone(&parent.random),
        calls: metrics.calls(),
    };
    Access {
        authenticators: Vec::new(),
        authorizer,
        admission: Chain::standard(&parts),
        front_proxy: None,
        anonymous: false.into(),
        metrics,
        tokens: None,
    }
}
