//! What is counted of detaching, in upstream's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Forced {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct There {
    plugin_name: String,
    state: &'static str,
}

/// What there is of one volume: on how many nodes it is to be, and for how many there are orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) driver: String,
    pub(super) desired: i64,
    pub(super) actual: i64,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    forced: Family<Forced, Counter>,
    there: Family<There, Gauge>,
    volumes: Arc<Mutex<BTreeMap<CompactString, Total>>>,
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[ALPHA] Number of times the A/D Controller performed a forced detach";
        let name = "attach_detach_controller_attachdetach_controller_forced_detaches";
        registry.register(name, help, self.forced.clone());
        let help = "[ALPHA] Number of volumes in A/D Controller";
        registry.register("attachdetach_controller_total_volumes", help, self.there.clone());
    }

    /// What there is of a volume now; `None` where it is gone.
    pub(super) fn see(&self, volume: &str, total: Option<&Total>) {
        let mut volumes = self.volumes.lock();
        let before = match total {
            Some(total) => volumes.insert(volume.into(), total.clone()),
            None => volumes.remove(volume),
        };
        if before.as_ref() == total {
            return;
        }
        let add = |total: &Total, sign: i64| {
            let states = [
                ("desired_state_of_world", total.desired),
                ("actual_state_of_world", total.actual),
            ];
            for (state, count) in states {
                let plugin_name = format!("kubernetes.io/csi:{}", total.driver);
                self.there.get_or_create(&There { plugin_name, state }).inc_by(sign * count);
            }
        };
        before.iter().for_each(|it| add(it, -1));
        total.iter().for_each(|it| add(it, 1));
    }

    pub(super) fn forced(&self, reason: &'static str) {
        self.forced.get_or_create(&Forced { reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_counted_by_driver_while_they_are_somewhere() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let told = |state: &str| {
            let text = component_base::metrics::text(&registry);
            let found = text.lines().find(|it| {
                it.starts_with("attachdetach_controller_total_volumes{") && it.contains(state)
            });
            found.and_then(|it| it.rsplit(' ').next()?.parse::<i64>().ok())
        };
        let total = |desired, actual| Some(Total { driver: "d".into(), desired, actual });
        metrics.see("a", total(1, 0).as_ref());
        metrics.see("b", total(1, 1).as_ref());
        metrics.see("a", total(1, 1).as_ref());
        assert_eq!((told("desired_state"), told("actual_state")), (Some(2), Some(2)));
        metrics.see("a", None);
        metrics.see("a", None);
        assert_eq!((told("desired_state"), told("actual_state")), (Some(1), Some(1)));
    }
}
