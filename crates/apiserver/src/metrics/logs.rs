//! What is counted of logs that are asked for at nodes, in upstream's names. Upstream: `pkg/registry/core/pod/rest`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Usage {
    usage: &'static str,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    usage: Family<Usage, Counter>,
    distrusted: Counter,
}

impl Logs {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let this = Self::default();
        let of = registry.sub_registry_with_prefix("kube_apiserver_pod_logs");
        let help = "Logs that were asked for, by whether nodes have to prove who they are";
        of.register("insecure_backend", help, this.usage.clone());
        let help = "Logs that were not had since a node could not prove who it is";
        of.register("backend_tls_failure", help, this.distrusted.clone());
        this
    }

    /// A log was asked for.
    pub(crate) fn asked(&self, unverified: bool, distrusted: bool) {
        let usage = if unverified { "skip_tls_allowed" } else { "enforce_tls" };
        self.usage.get_or_create(&Usage { usage }).inc();
        if distrusted {
            self.distrusted.inc();
        }
    }
}
