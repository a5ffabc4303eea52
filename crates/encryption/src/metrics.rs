//! What encryption counts about itself, in upstream's names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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
    key_id_hash: String,
    provider_name: String,
    transformation_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    status: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    operations: Family<Operation, Counter>,
    took: Histograms<Took>,
    calls: Histograms<Call>,
    keys: Family<Key, Counter>,
    misses: Counter,
    reloads: Family<Reload, Counter>,
    reloaded_at: Family<Reload, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            operations: Family::default(),
            took: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(5e-6, 2.0, 25))
            }),
            calls: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(1e-4, 2.0, 18))
            }),
            keys: Family::default(),
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
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
            "When the configuration was last read again",
            self.reloaded_at.clone(),
        );
    }

    pub(crate) fn transformed(
        &self,
        kind: &'static str,
        (resource, prefix): (&str, &str),
        good: bool,
        took: Duration,
    ) {
        self.operations
            .get_or_create(&Operation {
                resource: resource.to_owned(),
                status: if good { "OK" } else { "unknown-non-grpc" },
                transformation_type: kind,
                transformer_prefix: prefix.to_owned(),
            })
            .inc();
        if good {
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

    pub(crate) fn key_used(&self, provider: &str, kind: &'static str, key_id_hash: &str) {
        self.keys
            .get_or_create(&Key {
                key_id_hash: key_id_hash.to_owned(),
                provider_name: provider.to_owned(),
                transformation_type: kind,
            })
            .inc();
    }

    pub(crate) fn missed(&self) {
        self.misses.inc();
    }

    pub(crate) fn reloaded(&self, good: bool, at: f64) {
        let status = if good { "success" } else { "failure" };
        self.reloads.get_or_create(&Reload { status }).inc();
        self.reloaded_at.get_or_create(&Reload { status }).set(at);
    }
}
