//! Sends a write through the admission plugins.

use admission::{Attributes, Operation};
use apimachinery::{Status, Value};

use crate::Server;
use crate::exchange::Exchange;
use crate::target::Target;

/// What the plugins are told of a write.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    pub(crate) operation: Operation,
    pub(crate) target: &'a Target,
    pub(crate) subresource: &'a str,
    pub(crate) name: String,
    pub(crate) dry_run: bool,
}

/// Lets the plugins change the object.
pub(crate) async fn admit(
    server: &Server,
    exchange: &mut Exchange,
    admission: &Admission<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let user = std::sync::Arc::clone(&exchange.user);
    let mut attributes = attributes(admission, &user, object, old, &mut exchange.warnings);
    server.access.admission.mutate(&mut attributes).await
}

/// Lets the plugins judge the object.
pub(crate) async fn judge(
    server: &Server,
    exchange: &mut Exchange,
    admission: &Admission<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let user = std::sync::Arc::clone(&exchange.user);
    let mut attributes = attributes(admission, &user, object, old, &mut exchange.warnings);
    server.access.admission.validate(&mut attributes).await
}

fn attributes<'r>(
    admission: &'r Admission<'_>,
    user: &'r auth::UserInfo,
    object: &'r mut Value,
    old: Option<&'r Value>,
    warnings: &'r mut Vec<String>,
) -> Attributes<'r> {
    let facts = admission.target.served.facts;
    Attributes {
        operation: admission.operation,
        group: facts.group,
        version: facts.version,
        resource: facts.resource,
        subresource: admission.subresource,
        kind: facts.kind,
        namespace: &admission.target.namespace,
        name: &admission.name,
        user,
        object,
        old,
        dry_run: admission.dry_run,
        warnings,
    }
}
