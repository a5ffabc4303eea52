//! Checks of the spec of a claim that stands in a volume or a template.

use apimachinery::quantity::Quantity;
use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use crate::check;

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Checks the spec of a claim.
pub(crate) fn spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let modes = spec.items_at(&["accessModes"]);
    some_access_mode(modes, &path.child("accessModes"), errors);
    check::label_selector(spec.get("selector"), &path.child("selector"), errors);
    access_modes(modes, &path.child("accessModes"), errors);
    let resources = path.child("resources");
    let at = resources.key("storage");
    match spec.at(&["resources", "requests", "storage"]).and_then(Value::as_str) {
        None => errors.required(&at, ""),
        Some(text) if Quantity::parse(text).is_ok_and(|it| it.sign() <= 0) => {
            errors.invalid_text(&at, text, "must be greater than zero");
        }
        Some(_) => {}
    }
    for member in ["storageClassName", "volumeAttributesClassName"] {
        check::optional_name(spec, member, validation::dns1123_subdomain, path, errors);
    }
    check::optional_one_of(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
    data_source(spec.get("dataSource"), false, &path.child("dataSource"), errors);
    data_source(spec.get("dataSourceRef"), true, &path.child("dataSourceRef"), errors);
    let elsewhere = !spec.str_at(&["dataSourceRef", "namespace"]).is_empty();
    if elsewhere && spec.get("dataSource").is_some() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        check::invalid_shown(path, "{}", detail, errors);
    }
}

/// A claim is used in some way.
fn some_access_mode(modes: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    if modes.is_empty() {
        errors.required(path, "at least 1 access mode is required");
    }
}

/// The ways in which a claim is used exist, and go together.
pub(super) fn access_modes(modes: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let (mut alone, mut others) = (false, false);
    for mode in modes {
        let text = mode.as_str().unwrap_or_default();
        if !ACCESS_MODES.contains(&text) {
            errors.not_supported(path, mode, ACCESS_MODES);
        }
        alone |= text == "ReadWriteOncePod";
        others |= text != "ReadWriteOncePod";
    }
    if alone && others {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn data_source(source: Option<&Value>, anywhere: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(source) = source else { return };
    check::required_text(source, "name", path, errors);
    check::required_text(source, "kind", path, errors);
    let (group, kind) = (source.str_at(&["apiGroup"]), source.str_at(&["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid_text(path, kind, "");
    }
    check::optional_name(source, "apiGroup", validation::dns1123_subdomain, path, errors);
    if anywhere {
        check::optional_name(source, "namespace", validation::dns1123_label, path, errors);
    }
}
