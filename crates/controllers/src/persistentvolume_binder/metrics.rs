//! What is counted of volumes and claims, in upstream's names: read from how they change.

use std::sync::Arc;

use apimachinery::Value;
use client::reflector::{Cached, StoreChange};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Upstream's names of the plugins that its binder knows, by the member of a volume's spec.
const PLUGINS: [(&str, &str); 4] = [
    ("csi", "kubernetes.io/csi"),
    ("hostPath", "kubernetes.io/host-path"),
    ("local", "kubernetes.io/local-volume"),
    ("nfs", "kubernetes.io/nfs"),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVolumes {
    storage_class: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClaims {
    namespace: String,
    storage_class: String,
    volume_attributes_class: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin_name: String,
    volume_mode: String,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    bound_volumes: Family<OfVolumes, Gauge>,
    unbound_volumes: Family<OfVolumes, Gauge>,
    volumes: Family<OfPlugin, Gauge>,
    bound_claims: Family<OfClaims, Gauge>,
    unbound_claims: Family<OfClaims, Gauge>,
    /// Of claims that got their class later than they were made.
    classes: Counter,
    failed_classes: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let of = registry.sub_registry_with_prefix("pv_collector");
        let help = "[ALPHA] Gauge measuring number of persistent volume currently bound";
        of.register("bound_pv_count", help, self.bound_volumes.clone());
        let help = "[ALPHA] Gauge measuring number of persistent volume currently unbound";
        of.register("unbound_pv_count", help, self.unbound_volumes.clone());
        let help = "[ALPHA] Gauge measuring total number of persistent volumes";
        of.register("total_pv_count", help, self.volumes.clone());
        let help = "[ALPHA] Gauge measuring number of persistent volume claim currently bound";
        of.register("bound_pvc_count", help, self.bound_claims.clone());
        let help = "[ALPHA] Gauge measuring number of persistent volume claim currently unbound";
        of.register("unbound_pvc_count", help, self.unbound_claims.clone());
        let help = "[ALPHA] Total number of retroactive StorageClass assignments to persistent volume claim";
        registry.register("retroactive_storageclass", help, self.classes.clone());
        let help = "[ALPHA] Total number of failed retroactive StorageClass assignments to persistent volume claim";
        registry.register("retroactive_storageclass_errors", help, self.failed_classes.clone());
    }

    /// Counts a claim's getting its class, and that it does not.
    pub(super) fn of_class(&self) -> [Counter; 2] {
        [self.classes.clone(), self.failed_classes.clone()]
    }

    /// Forgets what is there: all of it is told anew.
    pub(super) fn begin(&self) {
        self.bound_volumes.clear();
        self.unbound_volumes.clear();
        self.volumes.clear();
        self.bound_claims.clear();
        self.unbound_claims.clear();
    }

    /// A volume changed.
    pub(super) fn see_volume(&self, change: &StoreChange) {
        each(change, |volume, by| {
            let storage_class = volume.str_at(&["spec", "storageClassName"]).to_owned();
            let of = OfVolumes { storage_class };
            let bound = is_bound(volume);
            if bound { &self.bound_volumes } else { &self.unbound_volumes }
                .get_or_create(&of)
                .inc_by(by);
            let volume_mode = match volume.str_at(&["spec", "volumeMode"]) {
                "" => "Filesystem".to_owned(),
                mode => mode.to_owned(),
            };
            let of = OfPlugin { plugin_name: plugin(volume), volume_mode };
            self.volumes.get_or_create(&of).inc_by(by);
        });
    }

    /// A claim changed.
    pub(super) fn see_claim(&self, change: &StoreChange) {
        each(change, |claim, by| {
            let of = OfClaims {
                namespace: claim.str_at(&["metadata", "namespace"]).to_owned(),
                storage_class: claim.str_at(&["spec", "storageClassName"]).to_owned(),
                volume_attributes_class: claim
                    .str_at(&["spec", "volumeAttributesClassName"])
                    .to_owned(),
            };
            let bound = is_bound(claim);
            if bound { &self.bound_claims } else { &self.unbound_claims }
                .get_or_create(&of)
                .inc_by(by);
        });
    }
}

/// What was there goes, what is there comes.
fn each(change: &StoreChange, count: impl Fn(&Value, i64)) {
    let tell = |object: &Option<Arc<Cached>>, by| {
        if let Some(object) = object {
            count(&object.value(), by);
        }
    };
    tell(&change.old, -1);
    tell(&change.new, 1);
}

fn is_bound(object: &Value) -> bool {
    object.str_at(&["status", "phase"]) == "Bound"
}

/// Upstream: `getPVPluginName`.
fn plugin(volume: &Value) -> String {
    let known = PLUGINS.iter().find(|(member, _)| volume.at(&["spec", member]).is_some());
    match known {
        Some(("csi", name)) => format!("{name}:{}", volume.str_at(&["spec", "csi", "driver"])),
        Some((_, name)) => (*name).to_owned(),
        None => "N/A".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_is_there_is_told_by_what_it_is() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let cached = |object: &Value| Some(Arc::new(Cached::new(object.clone())));
        let volume = |phase: &str| {
            value!({"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": "a"},
                "spec": {"storageClassName": "fast", "csi": {"driver": "d"}}, "status": {"phase": phase}})
        };
        let claim = value!({"kind": "PersistentVolumeClaim", "apiVersion": "v1",
            "metadata": {"name": "a", "namespace": "n"}, "spec": {}});
        let (free, bound) = (cached(&volume("Available")), cached(&volume("Bound")));
        metrics.see_volume(&StoreChange { old: None, new: free.clone() });
        metrics.see_volume(&StoreChange { old: free, new: bound.clone() });
        metrics.see_claim(&StoreChange { old: None, new: cached(&claim) });
        let told = component_base::metrics::text(&registry);
        for line in [
            "pv_collector_bound_pv_count{storage_class=\"fast\"} 1",
            "pv_collector_unbound_pv_count{storage_class=\"fast\"} 0",
            "pv_collector_total_pv_count{plugin_name=\"kubernetes.io/csi:d\",volume_mode=\"Filesystem\"} 1",
            "pv_collector_unbound_pvc_count{namespace=\"n\",storage_class=\"\",volume_attributes_class=\"\"} 1",
            "retroactive_storageclass_total 0",
        ] {
            assert!(told.lines().any(|it| it == line), "{line}: {told}");
        }
        metrics.begin();
        assert!(!component_base::metrics::text(&registry).contains("fast"));
    }
}
