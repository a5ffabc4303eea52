//! What is counted of a signer of tokens elsewhere, in upstream's names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use component_base::metrics::Histogram;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Upstream's buckets of how long calls take.
const CALLS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// The code of what failed without a call, or of an answer that is no good.
const OTHERWISE: &str = "unknown-non-grpc";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    code: &'static str,
    method: String,
}

/// No labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Only {}

/// A gauge that is told once there is something to tell.
type Seconds = Family<Only, Gauge<f64, AtomicU64>>;

/// What is counted; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    calls: Family<Called, Histogram, fn() -> Histogram>,
    fetches: Family<Code, Counter>,
    signed: Family<Code, Counter>,
    fetched: Seconds,
    keys: Seconds,
}

impl Default for Signer {
    fn default() -> Self {
        Self {
            calls: Family::new_with_constructor(|| Histogram::seconds(&CALLS)),
            fetches: Family::default(),
            signed: Family::default(),
            fetched: Seconds::default(),
            keys: Seconds::default(),
        }
    }
}

impl Signer {
    pub(super) fn register(&self, registry: &mut Registry) {
        let of = registry.sub_registry_with_prefix("apiserver_externaljwt");
        let help = "How long calls of the signer of tokens took";
        of.register("request_duration_seconds", help, self.calls.clone());
        let help = "Times that the signer was asked for its keys";
        of.register("fetch_keys_request", help, self.fetches.clone());
        let help = "Times that the signer was asked for a token";
        of.register("sign_request", help, self.signed.clone());
        let help = "When the signer last told its keys, in seconds since the epoch";
        of.register("fetch_keys_success_timestamp", help, self.fetched.clone());
        let help = "Of when the keys are that the signer last told, in seconds since the epoch";
        of.register("fetch_keys_data_timestamp", help, self.keys.clone());
    }

    /// A call of a method of this path is over.
    pub(crate) fn called(&self, method: String, code: &'static str, took: Duration) {
        self.calls.get_or_create(&Called { code, method }).observe(took);
    }

    /// Keys were asked for; `code` is that of the call, `told` of when they are, where they are good.
    pub(crate) fn fetched(&self, code: &'static str, told: Option<(f64, f64)>) {
        let code = if told.is_none() && code == "OK" { OTHERWISE } else { code };
        self.fetches.get_or_create(&Code { code }).inc();
        if let Some((now, of)) = told {
            self.fetched.get_or_create(&Only {}).set(now);
            self.keys.get_or_create(&Only {}).set(of);
        }
    }

    /// A token was asked for; `code` is that of the call.
    pub(crate) fn signed(&self, code: &'static str, is_good: bool) {
        let code = if !is_good && code == "OK" { OTHERWISE } else { code };
        self.signed.get_or_create(&Code { code }).inc();
    }
}
