//! A modelled node: a machine with processes, and the agent on it, which is a client of the API like any node's agent.
//!
//! It knows no containers: a process is started, becomes ready, exits by the pod's annotations or is killed. What it tells
//! the API is what an agent of upstream tells.

mod agent;
mod mounts;
mod process;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use auth::UserInfo;
use client::call::ListParams;
use client::{Client, Reflector, Resource, Store};
use compact_str::CompactString;
use component_base::{Clock, Random, Shutdown, ShutdownSignal};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::SteppedClock;
use crate::dice::Dice;
use crate::link::{FaultyTransport, Link};
use crate::reality::Reality;
use crate::server::Slot;

use process::Process;
pub(crate) use process::{FAIL, SECONDS};

/// What a node can hold, in thousandths of a processor, MiB and pods.
pub(crate) const CPU_MILLI: i64 = 4_000;
pub(crate) const MEMORY_MIB: i64 = 8_192;
pub(crate) const PODS: i64 = 60;

/// The processes of a machine, by the uids of their pods. They outlive the agent.
type Processes = Arc<Mutex<BTreeMap<CompactString, Process>>>;

/// The disks that the pods of a machine are to have, by uid, as nodes call them. They outlive the agent.
type Mounts = Arc<Mutex<BTreeMap<CompactString, Vec<Disk>>>>;

/// A disk of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    /// The volume's name.
    volume: String,
    /// What it is called in a node's status.
    unique: String,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) link: Arc<Link>,
    pub(crate) clock: SteppedClock,
    number: usize,
    seed: u64,
    slot: Arc<Slot>,
    random: Arc<dyn Random>,
    reality: Arc<Reality>,
    processes: Processes,
    mounts: Mounts,
    agent: Option<Shutdown>,
    boots: u32,
}

/// What a machine is given.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) seed: u64,
    pub(crate) slot: Arc<Slot>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) reality: Arc<Reality>,
}

impl Machine {
    /// A machine that is switched off.
    pub(crate) fn new(number: usize, site: &Site, link: Arc<Link>, clock: SteppedClock) -> Self {
        let Site { seed, slot, random, reality } = site.clone();
        Self {
            name: format!("node-{number}"),
            link,
            clock,
            number,
            seed,
            slot,
            random,
            reality,
            processes: Processes::default(),
            mounts: Mounts::default(),
            agent: None,
            boots: 0,
        }
    }

    /// Whether its agent runs.
    pub(crate) fn is_on(&self) -> bool {
        self.agent.is_some()
    }

    /// Starts the agent; what runs goes on.
    pub(crate) fn start_agent(&mut self) {
        self.boots += 1;
        let life = Shutdown::new();
        let user = UserInfo::node(&self.name);
        // As over a socket.
        let transport = FaultyTransport::new(&self.slot, user, &self.link, true);
        let client = Client::new(transport, "kubelet");
        let store = self.pods(&client, life.signal());
        let agent = agent::Agent {
            name: self.name.clone(),
            number: self.number,
            dice: Dice::new(self.seed, &format!("{} {}", self.name, self.boots)),
            client,
            clock: Arc::new(self.clock.clone()) as Arc<dyn Clock>,
            reality: Arc::clone(&self.reality),
            processes: Arc::clone(&self.processes),
            mounts: Arc::clone(&self.mounts),
            told: Mutex::default(),
            pods: store,
        };
        tokio::spawn(agent.run(life.signal()));
        self.agent = Some(life);
    }

    /// The pods of this node, as the agent sees them.
    fn pods(&self, client: &Client, stop: ShutdownSignal) -> (Store, Arc<Notify>) {
        let store = Store::new(Resource::built_in("", "pods"), &[]);
        let params = ListParams {
            field_selector: format!("spec.nodeName={}", self.name),
            ..ListParams::default()
        };
        let woken = Arc::new(Notify::new());
        let waking = Arc::clone(&woken);
        store.listen(Arc::new(move |_| waking.notify_one()));
        let random = Arc::clone(&self.random);
        let reflector = Reflector::new(client.clone(), store.clone(), "", params, random);
        tokio::spawn(reflector.run(stop));
        (store, woken)
    }

    /// Ends the agent; what runs goes on.
    pub(crate) fn stop_agent(&mut self) {
        if let Some(life) = self.agent.take() {
            life.request();
        }
    }

    /// The machine loses power, and all that runs on it ends.
    pub(crate) fn power_off(&mut self) {
        self.stop_agent();
        self.mounts.lock().clear();
        for uid in std::mem::take(&mut *self.processes.lock()).into_keys() {
            self.reality.ends(&uid);
        }
    }
}
