//! The parts of an API server that begin with it, by upstream's names, as its health tells of them.
//!
//! Here each of them is there before the server listens: stores are read, what a cluster cannot be without was made, caches
//! are full. Whoever waits for one of them by its name need not wait.

/// One of them, and whether the server has it.
type Hook = (&'static str, Needs);

/// What a part needs of the server's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// Priority and fairness.
    Fairness,
    /// Tokens of service accounts.
    Tokens,
}

/// In upstream's order. `autoregister-completion` is no hook, but stands between two.
pub(super) const HOOKS: [Hook; 31] = [
    ("poststarthook/start-apiserver-admission-initializer", Needs::Nothing),
    ("poststarthook/generic-apiserver-start-informers", Needs::Nothing),
    ("poststarthook/priority-and-fairness-config-consumer", Needs::Fairness),
    ("poststarthook/priority-and-fairness-filter", Needs::Fairness),
    ("poststarthook/storage-object-count-tracker-hook", Needs::Nothing),
    ("poststarthook/start-apiextensions-informers", Needs::Nothing),
    ("poststarthook/start-apiextensions-controllers", Needs::Nothing),
    ("poststarthook/crd-informer-synced", Needs::Nothing),
    ("poststarthook/start-system-namespaces-controller", Needs::Nothing),
    ("poststarthook/peer-endpoint-reconciler-controller", Needs::Nothing),
    ("poststarthook/start-cluster-authentication-info-controller", Needs::Nothing),
    ("poststarthook/start-kube-apiserver-identity-lease-controller", Needs::Nothing),
    ("poststarthook/start-kube-apiserver-identity-lease-garbage-collector", Needs::Nothing),
    ("poststarthook/storage-readiness", Needs::Nothing),
    ("poststarthook/start-legacy-token-tracking-controller", Needs::Tokens),
    ("poststarthook/start-service-ip-repair-controllers", Needs::Nothing),
    ("poststarthook/rbac/bootstrap-roles", Needs::Nothing),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", Needs::Nothing),
    ("poststarthook/priority-and-fairness-config-producer", Needs::Fairness),
    ("poststarthook/bootstrap-controller", Needs::Nothing),
    ("poststarthook/start-kubernetes-service-cidr-controller", Needs::Nothing),
    ("poststarthook/start-kube-aggregator-informers", Needs::Nothing),
    ("poststarthook/apiservice-status-local-available-controller", Needs::Nothing),
    ("poststarthook/apiservice-status-remote-available-controller", Needs::Nothing),
    ("poststarthook/apiservice-registration-controller", Needs::Nothing),
    ("poststarthook/apiservice-wait-for-first-sync", Needs::Nothing),
    ("poststarthook/apiservice-discovery-controller", Needs::Nothing),
    ("poststarthook/kube-apiserver-autoregistration", Needs::Nothing),
    ("autoregister-completion", Needs::Nothing),
    ("poststarthook/apiservice-openapi-controller", Needs::Nothing),
    ("poststarthook/apiservice-openapiv3-controller", Needs::Nothing),
];
