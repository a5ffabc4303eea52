//! Kinds that are never stored: clients post them to a subresource of another kind's object. What is done with them
//! is their handlers' business.

use api::{Column, ResourceFacts};
use apimachinery::Status;
use registry::Served;

/// Gives a pod its node.
pub(crate) static BINDING: ResourceFacts = posted("", "v1", "Binding", ("pods", "pod"));
/// Asks a pod to go.
pub(crate) static EVICTION: ResourceFacts = posted("policy", "v1", "Eviction", ("pods", "pod"));
/// Asks for a token of a service account.
pub(crate) static TOKEN_REQUEST: ResourceFacts =
    posted("authentication.k8s.io", "v1", "TokenRequest", ("serviceaccounts", "serviceaccount"));
/// How many there are to be of something.
pub(crate) static SCALE: ResourceFacts = posted("autoscaling", "v1", "Scale", ("", ""));
/// The same as a table, of built-in resources.
pub(crate) static SCALE_TABLE: ResourceFacts = ResourceFacts {
    resource: "scales",
    columns: &[
        Column { name: "Name", kind: "string", format: "name", priority: 0 },
        Column { name: "Desired", kind: "integer", format: "", priority: 0 },
        Column { name: "Available", kind: "integer", format: "", priority: 0 },
        Column { name: "Age", kind: "string", format: "", priority: 0 },
    ],
    ..posted("autoscaling", "v1", "Scale", ("", ""))
};

const fn posted(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    (resource, singular): (&'static str, &'static str),
) -> ResourceFacts {
    ResourceFacts {
        group,
        version,
        resource,
        singular,
        kind,
        namespaced: true,
        verbs: &["create"],
        short_names: &[],
        categories: &[],
        columns: &[],
        subresources: &[],
    }
}

/// The kind with its type.
///
/// # Errors
/// Where the table of types lacks it.
pub(crate) fn served(facts: &'static ResourceFacts) -> Result<Served, Status> {
    let node = api::type_of_kind(facts.group, facts.version, facts.kind);
    let node =
        node.ok_or_else(|| Status::internal(format!("the type {} is missing", facts.kind)))?;
    Ok(Served { facts, node })
}
