//! Administrative access to devices, which is access to those of others too: only in namespaces that are for that. Upstream
//! asks this where claims are stored (`pkg/registry/resource`), and tells it along with what else is wrong.

use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::{FieldErrors, Path, Status, Value};
use auth::Objects;

use crate::Server;
use crate::objects::CachedObjects;

/// The label of namespaces where claims may ask for it.
const LABEL: &str = "resource.kubernetes.io/admin-access";
const REFUSAL: &str = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";

/// Refuses new claims that ask for it elsewhere. What is asked for cannot be changed.
pub(crate) async fn check(
    server: &Server,
    facts: &ResourceFacts,
    object: &Value,
) -> Result<FieldErrors, Status> {
    let mut errors = FieldErrors::new();
    let Some(index) = asking(facts, object) else { return Ok(errors) };
    // The label may have been taken away a moment ago: no cache is asked.
    let objects = CachedObjects::new(Arc::clone(&server.hub), Arc::clone(&server.catalog));
    let name = object.str_at(&["metadata", "namespace"]);
    let namespace = objects.get_live("", "namespaces", "", name).await?;
    if namespace.is_some_and(|it| it.facts.label(LABEL) == Some("true")) {
        return Ok(errors);
    }
    let spec = Path::new("spec");
    let devices = spec.child("devices");
    let requests = devices.child("requests");
    errors.forbidden(&requests.index(index).child("adminAccess"), REFUSAL);
    Ok(errors)
}

/// The first request of a claim, or of a template of claims, that asks for it.
fn asking(facts: &ResourceFacts, object: &Value) -> Option<usize> {
    let path: &[&str] = match (facts.group, facts.resource) {
        ("resource.k8s.io", "resourceclaims") => &["spec", "devices", "requests"],
        ("resource.k8s.io", "resourceclaimtemplates") => &["spec", "spec", "devices", "requests"],
        _ => return None,
    };
    object.items_at(path).iter().position(|it| it.bool_at(&["exactly", "adminAccess"]))
}
