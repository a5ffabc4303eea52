//! The built-in resources, one file each. A file that is not in this list is not served, and a resource of the
//! generated table without a file is served with metadata's rules alone (see `plain`).

use std::sync::Arc;

use crate::declaration::{BuiltIn, Declaration};
use crate::{AnyResource, Generation, Rules, metadata};

mod autoscaler_checks;
mod configmap;
mod controllerrevision;
mod cron_schedule;
mod cronjob;
mod daemonset;
mod defaults;
mod deployment;
mod event;
mod horizontalpodautoscaler;
mod job;
mod job_checks;
mod namespace;
mod pod;
mod pod_row;
mod pod_update;
mod poddisruptionbudget;
mod podtemplate;
mod printing;
mod replicaset;
mod replicationcontroller;
mod secret;
mod service;
mod statefulset;
mod workload;

/// Every declaration. The order is that of the groups in discovery.
const DECLARATIONS: &[fn() -> Declaration] = &[
    configmap::resource,
    event::resource,
    namespace::resource,
    secret::resource,
    service::resource,
    pod::resource,
    podtemplate::resource,
    replicationcontroller::resource,
    controllerrevision::resource,
    daemonset::resource,
    deployment::resource,
    replicaset::resource,
    statefulset::resource,
    horizontalpodautoscaler::resource,
    cronjob::resource,
    job::resource,
    poddisruptionbudget::resource,
];

/// What the table lists but stores nothing: reviews, bindings, computed lists.
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

/// Resources without a file of their own whose generation is kept.
const WITH_GENERATION: &[&str] = &[
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "customresourcedefinitions",
    "endpointslices",
    "flowschemas",
    "prioritylevelconfigurations",
    "ingresses",
    "ingressclasses",
    "networkpolicies",
    "poddisruptionbudgets",
    "deviceclasses",
    "resourceslices",
    "priorityclasses",
];

/// Resources without a file of their own whose delete answers with the object.
const RETURNING_DELETED: &[&str] = &[
    "csinodes",
    "customresourcedefinitions",
    "persistentvolumeclaims",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourcequotas",
    "resourceslices",
    "serviceaccounts",
    "services",
    "storageclasses",
    "volumeattachments",
    "volumeattributesclasses",
];

/// Every built-in resource that is stored.
#[must_use]
pub fn all() -> Vec<Arc<dyn AnyResource>> {
    let mut declarations: Vec<Declaration> =
        DECLARATIONS.iter().chain(defaults::ALL).map(|make| make()).collect();
    let mut known: Vec<(&str, &str)> = Vec::new();
    for declaration in &declarations {
        known.push((declaration.group, declaration.resource));
        known.extend(declaration.alternatives.iter().map(|it| (it.group, declaration.resource)));
    }
    for facts in api::resources() {
        if !known.contains(&(facts.group, facts.resource)) && !VIRTUAL.contains(&facts.resource) {
            known.push((facts.group, facts.resource));
            declarations.push(plain(facts));
        }
    }
    declarations
        .into_iter()
        .filter_map(BuiltIn::new)
        .map(|built_in| Arc::new(built_in) as Arc<dyn AnyResource>)
        .collect()
}

/// A resource that has no file of its own yet.
fn plain(facts: &'static api::ResourceFacts) -> Declaration {
    let node = api::type_of_kind(facts.group, facts.version, facts.kind);
    let has = |field| {
        let it = node.and_then(|node| api::schema().as_struct(node));
        it.is_some_and(|it| it.field(field).is_some())
    };
    let kept = WITH_GENERATION.contains(&facts.resource);
    let generation = if kept { Generation::Spec } else { Generation::None };
    let returns_deleted = RETURNING_DELETED.contains(&facts.resource);
    let has_status = has("status") && facts.subresource("status").is_some();
    // Roles are named freely: `system:node`.
    let rbac = facts.group == "rbac.authorization.k8s.io";
    Declaration {
        group: facts.group,
        version: facts.version,
        resource: facts.resource,
        name: if rbac { metadata::path_segment_name } else { Declaration::PLAIN.name },
        rules: Rules { generation, has_status, returns_deleted, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}
