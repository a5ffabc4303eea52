//! Checks of volumes that are put together from several sources.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::volumes::{downward_items, items, local_path};
use crate::check;

/// The shortest life of a projected token, in seconds.
const TOKEN_SECONDS_MIN: i64 = 600;
/// The longest life of a projected token, in seconds.
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const CONFLICTS: &str = "conflicting duplicate paths";
const KINDS: [&str; 6] = [
    "secret",
    "downwardAPI",
    "configMap",
    "serviceAccountToken",
    "clusterTrustBundle",
    "podCertificate",
];

/// Checks the sources of a projected volume.
pub(super) fn sources(volume: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("sources");
    let mut taken: Vec<&str> = Vec::new();
    for (index, source) in volume.items_at(&["sources"]).iter().enumerate() {
        let at = list.index(index);
        let mut count = 0;
        for kind in KINDS {
            let Some(it) = source.get(kind) else { continue };
            count += 1;
            match kind {
                // Upstream names the volume here, not its source.
                "serviceAccountToken" => token(it, path, &at.child(kind), errors),
                kind => projection(kind, it, &at.child(kind), errors),
            }
            for place in places(kind, it).into_iter().filter(|it| !it.is_empty()) {
                if taken.contains(&place) {
                    errors.invalid_text(path, shown_conflict(kind, it, place), CONFLICTS);
                }
                taken.push(place);
            }
        }
        if count > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type");
        }
    }
}

/// What upstream shows where two sources write to one path.
fn shown_conflict<'v>(kind: &str, source: &'v Value, place: &'v str) -> &'v str {
    match kind {
        "secret" | "configMap" => source.str_at(&["name"]),
        _ => place,
    }
}

fn places<'v>(kind: &str, source: &'v Value) -> Vec<&'v str> {
    match kind {
        "secret" | "configMap" | "downwardAPI" => {
            source.items_at(&["items"]).iter().map(|it| it.str_at(&["path"])).collect()
        }
        "podCertificate" => ["credentialBundlePath", "keyPath", "certificateChainPath"]
            .iter()
            .map(|it| source.str_at(&[it]))
            .collect(),
        // Upstream does not look at where tokens go.
        "serviceAccountToken" => Vec::new(),
        _ => vec![source.str_at(&["path"])],
    }
}

fn projection(kind: &str, source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "secret" | "configMap" => {
            check::required_text(source, "name", path, errors);
            items(source.items_at(&["items"]), path, errors);
        }
        "downwardAPI" => downward_items(source.items_at(&["items"]), path, errors),
        "clusterTrustBundle" => trust_bundle(source, path, errors),
        _ => certificate(source, path, errors),
    }
}

fn token(source: &Value, volume: &Path<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let seconds = source.i64_at(&["expirationSeconds"]).unwrap_or_default();
    let at = path.child("expirationSeconds");
    if seconds < TOKEN_SECONDS_MIN {
        let detail = "may not specify a duration less than 10 minutes";
        errors.invalid(&at, &seconds.into(), detail);
    } else if seconds > TOKEN_SECONDS_MAX {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(&at, &seconds.into(), detail);
    }
    if check::required_text(source, "path", volume, errors) {
        local_path(source.str_at(&["path"]), &volume.child("path"), errors);
    }
}

fn trust_bundle(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (name, signer) = (source.get("name"), source.get("signerName"));
    match (name, signer) {
        (Some(_), Some(_)) => {
            errors.forbidden(path, "only one of name and signerName may be used");
        }
        (Some(_), None) => {
            check::required_name(source, "name", validation::path_segment_name, path, errors);
            if source.get("labelSelector").is_some() {
                let detail = "labelSelector may only be used with signerName";
                errors.forbidden(&path.child("labelSelector"), detail);
            }
        }
        (None, Some(_)) => {
            check::required_text(source, "signerName", path, errors);
            let at = path.child("labelSelector");
            check::label_selector(source.get("labelSelector"), &at, errors);
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    if check::required_text(source, "path", path, errors) {
        local_path(source.str_at(&["path"]), &path.child("path"), errors);
    }
}

fn certificate(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_text(source, "signerName", path, errors);
    let types = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    check::one_of(source, "keyType", &types, path, errors);
    for member in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let place = source.str_at(&[member]);
        if !place.is_empty() {
            local_path(place, &path.child(member), errors);
        }
    }
    let none = ["credentialBundlePath", "keyPath", "certificateChainPath"]
        .iter()
        .all(|it| source.str_at(&[it]).is_empty());
    if none {
        errors.required(
            path,
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
        );
    }
}
