//! What the audit counts about itself, in upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::policy::Level;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    level: &'static str,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    events: Counter,
    errors: Family<OfPlugin, Counter>,
    levels: Family<OfLevel, Counter>,
    rejected: Counter,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_audit_event",
            "Events that were made and sent to the backends",
            self.events.clone(),
        );
        registry.register(
            "apiserver_audit_error",
            "Events that a backend could not take",
            self.errors.clone(),
        );
        registry.register(
            "apiserver_audit_level",
            "Requests by the level that the policy sets",
            self.levels.clone(),
        );
        registry.register(
            "apiserver_audit_requests_rejected",
            "Requests that were refused because they could not be recorded",
            self.rejected.clone(),
        );
    }

    pub(crate) fn event(&self) {
        self.events.inc();
    }

    pub(crate) fn level(&self, level: Level) {
        self.levels.get_or_create(&OfLevel { level: level.as_str() }).inc();
    }

    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    /// Counts and tells events that are lost.
    pub(crate) fn lost(&self, plugin: &'static str, events: usize, why: &dyn std::fmt::Display) {
        let count = u64::try_from(events).unwrap_or(u64::MAX);
        self.errors.get_or_create(&OfPlugin { plugin }).inc_by(count);
        tracing::warn!(plugin, events, error = %why, "audit events are lost");
    }
}
