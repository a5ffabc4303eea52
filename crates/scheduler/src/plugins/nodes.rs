//! NodeUnschedulable, NodeName and NodeDeclaredFeatures: what a node or a pod says outright.

use std::ops::Range;

use crate::cluster::{Cluster, UNSCHEDULABLE};
use crate::framework::{Check, Cycle, Filter, LooksAtPods, Prepared, Rejection};
use crate::node::Row;
use crate::terms::{Effect, Taint};

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            value: "".into(),
            effect: Effect::NoSchedule,
        };
        if cycle.pod.ask.tolerations.iter().any(|it| it.tolerates(&taint)) {
            return Prepared::Skip;
        }
        Prepared::Ready(Box::new(Schedulable))
    }
}

#[derive(Debug, Clone)]
struct Schedulable;

impl Check for Schedulable {
    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn check(&self, row: &Row) -> Result<(), Rejection> {
        if row.node.unschedulable {
            return Err(Rejection::for_good("node(s) were unschedulable"));
        }
        Ok(())
    }

    fn is_local(&self) -> bool {
        true
    }

    fn sweep(&self, cluster: &Cluster, range: Range<usize>, marks: &mut [u8], mark: u8) {
        let columns = cluster.columns();
        if columns.any_flags & UNSCHEDULABLE == 0 {
            return;
        }
        for (flags, it) in columns.flags[range].iter().zip(marks) {
            if *it == 0 && flags & UNSCHEDULABLE != 0 {
                *it = mark;
            }
        }
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(Self)
    }
}

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.node.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Ready(Box::new(Named(&cycle.pod.node)))
    }
}

#[derive(Debug, Clone)]
struct Named<'a>(&'a str);

impl Check for Named<'_> {
    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn check(&self, row: &Row) -> Result<(), Rejection> {
        if row.node.name != self.0 {
            return Err(Rejection::for_good("node(s) didn't match the requested node name"));
        }
        Ok(())
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct NodeDeclaredFeatures;

impl Filter for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.ask.features.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Ready(Box::new(Declares(&cycle.pod.ask.features)))
    }
}

#[derive(Debug, Clone)]
struct Declares<'a>(&'a [&'static str]);

impl Check for Declares<'_> {
    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let declared = |feature: &&&str| row.node.features.iter().any(|it| it == **feature);
        let missing: Vec<&str> = self.0.iter().filter(|it| !declared(it)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.join(", ");
        let reason =
            format!("node declared features check failed - unsatisfied requirements: {missing}");
        Err(Rejection::for_good(reason))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}
