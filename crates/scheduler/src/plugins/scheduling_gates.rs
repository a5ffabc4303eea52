//! SchedulingGates: a pod with gates is not looked at.

use crate::cluster::Cluster;
use crate::framework::PreEnqueue;
use crate::pod::PodLite;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct SchedulingGates;

impl PreEnqueue for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn blocks(&self, _cluster: &Cluster, pod: &PodLite) -> Option<String> {
        let gates: Vec<&str> = pod.ask.gates.iter().map(|it| it.as_str()).collect();
        (!gates.is_empty()).then(|| format!("waiting for scheduling gates: [{}]", gates.join(" ")))
    }
}
