//! What encryption counts about itself, in upstream's names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};

/// The status of what went well.
pub(crate) const GOOD: &str = "OK";
/// That of a failure that is no plugin's refusal.
pub(crate) const NO_CODE: &str = "unknown-non-grpc";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    resource: String,
    status: &'static str,
    transformation_type: &'static str,
    transformer_prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Took {
    transformation_type: &'static str,
    transformer_prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    grpc_status_code: &'static str,
    method_name: &'static str,
    provider_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Key {
    apiserver_id_hash: String,
    key_id_hash: String,
    provider_name: String,
    transformation_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    apiserver_id_hash: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Config {
    apiserver_id_hash: String,
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Told {
    apiserver_id_hash: String,
    key_id_hash: String,
    provider_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoGood {
    error: &'static str,
    provider_name: String,
}

type Seconds = Gauge<f64, AtomicU64>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// What tells this server from others.
    id_hash: String,
    operations: Family<Operation, Counter>,
    took: Histograms<Took>,
    calls: Histograms<Call>,
    keys: Family<Key, Counter>,
    keys_used_at: Family<Key, Seconds>,
    keys_told_at: Family<Told, Seconds>,
    keys_no_good: Family<NoGood, Counter>,
    config: Family<Config, Gauge>,
    misses: Counter,
    reloads: Family<Reload, Counter>,
    reloaded_at: Family<Reload, Seconds>,
}

impl Metrics {
    /// Those of the server of this name.
    pub(crate) fn new(server: &str) -> Self {
        Self {
            id_hash: hash(server.as_bytes()),
            operations: Family::default(),
            took: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(5e-6, 2.0, 25))
            }),
            calls: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(1e-4, 2.0, 18))
            }),
            keys: Family::default(),
            keys_used_at: Family::default(),
            keys_told_at: Family::default(),
            keys_no_good: Family::default(),
            config: Family::default(),
            misses: Counter::default(),
            reloads: Family::default(),
            reloaded_at: Family::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_storage_transformation_operations",
            "Values that were encrypted or decrypted",
            self.operations.clone(),
        );
        registry.register(
            "apiserver_storage_transformation_duration_seconds",
            "How long values took to be encrypted or decrypted",
            self.took.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_kms_operations_latency_seconds",
            "How long calls of KMS plugins took",
            self.calls.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_key_id_hash",
            "How often a key of a KMS plugin was used",
            self.keys.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds",
            "When a key of a KMS plugin was last used",
            self.keys_used_at.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
            "When a KMS plugin last said that a key is its own",
            self.keys_told_at.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_last_config_info",
            "The hash of the configuration that counts now",
            self.config.clone(),
        );
        registry.register(
            "apiserver_storage_envelope_transformation_cache_misses",
            "Keys that a KMS plugin had to decrypt",
            self.misses.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_automatic_reloads",
            "How often the configuration was read again because it changed",
            self.reloads.clone(),
        );
        registry.register(
            "apiserver_envelope_encryption_invalid_key_id_from_status",
            "Times that a plugin told of a key by a name that is none",
            self.keys_no_good.clone(),
        );
        registry.register(
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
            "When the configuration was last read again",
            self.reloaded_at.clone(),
        );
    }

    /// Counts a value that was written or read; `status` is the gRPC code of a plugin that has refused it, or one of the words for none.
    pub(crate) fn transformed(
        &self,
        kind: &'static str,
        (resource, prefix): (&str, &str),
        status: &'static str,
        took: Duration,
    ) {
        self.operations
            .get_or_create(&Operation {
                resource: resource.to_owned(),
                status,
                transformation_type: kind,
                transformer_prefix: prefix.to_owned(),
            })
            .inc();
        if status == GOOD {
            let of = Took { transformation_type: kind, transformer_prefix: prefix.to_owned() };
            self.took.get_or_create(&of).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn called(
        &self,
        provider: &str,
        method: &'static str,
        code: &'static str,
        took: Duration,
    ) {
        let method_name = match method {
            "Encrypt" => "encrypt",
            "Decrypt" => "decrypt",
            _ => "status",
        };
        let of = Call { grpc_status_code: code, method_name, provider_name: provider.to_owned() };
        self.calls.get_or_create(&of).observe(took.as_secs_f64());
    }

    pub(crate) fn key_used(&self, provider: &str, kind: &'static str, key_id: &str, at: f64) {
        let of = Key {
            apiserver_id_hash: self.id_hash.clone(),
            key_id_hash: hash(key_id.as_bytes()),
            provider_name: provider.to_owned(),
            transformation_type: kind,
        };
        self.keys.get_or_create(&of).inc();
        self.keys_used_at.get_or_create(&of).set(at);
    }

    /// A plugin has said which key is its own.
    pub(crate) fn key_told(&self, provider: &str, key_id: &str, at: f64) {
        let of = Told {
            apiserver_id_hash: self.id_hash.clone(),
            key_id_hash: hash(key_id.as_bytes()),
            provider_name: provider.to_owned(),
        };
        self.keys_told_at.get_or_create(&of).set(at);
    }

    /// A plugin has told of a key by a name that is none.
    pub(crate) fn key_no_good(&self, provider: &str, error: &'static str) {
        let of = NoGood { error, provider_name: provider.to_owned() };
        self.keys_no_good.get_or_create(&of).inc();
    }

    /// The configuration that counts from now on. Upstream's hash of it, which stands for keys and is none of them.
    pub(crate) fn configured(&self, text: &[u8]) {
        self.config.clear();
        let hash = format!("k8s:enc:unstable:1:{}", hex::encode(Sha256::digest(text)));
        let apiserver_id_hash = self.id_hash.clone();
        self.config.get_or_create(&Config { apiserver_id_hash, hash }).set(1);
    }

    pub(crate) fn missed(&self) {
        self.misses.inc();
    }

    pub(crate) fn reloaded(&self, good: bool, at: f64) {
        let status = if good { "success" } else { "failure" };
        let of = Reload { apiserver_id_hash: self.id_hash.clone(), status };
        self.reloads.get_or_create(&of).inc();
        self.reloaded_at.get_or_create(&of).set(at);
    }
}

/// As upstream tells what may be secret, or long.
pub(crate) fn hash(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
