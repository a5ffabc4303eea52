//! VolumeAttachment.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use crate::declaration::{Declaration, MetadataChecks};
use crate::pod_spec::{persistent, volume_plugins};
use crate::{Rules, check, go, rules, status, table};

const EXACTLY_ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
/// The most that a driver says of an attachment, and of what went wrong, in bytes.
const METADATA_MAX: usize = 256 * 1024;
const MESSAGE_MAX: usize = 1024;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "storage.k8s.io",
        resource: "volumeattachments",
        validate,
        validate_update: |it, old, errors| {
            if it["spec"] != old["spec"] {
                let shown = go::compact(&it["spec"], go::VOLUME_ATTACHMENT_SPEC);
                check::invalid_shown(&Path::new("spec"), &shown, "field is immutable", errors);
            }
        },
        prepare_status: status::keep_metadata,
        // Upstream checks a status with everything else.
        validate_status: |it, _, errors| validate(it, errors),
        row,
        metadata_checks: MetadataChecks::New,
        rules: Rules {
            has_status: true,
            returns_deleted: true,
            unconditional_update: false,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn validate(attachment: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &attachment["spec"];
    volume_plugins::csi_driver(spec, "attacher", &path, errors);
    source(&spec["source"], &path.child("source"), errors);
    let node = spec.str_at(&["nodeName"]);
    errors.invalid_all(&path.child("nodeName"), node, validation::dns1123_subdomain(node));
    attached(&attachment["status"], &Path::new("status"), errors);
}

/// What a driver says of an attachment.
fn attached(status: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let size: usize = rules::quantities(status, "attachmentMetadata")
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > METADATA_MAX {
        errors.too_long(&path.child("attachmentMetadata"), METADATA_MAX);
    }
    for member in ["attachError", "detachError"] {
        let (error, at) = (&status[member], path.child(member));
        if error.str_at(&["message"]).len() > MESSAGE_MAX {
            // Upstream names the other limit.
            errors.too_long(&at.child("message"), METADATA_MAX);
        }
        if let Some(code) = error.i64_at(&["errorCode"]).filter(|it| *it < 0) {
            let detail = validation::inclusive_range(0, i64::from(i32::MAX));
            errors.invalid(&at.child("errorCode"), &code.into(), &detail);
        }
    }
}

fn source(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (source.get("inlineVolumeSpec"), source.get("persistentVolumeName")) {
        (None, None) => errors.required(path, EXACTLY_ONE),
        (inline, Some(name)) => {
            if inline.is_some() {
                errors.forbidden(path, EXACTLY_ONE);
            }
            let name = name.as_str().unwrap_or_default();
            let at = path.child("persistentVolumeName");
            if name.is_empty() {
                errors.required(&at, "must specify non empty persistentVolumeName");
            }
            errors.invalid_all(&at, name, validation::dns1123_subdomain(name));
        }
        (Some(spec), None) => {
            persistent::inline_spec(spec, &path.child("inlineVolumeSpec"), errors);
        }
    }
}

fn row(attachment: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |path: &[&str]| attachment["spec"].str_at(path).to_owned();
    vec![
        attachment.str_at(&["metadata", "name"]).into(),
        spec(&["attacher"]).into(),
        spec(&["source", "persistentVolumeName"]).into(),
        spec(&["nodeName"]).into(),
        attachment.bool_at(&["status", "attached"]).into(),
        table::created(attachment, now),
    ]
}
