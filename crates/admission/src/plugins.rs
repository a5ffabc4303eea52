//! The list of plugins: upstream's, in upstream's order.

use std::sync::Arc;

use crate::configuration::AdmissionConfiguration;
use crate::default_toleration_seconds::DefaultTolerationSeconds;
use crate::metrics::Metrics;
use crate::namespace_lifecycle::NamespaceLifecycle;
use crate::policies::{self, Policies};
use crate::webhooks::mutating::Mutating;
use crate::webhooks::validating::Validating;
use crate::webhooks::{self, Webhooks};
use crate::{
    Parts, Plugin, always, always_pull_images, anti_affinity, certificates, claim_resize,
    declared_features, default_class, deny_external_ips, escalation, event_rate_limit,
    extended_resources, image_policy, limit_ranger, namespace_exists, node_restriction,
    object_in_use, owner_references, pod_group_protection, pod_node_selector, pod_resize,
    pod_security, pod_tolerations, pod_topology_labels, policy_params, priority, resource_quota,
    runtime_class, service_account, taint_nodes,
};

/// Those that are off unless somebody asks for them. NodeRestriction is another of upstream's: whoever makes a chain
/// decides about it.
pub const OFF_BY_DEFAULT: [&str; 13] = [
    "AlwaysAdmit",
    "AlwaysDeny",
    "AlwaysPullImages",
    "DenyServiceExternalIPs",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "ImagePolicyWebhook",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "OwnerReferencesPermissionEnforcement",
    "PodNodeSelector",
    "PodTolerationRestriction",
];

type List = Vec<Arc<dyn Plugin>>;

/// Every plugin, whether it is on or not. Each changes the object before any judges it.
pub(crate) fn all(
    parts: &Parts,
    configuration: &AdmissionConfiguration,
    (namespaces, metrics): (&Arc<NamespaceLifecycle>, &Arc<Metrics>),
) -> List {
    let objects = || Arc::clone(&parts.objects);
    let mut list: List = vec![
        Arc::new(always::AlwaysAdmit),
        Arc::new(namespace_exists::NamespaceAutoProvision::new(objects())),
        Arc::clone(namespaces) as Arc<dyn Plugin>,
        Arc::new(namespace_exists::NamespaceExists::new(objects())),
    ];
    list.extend(of_pods(parts, configuration, metrics));
    list.extend(of_other_objects(parts));
    list.extend(of_configurations(parts, configuration, metrics));
    // Last, so that nothing that is refused is counted.
    let quotas = resource_quota::ResourceQuota::new(objects());
    list.push(Arc::new(quotas.limited(configuration.limited.clone())));
    list.push(Arc::new(always::AlwaysDeny));
    list
}

fn of_pods(parts: &Parts, configuration: &AdmissionConfiguration, metrics: &Arc<Metrics>) -> List {
    let objects = || Arc::clone(&parts.objects);
    let pod_security = pod_security::PodSecurity::new(objects(), Arc::clone(&parts.clock));
    let pod_security = pod_security.counted(Arc::clone(metrics));
    let pod_security = match &configuration.pod_security {
        Some(configuration) => pod_security.configured(configuration.clone()),
        None => pod_security,
    };
    let selectors = configuration.node_selectors.clone();
    let tolerations = configuration.tolerations.clone();
    let mut list: List = vec![
        Arc::new(anti_affinity::LimitPodHardAntiAffinityTopology),
        Arc::new(limit_ranger::LimitRanger::new(objects())),
        Arc::new(service_account::ServiceAccount::new(objects(), Arc::clone(&parts.random))),
        Arc::new(node_restriction::NodeRestriction::new(objects(), Arc::clone(&parts.authorizer))),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(always_pull_images::AlwaysPullImages),
    ];
    if let Some(policy) = &configuration.image_policy {
        let policy = image_policy::ImagePolicyWebhook::new(policy.clone(), &parts.calls);
        list.push(Arc::new(policy));
    }
    list.extend::<[Arc<dyn Plugin>; 5]>([
        Arc::new(pod_security),
        Arc::new(pod_node_selector::PodNodeSelector::new(objects(), selectors)),
        Arc::new(priority::Priority::new(objects())),
        Arc::new(DefaultTolerationSeconds::default()),
        Arc::new(pod_tolerations::PodTolerationRestriction::new(objects(), tolerations)),
    ]);
    if let Some(limits) = &configuration.event_limits {
        list.push(Arc::new(event_rate_limit::EventRateLimit::new(limits)));
    }
    list.push(Arc::new(extended_resources::ExtendedResourceToleration));
    list
}

fn of_other_objects(parts: &Parts) -> List {
    let objects = || Arc::clone(&parts.objects);
    let authorizer = || Arc::clone(&parts.authorizer);
    vec![
        Arc::new(default_class::storage(objects())),
        Arc::new(object_in_use::StorageObjectInUseProtection),
        Arc::new(pod_group_protection::PodGroupProtection),
        Arc::new(owner_references::OwnerReferences::new(objects(), authorizer())),
        Arc::new(claim_resize::ClaimResize::new(objects())),
        Arc::new(runtime_class::RuntimeClass::new(objects())),
        Arc::new(certificates::approval(authorizer())),
        Arc::new(certificates::signing(authorizer())),
        Arc::new(certificates::TrustBundleAttest::new(authorizer())),
        Arc::new(certificates::PodCertificateSigning::new(authorizer())),
        Arc::new(certificates::SubjectRestriction),
        Arc::new(default_class::ingress(objects())),
        Arc::new(deny_external_ips::DenyServiceExternalIps),
        Arc::new(pod_topology_labels::PodTopologyLabels::new(objects())),
        Arc::new(declared_features::NodeDeclaredFeatureValidator::new(objects())),
        Arc::new(pod_resize::PodResizeValidator::new(objects())),
        // Upstream asks this where roles are stored, before they are checked: the last that may refuse unseen
        // what comes after.
        Arc::new(escalation::RoleEscalation::new(Arc::clone(&parts.rbac), authorizer())),
        Arc::new(policy_params::PolicyParameters::new(objects(), authorizer())),
    ]
}

/// Those that ask others: policies and webhooks.
fn of_configurations(
    parts: &Parts,
    configuration: &AdmissionConfiguration,
    metrics: &Arc<Metrics>,
) -> List {
    let files = |plugin| configuration.manifests.of(plugin);
    let policies = |plugin, resources| Policies::new(parts, resources, files(plugin), metrics);
    let webhooks = |plugin, (resource, kind), credentials: &Option<_>| {
        let (credentials, files) = (credentials.clone(), files(plugin));
        let settings = webhooks::Settings { resource, kind, credentials, files };
        Webhooks::new(parts, settings, metrics)
    };
    vec![
        Arc::new(policies::mutating::Mutating(policies(
            "MutatingAdmissionPolicy",
            ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"),
        ))),
        Arc::new(Mutating(webhooks(
            "MutatingAdmissionWebhook",
            ("mutatingwebhookconfigurations", "admit"),
            &configuration.mutating_credentials,
        ))),
        Arc::new(policies::validating::Validating(policies(
            "ValidatingAdmissionPolicy",
            ("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
        ))),
        Arc::new(Validating(webhooks(
            "ValidatingAdmissionWebhook",
            ("validatingwebhookconfigurations", "validating"),
            &configuration.validating_credentials,
        ))),
    ]
}
