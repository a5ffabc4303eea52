//! The agent of a node: registers it, says that it lives, and makes of its pods what the API asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use client::call::{DeleteParams, PatchKind};
use client::reflector::Cached;
use client::{Client, ClientError, Resource, Store};
use compact_str::CompactString;
use component_base::{Clock, ShutdownSignal};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::process::{Moved, Process, Stage};
use super::status::{self, Wanted, is_final};
use super::{CPU_MILLI, MEMORY_MIB, Mounts, PODS, Processes};
use crate::demand::Demand;
use crate::dice::Dice;
use crate::reality::{Reality, Running};

/// Between two renewals of the lease.
const RENEW: Duration = Duration::from_secs(10);
/// Between two reports of the node that say nothing new.
const REPORT: Duration = Duration::from_secs(60);
/// After a write that failed.
const RETRY: Duration = Duration::from_millis(700);

pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) number: usize,
    pub(crate) dice: Dice,
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reality: Arc<Reality>,
    pub(crate) processes: Processes,
    pub(super) mounts: Mounts,
    /// The disks that the node was said to use, last.
    pub(super) told: Mutex<BTreeSet<String>>,
    pub(crate) pods: (Store, Arc<Notify>),
}

/// What the agent remembers of its node.
struct Presence {
    lease: Option<Value>,
    renew_at: Instant,
    report_at: Instant,
    /// Whether the last report failed.
    silent: bool,
    node_uid: String,
}

impl Agent {
    /// Works until the agent ends.
    pub(crate) async fn run(self, stop: ShutdownSignal) {
        tokio::select! {
            biased;
            () = stop.requested() => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        let now = Instant::now();
        let mut presence = Presence {
            lease: None,
            renew_at: now,
            report_at: now,
            silent: false,
            node_uid: String::new(),
        };
        loop {
            let mut next = self.be_present(&mut presence).await;
            if self.pods.0.is_synced() {
                next = next.min(self.tend_pods().await);
                if !presence.silent && self.in_use() != *self.told.lock() {
                    presence.report_at = Instant::now();
                    next = presence.report_at;
                }
            }
            tokio::select! {
                biased;
                () = self.pods.1.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Registers the node, renews its lease and reports, where it is time. Says when it is time again.
    async fn be_present(&self, presence: &mut Presence) -> Instant {
        let now = Instant::now();
        if presence.report_at <= now {
            let told = self.report(presence).await;
            presence.silent = told.is_err();
            presence.report_at = Instant::now() + if told.is_ok() { REPORT } else { RETRY };
        }
        if presence.renew_at <= now && !presence.node_uid.is_empty() {
            let renewed = self.renew(presence).await;
            presence.renew_at = Instant::now() + if renewed.is_ok() { RENEW } else { RETRY };
            if renewed.is_err() {
                presence.lease = None;
            }
        }
        let renew =
            if presence.node_uid.is_empty() { presence.report_at } else { presence.renew_at };
        presence.report_at.min(renew)
    }

    async fn report(&self, presence: &mut Presence) -> Result<(), ClientError> {
        let nodes = Resource::built_in("", "nodes");
        let node = match self.client.get(&nodes, "", &self.name).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => {
                presence.lease = None;
                let node = status::node(&self.name, self.number, self.clock.now());
                self.client.create(&nodes, "", &node).await?
            }
            Err(error) => return Err(error),
        };
        presence.node_uid = node.str_at(&["metadata", "uid"]).to_owned();
        let mut patch = Value::object();
        patch.set_at(&["status"], status::node_status(self.clock.now()));
        let in_use = self.in_use();
        let names: Vec<Value> = in_use.iter().map(|it| Value::from(it.as_str())).collect();
        patch.set_at(&["status", "volumesInUse"], names);
        let kind = PatchKind::Strategic;
        self.client.patch(&nodes, "", &self.name, "status", kind, &patch).await?;
        *self.told.lock() = in_use;
        Ok(())
    }

    async fn renew(&self, presence: &mut Presence) -> Result<(), ClientError> {
        let leases = Resource::built_in("coordination.k8s.io", "leases");
        let namespace = "kube-node-lease";
        let fresh = status::lease(&self.name, &presence.node_uid, self.clock.now());
        if presence.lease.is_none() {
            presence.lease = match self.client.get(&leases, namespace, &self.name).await {
                Ok(lease) => Some(lease),
                Err(error) if error.is_not_found() => {
                    Some(self.client.create(&leases, namespace, &fresh).await?)
                }
                Err(error) => return Err(error),
            };
        }
        let Some(mut lease) = presence.lease.clone() else { return Ok(()) };
        lease.set_at(&["spec"], fresh["spec"].clone());
        lease
            .set_at(&["metadata", "ownerReferences"], fresh["metadata"]["ownerReferences"].clone());
        presence.lease = Some(self.client.update(&leases, "", &lease).await?);
        Ok(())
    }

    /// Moves every pod on. Says when one moves next of its own accord.
    async fn tend_pods(&self) -> Instant {
        let mut next = Instant::now() + REPORT;
        let pods = self.pods.0.list("");
        self.end_strays(&pods);
        for pod in pods {
            let told = self.tend(&pod).await;
            if !told.unwrap_or(false) {
                next = next.min(Instant::now() + RETRY);
            }
        }
        let processes = self.processes.lock();
        let own = processes.values().filter_map(Process::next).min();
        own.map_or(next, |own| next.min(own))
    }

    /// Kills what runs for pods that are not there any more.
    fn end_strays(&self, pods: &[Arc<Cached>]) {
        let mut processes = self.processes.lock();
        let strays: Vec<CompactString> = processes
            .keys()
            .filter(|uid| !pods.iter().any(|it| it.uid == **uid))
            .cloned()
            .collect();
        for uid in strays {
            processes.remove(&uid);
            self.reality.ends(&uid);
        }
        drop(processes);
        self.mounts.lock().retain(|uid, _| pods.iter().any(|it| it.uid == *uid));
    }

    /// Moves a pod on, and tells of it; false where it waits for its disks.
    async fn tend(&self, cached: &Cached) -> Result<bool, ClientError> {
        let pod = cached.value();
        let deleting = !pod.str_at(&["metadata", "deletionTimestamp"]).is_empty();
        let terminal = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
        let begins = !self.processes.lock().contains_key(&cached.uid) && !deleting && !terminal;
        if begins && !self.mount(cached, &pod).await? {
            return Ok(false);
        }
        let wanted = self.advance(cached, &pod, deleting, terminal);
        let over = wanted.as_ref().is_none_or(Wanted::is_terminal);
        if over && (terminal || wanted.is_some()) {
            self.mounts.lock().remove(&cached.uid);
        }
        if deleting && terminal && over {
            return self.remove(cached).await.map(|()| true);
        }
        let Some(wanted) = wanted.filter(|it| !terminal && !it.is_told(&pod)) else {
            return Ok(true);
        };
        let ip = self.ip_of(&cached.uid);
        let patch = wanted.patch(&pod, &ip, self.clock.now());
        let (namespace, name) = (&cached.key.namespace, &cached.key.name);
        let pods = Resource::built_in("", "pods");
        let kind = PatchKind::Strategic;
        let told = self.client.patch(&pods, namespace, name, "status", kind, &patch).await;
        match told {
            Err(error) if error.is_not_found() => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// Moves the process of a pod on; what there is to be told of it.
    fn advance(
        &self,
        cached: &Cached,
        pod: &Value,
        deleting: bool,
        terminal: bool,
    ) -> Option<Wanted> {
        let mut processes = self.processes.lock();
        if !processes.contains_key(&cached.uid) {
            if terminal {
                return None;
            }
            let process = self.first(pod, deleting, &processes);
            processes.insert(cached.uid.clone(), process);
        }
        let process = processes.get_mut(&cached.uid)?;
        if deleting || terminal {
            let grace = pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            process.ask_to_end(&self.dice, grace);
        }
        match process.go_on(pod, &self.dice) {
            Moved::Not => {}
            Moved::Began => self.reality.begins(&cached.uid, self.running(cached, pod)),
            Moved::Ended => self.reality.ends(&cached.uid),
        }
        let wanted = Wanted::of(process, pod, deleting);
        if let Stage::Exited(code) = process.stage
            && !deleting
            && !is_final(pod, code)
        {
            *process = Process::starting(&self.dice, process.restarts + 1);
        }
        wanted
    }

    /// The process of a pod that has none.
    fn first(
        &self,
        pod: &Value,
        deleting: bool,
        processes: &BTreeMap<CompactString, Process>,
    ) -> Process {
        if deleting {
            return Process::killed();
        }
        // It ran here before the machine was restarted.
        if pod.str_at(&["status", "phase"]) == "Running" {
            let counted = pod.items_at(&["status", "containerStatuses"]).first();
            let restarts = counted.and_then(|it| it.i64_at(&["restartCount"])).unwrap_or(0);
            return match pod.str_at(&["spec", "restartPolicy"]) {
                "Never" => Process::killed(),
                _ => Process::starting(&self.dice, restarts + 1),
            };
        }
        let all = self.taken(processes).plus(Demand::of(pod));
        let fits = all.cpu_milli <= CPU_MILLI && all.memory_mib <= MEMORY_MIB && all.pods <= PODS;
        if fits { Process::starting(&self.dice, 0) } else { Process::over(Stage::Refused) }
    }

    /// What the pods ask for that run here or are about to.
    fn taken(&self, processes: &BTreeMap<CompactString, Process>) -> Demand {
        let holds = |uid: &str| {
            let stage = processes.get(uid).map(|it| it.stage);
            matches!(stage, Some(Stage::Waiting(_) | Stage::Running))
        };
        let pods = self.pods.0.list("");
        let holding = pods.iter().filter(|it| holds(&it.uid)).map(|it| Demand::of(&it.value()));
        holding.fold(Demand::default(), Demand::plus)
    }

    fn running(&self, cached: &Cached, pod: &Value) -> Running {
        let owners = pod.items_at(&["metadata", "ownerReferences"]);
        Running {
            node: self.name.as_str().into(),
            namespace: cached.key.namespace.clone(),
            name: cached.key.name.clone(),
            is_ordinal: owners.iter().any(|it| it.str_at(&["kind"]) == "StatefulSet"),
            disks: self.disks(&cached.uid),
        }
    }

    /// Removes a pod whose process is over.
    async fn remove(&self, cached: &Cached) -> Result<(), ClientError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            uid: Some(cached.uid.to_string()),
            ..DeleteParams::default()
        };
        let (namespace, name) = (&cached.key.namespace, &cached.key.name);
        let pods = Resource::built_in("", "pods");
        match self.client.delete(&pods, namespace, name, &params).await {
            // Gone, or another pod has the name.
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// An address that no other pod has: by the pod's uid.
    fn ip_of(&self, uid: &str) -> String {
        let hash = uid.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte));
        format!("10.244.{}.{}", self.number, 1 + hash % 250)
    }
}
