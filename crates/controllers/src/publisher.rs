//! What those count who publish the cluster's authority, in upstream's names.

use std::time::Duration;

use controller::Failure;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    code: u16,
}

/// The metrics of one publisher. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    syncs: Family<OfCode, Counter>,
    took: Family<OfCode, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let took = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self { syncs: Family::default(), took: Family::new_with_constructor(took) }
    }
}

impl Metrics {
    /// Registers them under upstream's names, of the syncs and of how long they took; `what` is what is published.
    pub(crate) fn register(&self, registry: &mut Registry, names: [&str; 2], what: &str) {
        let [syncs, took] = names;
        let help =
            format!("[ALPHA] Number of syncs that published {what}, by the code of their outcome");
        registry.register(syncs, help, self.syncs.clone());
        let help = format!(
            "[ALPHA] How long a sync that published {what} took, in seconds, by the code of its outcome"
        );
        registry.register(took, help, self.took.clone());
    }

    /// Counts a sync. As upstream has it, what no server answered is a 500.
    pub(crate) fn count(&self, failure: Option<&Failure>, took: Duration) {
        const NO_ANSWER: u16 = 500;
        let code = failure.map_or(200, |it| it.code.unwrap_or(NO_ANSWER));
        self.syncs.get_or_create(&OfCode { code }).inc();
        self.took.get_or_create(&OfCode { code }).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_counted_by_the_code_of_their_outcome() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        let names = ["root_ca_cert_publisher_sync", "root_ca_cert_publisher_sync_duration_seconds"];
        metrics.register(&mut registry, names, "a root CA");
        let failure = |code| Failure {
            why: "no".into(),
            is_final: false,
            of: None,
            namespace: "".into(),
            code,
        };
        metrics.count(None, Duration::from_millis(3));
        metrics.count(Some(&failure(Some(403))), Duration::ZERO);
        metrics.count(Some(&failure(None)), Duration::ZERO);
        let told = component_base::metrics::text(&registry);
        for line in [
            "root_ca_cert_publisher_sync_total{code=\"200\"} 1",
            "root_ca_cert_publisher_sync_total{code=\"403\"} 1",
            "root_ca_cert_publisher_sync_total{code=\"500\"} 1",
            "root_ca_cert_publisher_sync_duration_seconds_bucket{le=\"0.002\",code=\"200\"} 0",
            "root_ca_cert_publisher_sync_duration_seconds_bucket{le=\"0.004\",code=\"200\"} 1",
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
    }
}
