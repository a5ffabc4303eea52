//! The feature gates that a scheduler goes by. Who reads the flags makes this of them.

/// What is on. The default is upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `GenericWorkload`: pods are scheduled in groups.
    pub pod_groups: bool,
    /// `TopologyAwareWorkloadScheduling`: groups may have to be in one place.
    pub topology: bool,
    /// `StorageCapacityScoring`: nodes are scored by the room that their volumes would leave.
    pub storage_capacity_scoring: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { pod_groups: false, topology: false, storage_capacity_scoring: true }
    }
}
