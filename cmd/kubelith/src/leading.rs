//! Of several processes of one part one works at a time: flags of the election, and the work of who leads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use client::leader::{Candidate, Election, Metrics};
use client::{Client, EventRecorder};
use component_base::{Clock, Random, Shutdown, ShutdownSignal};

/// How long what is to be written last may take when the process ends: the lease that is given up, and events.
const TELL: Duration = Duration::from_secs(2);

/// Upstream's flags of the election, of a part that runs alone. What is not said is the part's own.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "election")]
#[command(next_help_heading = "Leader election")]
#[allow(clippy::struct_field_names, reason = "they are upstream's names")]
pub(crate) struct ElectionOptions {
    /// Whether of several of this part one works at a time
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) leader_elect: Option<bool>,
    /// How long others leave alone a lease that is not renewed
    #[arg(long, value_name = "DURATION", value_parser = crate::control_plane::period)]
    pub(crate) leader_elect_lease_duration: Option<Duration>,
    /// How long the leader tries to renew its lease
    #[arg(long, value_name = "DURATION", value_parser = crate::control_plane::period)]
    pub(crate) leader_elect_renew_deadline: Option<Duration>,
    /// Between two tries
    #[arg(long, value_name = "DURATION", value_parser = crate::control_plane::period)]
    pub(crate) leader_elect_retry_period: Option<Duration>,
    /// What is held: leases
    #[arg(long, value_name = "KIND")]
    pub(crate) leader_elect_resource_lock: Option<String>,
    /// The lease's name
    #[arg(long, value_name = "NAME")]
    pub(crate) leader_elect_resource_name: Option<String>,
    /// The lease's namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) leader_elect_resource_namespace: Option<String>,
}

/// How much longer than the period a pause between two tries may be.
const JITTER: f64 = 1.2;

/// The times of an election.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How long others leave alone a lease that is not renewed.
    pub(crate) lease: Duration,
    /// How long its holder tries to renew it.
    pub(crate) renew: Duration,
    /// Between two tries.
    pub(crate) retry: Duration,
}

impl Times {
    /// # Errors
    /// When they do not fit each other.
    pub(crate) fn check(self) -> Result<Self> {
        if self.lease <= self.renew {
            bail!("leaseDuration must be greater than renewDeadline");
        }
        if self.renew <= self.retry.mul_f64(JITTER) {
            bail!("renewDeadline must be greater than retryPeriod*JitterFactor");
        }
        Ok(self)
    }
}

/// Who takes part in an election.
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: Metrics,
    pub(crate) stop: ShutdownSignal,
}

/// This machine's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Who this process is, unique among those who ask for a lease.
pub(crate) fn identity(random: &dyn Random) -> String {
    format!("{}_{}", hostname(), random.uid())
}

/// Does the work from the moment that the lease is held until the process is to stop, which ends it by `leading`.
///
/// # Errors
/// When the lease was lost: the work has been ended.
pub(crate) async fn work(
    member: Member,
    election: Election,
    leading: &Shutdown,
    work: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let Member { name, client, clock, random, metrics, stop } = member;
    let events = EventRecorder::new(name, "", Arc::clone(&clock), Arc::clone(&random));
    let telling = tokio::spawn(Arc::clone(&events).run(client.clone(), stop.clone()));
    let candidate = Candidate::new(client, clock, random, events, election).counted(metrics);
    let Some(leader) = candidate.acquire(&stop).await else {
        leading.request();
        return Ok(());
    };
    let running = tokio::spawn(work);
    let kept = leader.keep(&stop).await;
    leading.request();
    // It ends between two decisions.
    let _ = running.await;
    let kept = match kept {
        Ok(leader) => {
            // A server that ends may answer nobody any more.
            let _ = tokio::time::timeout(TELL, leader.release()).await;
            Ok(())
        }
        Err(lost) => Err(lost),
    };
    if stop.is_requested() {
        // What is to be told is written before the process ends.
        let _ = tokio::time::timeout(TELL, telling).await;
    } else {
        telling.abort();
    }
    Ok(kept?)
}
