//! A whole control plane in one test: the real API server on the real memory store, in one thread, on virtual time.
//!
//! There is no fake API server to drift away. Tests wait for a state ([`TestCluster::eventually`]), never for a while.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apiserver::allocate::ServiceRange;
use apiserver::{Access, Config, InProcess, Server, Version};
use auth::UserInfo;
use auth::privileged::PrivilegedGroup;
use client::reflector::Caches;
use client::{Client, Resource, Transport};
use component_base::{Clock, Random, SeededRandom, Shutdown, ShutdownSignal, VirtualClock};
use registry::Registry;
use storage::memory::MemoryStore;

/// For tests that play a part of the server.
pub use apiserver;
/// For tests of what is served where it is asked for.
pub use registry;

/// How long [`TestCluster::eventually`] waits, in virtual seconds.
const PATIENCE_SECONDS: u64 = 3_600;
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);

/// A control plane. Make it inside `#[tokio::test(start_paused = true)]`.
#[derive(Debug)]
pub struct TestCluster {
    /// The API server.
    pub server: Arc<Server>,
    /// A client that may do everything.
    pub client: Client,
    /// Virtual wall time.
    pub clock: Arc<dyn Clock>,
    /// Seeded.
    pub random: Arc<dyn Random>,
    shutdown: Shutdown,
}

impl TestCluster {
    /// A fresh server without controllers; the same seed gives the same uids and names.
    ///
    /// # Panics
    /// Where the server does not start: that fails the test.
    pub async fn new(seed: u64) -> Self {
        Self::serving(seed, Registry::built_in()).await
    }

    /// The same whose server serves these resources.
    ///
    /// # Panics
    /// Where the server does not start: that fails the test.
    pub async fn serving(seed: u64, registry: Registry) -> Self {
        let epoch = "2026-01-01T00:00:00Z".parse().expect("because it is a time");
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock::starting_at(epoch));
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
        let shutdown = Shutdown::new();
        let config = Config {
            store: Arc::new(MemoryStore::new(Arc::clone(&clock))),
            registry,
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            max_mutating_in_flight: 1_000,
            max_in_flight: 1_000,
            priority_and_fairness: true,
            service_range: ServiceRange::new(Ipv4Addr::new(10, 96, 0, 0), 16),
            external_address: "127.0.0.1:6443".into(),
            nodes: None,
            metrics_resolution: None,
            audit: None,
            checks: Vec::new(),
            store_check_timeout: std::time::Duration::from_secs(2),
            shares_store: false,
            explain: None,
            proxy_client: None,
            operating: apiserver::Operating::default(),
            version: Version { major: "1".into(), minor: "37".into(), git: "v1.37.1".into() },
        };
        let access = |_: &Arc<apiserver::CachedObjects>| Access {
            authenticators: Vec::new(),
            authorizer: Arc::new(PrivilegedGroup),
            admission: admission::Chain::default(),
            front_proxy: None,
            anonymous: false.into(),
            metrics: auth::metrics::Metrics::default(),
            tokens: None,
        };
        let server = Server::start(config, shutdown.signal(), access)
            .await
            .expect("because the store is empty");
        let (hub, stop) = (Arc::clone(server.hub()), shutdown.signal());
        tokio::spawn(async move { hub.run(stop).await });
        tokio::spawn(Arc::clone(&server).follow_definitions());
        let client = client_of(&server, "test");
        Self { server, client, clock, random, shutdown }
    }

    /// A client that names itself so; it may do everything.
    #[must_use]
    pub fn client_named(&self, name: &str) -> Client {
        client_of(&self.server, name)
    }

    /// How the requests of such a client travel.
    #[must_use]
    pub fn transport_named(&self, name: &str) -> Arc<dyn Transport> {
        transport_of(&self.server, name)
    }

    /// Caches over a client of their own.
    #[must_use]
    pub fn caches(&self) -> Arc<Caches> {
        Caches::new(self.client_named("caches"), Arc::clone(&self.random), self.shutdown.signal())
    }

    /// The signal that ends everything when the cluster is dropped.
    #[must_use]
    pub fn stop(&self) -> ShutdownSignal {
        self.shutdown.signal()
    }

    /// Creates objects, each in the namespace it names.
    ///
    /// # Panics
    /// Where the server refuses one.
    pub async fn create(&self, group: &str, plural: &str, object: Value) -> Value {
        let resource = Resource::built_in(group, plural);
        let namespace = object.str_at(&["metadata", "namespace"]).to_owned();
        match self.client.create(&resource, &namespace, &object).await {
            Ok(created) => created,
            Err(error) => panic!("could not create {object:?}: {error}"),
        }
    }

    /// All objects of a resource in a namespace.
    ///
    /// # Panics
    /// Where the server refuses.
    pub async fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        let resource = Resource::built_in(group, plural);
        let list =
            self.client.list(&resource, namespace, &client::call::ListParams::default()).await;
        list.unwrap_or_else(|error| panic!("could not list {plural}: {error}")).items
    }

    /// An object, if it is there.
    pub async fn get(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Value> {
        self.client.get(&Resource::built_in(group, plural), namespace, name).await.ok()
    }

    /// Waits, in virtual time, until `check` finds what it looks for.
    ///
    /// # Panics
    /// Where it does not within an hour of virtual time.
    pub async fn eventually<T>(
        &self,
        what: &str,
        mut check: impl AsyncFnMut(&Self) -> Option<T>,
    ) -> T {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(found) = check(self).await {
                return found;
            }
            assert!(
                begun.elapsed().as_secs() < PATIENCE_SECONDS,
                "not in an hour of virtual time: {what}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

fn client_of(server: &Arc<Server>, name: &str) -> Client {
    Client::new(transport_of(server, name), name)
}

fn transport_of(server: &Arc<Server>, name: &str) -> Arc<dyn Transport> {
    let user = UserInfo::new(name, &[auth::user::MASTERS]);
    Arc::new(InProcess::new(Arc::clone(server), user))
}
