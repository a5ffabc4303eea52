//! StorageVersionMigration, and DeviceTaintRule: kinds with little to check.

use apimachinery::{FieldErrors, Path, Value, validation};

use super::{device_versions, devices, printing};
use crate::declaration::{Alternative, Declaration, Generation};
use crate::{Rules, check, go, rules, status};

/// The most conditions of a rule.
const CONDITIONS_MAX: usize = 8;

pub(super) fn storage_version_migration() -> Declaration {
    Declaration {
        group: "storagemigration.k8s.io",
        resource: "storageversionmigrations",
        alternatives: const { &[Alternative::same("storagemigration.k8s.io", "v1beta1")] },
        validate: |it, errors| {
            let (path, resource) = (Path::new("spec"), &it["spec"]["resource"]);
            let at = path.child("resource");
            check::required_text(resource, "resource", &at, errors);
            check::optional_name(resource, "group", validation::dns1123_subdomain, &at, errors);
        },
        validate_update: |it, old, errors| {
            rules::immutable(it, old, "spec", &Path::new(""), errors);
        },
        prepare_status: status::keep_metadata,
        validate_status: migration_status,
        row: |it, _| {
            let [resource, group] =
                ["resource", "group"].map(|member| it.str_at(&["spec", "resource", member]));
            vec![it.str_at(&["metadata", "name"]).into(), format!("{resource}.{group}").into()]
        },
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// A migration is of one version, and ends one way.
fn migration_status(migration: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let version = |of: &Value| of.str_at(&["status", "resourceVersion"]).to_owned();
    let (now, before, at) = (version(migration), version(old), path.child("resourceVersion"));
    if let Some(problem) = wrong_version(&now) {
        errors.invalid_text(&at, &now, &problem);
    }
    status::conditions(&migration["status"], &path, errors);
    if !before.is_empty() && now != before {
        errors.invalid_text(&at, &now, "field is immutable");
    }
    let is = |kind: &str| status::holds(migration, kind);
    let was = |kind: &str| status::holds(old, kind);
    let (succeeded, failed) = (is("Succeeded"), is("Failed"));
    let wrong = [
        (succeeded && failed, "Both success and failed conditions cannot be true at the same time"),
        (
            was("Succeeded") && !succeeded,
            "Success condition cannot be set to false once it is true",
        ),
        (was("Failed") && !failed, "Failed condition cannot be set to false once it is true"),
    ];
    for (_, detail) in wrong.iter().filter(|it| it.0) {
        let shown = go::conditions(migration.items_at(&["status", "conditions"]));
        check::invalid_shown(&path.child("conditions"), &shown, detail, errors);
    }
}

/// What is wrong with a version of a resource: it is a number.
fn wrong_version(text: &str) -> Option<String> {
    let digits = text.bytes().all(|it| it.is_ascii_digit());
    let number = digits && !text.is_empty() && !text.starts_with('0');
    (!number).then(|| format!("resource version is not well formed: {text}"))
}

pub(super) fn device_taint_rule() -> Declaration {
    Declaration {
        group: devices::GROUP,
        resource: "devicetaintrules",
        alternatives: device_versions::TAINT_RULE,
        prepare_status: status::keep_metadata,
        validate: |it, errors| taint(&it["spec"], &Path::new("spec"), errors),
        validate_status: |it, _, errors| {
            let path = Path::new("status");
            status::conditions(&it["status"], &path, errors);
            let count = it.items_at(&["status", "conditions"]).len();
            if count > CONDITIONS_MAX {
                errors.too_many(&path.child("conditions"), count, CONDITIONS_MAX);
            }
        },
        row: printing::name_and_age,
        rules: Rules { generation: Generation::Spec, has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn taint(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("taint");
    let taint = &spec["taint"];
    check::required_name(taint, "key", validation::qualified_name, &at, errors);
    check::optional_name(taint, "value", validation::label_value, &at, errors);
    let effects = ["NoExecute", "NoSchedule", "None"];
    rules::required_one_of(taint, "effect", &effects, &at, errors);
    let selector = path.child("deviceSelector");
    let it = &spec["deviceSelector"];
    for member in ["driver", "pool", "device"] {
        check::optional_name(it, member, validation::dns1123_subdomain, &selector, errors);
    }
}
