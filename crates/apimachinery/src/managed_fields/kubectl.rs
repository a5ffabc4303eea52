//! Moving from kubectl's client-side apply to server-side apply.
//!
//! What a user applied before stands in an annotation, and the fields are owned by an update of another
//! manager. For kubectl itself those are no conflicts, and the annotation is kept true for the way back.

use super::set::FieldSet;
use super::{Comparison, Write, compare};
use crate::validation::annotations_fit;
use crate::value::{Object, Value};

const MANAGER: &str = "kubectl";
const PATH: [&str; 3] =
    ["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];

/// The fields that kubectl applied last from the client, and that still have the values it gave them.
pub(super) fn allowed_conflicts(write: &Write<'_>, live: &Value) -> Option<FieldSet> {
    if write.manager() != MANAGER {
        return None;
    }
    let last = crate::json::parse(live.at(&PATH)?.as_str()?.as_bytes()).ok()?;
    if last.str_at(&["apiVersion"]) != write.api_version {
        return None;
    }
    let mut fields = super::merge::applied_fields(write.schema, Some(write.node), &last);
    let Comparison { changed, removed, .. } = compare(write.schema, write.node, Some(&last), live);
    // What the live object has besides is no difference for the fields at hand; other values are.
    fields.subtract(&changed);
    fields.subtract(&removed);
    Some(fields)
}

/// Writes what was applied into the annotation, where there is one.
pub(super) fn sync(write: &Write<'_>, object: &mut Value, applied: &Value) {
    if write.manager() != MANAGER || object.at(&PATH).is_none() {
        return;
    }
    let mut applied = applied.clone();
    applied.remove_at(&PATH);
    object.set_at(&PATH, crate::json::to_string(&applied) + "\n");
    let fits = object.at(&PATH[..2]).and_then(Value::as_object).is_none_or(annotations_fit);
    if !fits {
        object.remove_at(&PATH);
    }
    // Annotations of which nothing is left were never there.
    let empty = object.at(&PATH[..2]).and_then(Value::as_object).is_some_and(Object::is_empty);
    if empty {
        object.remove_at(&PATH[..2]);
    }
}
