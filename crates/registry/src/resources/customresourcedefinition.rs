//! CustomResourceDefinition.

use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Path, Value};

use super::webhooks;
use crate::custom::rules_check::{self, Tolerance};
use crate::declaration::{Declaration, Generation, MetadataChecks};
use crate::rules::{self, each};
use crate::{Rules, check, go};

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// What upstream keeps once for all versions where all versions say the same.
/// How long a warning may be.
const WARNING_BYTES_MAX: usize = 256;
/// How many fields of a version objects may be selected by.
const SELECTABLE_MAX: usize = 8;
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
        validate_create,
        validate_update,
        validate_status: |it, _, errors| accepted(it, errors),
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
    let versions = definition.items_at(&["spec", "versions"]);
    if let Some(version) = versions.iter().find(|it| it.bool_at(&["storage"]))
        && !stored.contains(&version["name"])
    {
        stored.push(version["name"].clone());
    }
    let stored = if stored.is_empty() { Value::Null } else { Value::Array(stored) };
    definition.set_at(&["status", "storedVersions"], stored);
}

/// A definition is named by what it defines.
fn validate_create(definition: &Value, errors: &mut FieldErrors) {
    let spec = &definition["spec"];
    let wanted = format!("{}.{}", spec.str_at(&["names", "plural"]), spec.str_at(&["group"]));
    // It is a matter of names, which are looked at first.
    let mut first = FieldErrors::new();
    for member in ["generateName", "name"] {
        let name = definition.str_at(&["metadata", member]);
        if !name.is_empty() && name != wanted {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            first.invalid_text(&Path::new("metadata").child(member), name, detail);
        }
    }
    errors.extend_front(first);
    validate(definition, None, errors);
    if let Some(problem) = crate::custom::names::approval_problem(definition) {
        approval(definition, &problem, errors);
    }
    preserve(definition, errors);
}

/// The word that is missing, or wrong, for a definition in a group of the community's.
fn approval(definition: &Value, problem: &str, errors: &mut FieldErrors) {
    let (metadata, key) = (Path::new("metadata"), crate::custom::names::APPROVED);
    let at = metadata.child("annotations");
    match definition.str_at(&["metadata", "annotations", key]) {
        "" => errors.required(&at.key(key), problem),
        text => errors.invalid_text(&at.key(key), text, problem),
    }
}

fn preserve(definition: &Value, errors: &mut FieldErrors) {
    if definition.bool_at(&["spec", "preserveUnknownFields"]) {
        let spec = Path::new("spec");
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&spec.child("preserveUnknownFields"), &Value::Bool(true), detail);
    }
}

/// What is wrong with a definition; `old` is what it was.
fn validate(definition: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
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
    versions(spec, old, &path, errors);
    conversion(spec, old, &path, errors);
    accepted(definition, errors);
    stored(definition, &Path::new("status").child("storedVersions"), errors);
}

/// The names that it has got.
fn accepted(definition: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    names(&definition["status"]["acceptedNames"], &status.child("acceptedNames"), errors);
}

/// The versions in which objects may be stored.
fn stored(definition: &Value, at: &Path<'_>, errors: &mut FieldErrors) {
    let stored = definition.items_at(&["status", "storedVersions"]);
    if stored.is_empty() {
        errors.invalid(at, &Value::Null, "must have at least one stored version");
        return;
    }
    let versions = definition.items_at(&["spec", "versions"]);
    for version in versions.iter().filter(|it| it.bool_at(&["storage"])) {
        if !stored.contains(&version["name"]) {
            let name = version.str_at(&["name"]);
            let detail = format!("must have the storage version {name}");
            errors.invalid(at, &definition["status"]["storedVersions"], &detail);
        }
    }
    for (index, it) in stored.iter().enumerate() {
        if versions.iter().all(|version| &version["name"] != it) {
            let name = it.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(&at.index(index), it, &detail);
        }
    }
}

/// Whether all versions say the same of this member: then upstream looks at it once, in another place.
fn is_shared(versions: &[Value], member: &str) -> bool {
    versions.windows(2).all(|pair| pair[0][member] == pair[1][member])
}

/// What is let through of a version's schema, since it was let in before.
fn tolerance(old: Option<&Value>, spec: &Value, version: &str) -> Tolerance {
    let schema_of = |it: &Value| it["schema"]["openAPIV3Schema"].clone();
    let Some(old) = old else { return Tolerance::default() };
    let before = old.items_at(&["spec", "versions"]);
    let schemas: Vec<&Value> =
        before.iter().filter_map(|it| it.at(&["schema", "openAPIV3Schema"])).collect();
    let named = |of: &[Value]| of.iter().find(|it| it.str_at(&["name"]) == version).map(schema_of);
    let is_same = named(before).is_some() && named(before) == named(spec.items_at(&["versions"]));
    Tolerance { cost: is_same, ..rules_check::tolerance(&schemas) }
}

fn versions(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let versions = spec.items_at(&["versions"]);
    let list = path.child("versions");
    schemas_are_there(versions, old, &list, errors);
    let mut seen: Vec<&str> = Vec::new();
    let mut repeated = false;
    let shared: Vec<&str> = SHARED.iter().copied().filter(|it| is_shared(versions, it)).collect();
    let part = |version: &Value, member: &str, at: &Path<'_>, errors: &mut FieldErrors| {
        let has_status = if shared.contains(&"schema") {
            versions.iter().any(|it| it.at(&["subresources", "status"]).is_some())
        } else {
            version.at(&["subresources", "status"]).is_some()
        };
        let asked = Asked { old, spec, has_status };
        version_part(version, member, asked, at, errors);
    };
    for (index, version) in versions.iter().enumerate() {
        let (name, at) = (version.str_at(&["name"]), list.index(index));
        repeated |= seen.contains(&name);
        seen.push(name);
        joined(&at.child("name"), name, &validation::dns1035_label(name), "", errors);
        deprecation(version, &at.child("deprecationWarning"), errors);
        for member in SHARED.iter().filter(|it| !shared.contains(it)) {
            part(version, member, &at, errors);
        }
    }
    let shown = || {
        let mut bare = versions.to_vec();
        for member in &shared {
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
    if let Some(first) = seen.first().filter(|it| !it.is_empty()) {
        joined(&path.child("version"), first, &validation::dns1035_label(first), "", errors);
    }
    let names_at = path.child("names");
    for member in ["plural", "singular", "kind", "listKind"] {
        check::required_text(&spec["names"], member, &names_at, errors);
    }
    names(&spec["names"], &names_at, errors);
    if let Some(first) = versions.first() {
        shared.iter().for_each(|member| part(first, member, path, errors));
    }
}

/// Every version has a schema; what had none before need not.
fn schemas_are_there(
    versions: &[Value],
    old: Option<&Value>,
    list: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let without = |it: &Value| it.at(&["schema", "openAPIV3Schema"]).is_none();
    let before = old.map(|it| it.items_at(&["spec", "versions"])).unwrap_or_default();
    let is_loose = before.iter().any(without);
    for (index, version) in versions.iter().enumerate().filter(|(_, it)| without(it)) {
        let at = list.index(index);
        let schema = at.child("schema");
        let at = schema.child("openAPIV3Schema");
        if !is_loose {
            errors.required(&at, "");
        } else if version.bool_at(&["served"]) {
            errors.required(&at, "because otherwise all fields are pruned");
        }
    }
}

/// What clients of a version are warned of.
fn deprecation(version: &Value, at: &Path<'_>, errors: &mut FieldErrors) {
    let Some(text) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let mut refuse = |detail: &str| errors.invalid_text(at, text, detail);
    if !version.bool_at(&["deprecated"]) {
        return refuse("can only be set for deprecated versions");
    }
    if text.len() > WARNING_BYTES_MAX {
        refuse(&format!("must be <= {WARNING_BYTES_MAX} characters long"));
    }
    if text.is_empty() {
        refuse("must not be an empty string");
    }
    // Of white space Go's `unicode.IsPrint` takes the plain space alone.
    let unprintable = |it: char| it.is_control() || (it.is_whitespace() && it != ' ');
    if let Some(index) = text.find(unprintable) {
        refuse(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

/// What the check of a part of a version has to know besides.
#[derive(Clone, Copy)]
struct Asked<'v> {
    old: Option<&'v Value>,
    spec: &'v Value,
    has_status: bool,
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

fn version_part(
    version: &Value,
    member: &str,
    asked: Asked<'_>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match member {
        "schema" => {
            // What is shared stands under an older name.
            let place = if path.to_string() == "spec" { "validation" } else { "schema" };
            let at = path.child(place);
            if let Some(schema) = version.at(&["schema", "openAPIV3Schema"]) {
                let tolerance = tolerance(asked.old, asked.spec, version.str_at(&["name"]));
                let at = at.child("openAPIV3Schema");
                rules_check::check(schema, asked.has_status, tolerance, &at, errors);
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
            selectable(version, asked.old, path, errors);
        }
    }
}

/// The fields by which objects of a version may be selected.
fn selectable(version: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let fields = version.items_at(&["selectableFields"]);
    let list = path.child("selectableFields");
    let Some(schema) = version.at(&["schema", "openAPIV3Schema"]) else {
        if !fields.is_empty() {
            let detail = if path.to_string() == "spec" {
                "may only be set when validations.schema is included"
            } else {
                "may only be set when `version.schema.openAPIV3Schema` is not included"
            };
            errors.invalid_text(&list, "", detail);
        }
        return;
    };
    let mut seen: Vec<String> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let (text, at) = (field.str_at(&["jsonPath"]), list.index(index));
        let at = at.child("jsonPath");
        if text.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let (found, of) = match crate::custom::resolve(schema, text, false) {
            Ok(it) => it,
            Err(why) => {
                errors.invalid_text(&at, text, &format!("is an invalid path: {why}"));
                continue;
            }
        };
        if found == "metadata" || found.starts_with("metadata.") || found.starts_with("metadata[") {
            errors.invalid_text(&at, text, "must not point to fields in metadata");
        }
        if !matches!(of.str_at(&["type"]), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid_text(&at, text, detail);
        }
        if seen.contains(&found) {
            errors.duplicate(&at, &text.into());
        } else {
            seen.push(found);
        }
    }
    let was = old.map(|it| it.items_at(&["spec", "versions"])).unwrap_or_default();
    let as_before = was.iter().any(|it| {
        it["name"] == version["name"] && it["selectableFields"] == version["selectableFields"]
    });
    if seen.len() > SELECTABLE_MAX && !as_before {
        errors.too_many(&list, seen.len(), SELECTABLE_MAX);
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

/// The versions of reviews that this server can write.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

fn conversion(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("conversion");
    let Some(conversion) = spec.get("conversion") else { return };
    let strategy = conversion.str_at(&["strategy"]);
    if strategy == "Webhook" && spec.bool_at(&["preserveUnknownFields"]) {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.invalid_text(&at.child("strategy"), strategy, detail);
    }
    rules::required_one_of(conversion, "strategy", &["None", "Webhook"], &at, errors);
    let config = conversion.at(&["webhook", "clientConfig"]);
    let versions = &conversion["webhook"]["conversionReviewVersions"];
    let (config_at, versions_at) =
        (at.child("webhookClientConfig"), at.child("conversionReviewVersions"));
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if config.is_some() {
            errors.forbidden(&config_at, detail);
        }
        if versions.as_array().is_some_and(|it| !it.is_empty()) {
            errors.forbidden(&versions_at, detail);
        }
        return;
    }
    match config {
        None => errors.required(&config_at, "required when strategy is set to Webhook"),
        Some(it) => webhooks::client_config(it, &config_at, errors),
    }
    let known = |all: &[Value]| {
        all.iter().filter_map(Value::as_str).any(|it| REVIEW_VERSIONS.contains(&it))
    };
    let before =
        old.map(|it| it.items_at(&["spec", "conversion", "webhook", "conversionReviewVersions"]));
    let is_strict = before.is_none_or(|it| it.is_empty() || known(it));
    let all = versions.as_array().unwrap_or_default();
    if all.is_empty() {
        errors.required(&versions_at, "");
        return;
    }
    for (index, version) in all.iter().enumerate() {
        let place = versions_at.index(index);
        let text = version.as_str().unwrap_or_default();
        if all[..index].contains(version) {
            errors.invalid_text(&place, text, "duplicate version");
        } else {
            errors.invalid_all(&place, text, validation::dns1035_label(text));
        }
    }
    if is_strict && !known(all) {
        errors.invalid(&versions_at, versions, "must include at least one of v1, v1beta1");
    }
}

fn validate_update(definition: &Value, old: &Value, errors: &mut FieldErrors) {
    validate(definition, Some(old), errors);
    let path = Path::new("spec");
    let (spec, before) = (&definition["spec"], &old["spec"]);
    let names = path.child("names");
    let established = old
        .items_at(&["status", "conditions"])
        .iter()
        .any(|it| it.str_at(&["type"]) == "Established" && it.str_at(&["status"]) == "True");
    if established {
        rules::immutable(spec, before, "scope", &path, errors);
        rules::immutable(&spec["names"], &before["names"], "kind", &names, errors);
    }
    rules::immutable(spec, before, "group", &path, errors);
    rules::immutable(&spec["names"], &before["names"], "plural", &names, errors);
    if let Some(problem) = crate::custom::names::approval_problem(definition)
        && crate::custom::names::approval_problem(old).as_ref() != Some(&problem)
    {
        approval(definition, &problem, errors);
    }
    if !old.bool_at(&["spec", "preserveUnknownFields"]) {
        preserve(definition, errors);
    }
}
