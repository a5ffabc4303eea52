//! PersistentVolumeClaim.

use apimachinery::quantity::Quantity;
use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use super::persistentvolume::{CLASS, CLASS_OLD};
use super::printing;
use crate::apis::Features;
use crate::declaration::Declaration;
use crate::pod_spec::claims;
use crate::pod_spec::defaults::resource_list;
use crate::{Rules, check, go, rules, table};

const UPDATES: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "persistentvolumeclaims",
        warnings: |it, _| {
            let mut found = Vec::new();
            if it.at(&["metadata", "annotations", CLASS]).is_some() {
                found.push(format!("metadata.annotations[{CLASS}]: {CLASS_OLD}"));
            }
            crate::pod_spec::warnings::of_claim(&it["spec"], "spec", &mut found);
            found
        },
        default: |it| {
            it.default_at(&["spec", "volumeMode"], "Filesystem");
            for path in [
                &["spec", "resources", "limits"][..],
                &["spec", "resources", "requests"],
                &["status", "capacity"],
            ] {
                resource_list(it.at_mut(path));
            }
            it.default_at(&["status", "phase"], "Pending");
        },
        prepare_create,
        // Who knows one source alone leaves the other out, and changes nothing by it.
        prepare_update: |it, old| {
            let had = ["dataSource", "dataSourceRef"];
            let had = had.iter().any(|it| old["spec"].get(it).is_some());
            data_sources(it.member_mut("spec"), had);
        },
        drop_from_status,
        validate,
        validate_update,
        validate_status,
        row,
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn prepare_create(claim: &mut Value) {
    claim.set_at(&["status", "phase"], "Pending");
    data_sources(claim.member_mut("spec"), false);
}

/// The condition that says whether a pod has the claim.
const UNUSED: &str = "Unused";

fn drop_from_status(features: Features, claim: &mut Value, old: &Value) {
    let is_unused = |it: &Value| it.str_at(&["type"]) == UNUSED;
    let mut conditions = claim.items_at(&["status", "conditions"]).to_vec();
    let kept = old.items_at(&["status", "conditions"]).iter().any(is_unused);
    if features.claim_unused_since_time || kept || !conditions.iter().any(is_unused) {
        return;
    }
    conditions.retain(|it| !is_unused(it));
    if conditions.is_empty() {
        claim.remove_at(&["status", "conditions"]);
    } else {
        claim.set_at(&["status", "conditions"], Value::Array(conditions));
    }
}

/// Older clients know one source, newer ones the other: what the older cannot say is dropped there, and what both can
/// say is said in both. Of a claim that had a source nothing is dropped. Upstream: `pkg/api/persistentvolumeclaim/util.go`.
fn data_sources(spec: &mut Value, had: bool) {
    if !spec.str_at(&["dataSourceRef", "namespace"]).is_empty() {
        spec.remove_at(&["dataSourceRef"]);
    }
    let (group, kind) =
        (spec.str_at(&["dataSource", "apiGroup"]), spec.str_at(&["dataSource", "kind"]));
    let known = matches!(
        (group, kind),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !known && !had {
        spec.remove_at(&["dataSource"]);
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => spec.set_at(&["dataSourceRef"], source),
        (None, Some(source)) => spec.set_at(&["dataSource"], source),
        _ => {}
    }
}

fn validate(claim: &Value, errors: &mut FieldErrors) {
    claims::spec(&claim["spec"], &Path::new("spec"), errors);
}

fn validate_update(claim: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let mut spec = claim["spec"].clone();
    let before = &old["spec"];
    let keep = |spec: &mut Value, member: &[&str]| match before.at(member) {
        Some(value) => spec.set_at(member, value.clone()),
        None => {
            spec.remove_at(member);
        }
    };
    if before.str_at(&["volumeName"]).is_empty() {
        keep(&mut spec, &["volumeName"]);
    }
    if before.get("storageClassName").is_none() {
        keep(&mut spec, &["storageClassName"]);
    }
    if claim.str_at(&["status", "phase"]) == "Bound" {
        keep(&mut spec, &["resources", "requests", "storage"]);
        keep(&mut spec, &["volumeAttributesClassName"]);
    }
    if &spec != before {
        let diff = go::difference(before, &spec, go::CLAIM_SPEC);
        errors.forbidden(&path, &format!("{UPDATES}{diff}"));
    }
    let size =
        |it: &Value| Quantity::parse(it.str_at(&["spec", "resources", "requests", "storage"])).ok();
    let resources = path.child("resources");
    let requests = resources.child("requests");
    if let (Some(now), Some(then)) = (size(claim), size(old))
        && now < then
    {
        let capacity = Quantity::parse(old.str_at(&["status", "capacity", "storage"])).ok();
        if capacity.is_some_and(|it| now <= it) {
            let detail = "field can not be less than status.capacity";
            errors.forbidden(&requests.child("storage"), detail);
        }
    }
    check::immutable(
        claim["spec"].get("volumeMode"),
        before.get("volumeMode"),
        &Path::new("volumeMode"),
        errors,
    );
    attributes_class(claim, old, &path.child("volumeAttributesClassName"), errors);
}

/// A class that a volume has may become another one, but not go.
fn attributes_class(claim: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let class = |it: &Value| it.at(&["spec", "volumeAttributesClassName"]).cloned();
    let (now, has) = (class(claim), ["status", "currentVolumeAttributesClassName"]);
    if now == class(old) || old.at(&has).is_none() {
        return;
    }
    let what = match now.as_ref().map(|it| it.as_str().unwrap_or_default()) {
        None => "nil",
        Some("") => "empty string",
        Some(_) => return,
    };
    let detail = format!(
        "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
    );
    errors.forbidden(path, &detail);
}

/// What of a claim is being done to its size.
const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn validate_status(claim: &Value, _old: &Value, errors: &mut FieldErrors) {
    let (path, status) = (Path::new("status"), &claim["status"]);
    if claim.items_at(&["spec", "accessModes"]).is_empty() {
        // Upstream writes the member so.
        errors.required(&Path::new("Spec").child("accessModes"), "");
    }
    let at = path.child("capacity");
    for (name, text) in rules::quantities(status, "capacity") {
        quantity(text, &at.key(name), errors);
    }
    let at = path.child("allocatedResourceStatuses");
    for (name, state) in rules::quantities(status, "allocatedResourceStatuses") {
        resource_name(name, &at, errors);
        if !RESIZES.contains(&state) {
            errors.not_supported(&at, &name.into(), RESIZES.iter().copied());
        }
    }
    let at = path.child("allocatedResources");
    for (name, text) in rules::quantities(status, "allocatedResources") {
        if resource_name(name, &at, errors) {
            quantity(text, &at.key(name), errors);
        }
    }
}

/// The name of a resource that a claim can have; says whether it is one.
fn resource_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let problems = validation::qualified_name(name);
    if problems.is_empty() {
        if validation::is_native_resource(name) && name != "storage" {
            errors.not_supported(path, &name.into(), ["storage"]);
            return false;
        }
        return true;
    }
    errors.invalid_all(path, name, problems);
    false
}

fn quantity(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(value) = Quantity::parse(text).ok().map(|it| it.value()).filter(|it| *it < 0) {
        errors.invalid(path, &value.into(), "must be a valid resource quantity");
    }
}

fn row(claim: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !claim.str_at(&["spec", "volumeName"]).is_empty();
    let class = match claim.at(&["metadata", "annotations", CLASS]).and_then(Value::as_str) {
        Some(class) => class,
        None => claim.str_at(&["spec", "storageClassName"]),
    };
    let capacity = match claim.str_at(&["status", "capacity", "storage"]) {
        _ if !bound => "",
        "" => "0",
        given => given,
    };
    let modes = if bound { claim.items_at(&["status", "accessModes"]) } else { &[] };
    let deleting = claim.at(&["metadata", "deletionTimestamp"]).is_some();
    let phase = if deleting { "Terminating" } else { claim.str_at(&["status", "phase"]) };
    vec![
        claim.str_at(&["metadata", "name"]).into(),
        phase.into(),
        claim.str_at(&["spec", "volumeName"]).into(),
        capacity.into(),
        printing::access_modes(modes),
        class.into(),
        printing::or_unset(claim.at(&["spec", "volumeAttributesClassName"])),
        table::created(claim, now),
        printing::or_unset(claim.at(&["spec", "volumeMode"])),
    ]
}
