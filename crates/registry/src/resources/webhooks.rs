//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration, and the rules that policies share with them.

use apimachinery::{FieldErrors, Object, Path, Value, validation};

use crate::apis::Features;
use crate::declaration::{Declaration, Generation, MetadataChecks};
use crate::rules::{self, each};
use crate::{Rules, check, expressions, table};

pub(super) const GROUP: &str = "admissionregistration.k8s.io";
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION: &[&str] = &["IfNeeded", "Never"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
/// The longest that a webhook may take, in seconds.
const TIMEOUT_MAX: i64 = 30;
const TIMEOUT_DEFAULT: i64 = 10;
/// How many conditions a webhook or policy may have.
const CONDITIONS_MAX: usize = 64;

/// What the two kinds share.
const COMMON: Declaration = Declaration {
    group: GROUP,
    row: |it, now| {
        let count = i64::try_from(it.items_at(&["webhooks"]).len()).unwrap_or_default();
        vec![it.str_at(&["metadata", "name"]).into(), count.into(), table::created(it, now)]
    },
    metadata_checks: MetadataChecks::New,
    validate_gated: check_name,
    warnings_gated: warn_of_name,
    rules: Rules {
        generation: Generation::Spec,
        unconditional_update: false,
        ..Declaration::PLAIN.rules
    },
    ..Declaration::PLAIN
};

/// How the names of objects end that are files (`staticManifestsDir`).
const STATIC: &str = ".static.k8s.io";

fn has_static_name(value: &Value, old: Option<&Value>) -> bool {
    old.is_none() && value.str_at(&["metadata", "name"]).ends_with(STATIC)
}

/// Names of files are theirs, where there are some.
pub(super) fn check_name(
    features: Features,
    value: &Value,
    old: Option<&Value>,
    errors: &mut FieldErrors,
) {
    if features.manifest_based_admission && has_static_name(value, old) {
        let detail = format!(
            "names ending with {STATIC:?} are reserved for static manifest-based configurations and cannot be managed via the API"
        );
        let name = value.str_at(&["metadata", "name"]);
        errors.invalid_text(&Path::new("metadata").child("name"), name, &detail);
    }
}

/// And will be, where there are none.
pub(super) fn warn_of_name(features: Features, value: &Value, old: Option<&Value>) -> Vec<String> {
    if features.manifest_based_admission || !has_static_name(value, old) {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: names ending with {STATIC:?} will be reserved for static manifest-based configurations when the ManifestBasedAdmissionControlConfig feature gate is enabled"
    )]
}

pub(super) fn mutating() -> Declaration {
    Declaration {
        resource: "mutatingwebhookconfigurations",
        default: |it| default(it, true),
        validate: |it, errors| validate(it, true, errors),
        ..COMMON
    }
}

pub(super) fn validating() -> Declaration {
    Declaration {
        resource: "validatingwebhookconfigurations",
        default: |it| default(it, false),
        validate: |it, errors| validate(it, false, errors),
        ..COMMON
    }
}

/// The defaults of what says which requests are meant.
pub(super) fn match_defaults(it: &mut Value) {
    it.default_at(&["matchPolicy"], "Equivalent");
    it.default_at(&["namespaceSelector"], Object::new());
    it.default_at(&["objectSelector"], Object::new());
    for rules in ["resourceRules", "excludeResourceRules", "rules"] {
        for rule in it.items_at_mut(&[rules]) {
            rule.default_at(&["scope"], "*");
        }
    }
}

fn default(configuration: &mut Value, mutating: bool) {
    for hook in configuration.items_at_mut(&["webhooks"]) {
        hook.default_at(&["failurePolicy"], "Fail");
        match_defaults(hook);
        hook.default_at(&["timeoutSeconds"], TIMEOUT_DEFAULT);
        if mutating {
            hook.default_at(&["reinvocationPolicy"], "Never");
        }
        if hook.at(&["clientConfig", "service"]).is_some() {
            hook.default_at(&["clientConfig", "service", "port"], 443);
        }
    }
}

fn validate(configuration: &Value, mutating: bool, errors: &mut FieldErrors) {
    let mut names = Vec::new();
    each(configuration, "webhooks", &Path::new(""), errors, |hook, at, errors| {
        webhook(hook, at, errors);
        if mutating {
            check::optional_one_of(hook, "reinvocationPolicy", REINVOCATION, at, errors);
        }
        let name = hook.str_at(&["name"]).to_owned();
        if !name.is_empty() && names.contains(&name) {
            errors.duplicate(&at.child("name"), &Value::from(name.as_str()));
        }
        names.push(name);
    });
}

fn webhook(hook: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    fully_qualified(hook, path, errors);
    each(hook, "rules", path, errors, |it, at, errors| rule(it, true, at, errors));
    check::optional_one_of(hook, "failurePolicy", FAILURE_POLICIES, path, errors);
    check::optional_one_of(hook, "matchPolicy", MATCH_POLICIES, path, errors);
    match hook.get("sideEffects") {
        None => {
            errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
        }
        Some(_) => check::one_of(hook, "sideEffects", &["None", "NoneOnDryRun"], path, errors),
    }
    if let Some(seconds) = hook.i64_at(&["timeoutSeconds"])
        && !(1..=TIMEOUT_MAX).contains(&seconds)
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), &seconds.into(), detail);
    }
    for member in ["namespaceSelector", "objectSelector"] {
        check::label_selector(hook.get(member), &path.child(member), errors);
    }
    client_config(&hook["clientConfig"], &path.child("clientConfig"), errors);
    conditions(hook, path, errors);
    expressions::webhook_conditions(hook, path, errors);
    review_versions(hook, path, errors);
}

/// A name with at least three parts.
fn fully_qualified(hook: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !check::required_text(hook, "name", path, errors) {
        return;
    }
    let (name, at) = (hook.str_at(&["name"]), path.child("name"));
    let problems = validation::dns1123_subdomain(name);
    let fine = problems.is_empty();
    errors.invalid_all(&at, name, problems);
    if fine && name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.invalid_text(&at, name, detail);
    }
}

fn review_versions(hook: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("admissionReviewVersions");
    let versions: Vec<&str> =
        hook.items_at(&["admissionReviewVersions"]).iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        errors.required(&at, "must specify one of v1, v1beta1");
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let place = at.index(index);
        if versions[..index].contains(version) {
            errors.invalid_text(&place, version, "duplicate version");
            continue;
        }
        errors.invalid_all(&place, version, validation::dns1035_label(version));
    }
    if !versions.iter().any(|it| REVIEW_VERSIONS.contains(it)) {
        let shown = &hook["admissionReviewVersions"];
        errors.invalid(&at, shown, "must include at least one of v1, v1beta1");
    }
}

pub(super) fn client_config(config: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (config.get("url"), config.get("service")) {
        (None, None) | (Some(_), Some(_)) => {
            errors.required(path, "exactly one of url or service is required");
        }
        (Some(it), None) => url(it.as_str().unwrap_or_default(), &path.child("url"), errors),
        (None, Some(it)) => service(it, &path.child("service"), errors),
    }
}

/// The address of a webhook: `https://host[/path]`, and nothing else.
fn url(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = text.split_once("://").unwrap_or(("", ""));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let mut refuse = |shown: &str, detail: &str| {
        errors.invalid_text(path, shown, &format!("{detail}{FORM}"));
    };
    if scheme != "https" {
        refuse(scheme, "'https' is the only allowed URL scheme");
    }
    let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
    if host.is_empty() {
        refuse(host, "host must be specified");
    }
    if !user.is_empty() {
        errors.invalid_text(path, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        errors.invalid_text(path, fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = rest.split_once('?') {
        let query = query.split('#').next().unwrap_or_default();
        errors.invalid_text(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(service: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    // Upstream names the one that is missing by the name of the other.
    for (member, said) in [("name", "namespace"), ("namespace", "name")] {
        if service.str_at(&[member]).is_empty() {
            errors.required(&path.child(said), "");
        }
    }
    let port = service.i64_at(&["port"]).unwrap_or(443);
    for problem in validation::port_number(port) {
        let detail = format!("port is not valid: {problem}");
        errors.invalid(&path.child("port"), &port.into(), &detail);
    }
    if let Some(text) = service.get("path").and_then(Value::as_str) {
        service_path(text, &path.child("path"), errors);
    }
}

fn service_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut refuse = |detail: &str| errors.invalid_text(path, text, detail);
    match text {
        "" | "/" => return,
        "//" => return refuse("segment[0] may not be empty"),
        _ => {}
    }
    if !text.starts_with('/') {
        refuse("must start with a '/'");
    }
    // Upstream leaves out the first letter whatever it is.
    let rest = text.chars().next().map_or("", |it| &text[it.len_utf8()..]);
    for (index, part) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if part.is_empty() {
            refuse(&format!("segment[{index}] may not be empty"));
            continue;
        }
        for problem in validation::dns1123_subdomain(part) {
            refuse(&format!("segment[{index}]: {problem}"));
        }
    }
}

/// Conditions of a webhook or policy: named, each name once.
pub(super) fn conditions(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let count = of.items_at(&["matchConditions"]).len();
    if count > CONDITIONS_MAX {
        errors.too_many(&path.child("matchConditions"), count, CONDITIONS_MAX);
    }
    let mut names = Vec::new();
    each(of, "matchConditions", path, errors, |condition, at, errors| {
        check::required_text(condition, "expression", at, errors);
        let name = condition.str_at(&["name"]).to_owned();
        check::required_name(condition, "name", validation::qualified_name, at, errors);
        if !name.is_empty() && names.contains(&name) {
            errors.duplicate(&at.child("name"), &Value::from(name.as_str()));
        }
        names.push(name);
    });
}

/// What says which requests are meant, in policies and bindings.
pub(super) fn match_resources(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if of.get("matchPolicy").is_none() {
        errors.required(&path.child("matchPolicy"), "");
    } else {
        check::one_of(of, "matchPolicy", MATCH_POLICIES, path, errors);
    }
    for member in ["namespaceSelector", "objectSelector"] {
        match of.get(member) {
            None => errors.required(&path.child(member), ""),
            Some(_) => check::label_selector(of.get(member), &path.child(member), errors),
        }
    }
    for member in ["resourceRules", "excludeResourceRules"] {
        each(of, member, path, errors, |it, at, errors| {
            let names: Vec<&str> =
                it.items_at(&["resourceNames"]).iter().filter_map(Value::as_str).collect();
            let place = at.child("resourceNames");
            for (index, name) in names.iter().enumerate() {
                let problems = validation::path_segment_name(name);
                errors.invalid_all(&place.index(index), name, problems);
                if names[..index].contains(name) {
                    errors.duplicate(&place.index(index), &Value::from(*name));
                }
            }
            rule(it, true, at, errors);
        });
    }
}

fn rule(rule: &Value, subresources: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let operations = rule.items_at(&["operations"]);
    let at = path.child("operations");
    if operations.is_empty() {
        errors.required(&at, "");
    }
    if operations.len() > 1 && has_star(operations) {
        let detail = "if '*' is present, must not specify other operations";
        errors.invalid(&at, &rule["operations"], detail);
    }
    rules::each_one_of(rule, "operations", OPERATIONS, path, errors);
    for (member, what, may_be_empty) in
        [("apiGroups", "API groups", true), ("apiVersions", "API versions", false)]
    {
        let (list, at) = (rule.items_at(&[member]), path.child(member));
        if list.is_empty() {
            errors.required(&at, "");
        }
        if list.len() > 1 && has_star(list) {
            let detail = format!("if '*' is present, must not specify other {what}");
            errors.invalid(&at, &rule[member], &detail);
        }
        if !may_be_empty {
            each(rule, member, path, errors, |it, at, errors| {
                if it.as_str().unwrap_or_default().is_empty() {
                    errors.required(at, "");
                }
            });
        }
    }
    resources(rule, subresources, path, errors);
    check::optional_one_of(rule, "scope", SCOPES, path, errors);
}

fn has_star(list: &[Value]) -> bool {
    list.iter().any(|it| it.as_str() == Some("*"))
}

/// Resources of a rule, each against the wildcards that stand before it, as upstream reads them.
fn resources(rule: &Value, subresources: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("resources");
    let all: Vec<&str> = rule.items_at(&["resources"]).iter().filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(&at, "");
    }
    let (mut any_sub, mut any_resource) = (Vec::new(), Vec::new());
    let mut plain = false;
    for (index, text) in all.iter().enumerate() {
        let place = at.index(index);
        if text.is_empty() {
            errors.required(&place, "");
        }
        let Some((resource, subresource)) = text.split_once('/') else {
            // The last one counts.
            plain = *text != "*";
            continue;
        };
        if any_sub.contains(&resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {text}");
            errors.invalid_text(&place, text, &detail);
        }
        if any_resource.contains(&subresource) {
            let detail = format!("if '*/{subresource}' is present, must not specify {text}");
            errors.invalid_text(&place, text, &detail);
        }
        if subresource == "*" {
            any_sub.push(resource);
        }
        if resource == "*" {
            any_resource.push(subresource);
        }
    }
    let shown = &rule["resources"];
    if all.len() > 1 && all.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid(&at, shown, detail);
    }
    if all.contains(&"*") && plain && subresources {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(&at, shown, detail);
    }
}
