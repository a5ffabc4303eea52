//! ResourceSlice.

use apimachinery::{FieldErrors, Path, Value, validation};
use compact_str::CompactString;
use jiff::Timestamp;

use super::{device_versions, devices, slice_device};
use crate::declaration::{Declaration, FieldLabel, Generation, MetadataChecks};
use crate::pod_spec::scheduling;
use crate::rules::{self, each};
use crate::{Rules, check, table};

const PLACES_SHOWN: &str = "`nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`";
const DEVICES_MAX: usize = 128;
/// The longest name of a pool, in bytes.
const POOL_NAME_MAX: usize = 253;

/// The selectable fields.
const FIELDS: &[FieldLabel] = &[
    FieldLabel::new("spec.driver", |it| CompactString::from(it.str_at(&["spec", "driver"]))),
    FieldLabel::new("spec.nodeName", |it| CompactString::from(it.str_at(&["spec", "nodeName"]))),
];

pub(super) fn resource() -> Declaration {
    Declaration {
        group: devices::GROUP,
        resource: "resourceslices",
        alternatives: device_versions::SLICE,
        validate: |it, errors| validate(&it["spec"], &Path::new("spec"), errors),
        validate_update,
        fields: FIELDS,
        row,
        metadata_checks: MetadataChecks::Update,
        rules: Rules {
            generation: Generation::Spec,
            returns_deleted: true,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    devices::driver(spec, path, errors);
    pool(&spec["pool"], &path.child("pool"), errors);
    place(spec, path, errors);
    let count = spec.items_at(&["devices"]).len();
    let sets = spec.items_at(&["sharedCounters"]).len();
    if count > 0 && sets > 0 {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.invalid_text(path, "", detail);
    }
    if count > DEVICES_MAX {
        errors.too_many(&path.child("devices"), count, DEVICES_MAX);
    }
    let per_device = spec.bool_at(&["perDeviceNodeSelection"]);
    let mut names = Vec::new();
    each(spec, "devices", path, errors, |device, at, errors| {
        let name = device.str_at(&["name"]).to_owned();
        errors.invalid_all(&at.child("name"), &name, validation::dns1123_label(&name));
        if names.contains(&name) {
            errors.duplicate(&at.child("name"), &Value::from(name.as_str()));
        }
        names.push(name);
        slice_device::validate(device, at, errors);
        slice_device::place(device, per_device, at, errors);
    });
    let mut names = Vec::new();
    each(spec, "sharedCounters", path, errors, |set, at, errors| {
        let name = set.str_at(&["name"]).to_owned();
        check::required_name(set, "name", validation::dns1123_label, at, errors);
        if names.contains(&name) {
            errors.duplicate(&at.child("name"), &Value::from(name.as_str()));
        }
        names.push(name);
        slice_device::counters(set, at, errors);
    });
}

/// The name of a pool: subdomains with slashes between them.
pub(super) fn pool_name(of: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if !check::required_text(of, member, path, errors) {
        return;
    }
    let (name, at) = (of.str_at(&[member]), path.child(member));
    if name.len() > POOL_NAME_MAX {
        errors.too_long(&at, POOL_NAME_MAX);
    }
    for part in name.split('/') {
        errors.invalid_all(&at, part, validation::dns1123_subdomain(part));
    }
}

fn pool(pool: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    pool_name(pool, "name", path, errors);
    let count = pool.i64_at(&["resourceSliceCount"]).unwrap_or_default();
    if count <= 0 {
        let detail = "must be greater than zero";
        errors.invalid(&path.child("resourceSliceCount"), &count.into(), detail);
    }
    let generation = pool.i64_at(&["generation"]).unwrap_or_default();
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&path.child("generation"), &generation.into(), detail);
    }
}

/// Which nodes have the devices: said in exactly one way.
fn place(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut set = Vec::new();
    if let Some(name) = spec.get("nodeName").and_then(Value::as_str) {
        let at = path.child("nodeName");
        if name.is_empty() {
            let detail = "must be either unset or set to a non-empty string";
            errors.invalid_text(&at, name, detail);
        } else {
            set.push("`nodeName`");
            errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
        }
    }
    if let Some(selector) = spec.get("nodeSelector") {
        set.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        scheduling::node_selector(selector, &at, errors);
        let terms = selector.items_at(&["nodeSelectorTerms"]).len();
        if terms > 1 {
            let detail = "must have exactly one node selector term";
            let terms_at = at.child("nodeSelectorTerms");
            errors.invalid(&terms_at, &selector["nodeSelectorTerms"], detail);
        }
    }
    for (member, shown) in
        [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        match spec.get(member).and_then(Value::as_bool) {
            Some(true) => set.push(shown),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.invalid(&path.child(member), &false.into(), detail);
            }
            None => {}
        }
    }
    match set.len() {
        0 => errors.required(path, &format!("exactly one of {PLACES_SHOWN} is required")),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            let detail =
                format!("exactly one of {PLACES_SHOWN} is required, but multiple fields are set");
            errors.invalid_text(path, &shown, &detail);
        }
    }
}

fn validate_update(slice: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (spec, before) = (&slice["spec"], &old["spec"]);
    rules::immutable(&spec["pool"], &before["pool"], "name", &path.child("pool"), errors);
    for member in ["driver", "nodeName", "nodeSelector", "allNodes"] {
        rules::immutable(spec, before, member, &path, errors);
    }
}

fn row(slice: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |path: &[&str]| slice["spec"].str_at(path).to_owned();
    let node = match slice.at(&["spec", "nodeName"]).and_then(Value::as_str) {
        Some(name) => name.to_owned(),
        None => "<unset>".into(),
    };
    vec![
        slice.str_at(&["metadata", "name"]).into(),
        node.into(),
        spec(&["driver"]).into(),
        spec(&["pool", "name"]).into(),
        table::created(slice, now),
    ]
}
