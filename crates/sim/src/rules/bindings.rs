//! The scheduler binds no pod to a node that cannot hold it at that moment.

use std::collections::BTreeMap;

use compact_str::CompactString;
use tokio::time::Instant;

use super::{Rule, is_terminal, uid};
use crate::demand::Demand;
use crate::node::{CPU_MILLI, MEMORY_MIB, PODS};
use crate::observer::{Change, Context};

const ROOM: &str = "the scheduler binds no more than a node can hold";
const CLOSED: &str = "the scheduler binds nothing to a node that is closed";

#[derive(Debug, Default)]
pub(super) struct Bindings {
    /// What lies on nodes and is not over, by uid.
    placed: BTreeMap<CompactString, (CompactString, Demand)>,
    /// Since when nodes have been closed to new pods.
    closed: BTreeMap<CompactString, Instant>,
}

impl Rule for Bindings {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match change.kind {
            "Node" => self.node(change, context),
            "Pod" => self.pod(change, context),
            _ => {}
        }
    }
}

impl Bindings {
    fn node(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let closed = change.new.is_none_or(|it| {
            let taints = it.items_at(&["spec", "taints"]);
            it.bool_at(&["spec", "unschedulable"])
                && taints.iter().any(|it| it.str_at(&["effect"]) == "NoSchedule")
        });
        if closed {
            self.closed.entry(change.place.name.clone()).or_insert(context.now);
        } else {
            self.closed.remove(&change.place.name);
        }
    }

    fn pod(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Some(pod) = change.new.or(change.old) else { return };
        let node = pod.str_at(&["spec", "nodeName"]);
        if node.is_empty() {
            return;
        }
        if change.new.is_none_or(is_terminal) {
            self.placed.remove(uid(pod));
            return;
        }
        let placed = (node.into(), Demand::of(pod));
        let is_new = self.placed.insert(uid(pod).into(), placed).is_none();
        let was_bound = change.old.is_none_or(|it| !it.str_at(&["spec", "nodeName"]).is_empty());
        if !is_new || was_bound {
            return;
        }
        let on_node = self.placed.values().filter(|it| it.0 == node).map(|it| it.1);
        let all = on_node.fold(Demand::default(), Demand::plus);
        let (namespace, name) = (&change.place.namespace, &change.place.name);
        if all.cpu_milli > CPU_MILLI || all.memory_mib > MEMORY_MIB || all.pods > PODS {
            context.ledger.violation(ROOM, format!("{namespace}/{name} makes {node} hold {all:?}"));
        }
        // Pods of DaemonSets do, whoever owns them now.
        let tolerations = pod.items_at(&["spec", "tolerations"]);
        let tolerates =
            tolerations.iter().any(|it| it.str_at(&["key"]) == "node.kubernetes.io/unschedulable");
        if !tolerates && self.closed.get(node).is_some_and(|since| *since < context.since) {
            context.ledger.violation(CLOSED, format!("{namespace}/{name} is bound to {node}"));
        }
    }
}
