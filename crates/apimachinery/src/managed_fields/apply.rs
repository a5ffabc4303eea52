//! Server-side apply: an object says the fields its manager wants, and lets go of those it wanted before.

use super::merge::{applied_fields, merge, remove, with_structs};
use super::set::FieldSet;
use super::{
    Comparison, Entry, Operation, Write, compare, decode, encode, kubectl, path_text, strip, typed,
};
use crate::schema::{ListKind, Node, NodeId, Schema};
use crate::status::{Cause, Details, Status};
use crate::value::Value;

const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// A field that another manager has with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Whose it is, as messages show it: `"m1"`, `"kubectl-edit" using apps/v1`.
    pub manager: String,
    /// The field: `.spec.replicas`.
    pub field: String,
}

/// Why an object cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 400: the request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// 409: others have some of the fields with other values.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 500 with this text, as upstream answers: the object does not fit its type.
    #[error("{0}")]
    Typed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        let Conflict { manager, field } = one;
        return format!("Apply failed with 1 conflict: conflict with {manager}: {field}");
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::BadRequest(_) => Self::bad_request(message),
            ApplyError::Typed(_) => Self { code: 500, message, ..Self::default() },
            ApplyError::Conflicts(conflicts) => {
                let cause = |conflict: Conflict| Cause {
                    reason: "FieldManagerConflict",
                    message: format!("conflict with {}", conflict.manager),
                    field: conflict.field,
                };
                let causes = conflicts.into_iter().map(cause).collect();
                Self {
                    code: 409,
                    reason: "Conflict",
                    message,
                    details: Some(Box::new(Details { causes, ..Details::default() })),
                    success: false,
                }
            }
        }
    }
}

/// The object after an apply, with its managed fields up to date; `None` where nothing changes. `live` is the
/// object as it is, without which one is created. With `force` the fields of others are taken.
///
/// The result is not conformed, defaulted or validated yet.
///
/// # Errors
/// When the applied object is malformed, or others have some of its fields.
pub fn apply(
    write: &Write<'_>,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
) -> Result<Option<Value>, ApplyError> {
    check(write, applied)?;
    let mut old = live.cloned().unwrap_or_else(Value::object);
    let before = old.remove_at(&["metadata", "managedFields"]);
    let mut entries = before.clone().and_then(|it| decode(it).ok()).unwrap_or_default();
    if entries.is_empty() && live.is_some() {
        entries.extend(untracked(write, &old));
    }
    write.reconcile(&mut entries);
    let node = Some(write.node);
    let mut object = merge(write.schema, node, &old, applied);
    let mut wanted = applied_fields(write.schema, node, applied);
    write.forget_reset(&mut wanted);
    let last = take_entry(&mut entries, write);
    if let Some(last) = &last
        && !last.fields.is_empty()
    {
        object = let_go(write, &object, &last.fields, &entries, &wanted);
    }
    let Comparison { mut changed, mut removed, .. } =
        compare(write.schema, write.node, Some(&old), &object);
    for set in [&mut changed, &mut removed] {
        write.forget_reset(set);
    }
    if !force {
        let mut contested = changed.clone();
        if let Some(allowed) = live.and_then(|live| kubectl::allowed_conflicts(write, live)) {
            contested.subtract(&allowed);
        }
        let conflicts = conflicts(&entries, &contested);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    for entry in &mut entries {
        entry.fields.subtract(&changed);
        entry.fields.subtract(&removed);
    }
    strip(&mut wanted);
    // An apply that changes no value is not timed, even when its manager becomes an owner by it.
    let same = live.is_some() && object == old;
    let time = if same { last.and_then(|it| it.time) } else { Some(write.now.into()) };
    entries.push(Entry {
        manager: write.manager().into(),
        operation: Operation::Apply,
        api_version: write.api_version.into(),
        subresource: write.subresource.into(),
        time,
        fields: wanted,
    });
    entries.retain(|entry| !entry.fields.is_empty());
    let after = (!entries.is_empty()).then(|| encode(entries));
    if same && after == before {
        return Ok(None);
    }
    kubectl::sync(write, &mut object, applied);
    if let Some(after) = after {
        object.set_at(&["metadata", "managedFields"], after);
    }
    Ok(Some(object))
}

/// An object with a configuration merged into it, as [`apply`] merges one, without owners. What is one field as a whole may
/// not be in it: all that the configuration does not say of it would be lost (upstream: `patch.ApplyStructuredMergeDiff`).
///
/// # Errors
/// Where the configuration is not of the type, or sets such a field.
pub fn merge_configuration(
    schema: &Schema,
    node: NodeId,
    object: &Value,
    configuration: &Value,
) -> Result<Value, String> {
    if let Some(problems) = typed::problems(schema, Some(node), configuration) {
        return Err(format!("failed to convert patch object to typed object: {problems}"));
    }
    let mut whole = Vec::new();
    atomics(schema, node, configuration, "", &mut whole);
    if !whole.is_empty() {
        let all = whole.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {all}"
        ));
    }
    Ok(merge(schema, Some(node), object, configuration))
}

/// The paths of what is one field as a whole. As upstream does, the values of maps are not looked at.
fn atomics(schema: &Schema, node: NodeId, value: &Value, path: &str, found: &mut Vec<String>) {
    let mut note = |atomic: bool| {
        if atomic {
            found.push(path.to_owned());
        }
    };
    match (schema.node(node), value) {
        (Node::Struct(it), Value::Object(members)) => {
            note(it.atomic);
            for (name, value) in members.iter() {
                if let Some(field) = it.field(name) {
                    atomics(schema, field.node, value, &format!("{path}.{name}"), found);
                }
            }
        }
        (Node::Map(it), Value::Object(_)) => note(it.atomic),
        (Node::List(it), Value::Array(items)) => {
            note(it.kind == ListKind::Atomic);
            for (index, item) in items.iter().enumerate() {
                atomics(schema, it.item, item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn check(write: &Write<'_>, applied: &Value) -> Result<(), ApplyError> {
    let version = applied.str_at(&["apiVersion"]);
    if version != write.api_version {
        return Err(ApplyError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, \
             expected: {}",
            write.api_version
        )));
    }
    if applied.at(&["metadata", "managedFields"]).is_some() {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".into()));
    }
    let Some(problems) = typed::problems(write.schema, Some(write.node), applied) else {
        return Ok(());
    };
    let text = |path: &[&str]| applied.str_at(path).to_owned();
    Err(ApplyError::Typed(format!(
        "failed to create typed patch object ({}/{}; {}): {problems}",
        text(&["metadata", "namespace"]),
        text(&["metadata", "name"]),
        kind_text(applied)
    )))
}

/// The kind of an object as Go prints it: `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
#[must_use]
pub fn kind_text(object: &Value) -> String {
    let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={kind}")
}

/// The fields of an object that nobody tracked so far.
fn untracked(write: &Write<'_>, old: &Value) -> Option<Entry> {
    let mut fields = compare(write.schema, write.node, None, old).changed;
    write.forget_reset(&mut fields);
    strip(&mut fields);
    (!fields.is_empty()).then(|| Entry {
        manager: BEFORE_FIRST_APPLY.into(),
        operation: Operation::Update,
        api_version: write.api_version.into(),
        subresource: write.subresource.into(),
        time: Some(write.now.into()),
        fields,
    })
}

fn take_entry(entries: &mut Vec<Entry>, write: &Write<'_>) -> Option<Entry> {
    let at = entries.iter().position(|it| write.is_entry(it, Operation::Apply))?;
    Some(entries.remove(at))
}

/// The object without the fields that its manager wanted before and nobody wants now.
fn let_go(
    write: &Write<'_>,
    merged: &Value,
    last: &FieldSet,
    others: &[Entry],
    wanted: &FieldSet,
) -> Value {
    let (schema, node) = (write.schema, Some(write.node));
    let all = |set: &FieldSet| with_structs(schema, node, set);
    let fields = |value: &Value| all(&applied_fields(schema, node, value));
    let without = |set: &FieldSet| {
        let mut value = merged.clone();
        remove(schema, node, &mut value, set);
        value
    };
    let last = all(last);
    let owned = others.iter().fold(wanted.clone(), |sum, it| sum.union(it.fields.clone()));
    // First all of them go; then what someone else wants comes back; then what was never the manager's.
    let mut unwanted = fields(merged);
    unwanted.subtract(&fields(&without(&last)).union(all(&owned)));
    let kept = without(&unwanted);
    let mut gone = fields(merged);
    gone.subtract(&fields(&kept));
    without(&gone.intersection(&last))
}

fn conflicts(entries: &[Entry], changed: &FieldSet) -> Vec<Conflict> {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by(|a, b| {
        (&a.manager, a.operation, &a.api_version).cmp(&(&b.manager, b.operation, &b.api_version))
    });
    let mut conflicts = Vec::new();
    for entry in entries {
        let manager = shown(entry);
        entry.fields.intersection(changed).each_path(&mut |path| {
            conflicts.push(Conflict { manager: manager.clone(), field: path_text(path) });
        });
    }
    conflicts
}

fn shown(entry: &Entry) -> String {
    let quote = crate::field::quote;
    let mut text = quote(&entry.manager);
    if !entry.subresource.is_empty() {
        text.push_str(" with subresource ");
        text.push_str(&quote(&entry.subresource));
    }
    if entry.operation == Operation::Update {
        text.push_str(" using ");
        text.push_str(&entry.api_version);
    }
    text
}
