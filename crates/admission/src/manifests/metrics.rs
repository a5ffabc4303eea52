//! What is told of manifests, in upstream's names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    status: &'static str,
    plugin: &'static str,
    apiserver_id_hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Config {
    plugin: &'static str,
    apiserver_id_hash: String,
    hash: String,
}

/// What is told of the directories. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    reloads: Family<Reload, Counter<u64, AtomicU64>>,
    last: Family<Reload, Gauge<f64, AtomicU64>>,
    configs: Family<Config, Gauge>,
    /// The configuration that counts, by plugin.
    told: Arc<Mutex<BTreeMap<&'static str, Config>>>,
}

/// `sha256:...`, as upstream tells what is long.
pub(super) fn hash(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|it| format!("{it:02x}")).collect();
    format!("sha256:{hex}")
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry =
            registry.sub_registry_with_prefix("apiserver_manifest_admission_config_controller");
        let help =
            "[ALPHA] Times that manifests of admission were read, by plugin and how that went";
        registry.register("automatic_reloads", help, self.reloads.clone());
        let help = "[ALPHA] When they were last read";
        registry.register("automatic_reload_last_timestamp_seconds", help, self.last.clone());
        let help = "[ALPHA] The hash of the manifests that count now";
        registry.register("last_config_info", help, self.configs.clone());
    }

    /// Takes note that a plugin's directory was read: what its hash is, unless that failed.
    pub(super) fn read(
        &self,
        (plugin, server): (&'static str, &str),
        hashed: Option<&str>,
        now: f64,
    ) {
        let apiserver_id_hash = server.to_owned();
        let status = if hashed.is_some() { "success" } else { "failure" };
        let of = Reload { status, plugin, apiserver_id_hash: apiserver_id_hash.clone() };
        self.reloads.get_or_create(&of).inc();
        self.last.get_or_create(&of).set(now);
        let Some(hashed) = hashed else { return };
        let now = Config { plugin, apiserver_id_hash, hash: hashed.to_owned() };
        if let Some(before) = self.told.lock().insert(plugin, now.clone()) {
            self.configs.remove(&before);
        }
        self.configs.get_or_create(&now).set(1);
    }
}
