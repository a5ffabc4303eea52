//! ResourceClaim, ResourceClaimTemplate and DeviceClass: what pods ask for of devices.

use apimachinery::{FieldErrors, Path, Value, validation};

use super::{claim_status, device_versions};
use crate::declaration::{Declaration, Generation, NameUse};
use crate::rules::{self, each};
use crate::{Rules, check, expressions, go, metadata, table};

pub(super) const GROUP: &str = "resource.k8s.io";
const REQUESTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const SELECTORS_MAX: usize = 32;
const ONE_OF: &str = "exactly one of `exactly` or `firstAvailable` is required";
const NO_ATTRIBUTE: &str = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
const NO_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
const MODES: &[&str] = &["All", "ExactCount"];
/// The longest CEL expression, in bytes.
const EXPRESSION_MAX: usize = 10 * 1024;
/// The longest name of a driver, in bytes.
const DRIVER_MAX: usize = 63;

pub(super) fn claim() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "resourceclaims",
        alternatives: device_versions::CLAIM,
        default: |it| {
            if let Some(spec) = it.get_mut("spec") {
                request_defaults(spec);
            }
        },
        // A change is told that there may be none, and nothing else.
        validate_create: |it, errors| devices(&it["spec"], &Path::new("spec"), errors),
        validate_update: |it, old, errors| {
            immutable_spec(it, old, go::DEVICE_CLAIM_SPEC, errors);
        },
        prepare_status: claim_status::prepare,
        validate_status: claim_status::validate,
        row: |it, now| {
            vec![it.str_at(&["metadata", "name"]).into(), state(it).into(), table::created(it, now)]
        },
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

pub(super) fn template() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "resourceclaimtemplates",
        alternatives: device_versions::TEMPLATE,
        default: |it| {
            if let Some(spec) = it.at_mut(&["spec", "spec"]) {
                request_defaults(spec);
            }
        },
        validate_create: validate_template,
        validate_update: |it, old, errors| {
            immutable_spec(it, old, go::DEVICE_CLAIM_TEMPLATE_SPEC, errors);
        },
        row: super::printing::name_and_age,
        rules: Rules { returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

pub(super) fn class() -> Declaration {
    Declaration {
        group: GROUP,
        resource: "deviceclasses",
        alternatives: device_versions::SAME,
        name: class_name,
        validate: validate_class,
        row: super::printing::name_and_age,
        rules: Rules {
            generation: Generation::Spec,
            returns_deleted: true,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

/// Upstream counts this kind's names in bytes.
fn class_name(name: &str, usage: NameUse) -> Vec<String> {
    let problems = metadata::subdomain_name(name, usage);
    problems
        .into_iter()
        .map(|it| match it.strip_suffix("no more than 253 characters") {
            Some(start) => format!("{start}no more than 253 bytes"),
            None => it,
        })
        .collect()
}

/// A request for devices asks for one where it does not say how many.
fn request_defaults(spec: &mut Value) {
    for request in spec.items_at_mut(&["devices", "requests"]) {
        if let Some(exactly) = request.get_mut("exactly") {
            one_device(exactly);
        }
        request.items_at_mut(&["firstAvailable"]).iter_mut().for_each(one_device);
    }
}

pub(super) fn one_device(request: &mut Value) {
    request.default_at(&["allocationMode"], "ExactCount");
    if request.str_at(&["allocationMode"]) == "ExactCount" {
        request.default_at(&["count"], 1);
    }
    for toleration in request.items_at_mut(&["tolerations"]) {
        toleration.default_at(&["operator"], "Equal");
    }
}

fn immutable_spec(value: &Value, old: &Value, fields: &[go::Field], errors: &mut FieldErrors) {
    if value["spec"] != old["spec"] {
        let shown = go::compact(&value["spec"], fields);
        check::invalid_shown(&Path::new("spec"), &shown, "field is immutable", errors);
    }
}

fn validate_template(template: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let metadata = path.child("metadata");
    let labels = template.at(&["spec", "metadata", "labels"]);
    check::label_map(labels, &metadata.child("labels"), errors);
    if let Some(map) = template.at(&["spec", "metadata", "annotations"]).and_then(Value::as_object)
    {
        crate::metadata::annotations(map, &metadata.child("annotations"), errors);
    }
    devices(&template["spec"]["spec"], &path.child("spec"), errors);
}

/// Which parts of the claim a constraint or configuration may name.
pub(super) fn request_names(devices: &Value) -> Vec<String> {
    let mut names = Vec::new();
    for request in devices.items_at(&["requests"]) {
        let name = request.str_at(&["name"]);
        names.push(name.to_owned());
        for alternative in request.items_at(&["firstAvailable"]) {
            names.push(format!("{name}/{}", alternative.str_at(&["name"])));
        }
    }
    names
}

fn devices(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let devices = &spec["devices"];
    let at = path.child("devices");
    let mut names = Vec::new();
    let count = devices.items_at(&["requests"]).len();
    if count > REQUESTS_MAX {
        errors.too_many(&at.child("requests"), count, REQUESTS_MAX);
    }
    each(devices, "requests", &at, errors, |it, at, errors| {
        let name = it.str_at(&["name"]).to_owned();
        errors.invalid_all(&at.child("name"), &name, validation::dns1123_label(&name));
        if names.contains(&name) {
            errors.duplicate(&at.child("name"), &Value::from(name.as_str()));
        }
        names.push(name);
        request(it, at, errors);
    });
    let known = request_names(devices);
    each(devices, "constraints", &at, errors, |it, at, errors| {
        named_requests(it, &known, at, errors);
        let (matched, distinct) =
            (it.str_at(&["matchAttribute"]), it.str_at(&["distinctAttribute"]));
        if matched.is_empty() && distinct.is_empty() {
            errors.required(at, NO_ATTRIBUTE);
        }
        let member =
            if it.get("matchAttribute").is_some() { "matchAttribute" } else { "distinctAttribute" };
        check::optional_name(it, member, attribute_name, at, errors);
    });
    each(devices, "config", &at, errors, |it, at, errors| {
        named_requests(it, &known, at, errors);
        configuration(it, at, errors);
    });
}

pub(super) fn named_requests(
    of: &Value,
    known: &[String],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    each(of, "requests", path, errors, |name, at, errors| {
        request_reference(name.as_str().unwrap_or_default(), known, at, errors);
    });
}

/// The name of a request, or of one of its alternatives.
pub(super) fn request_reference(
    text: &str,
    known: &[String],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if text.split('/').count() <= 2 {
        for part in text.split('/') {
            errors.invalid_all(path, part, validation::dns1123_label(part));
        }
    }
    if !known.iter().any(|it| it == text) {
        errors.invalid_text(path, text, NO_REQUEST);
    }
}

pub(super) fn configuration(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("opaque");
    let Some(opaque) = of.get("opaque") else {
        errors.required(&at, "");
        return;
    };
    driver(opaque, &at, errors);
    match opaque.get("parameters") {
        None => errors.required(&at.child("parameters"), ""),
        Some(Value::Object(_)) => {}
        Some(_) => {
            let detail = "must be a valid JSON object";
            errors.invalid_text(&at.child("parameters"), "<value omitted>", detail);
        }
    }
}

/// The name of a driver of devices.
pub(super) fn driver(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !check::required_text(of, "driver", path, errors) {
        return;
    }
    let (name, at) = (of.str_at(&["driver"]), path.child("driver"));
    if name.len() > DRIVER_MAX {
        errors.too_long(&at, DRIVER_MAX);
    }
    errors.invalid_all(&at, name, validation::dns1123_subdomain(&name.to_lowercase()));
}

/// `domain/identifier`
fn attribute_name(name: &str) -> Vec<String> {
    match name.split_once('/') {
        None => vec!["must include a domain".into()],
        Some((domain, identifier)) => {
            let mut problems = validation::dns1123_subdomain(domain);
            problems.extend(validation::c_identifier(identifier));
            problems
        }
    }
}

fn request(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let alternatives = request.items_at(&["firstAvailable"]).len();
    match (request.get("exactly"), alternatives > 0) {
        (None, false) => errors.required(path, ONE_OF),
        (Some(_), true) => {
            let detail = format!("{ONE_OF}, but multiple fields are set");
            errors.invalid(path, &Value::Null, &detail);
        }
        (Some(exactly), false) => one_request(exactly, &path.child("exactly"), errors),
        (None, true) => first_available(request, path, errors),
    }
}

fn first_available(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let alternatives = request.items_at(&["firstAvailable"]).len();
    if alternatives > ALTERNATIVES_MAX {
        errors.too_many(&path.child("firstAvailable"), alternatives, ALTERNATIVES_MAX);
    }
    let mut names = Vec::new();
    each(request, "firstAvailable", path, errors, |it, at, errors| {
        let name = it.str_at(&["name"]).to_owned();
        errors.invalid_all(&at.child("name"), &name, validation::dns1123_label(&name));
        if names.contains(&name) {
            errors.duplicate(&at.child("name"), &Value::from(name.as_str()));
        }
        names.push(name);
        one_request(it, at, errors);
    });
}

fn one_request(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_name(request, "deviceClassName", validation::dns1123_subdomain, path, errors);
    selectors(request, path, errors);
    let count = request.i64_at(&["count"]).unwrap_or_default();
    let at = path.child("count");
    match request.str_at(&["allocationMode"]) {
        "All" if count != 0 => {
            errors.invalid(
                &at,
                &count.into(),
                "must not be specified when allocationMode is 'All'",
            );
        }
        "ExactCount" if count <= 0 => {
            errors.invalid(&at, &count.into(), "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        _ => check::one_of(request, "allocationMode", MODES, path, errors),
    }
    each(request, "tolerations", path, errors, toleration);
}

fn toleration(toleration: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::optional_name(toleration, "key", validation::qualified_name, path, errors);
    let value = toleration.str_at(&["value"]);
    match toleration.str_at(&["operator"]) {
        "Exists" if !value.is_empty() => {
            let detail = "must be empty for operator `Exists`";
            errors.invalid_text(&path.child("value"), value, detail);
        }
        "Exists" => {}
        "Equal" => check::optional_name(toleration, "value", validation::label_value, path, errors),
        _ => rules::required_one_of(toleration, "operator", &["Equal", "Exists"], path, errors),
    }
    let effect = toleration.str_at(&["effect"]);
    if !effect.is_empty() {
        check::one_of(toleration, "effect", &["NoExecute", "NoSchedule", "None"], path, errors);
    }
}

fn selectors(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let count = of.items_at(&["selectors"]).len();
    if count > SELECTORS_MAX {
        errors.too_many(&path.child("selectors"), count, SELECTORS_MAX);
    }
    each(of, "selectors", path, errors, |selector, at, errors| {
        let place = at.child("cel");
        let Some(cel) = selector.get("cel") else {
            errors.required(&place, "");
            return;
        };
        let expression = cel.str_at(&["expression"]);
        if expression.len() > EXPRESSION_MAX {
            errors.too_long(&place.child("expression"), EXPRESSION_MAX);
        } else {
            expressions::device_selector(expression, &place.child("expression"), errors);
        }
    });
}

fn validate_class(class: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    selectors(&class["spec"], &path, errors);
    each(&class["spec"], "config", &path, errors, configuration);
    let name = class.str_at(&["spec", "extendedResourceName"]);
    let fine = name.contains('/')
        && !name.contains("kubernetes.io/")
        && validation::qualified_name(name).is_empty();
    if !name.is_empty() && !fine {
        let detail = "must be a valid extended resource name";
        errors.invalid_text(&path.child("extendedResourceName"), name, detail);
    }
}

fn state(claim: &Value) -> String {
    let mut words = Vec::new();
    if claim.at(&["metadata", "deletionTimestamp"]).is_some() {
        words.push("deleted");
    }
    if claim.at(&["status", "allocation"]).is_some() {
        words.push("allocated");
        if !claim.items_at(&["status", "reservedFor"]).is_empty() {
            words.push("reserved");
        }
    } else if words.is_empty() {
        words.push("pending");
    }
    words.join(",")
}
