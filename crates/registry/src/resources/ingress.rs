//! Ingress.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use super::printing;
use crate::declaration::Declaration;
use crate::rules::each;
use crate::{check, rules, status, table};

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// Where the class of an ingress stood before it had a field.
const CLASS: &str = "kubernetes.io/ingress.class";
/// What a path may not hold, and what it may not end in.
const INVALID_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const INVALID_SUFFIXES: &[&str] = &["/..", "/."];
/// How many hosts the table shows.
const SHOWN: usize = 3;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "networking.k8s.io",
        resource: "ingresses",
        warnings: |it, old| {
            let class = it.at(&["metadata", "annotations", CLASS]);
            let said = format!(
                "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
            );
            class.filter(|_| old.is_none()).map(|_| said).into_iter().collect()
        },
        prefix: "ingress",
        validate,
        validate_status: |it, old, errors| {
            let status = Path::new("status");
            let of = |it: &Value| it["status"]["loadBalancer"].clone();
            let path = status.child("loadBalancer");
            status::load_balancer((&of(it), &of(old)), None, &path, errors);
        },
        row,
        ..Declaration::SPEC_AND_STATUS
    }
}

fn validate(ingress: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &ingress["spec"];
    if spec.get("defaultBackend").is_none() && spec.items_at(&["rules"]).is_empty() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&path, &Value::Null, detail);
    }
    if let Some(it) = spec.get("defaultBackend") {
        backend(it, &path.child("defaultBackend"), errors);
    }
    each(spec, "rules", &path, errors, rule);
    each(spec, "tls", &path, errors, |tls, at, errors| {
        each(tls, "hosts", at, errors, |it, at, errors| {
            host(it.as_str().unwrap_or_default(), at, errors);
        });
        check::optional_name(tls, "secretName", validation::dns1123_subdomain, at, errors);
    });
    if let Some(class) = spec.get("ingressClassName").and_then(Value::as_str) {
        let at = path.child("ingressClassName");
        errors.invalid_all(&at, class, validation::dns1123_subdomain(class));
    }
    let older = ingress.str_at(&["metadata", "annotations", CLASS]);
    if !older.is_empty() && spec.get("ingressClassName").is_some() {
        let at = Path::new("annotations");
        let detail = "can not be set when the class field is also set";
        errors.invalid_text(&at.child(CLASS), older, detail);
    }
}

fn host(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.contains('*') {
        errors.invalid_all(path, text, validation::wildcard_dns1123_subdomain(text));
    } else {
        errors.invalid_all(path, text, validation::dns1123_subdomain(text));
    }
}

fn rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = rule.str_at(&["host"]);
    if !name.is_empty() {
        let at = path.child("host");
        if validation::parse_ip(name).is_some() {
            errors.invalid_text(&at, name, "must be a DNS name, not an IP address");
        }
        host(name, &at, errors);
    }
    let Some(http) = rule.get("http") else { return };
    let at = path.child("http");
    if http.items_at(&["paths"]).is_empty() {
        errors.required(&at.child("paths"), "");
    }
    each(http, "paths", &at, errors, http_path);
}

fn http_path(it: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = it.get("pathType").and_then(Value::as_str);
    let (text, at) = (it.str_at(&["path"]), path.child("path"));
    match kind {
        None => {
            errors.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        Some("Exact" | "Prefix") => absolute_path(text, &at, errors),
        Some("ImplementationSpecific") => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid_text(&at, text, "must be an absolute path");
            }
        }
        Some(_) => check::one_of(it, "pathType", PATH_TYPES, path, errors),
    }
    backend(&it["backend"], &path.child("backend"), errors);
}

fn absolute_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if !text.starts_with('/') {
        errors.invalid_text(path, text, "must be an absolute path");
    }
    for sequence in INVALID_SEQUENCES.iter().filter(|it| text.contains(**it)) {
        errors.invalid_text(path, text, &format!("must not contain '{sequence}'"));
    }
    for suffix in INVALID_SUFFIXES.iter().filter(|it| text.ends_with(**it)) {
        errors.invalid_text(path, text, &format!("cannot end with '{suffix}'"));
    }
}

fn backend(backend: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (backend.get("resource"), backend.get("service")) {
        (Some(_), Some(_)) => {
            errors.invalid_text(path, "", "cannot set both resource and service backends");
        }
        (Some(resource), None) => object_reference(resource, &path.child("resource"), errors),
        (None, None) => errors.invalid_text(path, "", "resource or service backend is required"),
        (None, Some(service)) => {
            let at = path.child("service");
            check::required_name(service, "name", validation::dns1123_label, &at, errors);
            service_port(&service["port"], path, errors);
        }
    }
}

/// Upstream says of the backend what is wrong with its port as a whole.
fn service_port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (name, number) = (port.str_at(&["name"]), port.i64_at(&["number"]).unwrap_or_default());
    let service = path.child("service");
    let at = service.child("port");
    match (name.is_empty(), number) {
        (false, 0) => errors.invalid_all(&at.child("name"), name, validation::port_name(name)),
        (false, _) => errors.invalid_text(path, "", "cannot set both port name & port number"),
        (true, 0) => errors.required(path, "port name or number is required"),
        (true, number) => check::port_number(number, &at.child("number"), errors),
    }
}

/// A reference to an object of any kind in the same namespace.
fn object_reference(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    rules::optional_group(reference, path, errors);
    for member in ["kind", "name"] {
        check::required_name(reference, member, validation::path_segment_name, path, errors);
    }
}

fn row(ingress: &Value, now: Timestamp) -> Vec<Value> {
    let class = match ingress.at(&["spec", "ingressClassName"]).and_then(Value::as_str) {
        Some(class) => class,
        None => ingress.str_at(&["metadata", "annotations", CLASS]),
    };
    let tls = !ingress.items_at(&["spec", "tls"]).is_empty();
    let given = ingress.items_at(&["status", "loadBalancer", "ingress"]).iter();
    let addresses: Vec<&str> = given
        .map(|it| match it.str_at(&["ip"]) {
            "" => it.str_at(&["hostname"]),
            ip => ip,
        })
        .filter(|it| !it.is_empty())
        .collect();
    vec![
        ingress.str_at(&["metadata", "name"]).into(),
        printing::or_none(class),
        hosts(ingress).into(),
        addresses.join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
        table::created(ingress, now),
    ]
}

fn hosts(ingress: &Value) -> String {
    let rules = ingress.items_at(&["spec", "rules"]).iter();
    let hosts: Vec<&str> =
        rules.map(|it| it.str_at(&["host"])).filter(|it| !it.is_empty()).collect();
    match hosts.len() {
        0 => "*".into(),
        count if count > SHOWN => {
            format!("{} + {} more...", hosts[..SHOWN].join(","), count - SHOWN)
        }
        _ => hosts.join(","),
    }
}
