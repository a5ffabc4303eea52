//! Who set which field: `metadata.managedFields`, kept as upstream keeps it.
//!
//! Every write compares the object with what it was and hands the fields that changed to the writer. Reads no
//! clock: the time of a write is an argument. Knows no kind; sets of other API versions are taken as they are.

mod apply;
mod compare;
mod kubectl;
mod merge;
mod reconcile;
mod set;
mod typed;

pub use apply::{ApplyError, Conflict, apply, kind_text, merge_configuration};
pub use compare::{Comparison, compare, fields_of};
pub use set::{FieldSet, FieldSetError};

use compact_str::CompactString;

use crate::field::{FieldErrors, Path};
use crate::schema::{NodeId, Schema};
use crate::value::{Object, Value};

/// The most entries of updates; the oldest beyond it are merged into one.
const UPDATERS_MAX: usize = 10;
/// The longest name of a manager.
pub const MANAGER_LENGTH_MAX: usize = 128;
const SUBRESOURCE_LENGTH_MAX: usize = 256;
const ANCIENT: &str = "ancient-changes";

/// How a manager wrote its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By anything else.
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// The fields of one manager.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub manager: CompactString,
    /// How it wrote them.
    pub operation: Operation,
    /// The version of the API that it spoke.
    pub api_version: CompactString,
    /// The subresource through which it wrote; empty for the object itself.
    pub subresource: CompactString,
    /// When it last changed them, as RFC 3339 in UTC.
    pub time: Option<CompactString>,
    /// The fields.
    pub fields: FieldSet,
}

/// A write, as far as managed fields are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Write<'w> {
    /// The types.
    pub schema: &'w Schema,
    /// The object's type.
    pub node: NodeId,
    /// Who writes. Empty counts as `unknown`.
    pub manager: &'w str,
    /// The version of the API that is spoken: `apps/v1`.
    pub api_version: &'w str,
    /// The subresource that is written; empty for the object itself.
    pub subresource: &'w str,
    /// When, as RFC 3339 in UTC.
    pub now: &'w str,
    /// Fields that this write cannot set, such as `["status"]`, and so does not own.
    pub reset: &'w [&'w [&'w str]],
}

/// Brings `metadata.managedFields` of an object up to date that is about to replace `live`, or to be created.
pub fn update(write: &Write<'_>, live: Option<&Value>, object: &mut Value) {
    let sent = object.remove_at(&["metadata", "managedFields"]);
    if let Some(fields) = updated(write, live, object, sent) {
        object.set_at(&["metadata", "managedFields"], fields);
    }
}

fn updated(
    write: &Write<'_>,
    live: Option<&Value>,
    object: &Value,
    sent: Option<Value>,
) -> Option<Value> {
    let current = || live.and_then(|live| live.at(&["metadata", "managedFields"])).cloned();
    let mut entries = match sent.filter(|_| write.subresource.is_empty()) {
        Some(sent) if is_reset(&sent) => Vec::new(),
        sent => sent.and_then(known).or_else(|| current().and_then(known)).unwrap_or_default(),
    };
    if entries.is_empty() && live.is_some() {
        // Nobody's fields are tracked: that stays so until an apply.
        return None;
    }
    write.reconcile(&mut entries);
    let Comparison { mut changed, mut removed, unnamed } =
        compare(write.schema, write.node, live, object);
    if unnamed {
        return None;
    }
    remove_managed_fields(&mut removed);
    for set in [&mut changed, &mut removed] {
        write.forget_reset(set);
    }
    for entry in &mut entries {
        entry.fields.subtract(&changed);
        entry.fields.subtract(&removed);
    }
    strip(&mut changed);
    let writes = !changed.is_empty();
    take(&mut entries, write, changed);
    entries.retain(|entry| !entry.fields.is_empty());
    cap(&mut entries);
    // Stored times end at the second, the writer's own does not yet: within a second it is the latest.
    let fresh = |entry: &Entry| writes && write.is_entry(entry, Operation::Update);
    (!entries.is_empty()).then(|| encode_sorted(entries, fresh))
}

impl Write<'_> {
    fn forget_reset(&self, set: &mut FieldSet) {
        for path in self.reset {
            let steps: smallvec::SmallVec<[String; 4]> =
                path.iter().map(|name| format!("f:{name}")).collect();
            let steps: smallvec::SmallVec<[&str; 4]> = steps.iter().map(String::as_str).collect();
            set.remove_tree(&steps);
        }
    }

    /// Brings the sets of this version up to date with its type.
    fn reconcile(&self, entries: &mut [Entry]) {
        for entry in entries.iter_mut().filter(|it| it.api_version == self.api_version) {
            reconcile::reconcile(self.schema, self.node, &mut entry.fields);
        }
    }

    fn manager(&self) -> &str {
        if self.manager.is_empty() { "unknown" } else { self.manager }
    }

    fn is_entry(&self, entry: &Entry, operation: Operation) -> bool {
        entry.operation == operation
            && entry.manager == self.manager()
            && entry.subresource == self.subresource
            && (operation == Operation::Apply || entry.api_version == self.api_version)
    }
}

/// Gives the fields to the writer's entry.
fn take(entries: &mut Vec<Entry>, write: &Write<'_>, fields: FieldSet) {
    if fields.is_empty() {
        return;
    }
    let time = Some(write.now.into());
    match entries.iter_mut().find(|it| write.is_entry(it, Operation::Update)) {
        Some(entry) => {
            let own = std::mem::take(&mut entry.fields);
            (entry.fields, entry.time) = (own.union(fields), time);
        }
        None => entries.push(Entry {
            manager: write.manager().into(),
            operation: Operation::Update,
            api_version: write.api_version.into(),
            subresource: write.subresource.into(),
            time,
            fields,
        }),
    }
}

/// The entries of a list that is well-formed and not empty.
fn known(list: Value) -> Option<Vec<Entry>> {
    decode(list).ok().filter(|it| !it.is_empty())
}

/// A list of one empty entry asks for forgetting all managers.
fn is_reset(sent: &Value) -> bool {
    matches!(sent.as_array(), Some([Value::Object(entry)]) if entry.iter().all(|(_, it)| it.is_null()))
}

fn remove_managed_fields(set: &mut FieldSet) {
    set.remove_tree(&["f:metadata", "f:managedFields"]);
}

/// Fields that nobody owns, since they say which object it is or are the server's own.
const UNOWNED: [&str; 9] = [
    "f:creationTimestamp",
    "f:generation",
    "f:managedFields",
    "f:name",
    "f:namespace",
    "f:resourceVersion",
    "f:selfLink",
    "f:uid",
    ".",
];

fn strip(set: &mut FieldSet) {
    set.remove_tree(&["f:apiVersion"]);
    set.remove_tree(&["f:kind"]);
    for name in UNOWNED {
        set.remove_tree(&["f:metadata", name]);
    }
    // Metadata of which nothing is left would count as owned itself.
    let empty = set.0.get("f:metadata").and_then(Value::as_object).is_some_and(Object::is_empty);
    if empty {
        set.remove_tree(&["f:metadata"]);
    }
}

/// Merges the oldest updates of each version until few enough are left.
fn cap(entries: &mut Vec<Entry>) {
    let updaters = entries.iter().filter(|it| it.operation == Operation::Update).count();
    if updaters <= UPDATERS_MAX {
        return;
    }
    let mut excess = updaters - UPDATERS_MAX;
    entries.sort_by(|a, b| (&a.time, identity(a)).cmp(&(&b.time, identity(b))));
    let (mut updates, mut kept): (Vec<_>, Vec<_>) =
        std::mem::take(entries).into_iter().partition(|it| it.operation == Operation::Update);
    let mut index = 0;
    while excess > 0 && index < updates.len() {
        let version = updates[index].api_version.clone();
        let first = updates[..index].iter().position(|it| it.api_version == version);
        let Some(first) = first else {
            index += 1;
            continue;
        };
        let merged = updates.remove(index);
        let bucket = &mut updates[first];
        bucket.manager = ANCIENT.into();
        bucket.subresource = CompactString::default();
        bucket.time = merged.time;
        bucket.fields = std::mem::take(&mut bucket.fields).union(merged.fields);
        excess -= 1;
    }
    kept.extend(updates);
    *entries = kept;
}

fn identity(entry: &Entry) -> (&str, &str, &str) {
    (&entry.manager, &entry.api_version, &entry.subresource)
}

/// The entries of a `managedFields` list. Entries of one manager become one.
///
/// # Errors
/// What is wrong with the first malformed one, as upstream's `DecodeManagedFields` says it. Upstream takes what was there
/// before then, and without that starts anew.
pub fn decode(list: Value) -> Result<Vec<Entry>, String> {
    let Value::Array(items) = list else { return Err("managed fields must be a list".into()) };
    let mut entries: Vec<Entry> = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let entry = decode_entry(index, item)?;
        let same = |it: &&mut Entry| {
            it.operation == entry.operation
                && it.manager == entry.manager
                && it.subresource == entry.subresource
                && (it.operation == Operation::Apply || it.api_version == entry.api_version)
        };
        match entries.iter_mut().find(same) {
            Some(existing) => *existing = entry,
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

fn decode_entry(index: usize, mut item: Value) -> Result<Entry, String> {
    let operation = match item.str_at(&["operation"]) {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".into()),
    };
    if item.str_at(&["apiVersion"]).is_empty() {
        return Err("apiVersion must not be empty".into());
    }
    match item.str_at(&["fieldsType"]) {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
        other => {
            return Err(format!("invalid fieldsType {other:?} in managed fields entry {index}"));
        }
    }
    let fields = item.remove_at(&["fieldsV1"]).filter(|it| !it.is_null());
    let fields = fields.map_or(Ok(FieldSet::new()), FieldSet::from_value);
    let text = |name: &str| CompactString::from(item.str_at(&[name]));
    let fields = fields.map_err(|why| {
        let shown = text("manager");
        format!("error decoding versioned set from {shown}: error decoding set: {why}")
    })?;
    Ok(Entry {
        manager: text("manager"),
        operation,
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: item.get("time").and_then(Value::as_str).map(Into::into),
        fields,
    })
}

/// The `managedFields` list of these entries, in upstream's order.
#[must_use]
pub fn encode(entries: Vec<Entry>) -> Value {
    encode_sorted(entries, |_| false)
}

fn encode_sorted(mut entries: Vec<Entry>, fresh: impl Fn(&Entry) -> bool) -> Value {
    entries.sort_by(|a, b| {
        let key = |it: &Entry| (it.operation, it.time.clone(), fresh(it));
        key(a).cmp(&key(b)).then_with(|| identity(a).cmp(&identity(b)))
    });
    entries.into_iter().map(encode_entry).collect()
}

fn encode_entry(entry: Entry) -> Value {
    let mut members: Vec<(CompactString, Value)> = Vec::with_capacity(7);
    members.push(("apiVersion".into(), entry.api_version.into()));
    members.push(("fieldsType".into(), "FieldsV1".into()));
    members.push(("fieldsV1".into(), entry.fields.into_value()));
    members.push(("manager".into(), entry.manager.into()));
    members.push(("operation".into(), entry.operation.text().into()));
    if !entry.subresource.is_empty() {
        members.push(("subresource".into(), entry.subresource.into()));
    }
    if let Some(time) = entry.time {
        members.push(("time".into(), time.into()));
    }
    Value::Object(Object::from_members(members, |_| {}))
}

/// A path as messages show it: `.spec.ports[port=80,protocol="TCP"].name`.
#[must_use]
pub fn path_text(path: &[&str]) -> String {
    let mut text = String::new();
    for step in path {
        let (kind, rest) = step.split_at_checked(2).unwrap_or((step, ""));
        match kind {
            "f:" => text.extend([".", rest]),
            "v:" => text.extend(["[=", rest, "]"]),
            "k:" => text.push_str(&keys_text(rest)),
            _ => text.extend(["[", rest, "]"]),
        }
    }
    text
}

fn keys_text(keys: &str) -> String {
    let keys = crate::json::parse(keys.as_bytes()).unwrap_or_default();
    let keys = keys.as_object().cloned().unwrap_or_default();
    let shown = keys.iter().map(|(key, value)| format!("{key}={}", crate::json::to_string(value)));
    format!("[{}]", shown.collect::<Vec<_>>().join(","))
}

/// What is wrong with a `managedFields` list that a client sent.
pub fn validate(list: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, entry) in list.as_array().unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let text = |name: &str| entry.str_at(&[name]);
        if !matches!(text("operation"), "Apply" | "Update") {
            let problem = "must be `Apply` or `Update`";
            errors.invalid_text(&path.child("operation"), text("operation"), problem);
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            let problem = "must be `FieldsV1`";
            errors.invalid_text(&path.child("fieldsType"), text("fieldsType"), problem);
        }
        validate_manager(text("manager"), &path.child("manager"), errors);
        if text("subresource").len() > SUBRESOURCE_LENGTH_MAX {
            errors.too_long(&path.child("subresource"), SUBRESOURCE_LENGTH_MAX);
        }
    }
}

/// What is wrong with the name of a manager, as in the option `fieldManager`.
pub fn validate_manager(manager: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if manager.len() > MANAGER_LENGTH_MAX {
        errors.too_long(path, MANAGER_LENGTH_MAX);
    }
    for (position, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let code = u32::from(c);
        let problem = format!("invalid character U+{code:04X} (at position {position})");
        errors.invalid_text(path, manager, &problem);
    }
}

#[cfg(test)]
mod tests;
