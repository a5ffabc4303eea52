//! How long kubelets may trust what they know of a secret or ConfigMap: longer in larger clusters, told by an annotation of
//! each node. Upstream: `pkg/controller/ttl`.

use std::sync::Arc;

use apimachinery::value;
use client::call::PatchKind;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// A size of clusters.
struct Size {
    /// With fewer nodes than this a cluster counts as of the size below.
    least: usize,
    /// With more nodes than this a cluster counts as of the size above.
    most: usize,
    seconds: i64,
}

/// Upstream's sizes. They overlap, so that a node that comes and goes does not change everything.
const SIZES: &[Size] = &[
    Size { least: 0, most: 100, seconds: 0 },
    Size { least: 90, most: 500, seconds: 15 },
    Size { least: 450, most: 1_000, seconds: 30 },
    Size { least: 900, most: 2_000, seconds: 60 },
    Size { least: 1_800, most: 10_000, seconds: 300 },
    Size { least: 9_000, most: usize::MAX, seconds: 600 },
];

/// The controller.
#[derive(Debug, Default)]
pub struct NodeTtl {
    /// The cluster's present size.
    size: Mutex<usize>,
}

/// What it sees of a node.
#[derive(Debug)]
pub struct Observed {
    node: Arc<apimachinery::Value>,
    seconds: i64,
}

impl Controller for NodeTtl {
    const NAME: &'static str = "ttl-controller";
    const QUEUE: &'static str = "ttlcontroller";
    /// A node.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Node>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let store = snapshot.store::<Node>();
        let node = store.get(key)?.value();
        let mut size = self.size.lock();
        *size = size_of(*size, store.len());
        Some(Observed { node, seconds: SIZES[*size].seconds })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let text = observed.seconds.to_string();
        if observed.node.str_at(&["metadata", "annotations", ANNOTATION]) != text {
            plan.act(Action::Patch {
                resource: Resource::of::<Node>(),
                key: ObjectKey::new("", observed.node.str_at(&["metadata", "name"])),
                subresource: "",
                kind: PatchKind::Strategic,
                patch: value!({"metadata": {"annotations": {ANNOTATION: text}}}),
                gone_is_fine: true,
            });
        }
        plan
    }
}

/// The size of a cluster that had this one and has so many nodes now.
fn size_of(mut size: usize, nodes: usize) -> usize {
    while nodes > SIZES[size].most {
        size += 1;
    }
    while nodes < SIZES[size].least {
        size -= 1;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_lasts_a_while_longer_than_it_would_begin() {
        let mut size = 0;
        let mut check = |nodes: usize, seconds: i64| {
            size = size_of(size, nodes);
            assert_eq!(SIZES[size].seconds, seconds, "{nodes}");
        };
        check(100, 0);
        check(101, 15);
        check(95, 15);
        check(89, 0);
        check(5_000, 300);
        check(1_900, 300);
        check(0, 0);
        check(20_000, 600);
    }
}
