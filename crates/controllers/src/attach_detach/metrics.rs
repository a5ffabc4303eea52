//! What is counted of detaching, in upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Forced {
    reason: &'static str,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    forced: Family<Forced, Counter>,
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[ALPHA] Number of times the A/D Controller performed a forced detach";
        let name = "attach_detach_controller_attachdetach_controller_forced_detaches";
        registry.register(name, help, self.forced.clone());
    }

    pub(super) fn forced(&self, reason: &'static str) {
        self.forced.get_or_create(&Forced { reason }).inc();
    }
}
