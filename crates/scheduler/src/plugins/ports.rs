//! NodePorts: a port of a node is given once.

use crate::framework::{Check, Cycle, Filter, Prepared, Rejection};
use crate::node::Row;
use crate::pod::HostPort;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.ports.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Ready(Box::new(PortsFree(&cycle.pod.ports)))
    }
}

#[derive(Debug, Clone)]
struct PortsFree<'a>(&'a [HostPort]);

impl Check for PortsFree<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let mut taken = row.pods.iter().flat_map(|pod| pod.ports.iter());
        if taken.any(|port| self.0.iter().any(|it| it.conflicts(port))) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Err(Rejection::for_now(reason));
        }
        Ok(())
    }

    fn is_local(&self) -> bool {
        true
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}
