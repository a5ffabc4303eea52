//! Versions that upstream served once and does not any more, for those who still have manifests of them. They are served
//! where `--serve-removed-apis` asks for it, over the objects of today's versions.
//!
//! What a client writes is made what it would have written today before anything looks at it ([`Shape::read`]), and what it
//! is shown is made old again at the very end ([`Shape::show`]). All in between is of today's type, managed fields too.
//! Source: upstream's deprecated API migration guide and the conversions of the releases that served both.

pub(crate) mod shapes;

use std::sync::OnceLock;

use api::ResourceFacts;
use apimachinery::Value;

/// A kind in a version that is served no more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Removed {
    /// The group and version that are gone.
    pub(crate) group: &'static str,
    /// Its version.
    pub(crate) version: &'static str,
    /// The plural name, then and now.
    pub(crate) resource: &'static str,
    /// The group in which it is served today.
    pub(crate) now: &'static str,
    /// The releases of Kubernetes since which it was deprecated, and without it.
    pub(crate) since: (&'static str, &'static str),
    pub(crate) shape: Shape,
}

/// What differed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Defaults of its own, on today's form and before today's defaults.
    pub(crate) default: fn(&mut Value),
    /// Old to new.
    pub(crate) read: fn(&mut Value),
    /// New to old.
    pub(crate) show: fn(&mut Value),
    /// Whether the fields of its protobuf message have the names and numbers of today's.
    pub(crate) same_message: bool,
}

impl Shape {
    /// Nothing but the version.
    const SAME: Self = Self { default: |_| {}, read: |_| {}, show: |_| {}, same_message: true };
}

impl Removed {
    /// What clients are warned of, as upstream did.
    pub(crate) fn warning(&self, kind: &str, now: &str) -> String {
        let (deprecated, removed) = self.since;
        let Self { group, version, .. } = self;
        format!(
            "{group}/{version} {kind} is deprecated in v{deprecated}+, unavailable in v{removed}+; use {now} {kind}"
        )
    }
}

const fn of(
    (group, version): (&'static str, &'static str),
    resource: &'static str,
    now: &'static str,
    since: (&'static str, &'static str),
    shape: Shape,
) -> Removed {
    Removed { group, version, resource, now, since, shape }
}

const EXTENSIONS: (&str, &str) = ("extensions", "v1beta1");
const APPS_1: (&str, &str) = ("apps", "v1beta1");
const APPS_2: (&str, &str) = ("apps", "v1beta2");
const BATCH: (&str, &str) = ("batch", "v1beta1");
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
/// What went with releases 1.16, 1.22 and 1.25.
const V16: (&str, &str) = ("1.9", "1.16");
const V22: (&str, &str) = ("1.19", "1.22");
const V25: (&str, &str) = ("1.21", "1.25");

/// All of them, in the order in which discovery tells them.
pub(crate) const ALL: &[Removed] = &[
    of(EXTENSIONS, "daemonsets", "apps", V16, shapes::EXTENSIONS_DAEMON_SET),
    of(EXTENSIONS, "deployments", "apps", V16, shapes::EXTENSIONS_DEPLOYMENT),
    of(EXTENSIONS, "replicasets", "apps", V16, shapes::SELECTS_OWN),
    of(EXTENSIONS, "networkpolicies", NETWORKING, V16, Shape::SAME),
    of(EXTENSIONS, "ingresses", NETWORKING, ("1.14", "1.22"), shapes::INGRESS),
    of(APPS_2, "controllerrevisions", "apps", V16, Shape::SAME),
    of(APPS_2, "daemonsets", "apps", V16, Shape::SAME),
    of(APPS_2, "deployments", "apps", V16, Shape::SAME),
    of(APPS_2, "replicasets", "apps", V16, Shape::SAME),
    of(APPS_2, "statefulsets", "apps", V16, Shape::SAME),
    of(APPS_1, "controllerrevisions", "apps", V16, Shape::SAME),
    of(APPS_1, "deployments", "apps", V16, shapes::APPS_V1BETA1_DEPLOYMENT),
    of(APPS_1, "statefulsets", "apps", V16, shapes::APPS_V1BETA1_STATEFUL_SET),
    of(
        ("autoscaling", "v2beta2"),
        "horizontalpodautoscalers",
        "autoscaling",
        ("1.23", "1.26"),
        Shape::SAME,
    ),
    of(
        ("autoscaling", "v2beta1"),
        "horizontalpodautoscalers",
        "autoscaling",
        ("1.22", "1.25"),
        shapes::AUTOSCALER_V2BETA1,
    ),
    of(BATCH, "cronjobs", "batch", V25, Shape::SAME),
    of(("policy", "v1beta1"), "poddisruptionbudgets", "policy", V25, shapes::BUDGET),
    of((NETWORKING, "v1beta1"), "ingresses", NETWORKING, V22, shapes::INGRESS),
    of((NETWORKING, "v1beta1"), "ingressclasses", NETWORKING, V22, Shape::SAME),
    of((RBAC, "v1beta1"), "clusterrolebindings", RBAC, ("1.17", "1.22"), Shape::SAME),
    of((RBAC, "v1beta1"), "clusterroles", RBAC, ("1.17", "1.22"), Shape::SAME),
    of((RBAC, "v1beta1"), "rolebindings", RBAC, ("1.17", "1.22"), Shape::SAME),
    of((RBAC, "v1beta1"), "roles", RBAC, ("1.17", "1.22"), Shape::SAME),
    of((STORAGE, "v1beta1"), "csidrivers", STORAGE, V22, Shape::SAME),
    of((STORAGE, "v1beta1"), "csinodes", STORAGE, ("1.17", "1.22"), Shape::SAME),
    of((STORAGE, "v1beta1"), "csistoragecapacities", STORAGE, ("1.24", "1.27"), Shape::SAME),
    of((STORAGE, "v1beta1"), "storageclasses", STORAGE, V22, Shape::SAME),
    of((STORAGE, "v1beta1"), "volumeattachments", STORAGE, V22, Shape::SAME),
    of(
        (ADMISSION, "v1beta1"),
        "mutatingwebhookconfigurations",
        ADMISSION,
        ("1.16", "1.22"),
        shapes::WEBHOOKS,
    ),
    of(
        (ADMISSION, "v1beta1"),
        "validatingwebhookconfigurations",
        ADMISSION,
        ("1.16", "1.22"),
        shapes::WEBHOOKS,
    ),
    of(
        ("apiextensions.k8s.io", "v1beta1"),
        "customresourcedefinitions",
        "apiextensions.k8s.io",
        ("1.16", "1.22"),
        shapes::DEFINITION,
    ),
    of(
        ("apiregistration.k8s.io", "v1beta1"),
        "apiservices",
        "apiregistration.k8s.io",
        V22,
        Shape::SAME,
    ),
    of(
        ("certificates.k8s.io", "v1beta1"),
        "certificatesigningrequests",
        "certificates.k8s.io",
        V22,
        shapes::SIGNING_REQUEST,
    ),
    of(
        ("scheduling.k8s.io", "v1beta1"),
        "priorityclasses",
        "scheduling.k8s.io",
        ("1.14", "1.22"),
        Shape::SAME,
    ),
    of(("coordination.k8s.io", "v1beta1"), "leases", "coordination.k8s.io", V22, Shape::SAME),
    of(("node.k8s.io", "v1beta1"), "runtimeclasses", "node.k8s.io", ("1.22", "1.25"), Shape::SAME),
    of(
        ("discovery.k8s.io", "v1beta1"),
        "endpointslices",
        "discovery.k8s.io",
        V25,
        shapes::ENDPOINT_SLICE,
    ),
    of(("events.k8s.io", "v1beta1"), "events", "events.k8s.io", ("1.19", "1.25"), Shape::SAME),
    of((FLOW, "v1beta3"), "flowschemas", FLOW, ("1.29", "1.32"), Shape::SAME),
    of((FLOW, "v1beta3"), "prioritylevelconfigurations", FLOW, ("1.29", "1.32"), Shape::SAME),
    of((FLOW, "v1beta2"), "flowschemas", FLOW, ("1.26", "1.29"), Shape::SAME),
    of((FLOW, "v1beta2"), "prioritylevelconfigurations", FLOW, ("1.26", "1.29"), shapes::SHARES),
    of((FLOW, "v1beta1"), "flowschemas", FLOW, ("1.23", "1.26"), Shape::SAME),
    of((FLOW, "v1beta1"), "prioritylevelconfigurations", FLOW, ("1.23", "1.26"), shapes::SHARES),
];

/// Today's group and version of a kind whose removed version has the same protobuf message.
pub(crate) fn message(
    group: &str,
    version: &str,
    kind: &str,
) -> Option<(&'static str, &'static str)> {
    let mut all = ALL.iter().zip(facts());
    let (removed, _) = all.find(|(removed, facts)| {
        (removed.group, removed.version) == (group, version)
            && facts.as_ref().is_some_and(|it| it.kind == kind)
    })?;
    let today = |it: &&ResourceFacts| (it.group, it.resource) == (removed.now, removed.resource);
    let today = api::resources().iter().find(today)?;
    removed.shape.same_message.then_some((today.group, today.version))
}

/// The facts of each of [`ALL`]: those of today with another group and version. Nothing where today's tables do not know it.
pub(crate) fn facts() -> &'static [Option<ResourceFacts>] {
    static FACTS: OnceLock<Vec<Option<ResourceFacts>>> = OnceLock::new();
    FACTS.get_or_init(|| {
        let today = |it: &Removed| {
            let same =
                |facts: &&ResourceFacts| facts.group == it.now && facts.resource == it.resource;
            let facts = api::resources().iter().find(same)?;
            Some(ResourceFacts { group: it.group, version: it.version, ..*facts })
        };
        ALL.iter().map(today).collect()
    })
}
