//! IngressClass.

use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use crate::declaration::{Declaration, Generation};
use crate::{Rules, check, rules, table};

/// The longest name of a controller, in bytes.
const CONTROLLER_MAX: usize = 250;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "networking.k8s.io",
        resource: "ingressclasses",
        default: |it| {
            if it.at(&["spec", "parameters"]).is_some() {
                it.default_at(&["spec", "parameters", "scope"], "Cluster");
            }
        },
        validate,
        validate_update: |it, old, errors| {
            let path = Path::new("spec");
            rules::immutable_text(&it["spec"], &old["spec"], "controller", &path, errors);
        },
        row,
        rules: Rules { generation: Generation::Spec, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &class["spec"];
    if check::required_text(spec, "controller", &path, errors) {
        let (controller, at) = (spec.str_at(&["controller"]), path.child("controller"));
        if controller.len() > CONTROLLER_MAX {
            errors.too_long(&at, CONTROLLER_MAX);
        }
        errors.invalid_all(&at, controller, domain_prefixed_path(controller));
    }
    if let Some(it) = spec.get("parameters") {
        parameters(it, &path.child("parameters"), errors);
    }
}

/// `acme.io/foo`
pub(super) fn domain_prefixed_path(text: &str) -> Problems {
    let told = || vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    let Some((host, path)) = text.split_once('/') else { return told() };
    if host.is_empty() || path.is_empty() {
        return told();
    }
    let mut problems: Problems = validation::dns1123_subdomain(host)
        .into_iter()
        .map(|problem| format!("prefix part {problem}"))
        .collect();
    problems.extend(validation::http_path(path));
    problems
}

fn parameters(it: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    rules::optional_group(it, path, errors);
    for member in ["kind", "name"] {
        check::required_name(it, member, validation::path_segment_name, path, errors);
    }
    if it.get("scope").is_none() {
        errors.required(&path.child("scope"), "");
        return;
    }
    check::one_of(it, "scope", &["Cluster", "Namespace"], path, errors);
    let namespace = it.get("namespace").and_then(Value::as_str);
    let at = path.child("namespace");
    match (it.str_at(&["scope"]), namespace) {
        ("Namespace", None) => {
            errors.required(&at, "`parameters.scope` is set to 'Namespace'");
        }
        ("Namespace", Some(name)) => {
            errors.invalid_all(&at, name, validation::dns1123_label(name));
        }
        ("Cluster", Some(_)) => errors.forbidden(&at, "`parameters.scope` is set to 'Cluster'"),
        _ => {}
    }
}

fn row(class: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = class.at(&["spec", "parameters"]).map(|it| {
        let (kind, name) = (it.str_at(&["kind"]), it.str_at(&["name"]));
        match it.str_at(&["apiGroup"]) {
            "" => format!("{kind}/{name}"),
            group => format!("{kind}.{group}/{name}"),
        }
    });
    vec![
        class.str_at(&["metadata", "name"]).into(),
        class.str_at(&["spec", "controller"]).into(),
        parameters.unwrap_or_else(|| "<none>".into()).into(),
        table::created(class, now),
    ]
}
