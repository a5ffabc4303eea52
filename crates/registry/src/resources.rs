//! The built-in resources, a file each or for a few that belong together. What is not in this list is not served; a
//! test holds it equal to the generated table.

use std::sync::Arc;

use crate::AnyResource;
use crate::apis::{Apis, Features};
use crate::declaration::{BuiltIn, Declaration};
pub use lease_candidate::Semantic as SemanticVersion;
pub use storage_version::tell_common_encoding;

mod admission_policies;
mod apiservice;
mod autoscaler_checks;
mod certificates;
mod certificatesigningrequest;
mod claim_status;
mod configmap;
mod controllerrevision;
mod cronjob;
mod csi;
mod customresourcedefinition;
mod daemonset;
mod deployment;
mod device_versions;
mod devices;
mod endpoints;
mod endpointslice;
mod event;
mod flowcontrol;
mod horizontalpodautoscaler;
mod ingress;
mod ingressclass;
mod job;
mod job_checks;
mod job_status;
mod lease;
mod lease_candidate;
mod limitrange;
mod migration;
mod namespace;
mod networking;
mod networkpolicy;
mod node;
mod node_config;
mod pem;
mod persistentvolume;
mod persistentvolumeclaim;
mod pod;
mod pod_certificate_status;
mod pod_group;
mod pod_group_checks;
mod pod_resize;
mod pod_row;
mod pod_status;
mod pod_update;
mod poddisruptionbudget;
mod podtemplate;
mod pool_status_request;
mod printing;
mod priorityclass;
mod rbac;
mod replicaset;
mod replicationcontroller;
mod resourcequota;
mod resourceslice;
mod runtimeclass;
mod secret;
mod service;
mod service_checks;
mod service_warnings;
mod serviceaccount;
mod slice_device;
mod statefulset;
mod storage_version;
mod storageclass;
mod volumeattachment;
mod webhooks;
mod workload;

pub(crate) use daemonset::ANNOTATION as TEMPLATE_GENERATION;

/// Every declaration. The order is that of the groups in discovery.
const DECLARATIONS: &[fn() -> Declaration] = &[
    configmap::resource,
    endpoints::resource,
    event::resource,
    limitrange::resource,
    namespace::resource,
    node::resource,
    persistentvolumeclaim::resource,
    persistentvolume::resource,
    pod::resource,
    podtemplate::resource,
    replicationcontroller::resource,
    resourcequota::resource,
    secret::resource,
    service::resource,
    serviceaccount::resource,
    apiservice::resource,
    controllerrevision::resource,
    daemonset::resource,
    deployment::resource,
    replicaset::resource,
    statefulset::resource,
    horizontalpodautoscaler::resource,
    cronjob::resource,
    job::resource,
    certificatesigningrequest::resource,
    certificates::trust_bundle,
    certificates::pod_certificate_request,
    ingress::resource,
    ingressclass::resource,
    networking::ip_address,
    networkpolicy::resource,
    networking::service_cidr,
    poddisruptionbudget::resource,
    rbac::cluster_role_binding,
    rbac::cluster_role,
    rbac::role_binding,
    rbac::role,
    csi::driver,
    csi::node,
    csi::capacity,
    storageclass::resource,
    volumeattachment::resource,
    csi::attributes_class,
    admission_policies::mutating,
    admission_policies::mutating_binding,
    webhooks::mutating,
    admission_policies::validating,
    admission_policies::validating_binding,
    webhooks::validating,
    customresourcedefinition::resource,
    priorityclass::resource,
    lease::resource,
    runtimeclass::resource,
    endpointslice::resource,
    devices::class,
    devices::claim,
    devices::template,
    resourceslice::resource,
    migration::device_taint_rule,
    flowcontrol::schema,
    flowcontrol::priority_level,
    migration::storage_version_migration,
];

/// What the table lists but stores nothing: reviews, bindings, computed lists.
#[cfg(test)]
const VIRTUAL: &[&str] = &[
    "bindings",
    "componentstatuses",
    "tokenreviews",
    "selfsubjectreviews",
    "localsubjectaccessreviews",
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
    "subjectaccessreviews",
];

/// Whether features bring a resource, and the resource.
type Optional = (fn(Features) -> bool, fn() -> Declaration);

/// Those that are there where a feature is on, if they need one, and they are asked for.
const OPTIONAL: &[Optional] = &[
    (|it| it.coordinated_leader_election, lease_candidate::resource),
    (|_| true, storage_version::resource),
    (|it| it.resource_pool_status, pool_status_request::resource),
    (|it| it.generic_workload && !it.topology_aware_workloads, pod_group::resource::<false>),
    (|it| it.generic_workload && !it.topology_aware_workloads, pod_group::workload::<false>),
    (|it| it.generic_workload && it.topology_aware_workloads, pod_group::resource::<true>),
    (|it| it.generic_workload && it.topology_aware_workloads, pod_group::workload::<true>),
];

/// Every built-in resource that is stored, with or without versions that are no more. One that is served in no version
/// unless it is asked for is left out where it is not.
#[must_use]
pub fn all(apis: &Apis) -> Vec<Arc<dyn AnyResource>> {
    let features = apis.features;
    let always = DECLARATIONS.iter().filter_map(|make| BuiltIn::new(make(), features));
    let optional = OPTIONAL.iter().filter(|it| (it.0)(features));
    let optional = optional.filter_map(|it| BuiltIn::new((it.1)(), features));
    let optional = optional.filter(|it| it.served().iter().any(|it| apis.serves(it.facts)));
    always
        .chain(optional)
        .map(|built_in| if apis.removed { built_in.with_removed() } else { built_in })
        .map(|built_in| Arc::new(built_in) as Arc<dyn AnyResource>)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_of_the_table_has_a_declaration() {
        let features = Features {
            generic_workload: true,
            coordinated_leader_election: true,
            resource_pool_status: true,
            ..Features::default()
        };
        let asked = ["api/all=true".to_owned()];
        let apis = Apis::default().with_features(features).configure(&asked).unwrap();
        let all = all(&apis);
        let declared = |facts: &api::ResourceFacts| {
            all.iter().any(|it| it.served().iter().any(|served| std::ptr::eq(served.facts, facts)))
        };
        let missing: Vec<&str> = api::all_resources()
            .filter(|facts| !VIRTUAL.contains(&facts.resource) && !declared(facts))
            .map(|facts| facts.resource)
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
