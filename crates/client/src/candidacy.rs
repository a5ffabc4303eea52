//! One who would hold a lease says so in a LeaseCandidate, and answers when it is asked whether it is still there: whoever
//! elects chooses among those who answer. Upstream: `leasecandidate.go` of client-go's `leaderelection`.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, time, value};
use component_base::{Clock, Random, ShutdownSignal};
use jiff::Timestamp;

use crate::call::{Client, ListParams};
use crate::error::ClientError;
use crate::resource::Resource;
use crate::watch::{Watch, WatchEvent};

/// How long a candidate is silent at most.
const RENEWAL: Duration = Duration::from_secs(300);
/// The first pause after a failure; doubled up to [`MAX_PAUSE`], with jitter.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How the best candidate is chosen.
const STRATEGY: &str = "OldestEmulationVersion";

/// Who would hold which lease.
#[derive(Debug, Clone)]
pub struct Candidacy {
    /// The namespace of the lease.
    pub namespace: String,
    /// The lease's name.
    pub lease: String,
    /// Who: the identity under which it would hold the lease.
    pub identity: String,
    /// What it is: `1.37.1`.
    pub binary_version: String,
    /// As which version it behaves: `1.37.0`.
    pub emulation_version: String,
    /// Its client.
    pub client: Client,
    /// When it is.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<dyn Random>,
}

impl Candidacy {
    /// Keeps the candidate until `stop`.
    pub async fn run(self, stop: ShutdownSignal) {
        tokio::select! {
            biased;
            () = stop.requested() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        let mut pause = PAUSE;
        loop {
            match self.follow(&mut pause).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(candidate = self.identity, %error, "Ensuring lease failed");
                }
            }
            tokio::time::sleep(pause.mul_f64(1.0 + self.random.fraction())).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Says that it is there, and again each time that it is asked, until the watch ends.
    async fn follow(&self, pause: &mut Duration) -> Result<(), ClientError> {
        let resource = resource();
        let params = ListParams {
            field_selector: format!("metadata.name={}", self.identity),
            ..ListParams::default()
        };
        self.renew().await?;
        let mut watch = self.client.watch(&resource, &self.namespace, &params, true).await?;
        loop {
            tokio::select! {
                biased;
                asked = asked(&mut watch) => match asked? {
                    Some(true) => self.renew().await?,
                    Some(false) => {}
                    None => return Ok(()),
                },
                () = tokio::time::sleep(RENEWAL) => self.renew().await?,
            }
            *pause = PAUSE;
        }
    }

    /// Writes when it was there last.
    async fn renew(&self) -> Result<(), ClientError> {
        let resource = resource();
        let now = time::format_micro_time(self.clock.now());
        let renewed = match self.client.get(&resource, &self.namespace, &self.identity).await {
            Ok(mut candidate) => {
                candidate.set_at(&["spec", "renewTime"], now.as_str());
                self.client.update(&resource, "", &candidate).await
            }
            Err(error) if error.is_not_found() => {
                self.client.create(&resource, &self.namespace, &self.object(&now)).await
            }
            Err(error) => Err(error),
        };
        renewed.map(drop)
    }

    fn object(&self, now: &str) -> Value {
        value!({
            "apiVersion": (resource().api_version()), "kind": "LeaseCandidate",
            "metadata": {"name": (self.identity.as_str()), "namespace": (self.namespace.as_str())},
            "spec": {"leaseName": (self.lease.as_str()), "strategy": STRATEGY,
                "binaryVersion": (self.binary_version.as_str()),
                "emulationVersion": (self.emulation_version.as_str()), "renewTime": now}
        })
    }
}

fn resource() -> Resource {
    Resource::built_in("coordination.k8s.io", "leasecandidates")
}

/// Whether the next event asks whether the candidate is there, or that it is made again; `None` where there are no more.
async fn asked(watch: &mut Watch) -> Result<Option<bool>, ClientError> {
    let Some(event) = watch.next().await? else { return Ok(None) };
    Ok(match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
            Some(object.value().is_ok_and(|it| is_asked(&it)))
        }
        WatchEvent::Deleted(_) => Some(true),
        WatchEvent::Bookmark { .. } => Some(false),
        WatchEvent::Error(_) => None,
    })
}

/// Whether it has not answered yet.
fn is_asked(candidate: &Value) -> bool {
    let at = |member| candidate.str_at(&["spec", member]).parse::<Timestamp>().ok();
    at("pingTime").is_some_and(|asked| at("renewTime").is_none_or(|renewed| asked > renewed))
}
