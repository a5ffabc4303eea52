//! Who holds a lease for which there are LeaseCandidates: the best of those that answer. And candidates that have been
//! silent for long go. Both work for an API server. Upstream: `pkg/controlplane/controller/leaderelection`.

pub mod plan;

use std::sync::Arc;

use apimachinery::Value;
use client::reflector::{Cached, Caches, StoreChange};
use client::{Client, EventRecorder, ObjectKey, Resource};
use component_base::{Clock, Random, ShutdownSignal};
use controller::{Action, Controller, Environment, Plan, Runner, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use tokio_util::task::TaskTracker;

/// Gives leases to candidates.
#[derive(Debug, Clone, Copy)]
pub struct LeaderElection;

/// Deletes candidates that nobody stands for any more.
#[derive(Debug, Clone, Copy)]
pub struct LeaseCandidateGc;

/// What is seen of a lease.
#[derive(Debug)]
pub struct Observed {
    /// The lease; `None` while there is none.
    pub(crate) lease: Option<Arc<Value>>,
    /// Its candidates, by name.
    pub(crate) candidates: Vec<Arc<Value>>,
}

fn candidates() -> Resource {
    Resource::built_in("coordination.k8s.io", "leasecandidates")
}

/// The lease that a candidate would hold. One that was asked just now and has not answered is waited for already.
fn lease_of(candidate: &Cached) -> Option<ObjectKey> {
    let value = candidate.value();
    let name = value.str_at(&["spec", "leaseName"]);
    let new = || ObjectKey::new(candidate.key.namespace.clone(), name);
    (!name.is_empty() && !plan::is_pending(&value)).then(new)
}

impl Controller for LeaderElection {
    const NAME: &'static str = "leader-election-controller";
    /// A lease, whether it is there or not.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .on::<Lease>(|change, snapshot| {
                let key = change.key();
                let any = snapshot.store_for(&candidates()).has_any(&key.namespace);
                any.then_some(key).into_iter().collect()
            })
            .on_resource(candidates(), |change: &StoreChange, _| {
                let object = change.new.as_ref().or(change.old.as_ref());
                object.and_then(|it| lease_of(it)).into_iter().collect()
            })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let all = snapshot.store_for(&candidates()).list(&key.namespace);
        let values = all.iter().map(|it| it.value());
        let of = |it: &Arc<Value>| it.str_at(&["spec", "leaseName"]) == key.name;
        let candidates: Vec<Arc<Value>> = values.filter(of).collect();
        let lease = snapshot.store::<Lease>().get(key).map(|it| it.value());
        (!candidates.is_empty()).then_some(Observed { lease, candidates })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        plan::plan(observed, &candidates(), now)
    }
}

impl Controller for LeaseCandidateGc {
    const NAME: &'static str = "lease-candidate-gc";
    /// A candidate.
    type Key = ObjectKey;
    type Observed = Arc<Value>;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.on_resource(candidates(), |change, _| vec![change.key()])
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Arc<Value>> {
        Some(snapshot.store_for(&candidates()).get(key)?.value())
    }

    fn plan(&self, candidate: &Arc<Value>, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let expires = plan::expires_at(candidate);
        if let Some(at) = expires.filter(|it| *it >= now) {
            plan.requeue_by(at.saturating_add(plan::MOMENT).unwrap_or(Timestamp::MAX));
            return plan;
        }
        let metadata = |member| candidate.str_at(&["metadata", member]);
        plan.act(Action::Delete {
            resource: candidates(),
            key: ObjectKey::new(metadata("namespace"), metadata("name")),
            uid: metadata("uid").to_owned(),
            propagation: None,
            grace_period_seconds: None,
            // One that says something in this moment stays.
            resource_version: metadata("resourceVersion").to_owned(),
        });
        plan
    }
}

/// What those who elect are given.
#[derive(Debug, Clone)]
pub struct Elections {
    /// A client under the server's own identity.
    pub client: Client,
    /// When it is.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<dyn Random>,
}

impl Elections {
    /// Elects until `stop`.
    pub async fn run(self, stop: ShutdownSignal) {
        let tasks = TaskTracker::new();
        let caches = Caches::new(self.client.clone(), Arc::clone(&self.random), stop.clone());
        self.start(LeaderElection, &caches, &tasks, &stop);
        self.start(LeaseCandidateGc, &caches, &tasks, &stop);
        stop.requested().await;
        tasks.close();
        tasks.wait().await;
    }

    fn start<C: Controller>(
        &self,
        controller: C,
        caches: &Arc<Caches>,
        tasks: &TaskTracker,
        stop: &ShutdownSignal,
    ) {
        let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
        let environment = Environment {
            caches: Arc::clone(caches),
            client: self.client.clone(),
            // Neither tells of anything.
            events: EventRecorder::new(C::SOURCE, "", Arc::clone(&clock), random),
            clock,
            metrics: controller::Metrics::default(),
            workers: 1,
        };
        tasks.spawn(Runner::new(controller, environment).run(stop.clone()));
    }
}
