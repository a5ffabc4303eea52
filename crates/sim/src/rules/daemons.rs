//! A DaemonSet has one pod made for a node, unless its surge allows two.

use std::collections::BTreeMap;

use apimachinery::Value;
use compact_str::CompactString;
use tokio::time::Instant;

use super::{Rule, controller, is_active, uid};
use crate::observer::{Change, Context};

const RULE: &str = "one pod of a DaemonSet for each node";
const KIND: &str = "DaemonSet";

#[derive(Debug, Default)]
pub(super) struct Daemons {
    /// Active pods, with who owns them and for which node they are.
    active: BTreeMap<CompactString, (CompactString, CompactString)>,
    adopted: BTreeMap<CompactString, Instant>,
    /// Sets that may have two pods for a node; until when, where they may no more or are gone.
    surge: BTreeMap<CompactString, Option<Instant>>,
}

fn surges(set: &Value) -> bool {
    let surge = set.at(&["spec", "updateStrategy", "rollingUpdate", "maxSurge"]);
    surge.is_some_and(|it| it != &Value::Int(0))
}

/// The node that a pod of a DaemonSet is made for.
fn node_of(pod: &Value) -> Option<&str> {
    let path = [
        "spec",
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
    ];
    let fields = pod.items_at(&path).first()?.items_at(&["matchFields"]);
    fields.first()?.items_at(&["values"]).first()?.as_str()
}

impl Rule for Daemons {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match change.kind {
            KIND => return self.set(change, context),
            "Pod" => {}
            _ => return,
        }
        let Some(pod) = change.new.or(change.old) else { return };
        let Some(owner) = controller(pod, KIND) else {
            self.active.remove(uid(pod));
            return;
        };
        if !change.new.is_some_and(is_active) {
            self.active.remove(uid(pod));
            return;
        }
        let Some(node) = node_of(pod) else { return };
        let new = self.active.insert(uid(pod).into(), (owner.into(), node.into())).is_none();
        if !new {
            return;
        }
        if change.old.is_some() {
            self.adopted.insert(owner.into(), context.now);
            return;
        }
        let twins = self.active.values().filter(|it| it.0 == owner && it.1 == node).count();
        let surge = self.surge.get(owner);
        let surges = surge.is_some_and(|until| until.is_none_or(|it| it >= context.since));
        let adopted = self.adopted.get(owner).is_some_and(|at| *at >= context.since);
        if twins > 1 && !adopted && !(surges && twins == 2) {
            let (namespace, name) = (&change.place.namespace, &change.place.name);
            let what = format!("{namespace}/{name} is number {twins} for {node}");
            context.ledger.violation(RULE, what);
        }
    }
}

impl Daemons {
    fn set(&mut self, change: &Change<'_>, context: &Context<'_>) {
        if let Some(set) = change.new.filter(|it| surges(it)) {
            self.surge.insert(uid(set).into(), None);
        } else if let Some(set) = change.old.filter(|it| surges(it)) {
            self.surge.insert(uid(set).into(), Some(context.now));
        }
    }
}
