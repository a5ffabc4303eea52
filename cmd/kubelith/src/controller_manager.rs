//! The controllers: in the server's process, and alone as `kube-controller-manager`.

mod accounts;
mod alone;
mod flags;
mod migration;
mod options;
mod signing;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use client::Client;
use client::leader::Election;
use client::reflector::Caches;
use component_base::feature_gates::FeatureGates;
use component_base::{Clock, Random, Shutdown, ShutdownSignal};
use controllers::Setup;
use controllers::certificates::Signers;
use controllers::node_ipam::NodeRanges;
use controllers::serviceaccount_token::TokenSigner;

pub(crate) use alone::{Options, run};
pub(crate) use flags::TABLE;
pub(crate) use options::ManagerOptions;

use crate::elections;
use crate::gates;
use crate::leading::{self, ElectionOptions, Member, Times};
use migration::{Migration, Under};

/// What they are called, as a user and where they tell of themselves.
const NAME: &str = "kube-controller-manager";
/// The namespace of the lease (upstream's).
const NAMESPACE: &str = "kube-system";
/// Upstream's times of the election.
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Flags of the election of controllers in the server's process.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "controller-manager-election")]
#[command(next_help_heading = "kube-controller-manager")]
pub(crate) struct EmbeddedElection {
    /// Whether of several servers the controllers of one work at a time (also: --kube-controller-manager-arg leader-elect=BOOL)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    kube_controller_manager_leader_elect: Option<bool>,
    /// How long others leave alone a lease that is not renewed
    #[arg(long, value_name = "DURATION", value_parser = crate::control_plane::period)]
    kube_controller_manager_leader_elect_lease_duration: Option<Duration>,
    /// How long the leader tries to renew its lease
    #[arg(long, value_name = "DURATION", value_parser = crate::control_plane::period)]
    kube_controller_manager_leader_elect_renew_deadline: Option<Duration>,
    /// Between two tries
    #[arg(long, value_name = "DURATION", value_parser = crate::control_plane::period)]
    kube_controller_manager_leader_elect_retry_period: Option<Duration>,
    /// The lease's name
    #[arg(long, value_name = "NAME")]
    kube_controller_manager_leader_elect_resource_name: Option<String>,
    /// The lease's namespace
    #[arg(long, value_name = "NAMESPACE")]
    kube_controller_manager_leader_elect_resource_namespace: Option<String>,
}

impl EmbeddedElection {
    /// The election, where one is asked for, or other servers share the store: one server needs none.
    pub(crate) fn election(
        &self,
        shares_store: bool,
        random: &dyn Random,
    ) -> Result<Option<Election>> {
        let flags = ElectionOptions {
            leader_elect: Some(self.kube_controller_manager_leader_elect.unwrap_or(shares_store)),
            leader_elect_lease_duration: self.kube_controller_manager_leader_elect_lease_duration,
            leader_elect_renew_deadline: self.kube_controller_manager_leader_elect_renew_deadline,
            leader_elect_retry_period: self.kube_controller_manager_leader_elect_retry_period,
            leader_elect_resource_lock: None,
            leader_elect_resource_name: self
                .kube_controller_manager_leader_elect_resource_name
                .clone(),
            leader_elect_resource_namespace: self
                .kube_controller_manager_leader_elect_resource_namespace
                .clone(),
        };
        election(&flags, random)
    }
}

/// The election that flags ask for; upstream's defaults where they say nothing.
fn election(flags: &ElectionOptions, random: &dyn Random) -> Result<Option<Election>> {
    if !flags.leader_elect.unwrap_or(true) {
        return Ok(None);
    }
    if let Some(lock) = flags.leader_elect_resource_lock.as_ref().filter(|it| *it != "leases") {
        bail!("--leader-elect-resource-lock: {lock:?} is not supported: leases is");
    }
    let times = Times {
        lease: flags.leader_elect_lease_duration.unwrap_or(LEASE_DURATION),
        renew: flags.leader_elect_renew_deadline.unwrap_or(RENEW_DEADLINE),
        retry: flags.leader_elect_retry_period.unwrap_or(RETRY_PERIOD),
    };
    let times = times.check().map_err(|error| anyhow!("--leader-elect: {error}"))?;
    let or = |said: &Option<String>, default: &str| said.as_deref().unwrap_or(default).to_owned();
    Ok(Some(Election {
        namespace: or(&flags.leader_elect_resource_namespace, NAMESPACE),
        name: or(&flags.leader_elect_resource_name, NAME),
        identity: leading::identity(random),
        lease_duration: times.lease,
        renew_deadline: times.renew,
        retry_period: times.retry,
        // The gate says.
        release: false,
        coordinated: false,
    }))
}

/// Makes the client of a controller's account.
pub(crate) type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Controllers that work when they may.
pub(crate) struct Manager {
    /// Under the controller manager's own identity.
    pub(crate) client: Client,
    pub(crate) client_for: ClientFor,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) root_ca: Arc<str>,
    pub(crate) node_ranges: NodeRanges,
    pub(crate) authorities: Signers,
    pub(crate) tokens: Option<Arc<dyn TokenSigner>>,
    pub(crate) metrics: controllers::Metrics,
    /// What is counted of its elections.
    pub(crate) elections: client::leader::Metrics,
    pub(crate) options: ManagerOptions,
    pub(crate) features: Arc<FeatureGates>,
    /// What the API server serves besides what every server does.
    pub(crate) more: Vec<client::Resource>,
    /// The API server of this process is the cluster's only one.
    pub(crate) one_server: bool,
    /// What others of this process know too, for who works as long as the process is there.
    pub(crate) caches: Option<Arc<Caches>>,
    /// None where there is nobody else.
    pub(crate) election: Option<Election>,
    /// Which controllers work under another lease.
    pub(crate) migration: Option<Migration>,
    pub(crate) stop: ShutdownSignal,
}

impl Manager {
    /// Stands for its lease, where holders are elected.
    fn stand(&mut self) {
        let given = (&self.clock, &self.random);
        if let Some(election) = &mut self.election {
            election.release = self.features.enabled(gates::RELEASE_LEASE_ON_EXIT);
            elections::stand(election, &self.features, &self.client, given, self.stop.clone());
        }
    }

    /// Works until the process ends, and begins anew where the lease was lost: the rest of the process goes on.
    pub(crate) async fn for_ever(mut self) {
        self.stand();
        while let Err(error) = Box::pin(self.until_stopped_or_lost()).await {
            let error = format!("{error:#}");
            tracing::error!(error, "the controllers have ended: they begin anew");
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Works, once this is the leader where that has to be.
    ///
    /// # Errors
    /// When the lease was lost.
    async fn until_stopped_or_lost(&self) -> Result<()> {
        let Some(election) = self.election.clone() else {
            self.work(self.stop.clone(), |_| true).await;
            return Ok(());
        };
        let leading = Shutdown::new();
        let Some(migration) = self.migration.clone() else {
            let work = self.work(leading.signal(), |_| true);
            return leading::work(self.member(), election, &leading, work).await;
        };
        let moving = Shutdown::new();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let apart = migration.clone();
        let main = self.work(leading.signal(), move |it| apart.of(it) == Under::Main);
        tracing::info!("starting leader migration");
        let main = async move {
            tracing::info!("leader migration: starting main controllers.");
            // Where nobody waits the process ends.
            let _ = begun.send(());
            main.await;
        };
        let main = leading::work(self.member(), election.clone(), &leading, main);
        // Only who has the first lease asks for the second one. It is for nobody to give, but by taking it.
        let second =
            Election { name: migration.lease.clone(), coordinated: false, ..election.clone() };
        let others = self.work(moving.signal(), move |it| migration.of(it) == Under::Migration);
        let others = async {
            if begins.await.is_err() {
                return Ok(());
            }
            let others = async {
                tracing::info!("leader migration: starting migrated controllers.");
                others.await;
            };
            let led = leading::work(self.member(), second, &moving, others).await;
            led.context("migration leaderelection lost")
        };
        let ended = tokio::try_join!(main, others);
        leading.request();
        moving.request();
        ended.map(drop)
    }

    fn member(&self) -> Member {
        Member {
            name: NAME,
            client: self.client.clone(),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            metrics: self.elections.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Runs the controllers that are enabled and `mine`, until `stop`.
    fn work(
        &self,
        stop: ShutdownSignal,
        mine: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (options, manager) = (self.options.clone(), self.client.clone());
        let client_for = Arc::clone(&self.client_for);
        let random = Arc::clone(&self.random);
        let caches = self
            .caches
            .clone()
            .unwrap_or_else(|| Caches::new(self.client.clone(), Arc::clone(&random), stop.clone()));
        let setup = Setup {
            caches,
            client_for: Box::new(move |account| match account {
                controllers::ROOT_ACCOUNT => manager.clone(),
                account => client_for(account),
            }),
            clock: Arc::clone(&self.clock),
            random,
            root_ca: Arc::clone(&self.root_ca),
            node_ranges: self.node_ranges.clone(),
            node_lifecycle: options.node_lifecycle(),
            podautoscaler: options.autoscaler(),
            pod_gc: options.pod_gc(),
            authorities: self.authorities.clone(),
            signing_duration: options.signing_duration(),
            tokens: self.tokens.clone(),
            legacy_tokens: options.legacy_tokens(),
            attach_detach: options.attach_detach(),
            tuning: options.tuning(),
            workers: options.workers(),
            features: Arc::clone(&self.features),
            more: self.more.clone(),
            one_server: self.one_server,
            metrics: self.metrics.clone(),
            tasks: controllers::TaskTracker::new(),
            stop,
        };
        async move { controllers::run_all(&setup, |name| options.enables(name) && mine(name)).await }
    }
}

#[cfg(test)]
mod tests {
    use component_base::SystemRandom;

    use super::*;

    #[test]
    fn an_election_has_upstreams_times_and_they_must_fit() {
        let random = SystemRandom::new();
        let of = |flags: &ElectionOptions| election(flags, &random);
        let usual = of(&ElectionOptions::default()).unwrap().unwrap();
        assert_eq!((usual.namespace.as_str(), usual.name.as_str()), (NAMESPACE, NAME));
        assert_eq!((usual.lease_duration, usual.retry_period), (LEASE_DURATION, RETRY_PERIOD));
        let off = ElectionOptions { leader_elect: Some(false), ..ElectionOptions::default() };
        assert!(of(&off).unwrap().is_none());
        let seconds = |it| Some(Duration::from_secs(it));
        for (lease, renew, retry, wanted) in [
            (10, 10, 2, "leaseDuration must be greater than renewDeadline"),
            (15, 2, 2, "renewDeadline must be greater than retryPeriod*JitterFactor"),
        ] {
            let flags = ElectionOptions {
                leader_elect_lease_duration: seconds(lease),
                leader_elect_renew_deadline: seconds(renew),
                leader_elect_retry_period: seconds(retry),
                ..ElectionOptions::default()
            };
            let error = of(&flags).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
