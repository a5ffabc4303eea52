//! What is wrong with an object's metadata, whatever its kind. Upstream: `ValidateObjectMeta` and its update.

use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Object, Path, Value, json};

use crate::check::invalid_shown;
use crate::declaration::NameUse;

/// Names of most resources: DNS subdomains.
#[must_use]
pub fn subdomain_name(name: &str, usage: NameUse) -> Problems {
    validation::name_or_prefix(name, usage == NameUse::Prefix, validation::dns1123_subdomain)
}

/// Names of namespaces, pods' hostnames and the like: DNS labels.
#[must_use]
pub fn label_name(name: &str, usage: NameUse) -> Problems {
    validation::name_or_prefix(name, usage == NameUse::Prefix, validation::dns1123_label)
}

/// Names of services: DNS labels that begin with a letter.
#[must_use]
pub fn dns1035_name(name: &str, usage: NameUse) -> Problems {
    validation::name_or_prefix(name, usage == NameUse::Prefix, validation::dns1035_label)
}

/// Names of roles and the like: anything that can stand in a path.
#[must_use]
pub fn path_segment_name(name: &str, usage: NameUse) -> Problems {
    match usage {
        NameUse::Name => validation::path_segment_name(name),
        NameUse::Prefix => validation::path_segment_prefix(name),
    }
}

/// A name that is a segment of a path; names are made of prefixes that are ones too.
#[must_use]
pub fn whole_path_segment_name(name: &str, _usage: NameUse) -> Problems {
    validation::path_segment_name(name)
}

/// The metadata of a stored object as tables and partial objects show it: without what belongs to its spec in upstream's
/// internal type, and is told by annotation in the version that has no such field.
#[must_use]
pub fn plain(object: &Value) -> Value {
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(Value::object);
    if object.str_at(&["kind"]) == "DaemonSet" {
        metadata.remove_at(&["annotations", crate::resources::TEMPLATE_GENERATION]);
        if metadata.at(&["annotations"]).and_then(Value::as_object).is_some_and(Object::is_empty) {
            metadata.remove_at(&["annotations"]);
        }
    }
    metadata
}

/// Checks the metadata of an object.
pub fn validate(
    object: &Value,
    namespaced: bool,
    name_rule: fn(&str, NameUse) -> Vec<String>,
    errors: &mut FieldErrors,
) {
    let path = Path::new("metadata");
    let empty = Value::object();
    let metadata = object.get("metadata").unwrap_or(&empty);
    let prefix = metadata.str_at(&["generateName"]);
    let name = metadata.str_at(&["name"]);
    if !prefix.is_empty() {
        errors.invalid_all(&path.child("generateName"), prefix, name_rule(prefix, NameUse::Prefix));
    }
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.invalid_all(&path.child("name"), name, name_rule(name, NameUse::Name));
    }
    namespace(metadata, namespaced, &path, errors);
    if let Some(generation) = metadata.i64_at(&["generation"]).filter(|it| *it < 0) {
        let at = path.child("generation");
        errors.invalid(&at, &Value::from(generation), "must be greater than or equal to 0");
    }
    shared(metadata, &path, errors);
}

fn namespace(metadata: &Value, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let namespace = metadata.str_at(&["namespace"]);
    let at = path.child("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.required(&at, ""),
        (true, false) => errors.invalid_all(&at, namespace, validation::dns1123_label(namespace)),
        (false, false) => errors.forbidden(&at, "not allowed on this type"),
        (false, true) => {}
    }
}

/// What is checked of new and of changed metadata alike.
fn shared(metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(map) = metadata.get("labels").and_then(Value::as_object) {
        labels(map, &path.child("labels"), errors);
    }
    if let Some(map) = metadata.get("annotations").and_then(Value::as_object) {
        annotations(map, &path.child("annotations"), errors);
    }
    owner_references(
        metadata.items_at(&["ownerReferences"]),
        &path.child("ownerReferences"),
        errors,
    );
    finalizers(metadata.items_at(&["finalizers"]), &path.child("finalizers"), errors);
}

/// Checks labels, here and in templates.
pub fn labels(map: &Object, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in map.iter() {
        errors.invalid_all(path, key, validation::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_all(path, value, validation::label_value(value));
    }
}

/// Checks annotations, here and in templates.
pub fn annotations(map: &Object, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in map.keys() {
        errors.invalid_all(path, key, validation::annotation_key(key));
    }
    if !validation::annotations_fit(map) {
        errors.too_long(path, validation::ANNOTATIONS_SIZE_MAX);
    }
}

/// An owner reference in the order of Go's fields.
fn shown(reference: &Value) -> String {
    let members = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let told = members.iter().filter_map(|it| Some((*it, reference.get(it)?)));
    let told: Vec<String> =
        told.map(|(name, value)| format!("\"{name}\":{}", json::to_string(value))).collect();
    format!("{{{}}}", told.join(","))
}

fn owner_references(references: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    // Upstream does not say which one.
    for reference in references {
        let version = reference.str_at(&["apiVersion"]);
        // What is no group and version has neither.
        let slashes = version.matches('/').count();
        if slashes > 1 || version.rsplit('/').next().unwrap_or_default().is_empty() {
            errors.invalid_text(&path.child("apiVersion"), version, "version must not be empty");
        }
        for member in ["kind", "name", "uid"] {
            let text = reference.str_at(&[member]);
            if text.is_empty() {
                errors.invalid_text(&path.child(member), text, "must not be empty");
            }
        }
        if reference.str_at(&["kind"]) == "Event" && version == "v1" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            invalid_shown(path, &shown(reference), detail, errors);
        }
        if reference.bool_at(&["controller"]) {
            let kind = reference.str_at(&["kind"]);
            let name = reference.str_at(&["name"]);
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {kind}/{name}"
                );
                let each: Vec<String> = references.iter().map(shown).collect();
                invalid_shown(path, &format!("[{}]", each.join(",")), &detail, errors);
            } else {
                controller = Some(format!("{kind}/{name}"));
            }
        }
    }
}

/// Checks the metadata of an object within another one.
pub(crate) fn validate_embedded(metadata: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (base, name) = (metadata.str_at(&["generateName"]), metadata.str_at(&["name"]));
    if !base.is_empty() {
        let problems = validation::path_segment_prefix(base);
        errors.invalid_all(&path.child("generateName"), base, problems);
    }
    if !name.is_empty() {
        errors.invalid_all(&path.child("name"), name, validation::path_segment_name(name));
    }
    let namespace = metadata.str_at(&["namespace"]);
    if !namespace.is_empty() {
        let problems = validation::dns1123_label(namespace);
        errors.invalid_all(&path.child("namespace"), namespace, problems);
    }
    if metadata.i64_at(&["generation"]).is_some_and(|it| it < 0) {
        let detail = "must be greater than or equal to 0";
        errors.invalid(&path.child("generation"), &metadata["generation"], detail);
    }
    shared(metadata, path, errors);
}

fn finalizers(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let has = |name| list.iter().any(|it| it.as_str() == Some(name));
    for finalizer in list {
        let text = finalizer.as_str().unwrap_or_default();
        errors.invalid_all(path, text, validation::finalizer_name(text));
    }
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, &Value::Array(list.to_vec()), detail);
    }
}

/// Checks a change of metadata.
pub fn validate_update(object: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    let empty = Value::object();
    let (metadata, before) =
        (object.get("metadata").unwrap_or(&empty), old.get("metadata").unwrap_or(&empty));
    for member in ["name", "namespace", "uid", "creationTimestamp"] {
        immutable(metadata, before, member, &path, errors);
    }
    if metadata.str_at(&["resourceVersion"]).is_empty() {
        let at = path.child("resourceVersion");
        errors.invalid_text(&at, "", "must be specified for an update");
    }
    let (generation, earlier) = (metadata.i64_at(&["generation"]), before.i64_at(&["generation"]));
    if generation.unwrap_or_default() < earlier.unwrap_or_default() {
        let at = path.child("generation");
        errors.invalid(
            &at,
            &Value::from(generation.unwrap_or_default()),
            "must not be decremented",
        );
    }
    if before.get("deletionTimestamp").is_some() {
        new_finalizers(metadata, before, &path, errors);
    }
    for member in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(metadata, before, member, &path, errors);
    }
    shared(metadata, &path, errors);
}

fn immutable(
    metadata: &Value,
    before: &Value,
    member: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let (now, then) = (metadata.get(member), before.get(member));
    if now != then {
        let (detail, field) = ("field is immutable", path.child(member));
        match now.and_then(Value::as_str).and_then(|text| text.strip_suffix('Z')) {
            // Go shows a time as its own text.
            Some(time) if member == "deletionTimestamp" => {
                let shown = format!("{} +0000 UTC", time.replace('T', " "));
                invalid_shown(&field, &shown, detail, errors);
            }
            _ => errors.invalid(&field, now.unwrap_or(&Value::Null), detail),
        }
    }
}

/// An object that is being deleted takes no new finalizers.
fn new_finalizers(metadata: &Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let earlier = before.items_at(&["finalizers"]);
    let added: Vec<&str> = metadata
        .items_at(&["finalizers"])
        .iter()
        .filter(|it| !earlier.contains(it))
        .filter_map(Value::as_str)
        .collect();
    if !added.is_empty() {
        let list: Vec<String> = added.iter().map(|it| format!("{it:?}")).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        );
        errors.forbidden(&path.child("finalizers"), &detail);
    }
}
