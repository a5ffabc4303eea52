//! StorageVersionMigration, and DeviceTaintRule: kinds with little to check.

use apimachinery::{FieldErrors, Path, Value, validation};

use super::{device_versions, devices, printing};
use crate::declaration::{Alternative, Declaration, Generation};
use crate::{Rules, check, rules};

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
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

pub(super) fn device_taint_rule() -> Declaration {
    Declaration {
        group: devices::GROUP,
        resource: "devicetaintrules",
        alternatives: device_versions::TAINT_RULE,
        validate: |it, errors| taint(&it["spec"], &Path::new("spec"), errors),
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
