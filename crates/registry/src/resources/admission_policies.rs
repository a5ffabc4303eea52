//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy and their bindings.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use super::webhooks::{self, FAILURE_POLICIES, GROUP, REINVOCATION};
use crate::declaration::{Alternative, Declaration, Generation, MetadataChecks};
use crate::rules::{self, each};
use crate::{Rules, check, expressions, status, table};

const EITHER: &str = "validations or auditAnnotations must contain at least one item";
const EXCLUSIVE: &str = "name and selector are mutually exclusive";
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
/// Operations that a mutation can follow.
const MUTABLE: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
/// How many audit annotations a policy may make.
const ANNOTATIONS_MAX: usize = 20;

/// Where else those that mutate are served.
const MUTATING: &[Alternative] =
    &[Alternative::same(GROUP, "v1beta1"), Alternative::same(GROUP, "v1alpha1")];

/// What the four kinds share.
const COMMON: Declaration = Declaration {
    group: GROUP,
    metadata_checks: MetadataChecks::New,
    validate_gated: webhooks::check_name,
    warnings_gated: webhooks::warn_of_name,
    rules: Rules {
        generation: Generation::Spec,
        unconditional_update: false,
        ..Declaration::PLAIN.rules
    },
    ..Declaration::PLAIN
};

pub(super) fn validating() -> Declaration {
    Declaration {
        resource: "validatingadmissionpolicies",
        default,
        validate: |it, errors| {
            let path = Path::new("spec");
            policy(&it["spec"], &path, errors);
            validations(&it["spec"], &path, errors);
            expressions::policy(&it["spec"], &path, errors);
        },
        prepare_status: status::keep_metadata,
        validate_status,
        row: |it, now| policy_row(it, "validations", now),
        rules: Rules { has_status: true, ..COMMON.rules },
        ..COMMON
    }
}

/// Warnings of expressions say what of, and conditions are complete.
fn validate_status(policy: &Value, _old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let at = path.child("typeChecking");
    let checking = &policy["status"]["typeChecking"];
    each(checking, "expressionWarnings", &at, errors, |warning, at, errors| {
        check::required_text(warning, "warning", at, errors);
        if warning.str_at(&["fieldRef"]).trim().is_empty() {
            errors.required(&at.child("fieldRef"), "");
        }
    });
    status::conditions(&policy["status"], &path, errors);
}

pub(super) fn mutating() -> Declaration {
    Declaration {
        resource: "mutatingadmissionpolicies",
        alternatives: MUTATING,
        default,
        validate: |it, errors| {
            let path = Path::new("spec");
            policy(&it["spec"], &path, errors);
            mutations(&it["spec"], &path, errors);
            expressions::policy(&it["spec"], &path, errors);
        },
        row: |it, now| policy_row(it, "mutations", now),
        ..COMMON
    }
}

pub(super) fn validating_binding() -> Declaration {
    Declaration {
        resource: "validatingadmissionpolicybindings",
        default: binding_default,
        validate: |it, errors| {
            let path = Path::new("spec");
            binding(&it["spec"], &path, errors);
            actions(&it["spec"], &path, errors);
        },
        row: binding_row,
        ..COMMON
    }
}

pub(super) fn mutating_binding() -> Declaration {
    Declaration {
        resource: "mutatingadmissionpolicybindings",
        alternatives: MUTATING,
        default: binding_default,
        validate: |it, errors| binding(&it["spec"], &Path::new("spec"), errors),
        row: binding_row,
        ..COMMON
    }
}

fn default(policy: &mut Value) {
    policy.default_at(&["spec", "failurePolicy"], "Fail");
    if let Some(constraints) = policy.at_mut(&["spec", "matchConstraints"]) {
        webhooks::match_defaults(constraints);
    }
}

fn binding_default(binding: &mut Value) {
    if let Some(resources) = binding.at_mut(&["spec", "matchResources"]) {
        webhooks::match_defaults(resources);
    }
}

/// What both kinds of policies have.
fn policy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::optional_one_of(spec, "failurePolicy", FAILURE_POLICIES, path, errors);
    if let Some(kind) = spec.get("paramKind") {
        param_kind(kind, &path.child("paramKind"), errors);
    }
    let at = path.child("matchConstraints");
    match spec.get("matchConstraints") {
        None => errors.required(&at, ""),
        Some(it) => {
            webhooks::match_resources(it, &at, errors);
            if it.items_at(&["resourceRules"]).is_empty() {
                errors.required(&at.child("resourceRules"), "");
            }
        }
    }
    webhooks::conditions(spec, path, errors);
    let mut names = Vec::new();
    each(spec, "variables", path, errors, |variable, at, errors| {
        let name = variable.str_at(&["name"]).to_owned();
        if name.is_empty() || !validation::c_identifier(&name).is_empty() {
            let detail = "name is not a valid CEL identifier";
            errors.invalid_text(&at.child("name"), &name, detail);
        }
        if names.contains(&name) {
            errors.duplicate(&at.child("name"), &Value::from(name.as_str()));
        }
        names.push(name);
        expression(variable, "expression", at, errors);
    });
}

fn expression(of: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if of.str_at(&[member]).trim().is_empty() {
        errors.required(&path.child(member), &format!("{member} is not specified"));
    }
}

fn param_kind(kind: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (version, at) = (kind.str_at(&["apiVersion"]), path.child("apiVersion"));
    if check::required_text(kind, "apiVersion", path, errors) {
        match version.split('/').collect::<Vec<_>>()[..] {
            [version_only] => {
                errors.invalid_all(&at, version_only, validation::dns1035_label(version_only));
            }
            [group, name] => {
                errors.invalid_all(&at, group, validation::dns1123_subdomain(group));
                errors.invalid_all(&at, name, validation::dns1035_label(name));
            }
            _ => {
                let detail = format!("unexpected GroupVersion string: {version}");
                errors.invalid_text(&at, version, &detail);
            }
        }
    }
    if check::required_text(kind, "kind", path, errors) {
        let (kind, at) = (kind.str_at(&["kind"]), path.child("kind"));
        for problem in validation::dns1035_label(&kind.to_lowercase()) {
            let detail = format!("may have mixed case, but should otherwise match: {problem}");
            errors.invalid_text(&at, kind, &detail);
        }
    }
}

fn validations(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let none = |member| spec.items_at(&[member]).is_empty();
    if none("validations") && none("auditAnnotations") {
        for member in ["validations", "auditAnnotations"] {
            errors.required(&path.child(member), EITHER);
        }
        return;
    }
    each(spec, "validations", path, errors, |it, at, errors| {
        expression(it, "expression", at, errors);
        if it.get("messageExpression").is_some() {
            expression(it, "messageExpression", at, errors);
        }
        let message = it.str_at(&["message"]);
        let place = at.child("message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid_text(&place, message, "message must be non-empty if specified");
        } else if message.trim().contains('\n') {
            errors.invalid_text(&place, message, "message must not contain line breaks");
        }
        if message.is_empty() && it.str_at(&["expression"]).contains('\n') {
            let detail = "message must be specified if expression contains line breaks";
            errors.required(&place, detail);
        }
        if let Some(reason) = it.get("reason")
            && !REASONS.contains(&reason.as_str().unwrap_or_default())
        {
            errors.not_supported(&at.child("reason"), reason, REASONS[..3].iter().copied());
        }
    });
    annotations(spec, path, errors);
}

fn annotations(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let count = spec.items_at(&["auditAnnotations"]).len();
    if count > ANNOTATIONS_MAX {
        let detail = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(&path.child("auditAnnotations"), &spec["auditAnnotations"], &detail);
    }
    let mut keys = Vec::new();
    each(spec, "auditAnnotations", path, errors, |it, at, errors| {
        let key = it.str_at(&["key"]).to_owned();
        check::required_name(it, "key", validation::qualified_name, at, errors);
        if keys.contains(&key) {
            errors.duplicate(&at.child("key"), &Value::from(key.as_str()));
        }
        keys.push(key);
        expression(it, "valueExpression", at, errors);
    });
}

fn mutations(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let constraints = path.child("matchConstraints");
    let rules_at = constraints.child("resourceRules");
    let at = rules_at.child("operations");
    for rule in spec.items_at(&["matchConstraints", "resourceRules"]) {
        for operation in rule.items_at(&["operations"]) {
            if !MUTABLE.contains(&operation.as_str().unwrap_or_default()) {
                errors.not_supported(&at, operation, MUTABLE.iter().copied());
            }
        }
    }
    if spec.items_at(&["mutations"]).is_empty() {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    each(spec, "mutations", path, errors, mutation);
    if spec.str_at(&["reinvocationPolicy"]).is_empty() {
        errors.required(&path.child("reinvocationPolicy"), "");
    } else {
        check::one_of(spec, "reinvocationPolicy", REINVOCATION, path, errors);
    }
}

fn mutation(mutation: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = mutation.str_at(&["patchType"]);
    let (member, other) = match kind {
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "" => {
            errors.required(&path.child("patchType"), "");
            return;
        }
        _ => {
            let supported = ["ApplyConfiguration", "JSONPatch"];
            check::one_of(mutation, "patchType", &supported, path, errors);
            return;
        }
    };
    match mutation.get(member) {
        None => {
            let detail = format!("must be specified when patchType is {kind}");
            errors.required(&path.child(member), &detail);
        }
        Some(it) => expression(it, "expression", &path.child(member), errors),
    }
    if mutation.get(other).is_some() {
        let shown = if other == "jsonPatch" { "JSONPatch" } else { "ApplyConfiguration" };
        let detail = format!("must not be specified when patchType is not {shown}");
        errors.invalid(&path.child(other), &mutation[other], &detail);
    }
}

/// What both kinds of bindings have.
fn binding(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_name(spec, "policyName", validation::dns1123_subdomain, path, errors);
    if let Some(reference) = spec.get("paramRef") {
        param_ref(reference, &path.child("paramRef"), errors);
    }
    if let Some(resources) = spec.get("matchResources") {
        webhooks::match_resources(resources, &path.child("matchResources"), errors);
    }
}

fn param_ref(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (name, selector) = (reference.str_at(&["name"]), reference.get("selector"));
    if !name.is_empty() {
        let at = path.child("name");
        errors.invalid_all(&at, name, validation::path_segment_name(name));
        if selector.is_some() {
            errors.forbidden(&at, EXCLUSIVE);
        }
    }
    if selector.is_some() {
        let at = path.child("selector");
        check::label_selector(selector, &at, errors);
        if !name.is_empty() {
            errors.forbidden(&at, EXCLUSIVE);
        }
    }
    if name.is_empty() && selector.is_none() {
        errors.required(path, "one of name or selector must be specified");
    }
    match reference.get("parameterNotFoundAction") {
        None => errors.required(&path.child("parameterNotFoundAction"), ""),
        Some(_) => {
            check::one_of(reference, "parameterNotFoundAction", &["Deny", "Allow"], path, errors);
        }
    }
}

fn actions(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("validationActions");
    let actions: Vec<&str> =
        spec.items_at(&["validationActions"]).iter().filter_map(Value::as_str).collect();
    if actions.is_empty() {
        errors.required(&at, "at least one validation action is required");
    }
    rules::each_one_of(spec, "validationActions", &["Audit", "Deny", "Warn"], path, errors);
    for (index, action) in actions.iter().enumerate() {
        if actions[..index].contains(action) {
            errors.duplicate(&at.index(index), &Value::from(*action));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let detail = "must not contain both \"Deny\" and \"Warn\" (repeating the same validation failure information in the API response and headers serves no purpose)";
        let shown: Value = ["Deny", "Warn"].into_iter().collect();
        errors.invalid(&at, &shown, detail);
    }
}

fn policy_row(policy: &Value, counted: &str, now: Timestamp) -> Vec<Value> {
    let count = policy.items_at(&["spec", counted]).len();
    let kind = policy
        .at(&["spec", "paramKind"])
        .map(|it| format!("{}/{}", it.str_at(&["apiVersion"]), it.str_at(&["kind"])));
    let kind = kind.unwrap_or_else(|| "<unset>".into());
    vec![
        policy.str_at(&["metadata", "name"]).into(),
        i64::try_from(count).unwrap_or_default().into(),
        kind.into(),
        table::created(policy, now),
    ]
}

fn binding_row(binding: &Value, now: Timestamp) -> Vec<Value> {
    let reference = binding.at(&["spec", "paramRef"]).map(|it| {
        let name = match it.str_at(&["name"]) {
            "" => "*",
            name => name,
        };
        match it.str_at(&["namespace"]) {
            "" => name.to_owned(),
            namespace => format!("{namespace}/{name}"),
        }
    });
    vec![
        binding.str_at(&["metadata", "name"]).into(),
        binding.str_at(&["spec", "policyName"]).into(),
        reference.unwrap_or_else(|| "<unset>".into()).into(),
        table::created(binding, now),
    ]
}
