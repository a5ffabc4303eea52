//! What mutating admission makes of managed fields has to be well-formed. Upstream:
//! `NewManagedFieldsValidatingAdmissionController`.

use apimachinery::{Value, managed_fields};

use crate::Attributes;

const PATH: [&str; 2] = ["metadata", "managedFields"];

/// The managed fields of an object, for [`restore`].
pub(crate) fn of(object: &Value) -> Option<Value> {
    object.at(&PATH).cloned()
}

/// Puts back what was there before an object was changed, where the change left something malformed, and warns of it.
pub(crate) fn restore(attributes: &mut Attributes<'_>, before: Option<Value>) {
    let now = attributes.object.at(&PATH);
    if now == before.as_ref() {
        return;
    }
    let Some(Err(why)) = now.map(|it| managed_fields::decode(it.clone())) else { return };
    match before {
        Some(before) => attributes.object.set_at(&PATH, before),
        None => {
            attributes.object.remove_at(&PATH);
        }
    }
    attributes.warnings.push(format!(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: {why}"
    ));
}
