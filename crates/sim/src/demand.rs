//! What a pod asks for, as the scheduler and nodes count it.

use apimachinery::Value;
use apimachinery::quantity::Quantity;

/// Requests of one pod, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) cpu_milli: i64,
    pub(crate) memory_mib: i64,
    pub(crate) pods: i64,
}

impl Demand {
    /// The requests of a pod of this simulation, which has one container and nothing else that counts.
    pub(crate) fn of(pod: &Value) -> Self {
        let mut all = Self { pods: 1, ..Self::default() };
        for container in pod.items_at(&["spec", "containers"]) {
            let requests = |name: &str| {
                Quantity::parse(container.str_at(&["resources", "requests", name])).ok()
            };
            all.cpu_milli += requests("cpu").map_or(0, |it| it.milli_value());
            all.memory_mib += requests("memory").map_or(0, |it| it.value() >> 20);
        }
        all
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli + other.cpu_milli,
            memory_mib: self.memory_mib + other.memory_mib,
            pods: self.pods + other.pods,
        }
    }
}
