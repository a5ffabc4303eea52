//! What is counted of the servers behind this one, in upstream's names.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use webhook::CertificateFault;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    name: String,
    reason: &'static str,
}

/// Which servers could not be reached.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    unavailable: Family<Name, Gauge<i64, AtomicI64>>,
    turned: Family<Why, Counter>,
    merged: Counter,
    missing_san: Counter,
    insecure_sha1: Counter,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "aggregator_unavailable_apiservice",
            "Whether the server of an APIService cannot be reached",
            Family::clone(&self.unavailable),
        );
        registry.register(
            "aggregator_unavailable_apiservice",
            "How often an APIService became unavailable, by reason",
            Family::clone(&self.turned),
        );
        registry.register(
            "aggregator_discovery_aggregation_count",
            "How often the discovery documents of other servers were merged anew",
            Counter::clone(&self.merged),
        );
        registry.register(
            "apiserver_kube_aggregator_x509_missing_san",
            "Requests that failed as the server's certificate names it by its common name alone",
            Counter::clone(&self.missing_san),
        );
        registry.register(
            "apiserver_kube_aggregator_x509_insecure_sha1",
            "Requests that failed as a certificate of the server is signed with SHA-1",
            Counter::clone(&self.insecure_sha1),
        );
    }

    /// Notes what was found; `turned` is the reason where it was available until now.
    pub(super) fn found(&self, name: &str, available: bool, turned: Option<&'static str>) {
        let gauge = self.unavailable.get_or_create_owned(&Name { name: name.to_owned() });
        gauge.set(i64::from(!available));
        if let Some(reason) = turned {
            self.turned.get_or_create(&Why { name: name.to_owned(), reason }).inc();
        }
    }

    /// A request failed with these words.
    pub(super) fn failed(&self, why: &str) {
        match webhook::certificate_fault(why) {
            Some(CertificateFault::MissingSan) => self.missing_san.inc(),
            Some(CertificateFault::InsecureSha1) => self.insecure_sha1.inc(),
            None => return,
        };
    }

    pub(super) fn merged(&self) {
        self.merged.inc();
    }

    pub(super) fn forget(&self, name: &str) {
        self.unavailable.remove(&Name { name: name.to_owned() });
    }
}
