//! PersistentVolumeClaim.

use apimachinery::quantity::Quantity;
use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use super::persistentvolume::{CLASS, CLASS_OLD};
use super::printing;
use crate::declaration::Declaration;
use crate::pod_spec::claims;
use crate::{Rules, check, go, table};

const UPDATES: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
/// Where the class of a claim stood before it had a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

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
            it.default_at(&["status", "phase"], "Pending");
        },
        prepare_create,
        validate,
        validate_update,
        row,
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn prepare_create(claim: &mut Value) {
    claim.set_at(&["status", "phase"], "Pending");
    data_sources(claim.member_mut("spec"));
}

/// Older clients know one source, newer ones the other: what the older cannot say is dropped there, and what both can
/// say is said in both.
fn data_sources(spec: &mut Value) {
    if !spec.str_at(&["dataSourceRef", "namespace"]).is_empty() {
        spec.remove_at(&["dataSourceRef"]);
    }
    let (group, kind) =
        (spec.str_at(&["dataSource", "apiGroup"]), spec.str_at(&["dataSource", "kind"]));
    let known = matches!(
        (group, kind),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !known {
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
        keep(&mut spec, &["resources", "requests"]);
    }
    keep(&mut spec, &["volumeAttributesClassName"]);
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
        if capacity.is_none_or(|it| now < it) {
            let detail = "field can not be less than status.capacity";
            errors.forbidden(&requests.key("storage"), detail);
        }
    }
    check::immutable(
        claim["spec"].get("volumeMode"),
        before.get("volumeMode"),
        &path.child("volumeMode"),
        errors,
    );
}

fn row(claim: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !claim.str_at(&["spec", "volumeName"]).is_empty();
    let class = match claim.at(&["metadata", "annotations", CLASS]).and_then(Value::as_str) {
        Some(class) => class,
        None => claim.str_at(&["spec", "storageClassName"]),
    };
    let capacity = if bound { claim.str_at(&["status", "capacity", "storage"]) } else { "" };
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
