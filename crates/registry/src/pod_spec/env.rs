//! Checks of environment variables and of references to fields of the pod.

use apimachinery::quantity::Quantity;
use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use crate::check;

/// Fields of the pod that a variable may show.
pub(super) const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of the pod that a file may show.
pub(super) const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Fields that a reference can name at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const CONTAINER_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const MORE_THAN_ONE: &str = "may not have more than one field specified at a time";

/// Checks the variables of a container.
pub(super) fn variables(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, variable) in list.iter().enumerate() {
        let at = path.index(index);
        check::required_name(variable, "name", validation::relaxed_env_var_name, &at, errors);
        if let Some(source) = variable.get("valueFrom") {
            let has_value = !variable.str_at(&["value"]).is_empty();
            value_from(source, has_value, &at.child("valueFrom"), errors);
        }
    }
}

fn value_from(source: &Value, has_value: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut sources = 0;
    let mut each = |member: &str, check: &mut dyn FnMut(&Value)| {
        if let Some(it) = source.get(member) {
            sources += 1;
            check(it);
        }
    };
    each("fieldRef", &mut |it| field_ref(it, ENV_FIELDS, &path.child("fieldRef"), errors));
    each("resourceFieldRef", &mut |it| {
        resource_field_ref(it, false, &path.child("resourceFieldRef"), errors);
    });
    for member in ["configMapKeyRef", "secretKeyRef"] {
        each(member, &mut |it| key_ref(it, &path.child(member), errors));
    }
    each("fileKeyRef", &mut |it| file_key_ref(it, &path.child("fileKeyRef"), errors));
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.invalid_text(path, "", detail);
    }
    if has_value && sources != 0 {
        errors.invalid_text(path, "", "may not be specified when `value` is not empty");
    } else if !has_value && sources > 1 {
        errors.invalid_text(path, "", MORE_THAN_ONE);
    }
}

fn key_ref(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_name(reference, "name", validation::dns1123_subdomain, path, errors);
    check::required_name(reference, "key", validation::config_map_key, path, errors);
}

fn file_key_ref(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_name(reference, "key", validation::relaxed_env_var_name, path, errors);
    check::required_name(reference, "volumeName", validation::dns1123_label, path, errors);
    if check::required_text(reference, "path", path, errors) {
        super::volumes::local_path(reference.str_at(&["path"]), &path.child("path"), errors);
    }
}

/// A reference to a field of the pod.
pub(super) fn field_ref(
    reference: &Value,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if !check::required_text(reference, "apiVersion", path, errors)
        || !check::required_text(reference, "fieldPath", path, errors)
    {
        return;
    }
    let (version, field) = (reference.str_at(&["apiVersion"]), reference.str_at(&["fieldPath"]));
    let at = path.child("fieldPath");
    let subscripted = field
        .strip_suffix("']")
        .and_then(|it| it.split_once("['"))
        .filter(|(name, _)| !name.is_empty());
    let problem = if version != "v1" {
        Some(format!("unsupported pod version: {version}"))
    } else {
        match subscripted {
            Some(("metadata.annotations" | "metadata.labels", _)) => None,
            Some(_) => Some(format!("field label does not support subscript: {field}")),
            None if KNOWN_FIELDS.contains(&field) || field == "spec.host" => None,
            None => Some(format!("field label not supported: {field}")),
        }
    };
    if let Some(problem) = problem {
        errors.invalid_text(&at, field, &format!("error converting fieldPath: {problem}"));
        return;
    }
    match subscripted {
        Some((name, key)) => {
            let key = if name == "metadata.annotations" { key.to_lowercase() } else { key.into() };
            errors.invalid_all(path, &key, validation::qualified_name(&key));
        }
        None => {
            let field = if field == "spec.host" { "spec.nodeName" } else { field };
            if !supported.contains(&field) {
                errors.not_supported(&at, &field.into(), supported.iter().copied());
            }
        }
    }
}

/// A reference to what a container may use. Files name the container, variables mean their own.
pub(super) fn resource_field_ref(
    reference: &Value,
    in_file: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let resource = reference.str_at(&["resource"]);
    if in_file && reference.str_at(&["containerName"]).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !CONTAINER_RESOURCES.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        let supported = CONTAINER_RESOURCES.iter().copied();
        errors.not_supported(&path.child("resource"), &resource.into(), supported);
    }
    divisor(resource, reference.str_at(&["divisor"]), &path.child("divisor"), errors);
}

fn divisor(resource: &str, divisor: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    const SIZES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if Quantity::parse(divisor).map_or(true, |it| it.is_zero()) {
        return;
    }
    let (supported, listed, of) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (&["1m", "1"][..], "1m and 1".to_owned(), "cpu"),
        "memory" => (SIZES, SIZES.join(", "), "memory"),
        "ephemeral-storage" => (SIZES, SIZES.join(", "), "local ephemeral storage"),
        name if name.starts_with("hugepages-") => (SIZES, SIZES.join(", "), "hugepages"),
        _ => return,
    };
    if !supported.contains(&divisor) {
        let detail = format!("only divisor's values {listed} are supported with the {of} resource");
        errors.invalid_text(path, resource, &detail);
    }
}

/// Checks the sources that variables are taken from as a whole.
pub(super) fn sources(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, source) in list.iter().enumerate() {
        let at = path.index(index);
        check::optional_name(source, "prefix", validation::relaxed_env_var_name, &at, errors);
        let mut count = 0;
        for member in ["configMapRef", "secretRef"] {
            if let Some(reference) = source.get(member) {
                count += 1;
                let rule = validation::dns1123_subdomain;
                check::required_name(reference, "name", rule, &at.child(member), errors);
            }
        }
        match count {
            0 => {
                errors.invalid_text(path, "", "must specify one of: `configMapRef` or `secretRef`")
            }
            1 => {}
            _ => errors.invalid_text(path, "", MORE_THAN_ONE),
        }
    }
}
