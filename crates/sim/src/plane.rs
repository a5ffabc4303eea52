//! Controllers and schedulers of a run: the real ones, several of each, of which one works at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use auth::UserInfo;
use client::leader::{Candidate, Election};
use client::reflector::Caches;
use client::{Client, EventRecorder};
use component_base::{Clock, Random, Shutdown, ShutdownSignal};
use controllers::Setup;
use controllers::node_ipam::NodeRanges;
use controllers::pod_gc::PodGc;
use controllers::serviceaccount_token::{TokenFor, TokenSigner};
use scheduler::{Configuration, Scheduler};

use crate::clock::SteppedClock;
use crate::link::{FaultyTransport, Link};
use crate::server::Slot;

/// Where leases and the accounts of controllers lie.
const SYSTEM: &str = "kube-system";
/// Upstream's names, as users and of their leases.
const MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";
/// How long a lease holds, as upstream has it.
const LEASE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// The ranges of nodes.
const POD_RANGE: (&str, u8) = ("10.244.0.0/16", 24);

/// What a part of the control plane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All controllers.
    Controllers,
    /// The scheduler.
    Scheduler,
}

/// One process of the control plane, running or not.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) link: Arc<Link>,
    pub(crate) clock: SteppedClock,
    slot: Arc<Slot>,
    random: Arc<dyn Random>,
    life: Option<Shutdown>,
    lives: u32,
}

impl Process {
    /// A process that does not run yet.
    pub(crate) fn new(
        name: String,
        part: Part,
        (link, clock): (Arc<Link>, SteppedClock),
        slot: &Arc<Slot>,
        random: &Arc<dyn Random>,
    ) -> Self {
        let (slot, random) = (Arc::clone(slot), Arc::clone(random));
        Self { name, part, link, clock, slot, random, life: None, lives: 0 }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.life.is_some()
    }

    /// Starts it, with nothing remembered.
    pub(crate) fn start(&mut self) {
        self.lives += 1;
        let life = Shutdown::new();
        let body = Body {
            identity: format!("{}_{}", self.name, self.lives),
            part: self.part,
            link: Arc::clone(&self.link),
            clock: Arc::new(self.clock.clone()),
            slot: Arc::clone(&self.slot),
            random: Arc::clone(&self.random),
        };
        tokio::spawn(body.live(life.signal()));
        self.life = Some(life);
    }

    /// Ends it in the middle of what it does. Its lease stays as it is.
    pub(crate) fn crash(&mut self) {
        if let Some(life) = self.life.take() {
            life.request();
        }
    }
}

/// What runs in a process.
struct Body {
    identity: String,
    part: Part,
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    slot: Arc<Slot>,
    random: Arc<dyn Random>,
}

impl Body {
    fn client(&self, user: UserInfo, agent: &str) -> Client {
        Client::new(FaultyTransport::new(&self.slot, user, &self.link, false), agent)
    }

    fn root(&self) -> UserInfo {
        UserInfo::new(&format!("system:{}", self.agent()), &[])
    }

    fn agent(&self) -> &'static str {
        match self.part {
            Part::Controllers => MANAGER,
            Part::Scheduler => SCHEDULER,
        }
    }

    /// Asks for the lease, works while it is held, and asks again; until it crashes.
    async fn live(self, crash: ShutdownSignal) {
        tokio::select! {
            biased;
            () = crash.requested() => {}
            () = self.lead_again_and_again(&crash) => {}
        }
    }

    async fn lead_again_and_again(&self, crash: &ShutdownSignal) {
        let client = self.client(self.root(), self.agent());
        let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
        let events = EventRecorder::new(self.agent(), "", Arc::clone(&clock), Arc::clone(&random));
        tokio::spawn(Arc::clone(&events).run(client.clone(), crash.clone()));
        let never = Shutdown::new();
        loop {
            let election = Election {
                namespace: SYSTEM.into(),
                name: self.agent().into(),
                identity: self.identity.clone(),
                lease_duration: LEASE,
                renew_deadline: RENEW,
                retry_period: RETRY,
                release: false,
                coordinated: false,
            };
            let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
            let candidate =
                Candidate::new(client.clone(), clock, random, Arc::clone(&events), election);
            let Some(leader) = candidate.acquire(&never.signal()).await else { return };
            // Ends what leads when this is dropped too.
            let leading = Leading(Shutdown::new());
            self.work(&leading.0.signal());
            let lost = leader.keep(&never.signal()).await;
            tracing::debug!(identity = self.identity, ?lost, "leads no more");
        }
    }

    fn work(&self, leading: &ShutdownSignal) {
        let caches_client = self.client(self.root(), self.agent());
        let caches = Caches::new(caches_client.clone(), Arc::clone(&self.random), leading.clone());
        match self.part {
            Part::Controllers => controllers::start_all(&self.setup(caches, leading), |name| {
                !controllers::OFF_BY_DEFAULT.contains(&name)
            }),
            Part::Scheduler => {
                let config = Configuration::default();
                let scheduler = Scheduler {
                    pod_groups: false,
                    client: caches_client,
                    caches,
                    clock: Arc::clone(&self.clock),
                    random: Arc::clone(&self.random),
                    profiles: config.profiles().expect("because they are the defaults"),
                    extenders: Vec::new(),
                    backoff: config.backoff(),
                    metrics: scheduler::Metrics::default(),
                };
                tokio::spawn(scheduler.run(leading.clone()));
            }
        }
    }

    fn setup(&self, caches: Arc<Caches>, leading: &ShutdownSignal) -> Setup {
        let (slot, link) = (Arc::clone(&self.slot), Arc::clone(&self.link));
        Setup {
            features: Arc::default(),
            more: Vec::new(),
            one_server: false,
            caches,
            client_for: Box::new(move |account| {
                let user = match account {
                    controllers::ROOT_ACCOUNT => UserInfo::new(&format!("system:{MANAGER}"), &[]),
                    account => UserInfo::service_account(SYSTEM, account),
                };
                Client::new(FaultyTransport::new(&slot, user, &link, false), MANAGER)
            }),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            root_ca: "-----BEGIN CERTIFICATE-----".into(),
            authorities: controllers::certificates::Signers::default(),
            signing_duration: Duration::from_secs(86_400),
            tokens: Some(Arc::new(Plain)),
            node_ranges: node_ranges(),
            node_lifecycle: controllers::node_lifecycle::Options::default(),
            podautoscaler: controllers::podautoscaler::Options::default(),
            pod_gc: PodGc::default(),
            workers: BTreeMap::new(),
            legacy_tokens: controllers::legacy_tokens::LegacyTokenCleaner::default(),
            attach_detach: controllers::attach_detach::Options::default(),
            tuning: controllers::Tuning::default(),
            metrics: controllers::Metrics::default(),
            tasks: controllers::TaskTracker::new(),
            stop: leading.clone(),
        }
    }
}

fn node_ranges() -> NodeRanges {
    let cluster = POD_RANGE.0.parse().expect("because it is a range");
    let (base, bits) = crate::server::SERVICES;
    let services = format!("{base}/{bits}").parse().expect("because it is a range");
    NodeRanges { cluster: vec![(cluster, POD_RANGE.1)], reserved: vec![services] }
}

/// Ends what a leader does when it is dropped.
struct Leading(Shutdown);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// Signs tokens that say whose they are: real signatures are random.
#[derive(Debug)]
struct Plain;

impl TokenSigner for Plain {
    fn sign(&self, token: TokenFor<'_>) -> Result<String, String> {
        Ok(format!("{}:{}", token.namespace, token.account))
    }
}
