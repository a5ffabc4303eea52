//! Jobs: pods that are run until so many have succeeded. Upstream: `pkg/controller/job`.
//!
//! Every pod carries a finalizer until it is counted, so that none is forgotten: first its uid is written into the status,
//! then the finalizer goes, then the count moves.

mod backoff;
mod conditions;
mod failure_policy;
mod groups;
mod indexes;
mod manage;
mod metrics;
mod plan;
mod tracking;

use std::sync::Arc;
use std::time::Duration;

use client::ObjectKey;
use client::indexes::{BY_CONTROLLER, ORPHANS};
use client::pod::Phase;
use client::reflector::{Cached, StoreChange};
use controller::{Backoff, Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1beta1::{PodGroup, Workload};

use crate::owner;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    /// What it counts.
    pub metrics: Metrics,
    /// Whether it makes groups of pods: `WorkloadWithJob`.
    pub groups: bool,
}

pub use groups::Groups;
pub use metrics::Metrics;

/// The finalizer of pods that are not counted yet.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// How long the changes of a job's pods gather: those that fail together are seen together (upstream: `SyncJobBatchPeriod`).
const GATHER: Duration = Duration::from_secs(1);
/// The value of `spec.managedBy` that means this controller.
const MANAGER: &str = "kubernetes.io/job-controller";

/// What it plans for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A job.
    Job(ObjectKey),
    /// A pod with the finalizer that no job counts any more.
    Orphan(ObjectKey),
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// A job, and the pods that it controls or might adopt, but for those that it has nothing left to do with; the groups
    /// that they may be in, where groups are made.
    Job(Box<Job>, Vec<Arc<Pod>>, Option<Groups>),
    /// A pod that nobody counts.
    Orphan(Box<Pod>),
}

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";
    const QUEUE: &'static str = "job";
    /// Upstream: `DefaultJobApiBackOff` and `MaxJobApiBackOff`.
    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_mins(1) };
    type Key = Key;
    type Observed = Observed;
    type Memory = backoff::Failures;

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        let (metrics, pods) = (self.metrics.clone(), self.metrics.clone());
        let watches = match self.groups {
            true => watches.on::<Workload>(meant).on::<PodGroup>(meant),
            false => watches,
        };
        watches
            .on::<Job>(move |change, snapshot| {
                metrics.see(change);
                let mut keys = vec![Key::Job(change.key())];
                if let (Some(old), None) = (&change.old, &change.new) {
                    let pods = snapshot.store::<Pod>().by_index(BY_CONTROLLER, &old.uid);
                    keys.extend(pods.iter().map(|pod| Key::Orphan(pod.key.clone())));
                }
                keys
            })
            .on::<Pod>(move |change, snapshot| {
                pods.see_pod(change);
                at_once(change, snapshot)
            })
            .on_held::<Pod>(GATHER, |change, snapshot| match is_done(change) {
                true => Vec::new(),
                false => concerned(change, snapshot),
            })
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        let key = match key {
            Key::Job(key) => key,
            Key::Orphan(key) => {
                let pod: Pod = snapshot.get(key)?;
                return is_orphan(snapshot, &pod).then(|| Observed::Orphan(Box::new(pod)));
            }
        };
        let job: Job = snapshot.get(key)?;
        let managed_by = job.spec.as_ref()?.managed_by.as_deref();
        if managed_by.is_some_and(|it| it != MANAGER) {
            return None;
        }
        let selector = selector(&job);
        let store = snapshot.store::<Pod>();
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let mut pods = store.by_index(BY_CONTROLLER, uid);
        pods.retain(|pod| !is_settled(pod, &selector));
        let orphans = store.by_index(ORPHANS, &key.namespace).into_iter();
        pods.extend(orphans.filter(|pod| !pod.is_deleting() && selector.takes(pod)));
        let pods = pods.iter().filter_map(|pod| store.typed(pod)).collect();
        let groups = self.groups.then(|| Groups::seen(snapshot, &job));
        Some(Observed::Job(Box::new(job), pods, groups))
    }

    fn timed(&self, memory: &mut backoff::Failures, failure: Option<&Failure>, took: Duration) {
        let tally = std::mem::take(&mut memory.tally);
        if failure.is_none_or(|it| !it.is_of("update", "jobs")) {
            self.metrics.tallied(tally);
        }
        if let Some(sync) = memory.sync.take() {
            self.metrics.synced(sync, failure.is_some(), took);
        }
    }

    fn plan(&self, observed: &Observed, memory: &mut backoff::Failures, now: Timestamp) -> Plan {
        match observed {
            Observed::Job(job, pods, groups) => {
                let seen = plan::Seen { pods, groups: groups.as_ref() };
                memory.tally = metrics::Tally::default();
                let mut plan = plan::plan(job, seen, memory, now);
                self.metrics.count_creations(job, &memory.tally, &mut plan);
                memory.sync = Some(metrics::Sync::of(job, &plan));
                plan
            }
            Observed::Orphan(pod) => {
                let mut plan = Plan::nothing();
                plan.act(tracking::release(pod));
                plan
            }
        }
    }
}

/// Whether a job's pod has succeeded and is counted: of ten thousand of a job, most.
fn is_settled(pod: &Cached, selector: &Selector) -> bool {
    let over = pod.pod().phase == Phase::Succeeded && !pod.is_deleting();
    over && !pod.mentions(FINALIZER) && selector.takes(pod)
}

fn selector(job: &Job) -> Selector {
    let selector = job.spec.as_ref().and_then(|it| it.selector.as_ref());
    selector.map_or_else(Selector::nothing, Selector::of)
}

/// The jobs that a Workload or a group is for: those that own it, or that whom it names controls.
fn meant(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let owned = controller::watches::controllers(change, "Job").into_iter().map(Key::Job);
    let object = change.new.as_ref().or(change.old.as_ref()).map(|it| it.value());
    let named = object.as_ref().map(|it| it.str_at(&["spec", "controllerRef", "name"]));
    let Some(parent) = named.filter(|it| !it.is_empty()) else { return owned.collect() };
    let jobs = snapshot.store::<Job>().list(&change.key().namespace);
    let children = jobs.iter().filter(|it| it.controller().is_some_and(|it| it.name == parent));
    owned.chain(children.map(|it| Key::Job(it.key.clone()))).collect()
}

/// The job of a pod, or those that might adopt it.
fn concerned(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut jobs = controller::watches::controllers(change, "Job");
    jobs.extend(select::adopters::<Job>(snapshot, change, selector));
    jobs.into_iter().map(Key::Job).collect()
}

/// Whether a pod has done its work, which nothing else is judged together with.
fn is_done(change: &StoreChange) -> bool {
    change.new.as_ref().is_some_and(|it| it.pod().phase == Phase::Succeeded && !it.pod().deleting)
}

/// The job of a pod that has done its work, or has lost its finalizer, which was the last thing before it is counted; the pod
/// itself where nobody counts it.
fn at_once(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let tracked = |it: &Option<Arc<Cached>>| it.as_ref().is_some_and(|it| it.mentions(FINALIZER));
    let is_tracked = tracked(&change.new);
    let counted = !is_tracked && tracked(&change.old);
    let mut keys =
        if counted || is_done(change) { concerned(change, snapshot) } else { Vec::new() };
    let pod = change.new.as_ref().filter(|_| is_tracked).and_then(|it| it.decode::<Pod>());
    if pod.is_some_and(|pod| is_orphan(snapshot, &pod)) {
        keys.push(Key::Orphan(change.key()));
    }
    keys
}

/// Whether a pod waits to be counted by a job that is not there.
fn is_orphan(snapshot: &Snapshot, pod: &Pod) -> bool {
    if !tracking::is_tracked(pod) {
        return false;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(owner) = owner::controller_of(&pod.metadata) else {
        let jobs = snapshot.list::<Job>(namespace);
        return !jobs
            .iter()
            .any(|job| !owner::is_deleting(&job.metadata) && selector(job).matches(&pod.metadata));
    };
    let job = snapshot.store::<Job>().get(&ObjectKey::new(namespace, owner.name.as_str()));
    owner.kind == "Job" && job.is_none_or(|job| job.uid != owner.uid.as_str())
}
