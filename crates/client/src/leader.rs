//! Leader election with a Lease: of several who could do the same work one does it, as client-go's `leaderelection` has it.
//!
//! Who holds the lease renews it; others watch it grow old by their own clocks, so that clocks need not agree. Knows
//! nothing of the work.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, time, value};
use component_base::{Clock, Random, ShutdownSignal};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::call::Client;
use crate::error::ClientError;
use crate::events::{EventRecorder, EventType, ObjectReference};
use crate::resource::Resource;

/// How much longer than the period a pause may be, by chance, so that candidates do not try in step.
const JITTER: f64 = 1.2;

/// Which lease, who asks for it, and how long things may take.
#[derive(Debug, Clone)]
pub struct Election {
    /// The lease's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who asks: unique among those who do.
    pub identity: String,
    /// How long others leave a lease alone that is not renewed.
    pub lease_duration: Duration,
    /// How long its holder tries to renew it.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
    /// Whether the lease is given up once the holder was told to stop and its work has ended, so that others need not wait for it to grow old.
    pub release: bool,
    /// Whether the API server says who holds the lease: then it is renewed, and never taken
    /// (upstream's `CoordinatedLeaderElection`).
    pub coordinated: bool,
}

/// The lease could not be renewed in time: somebody else may hold it by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("leaderelection lost")]
pub struct Lost;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLease {
    name: String,
}

/// What is counted of elections, in upstream's names. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    holds: Family<OfLease, Gauge>,
    slow: Family<OfLease, Counter>,
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, \
            1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.";
        registry.register("leader_election_master_status", help, self.holds.clone());
        let help = "[ALPHA] Total number of slow path exercised in renewing leader leases. 'name' is the string used \
            to identify the lease. Please make sure to group by name.";
        registry.register("leader_election_slowpath", help, self.slow.clone());
    }

    fn holds(&self, lease: &str, holds: bool) {
        self.holds.get_or_create(&OfLease { name: lease.to_owned() }).set(i64::from(holds));
    }

    fn slow(&self, lease: &str) {
        self.slow.get_or_create(&OfLease { name: lease.to_owned() }).inc();
    }
}

/// What was seen of the lease last.
#[derive(Debug)]
struct Seen {
    lease: Value,
    at: Instant,
}

impl Seen {
    fn holder(&self) -> &str {
        self.lease.str_at(&["spec", "holderIdentity"])
    }
}

/// A candidate.
#[derive(Debug)]
pub struct Candidate {
    client: Client,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    events: Arc<EventRecorder>,
    election: Election,
    metrics: Metrics,
    seen: Option<Seen>,
    told: String,
}

/// Who holds the lease.
#[derive(Debug)]
pub struct Leader(Candidate);

impl Candidate {
    /// A candidate that has not asked yet. `events` tells who leads.
    #[must_use]
    pub fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        events: Arc<EventRecorder>,
        election: Election,
    ) -> Self {
        let (metrics, seen, told) = Default::default();
        Self { client, clock, random, events, election, metrics, seen, told }
    }

    /// The same, counted there.
    #[must_use]
    pub fn counted(self, metrics: Metrics) -> Self {
        metrics.holds(&self.election.name, false);
        Self { metrics, ..self }
    }

    /// Asks until it holds the lease; `None` when it is told to stop before.
    pub async fn acquire(mut self, stop: &ShutdownSignal) -> Option<Leader> {
        let name = format!("{}/{}", self.election.namespace, self.election.name);
        tracing::info!(
            lease = name,
            identity = self.election.identity,
            "attempting to acquire leader lease"
        );
        loop {
            match self.ask().await {
                Ok(true) => {
                    tracing::info!(
                        lease = name,
                        identity = self.election.identity,
                        "successfully acquired lease"
                    );
                    self.tell("became leader");
                    self.metrics.holds(&self.election.name, true);
                    return Some(Leader(self));
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(lease = name, %error, "could not acquire leader lease")
                }
            }
            let pause = self.election.retry_period.mul_f64(1.0 + JITTER * self.random.fraction());
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = stop.requested() => return None,
            }
        }
    }

    fn holds(&self) -> bool {
        self.seen.as_ref().is_some_and(|it| it.holder() == self.election.identity)
    }

    fn lease() -> Resource {
        Resource::built_in("coordination.k8s.io", "leases")
    }

    /// Takes the lease or renews it, where that may be; false where another holds it.
    async fn ask(&mut self) -> Result<bool, ClientError> {
        if let Some(held) = self.held().cloned() {
            match self.take(held).await {
                Ok(()) => return Ok(true),
                Err(error) => {
                    tracing::info!(%error, "could not renew the lease as it was, asking for it");
                    self.metrics.slow(&self.election.name);
                }
            }
        }
        self.ask_anew().await
    }

    /// The lease that this one holds, unless it may have grown old or is another's to give.
    fn held(&self) -> Option<&Value> {
        let seen = self.seen.as_ref().filter(|_| self.holds() && !self.election.coordinated)?;
        let spec = seen.lease.at(&["spec"])?;
        (seen.at + self.lasts(spec) > self.clock.monotonic()).then_some(&seen.lease)
    }

    /// Writes a lease as this one holds it from now on.
    async fn take(&mut self, mut lease: Value) -> Result<(), ClientError> {
        let spec = lease.at(&["spec"]).cloned().unwrap_or(Value::object());
        lease.set_at(&["spec"], self.spec(Some(&spec)));
        let written = self.client.update(&Self::lease(), "", &lease).await?;
        self.see(written);
        Ok(())
    }

    /// The same after a look at it.
    async fn ask_anew(&mut self) -> Result<bool, ClientError> {
        let lease = Self::lease();
        let Election { namespace, name, coordinated, .. } = &self.election;
        let old = match self.client.get(&lease, namespace, name).await {
            Ok(old) => old,
            // Whoever elects makes it.
            Err(error) if error.is_not_found() && *coordinated => return Ok(false),
            Err(error) if error.is_not_found() => return self.create(&lease).await,
            Err(error) => return Err(error),
        };
        let now = self.clock.monotonic();
        let spec = old.at(&["spec"]).cloned().unwrap_or(Value::object());
        if self.seen.as_ref().is_none_or(|it| it.lease.at(&["spec"]) != Some(&spec)) {
            self.seen = Some(Seen { lease: old.clone(), at: now });
        }
        let holder = spec.str_at(&["holderIdentity"]).to_owned();
        let seen_at = self.seen.as_ref().map_or(now, |it| it.at);
        let fresh = seen_at + self.lasts(&spec) > now;
        if holder != self.told && !holder.is_empty() {
            tracing::info!(identity = holder, "new leader elected");
            self.told.clone_from(&holder);
        }
        let may = match self.election.coordinated {
            // One that is better than this one is to have it: it is left to grow old.
            true => fresh && self.holds() && spec.str_at(&["preferredHolder"]).is_empty(),
            false => holder.is_empty() || !fresh || self.holds(),
        };
        if !may {
            return Ok(false);
        }
        self.take(old).await.map(|()| true)
    }

    /// How long a lease lasts: as its holder said, so that one that was given up lasts no longer.
    fn lasts(&self, spec: &Value) -> Duration {
        let said = spec.i64_at(&["leaseDurationSeconds"]).and_then(|it| u64::try_from(it).ok());
        said.map_or(self.election.lease_duration, Duration::from_secs)
    }

    async fn create(&mut self, lease: &Resource) -> Result<bool, ClientError> {
        let Election { namespace, name, .. } = &self.election;
        let mut object = value!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": (name.as_str()), "namespace": (namespace.as_str())}
        });
        object.set_at(&["spec"], self.spec(None));
        let written = self.client.create(lease, namespace, &object).await?;
        self.see(written);
        Ok(true)
    }

    /// The lease as this one holds it from now on.
    fn spec(&self, old: Option<&Value>) -> Value {
        let now = time::format_micro_time(self.clock.now());
        let seconds = i64::try_from(self.election.lease_duration.as_secs()).unwrap_or(i64::MAX);
        let mut spec = value!({
            "holderIdentity": (self.election.identity.as_str()), "leaseDurationSeconds": seconds,
            "acquireTime": (now.as_str()), "renewTime": (now.as_str()), "leaseTransitions": 0
        });
        if let Some(old) = old {
            let transitions = old.i64_at(&["leaseTransitions"]).unwrap_or_default();
            if let Some(strategy) = old.at(&["strategy"]) {
                spec.set_at(&["strategy"], strategy.clone());
            }
            if old.str_at(&["holderIdentity"]) == self.election.identity {
                if let Some(acquired) = old.at(&["acquireTime"]) {
                    spec.set_at(&["acquireTime"], acquired.clone());
                }
                spec.set_at(&["leaseTransitions"], transitions);
            } else {
                spec.set_at(&["leaseTransitions"], transitions.saturating_add(1));
            }
        }
        spec
    }

    fn see(&mut self, lease: Value) {
        self.seen = Some(Seen { lease, at: self.clock.monotonic() });
        self.told.clone_from(&self.election.identity);
    }

    fn tell(&self, what: &str) {
        let about = ObjectReference {
            api_version: "coordination.k8s.io/v1".into(),
            kind: "Lease".into(),
            namespace: self.election.namespace.clone(),
            name: self.election.name.clone(),
            ..ObjectReference::default()
        };
        let message = format!("{} {what}", self.election.identity);
        self.events.record(about, EventType::Normal, "LeaderElection", message);
    }
}

impl Leader {
    /// Keeps the lease until `stop`. Whoever gets it back has the work end, and then [`Self::release`]s it.
    ///
    /// # Errors
    /// When it could not be renewed in time: the work has to end at once.
    pub async fn keep(mut self, stop: &ShutdownSignal) -> Result<Self, Lost> {
        let mut renewed = self.0.clock.monotonic();
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep(self.0.election.retry_period) => {}
                () = stop.requested() => {
                    self.0.metrics.holds(&self.0.election.name, false);
                    return Ok(self);
                }
            }
            let deadline = renewed + self.0.election.renew_deadline;
            match tokio::time::timeout_at(deadline, self.0.ask()).await {
                Ok(Ok(true)) => renewed = self.0.clock.monotonic(),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "could not renew the leader lease"),
                Err(_) => tracing::warn!("the leader lease was not renewed in time"),
            }
            if self.0.clock.monotonic() >= deadline || !self.0.holds() {
                self.0.tell("stopped leading");
                self.0.metrics.holds(&self.0.election.name, false);
                return Err(Lost);
            }
        }
    }

    /// Gives the lease up, where the election says so.
    pub async fn release(self) {
        if !self.0.election.release || !self.0.holds() {
            return;
        }
        let lease = Candidate::lease();
        let Election { namespace, name, .. } = &self.0.election;
        let given_up = async {
            let mut lease_now = self.0.client.get(&lease, namespace, name).await?;
            if lease_now.str_at(&["spec", "holderIdentity"]) != self.0.election.identity {
                return Ok(());
            }
            let now = time::format_micro_time(self.0.clock.now());
            lease_now.set_at(&["spec", "holderIdentity"], "");
            lease_now.set_at(&["spec", "leaseDurationSeconds"], 1);
            lease_now.set_at(&["spec", "acquireTime"], now.as_str());
            lease_now.set_at(&["spec", "renewTime"], now.as_str());
            self.0.client.update(&lease, "", &lease_now).await.map(drop)
        };
        if let Err(error) = given_up.await {
            let error: ClientError = error;
            tracing::warn!(%error, "could not give up the leader lease");
        }
        self.0.tell("stopped leading");
    }
}
