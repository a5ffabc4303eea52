//! DaemonSet: one pod on each node that fits. Upstream: `pkg/controller/daemon`.

mod backoff;
mod history;
mod manage;
mod plan;
mod rolling;
mod status;
mod template;

use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::indexes::{BY_CONTROLLER, BY_DAEMON_NODE, ORPHANS};
use client::reflector::{Cached, StoreChange};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::history::{Kept, keep};
use crate::nodes::{NodeCache, NodeFacts};
use crate::owner;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Default)]
pub struct DaemonSets {
    nodes: NodeCache,
}

/// What it sees of a DaemonSet.
#[derive(Debug)]
pub struct Observed {
    /// The DaemonSet.
    pub set: DaemonSet,
    /// Its template as it is stored.
    pub template: Value,
    /// How its template is kept.
    pub kept: Kept,
    /// The pods that it controls, of whatever labels, and the orphans of its namespace that fit its selector.
    pub pods: Vec<Arc<Pod>>,
    /// The revisions that it controls, and the orphans that fit.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// All nodes, by name.
    pub nodes: Vec<Arc<NodeFacts>>,
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset-controller";
    const ACCOUNT: &'static str = "daemon-set-controller";
    const QUEUE: &'static str = "daemonset";
    type Key = ObjectKey;
    type Observed = Observed;
    /// How long nodes whose pods failed are left alone.
    type Memory = backoff::Backoff;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .own::<DaemonSet>()
            .on::<Pod>(concerned)
            .on::<ControllerRevision>(concerned)
            .on::<Node>(of_node)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let cached = snapshot.store::<DaemonSet>().get(key)?;
        let set: DaemonSet = cached.decode()?;
        let template = cached.value().at(&["spec", "template"]).cloned().unwrap_or_default();
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let selector = owner::selector(&set.spec.selector);
        let mut pods: Vec<Arc<Pod>> = snapshot.by_index(BY_CONTROLLER, &uid);
        let orphans = snapshot.by_index::<Pod>(ORPHANS, &key.namespace);
        pods.extend(orphans.into_iter().filter(|pod| owner::matches(&selector, &pod.metadata)));
        let mut revisions: Vec<Arc<ControllerRevision>> = snapshot.by_index(BY_CONTROLLER, &uid);
        let orphans = snapshot.by_index::<ControllerRevision>(ORPHANS, &key.namespace);
        revisions.extend(orphans.into_iter().filter(|it| owner::matches(&selector, &it.metadata)));
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        Some(Observed {
            kept: keep(snapshot, key, &template, collisions),
            nodes: self.nodes.all(&snapshot.store::<Node>()),
            set,
            template,
            pods,
            revisions,
        })
    }

    fn plan(&self, observed: &Observed, memory: &mut backoff::Backoff, now: Timestamp) -> Plan {
        plan::plan(observed, memory, now)
    }
}

/// The sets that a change of a pod or revision concerns: its controller's, or those that might adopt it.
fn concerned(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let mut keys = controller::watches::controllers(change, "DaemonSet");
    keys.extend(select::adopters::<DaemonSet>(snapshot, change, |set| {
        Selector::of(&set.spec.selector)
    }));
    keys
}

/// The sets that a change of a node concerns: those that lack a pod there, those whose pod may not stay, and those whose pod
/// is in its place now. A node that takes no more pods changes no status until something else happens, as with upstream.
fn of_node(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let facts = |node: &Option<Arc<Cached>>| node.as_ref().map(|it| NodeFacts::of(&it.value()));
    let (old, new) = (facts(&change.old), facts(&change.new));
    let Some(node) = new.as_ref().filter(|_| old != new) else { return Vec::new() };
    let pods = snapshot.store::<Pod>().by_index(BY_DAEMON_NODE, &node.name);
    let owners: Vec<String> = pods
        .iter()
        .flat_map(|pod| pod.value().items_at(&["metadata", "ownerReferences"]).to_vec())
        .map(|owner| owner.str_at(&["uid"]).to_owned())
        .collect();
    let concerned = snapshot.list::<DaemonSet>("").into_iter().filter(|set| {
        let place = manage::place(set, node);
        let has = set.metadata.uid.as_ref().is_some_and(|uid| owners.contains(uid));
        let ran = old.as_ref().is_some_and(|node| manage::place(set, node).should_run);
        if has { !place.may_stay || (place.should_run && !ran) } else { place.should_run }
    });
    concerned.map(|set| owner::key_of(&set.metadata)).collect()
}
