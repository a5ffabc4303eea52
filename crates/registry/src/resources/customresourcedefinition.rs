//! CustomResourceDefinition.

use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Path, Value};

use super::crd_schema;
use crate::declaration::{Declaration, Generation, MetadataChecks};
use crate::rules::{self, each};
use crate::{Rules, check, go};

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// What upstream keeps once for all versions where all versions say the same.
const SHARED: &[&str] = &["schema", "subresources", "additionalPrinterColumns", "selectableFields"];

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apiextensions.k8s.io",
        resource: "customresourcedefinitions",
        prefix: "apiextensions.k8s.io/customresourcedefinitions",
        default,
        prepare_create: stored_versions,
        prepare_update: |it, _| stored_versions(it),
        prepare_delete: |it, now| crate::custom::names::begin_deletion(it, now),
        validate,
        validate_create,
        validate_update,
        metadata_checks: MetadataChecks::Update,
        rules: Rules {
            generation: Generation::Spec,
            has_status: true,
            returns_deleted: true,
            unconditional_update: false,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn default(definition: &mut Value) {
    let kind = definition.str_at(&["spec", "names", "kind"]).to_owned();
    if !kind.is_empty() {
        definition.default_at(&["spec", "names", "singular"], kind.to_lowercase());
        definition.default_at(&["spec", "names", "listKind"], format!("{kind}List"));
    }
    definition.default_at(&["spec", "conversion", "strategy"], "None");
    if let Some(service) =
        definition.at_mut(&["spec", "conversion", "webhook", "clientConfig", "service"])
    {
        service.default_at(&["port"], 443);
    }
}

/// Every version that objects have been stored in is remembered.
fn stored_versions(definition: &mut Value) {
    let mut stored: Vec<Value> = definition.items_at(&["status", "storedVersions"]).to_vec();
    for version in definition.items_at(&["spec", "versions"]) {
        let name = &version["name"];
        if version.bool_at(&["storage"]) && !stored.contains(name) {
            stored.push(name.clone());
        }
    }
    let stored = if stored.is_empty() { Value::Null } else { Value::Array(stored) };
    definition.set_at(&["status", "storedVersions"], stored);
}

/// A definition is named by what it defines.
fn validate_create(definition: &Value, errors: &mut FieldErrors) {
    let spec = &definition["spec"];
    let wanted = format!("{}.{}", spec.str_at(&["names", "plural"]), spec.str_at(&["group"]));
    let name = definition.str_at(&["metadata", "name"]);
    if !name.is_empty() && name != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        // It is a matter of names, which are looked at first.
        let mut first = FieldErrors::new();
        first.invalid_text(&Path::new("metadata").child("name"), name, detail);
        errors.extend_front(first);
    }
    if let Some(problem) = crate::custom::names::approval_problem(definition) {
        let (metadata, key) = (Path::new("metadata"), crate::custom::names::APPROVED);
        let at = metadata.child("annotations");
        match definition.str_at(&["metadata", "annotations", key]) {
            "" => errors.required(&at.key(key), &problem),
            text => errors.invalid_text(&at.key(key), text, &problem),
        }
    }
}

fn validate(definition: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &definition["spec"];
    if check::required_text(spec, "group", &path, errors) {
        let (group, at) = (spec.str_at(&["group"]), path.child("group"));
        let problems = validation::dns1123_subdomain(group);
        if problems.is_empty() && !group.contains('.') {
            errors.invalid_text(&at, group, "should be a domain with at least one dot");
        } else if !problems.is_empty() {
            errors.invalid_text(&at, group, &problems.join(","));
        }
    }
    rules::required_one_of(spec, "scope", &["Cluster", "Namespaced"], &path, errors);
    versions(spec, &path, errors);
    let names_at = path.child("names");
    for member in ["plural", "singular", "kind", "listKind"] {
        check::required_text(&spec["names"], member, &names_at, errors);
    }
    names(&spec["names"], &names_at, errors);
    conversion(spec, &path, errors);
    let status = Path::new("status");
    if definition.items_at(&["status", "storedVersions"]).is_empty() {
        let detail = "must have at least one stored version";
        errors.invalid(&status.child("storedVersions"), &Value::Null, detail);
    }
}

/// Whether all versions say the same of this member: then upstream looks at it once, in another place.
fn is_shared(versions: &[Value], member: &str) -> bool {
    versions.windows(2).all(|pair| pair[0][member] == pair[1][member])
}

fn versions(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let versions = spec.items_at(&["versions"]);
    let mut names: Vec<&str> = Vec::new();
    let mut repeated = false;
    let list = path.child("versions");
    for (index, version) in versions.iter().enumerate() {
        let (name, at) = (version.str_at(&["name"]), list.index(index));
        repeated |= names.contains(&name);
        names.push(name);
        joined(&at.child("name"), name, &validation::dns1035_label(name), "", errors);
    }
    let shown = || {
        let mut bare = versions.to_vec();
        for member in SHARED.iter().filter(|member| is_shared(versions, member)) {
            bare.iter_mut().for_each(|it| {
                it.remove_at(&[member]);
            });
        }
        go::compact_list(&bare, go::CRD_VERSION)
    };
    if repeated {
        check::invalid_shown(&list, &shown(), "must contain unique version names", errors);
    }
    if versions.iter().filter(|it| it.bool_at(&["storage"])).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        check::invalid_shown(&list, &shown(), detail, errors);
    }
    if let Some(first) = names.first().filter(|it| !it.is_empty()) {
        joined(&path.child("version"), first, &validation::dns1035_label(first), "", errors);
    }
    for member in SHARED {
        if is_shared(versions, member) {
            let Some(first) = versions.first() else { continue };
            version_part(first, member, path, errors);
        } else {
            for (index, version) in versions.iter().enumerate() {
                version_part(version, member, &list.index(index), errors);
            }
        }
    }
    schemas_are_there(versions, &list, errors);
}

fn schemas_are_there(versions: &[Value], list: &Path<'_>, errors: &mut FieldErrors) {
    let without = |it: &Value| it.at(&["schema", "openAPIV3Schema"]).is_none();
    for (index, _) in versions.iter().enumerate().filter(|(_, it)| without(it)) {
        let at = list.index(index);
        let schema = at.child("schema");
        errors.required(&schema.child("openAPIV3Schema"), "schemas are required");
    }
}

/// Problems of one text in one message, as this group's checks tell them.
fn joined(
    path: &Path<'_>,
    text: &str,
    problems: &Problems,
    before: &str,
    errors: &mut FieldErrors,
) {
    if !problems.is_empty() {
        errors.invalid_text(path, text, &format!("{before}{}", problems.join(",")));
    }
}

fn version_part(version: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match member {
        "schema" => {
            // What is shared stands under an older name.
            let place = if path.to_string() == "spec" { "validation" } else { "schema" };
            let at = path.child(place);
            if let Some(schema) = version.at(&["schema", "openAPIV3Schema"]) {
                let with_status = version.at(&["subresources", "status"]).is_some();
                crd_schema::root(schema, with_status, &at.child("openAPIV3Schema"), errors);
            }
        }
        "subresources" => {
            let at = path.child("subresources");
            if let Some(scale) = version.at(&["subresources", "scale"]) {
                scale_paths(scale, &at.child("scale"), errors);
            }
        }
        "additionalPrinterColumns" => {
            each(version, "additionalPrinterColumns", path, errors, column);
        }
        _ => {
            each(version, "selectableFields", path, errors, |it, at, errors| {
                simple_path(it, "jsonPath", "", "jsonPath", at, errors);
            });
        }
    }
}

/// A path of the form `.a.b`, below one of the given roots.
fn simple_path(
    of: &Value,
    member: &str,
    below: &str,
    said: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let (text, at) = (of.str_at(&[member]), path.child(said));
    if text.is_empty() {
        errors.required(&at, "");
    } else if !text.starts_with('.') {
        errors.invalid_text(&at, text, "must be a simple json path starting with .");
    } else if !below.is_empty() && !text.starts_with(&format!("{below}.")) {
        errors.invalid_text(&at, text, &format!("should be a json path under {below}"));
    }
}

fn scale_paths(scale: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    simple_path(scale, "specReplicasPath", ".spec", "specReplicasPath", path, errors);
    simple_path(scale, "statusReplicasPath", ".status", "statusReplicasPath", path, errors);
    let selector = scale.str_at(&["labelSelectorPath"]);
    let at = path.child("labelSelectorPath");
    if !selector.is_empty() {
        if !selector.starts_with('.') {
            let detail = "must be a simple json path starting with .";
            errors.invalid_text(&at, selector, detail);
        } else if !selector.starts_with(".spec.") && !selector.starts_with(".status.") {
            let detail = "should be a json path under either .spec or .status";
            errors.invalid_text(&at, selector, detail);
        }
    }
}

fn column(column: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_text(column, "name", path, errors);
    let one_of = |all: &[&str]| format!("must be one of {}", all.join(","));
    let kind = column.str_at(&["type"]);
    if kind.is_empty() {
        errors.required(&path.child("type"), &one_of(COLUMN_TYPES));
    } else if !COLUMN_TYPES.contains(&kind) {
        errors.invalid_text(&path.child("type"), kind, &one_of(COLUMN_TYPES));
    }
    let format = column.str_at(&["format"]);
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.invalid_text(&path.child("format"), format, &one_of(COLUMN_FORMATS));
    }
    simple_path(column, "jsonPath", "", "JSONPath", path, errors);
}

fn names(names: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for member in ["plural", "singular"] {
        let text = names.str_at(&[member]);
        if !text.is_empty() {
            joined(&path.child(member), text, &validation::dns1035_label(text), "", errors);
        }
    }
    for member in ["kind", "listKind"] {
        let text = names.str_at(&[member]);
        if !text.is_empty() {
            let problems = validation::dns1035_label(&text.to_lowercase());
            joined(&path.child(member), text, &problems, MIXED, errors);
        }
    }
    for member in ["shortNames", "categories"] {
        each(names, member, path, errors, |it, at, errors| {
            let text = it.as_str().unwrap_or_default();
            joined(at, text, &validation::dns1035_label(text), "", errors);
        });
    }
    let kind = names.str_at(&["kind"]);
    if !kind.is_empty() && kind == names.str_at(&["listKind"]) {
        let detail = "kind and listKind may not be the same";
        errors.invalid_text(&path.child("listKind"), kind, detail);
    }
}

fn conversion(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("conversion");
    let Some(conversion) = spec.get("conversion") else { return };
    check::one_of(conversion, "strategy", &["None", "Webhook"], &at, errors);
    if conversion.str_at(&["strategy"]) == "Webhook" {
        if conversion.at(&["webhook", "clientConfig"]).is_none() {
            let detail = "required when strategy is set to Webhook";
            errors.required(&at.child("webhookClientConfig"), detail);
        }
    } else if conversion.get("webhook").is_some() {
        let detail = "should not be set when strategy is not set to Webhook";
        errors.forbidden(&at.child("webhookClientConfig"), detail);
    }
}

fn validate_update(definition: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (spec, before) = (&definition["spec"], &old["spec"]);
    rules::immutable(spec, before, "group", &path, errors);
    let names = path.child("names");
    rules::immutable(&spec["names"], &before["names"], "plural", &names, errors);
    let established = old
        .items_at(&["status", "conditions"])
        .iter()
        .any(|it| it.str_at(&["type"]) == "Established" && it.str_at(&["status"]) == "True");
    if established {
        rules::immutable(spec, before, "scope", &path, errors);
        rules::immutable(&spec["names"], &before["names"], "kind", &names, errors);
    }
    let status = Path::new("status");
    let versions = spec.items_at(&["versions"]);
    each(&definition["status"], "storedVersions", &status, errors, |stored, at, errors| {
        if versions.iter().all(|it| &it["name"] != stored) {
            let name = stored.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(at, stored, &detail);
        }
    });
}
