//! Checks of iSCSI volumes.

use std::sync::LazyLock;

use apimachinery::{FieldErrors, Path, Value};
use regex::Regex;

use super::volume_plugins::{LUN_MAX, Within, range};
use crate::check;

const ODD: &str = "must be valid format";
const ODD_START: &str = "must be valid format starting with iqn, eui, or naa";

/// What the names of each kind look like.
#[expect(clippy::unwrap_used, reason = "the patterns are fixed")]
static FORMATS: LazyLock<[(&str, Regex); 3]> = LazyLock::new(|| {
    [
        ("iqn", Regex::new(r"iqn\.[0-9]{4}-[0-9]{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$").unwrap()),
        ("eui", Regex::new("^eui.[[:alnum:]]{16}$").unwrap()),
        ("naa", Regex::new("^naa.[[:alnum:]]{32}$").unwrap()),
    ]
});

/// The longest name of a volume with its portal, in bytes, where an initiator is named.
const INITIATOR_MAX: usize = 64;
const PORTAL_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// An initiator of its own is made for a volume and portal that are short together. Upstream looks at that for volumes of pods
/// after all else of the source, also where there are other sources.
pub(super) fn long_portal(
    volume: &Value,
    source: &Value,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let name = volume.str_at(&["name"]);
    if is_long(source, name) {
        errors.invalid_text(&path.child("name"), name, PORTAL_TOO_LONG);
    }
}

/// The same for the persistent volume `name`, before all else of the source.
pub(super) fn long_portal_of(
    source: &Value,
    name: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if is_long(source, name) {
        let portal = source.str_at(&["targetPortal"]);
        errors.invalid_text(&path.child("targetportal"), portal, PORTAL_TOO_LONG);
    }
}

fn is_long(source: &Value, name: &str) -> bool {
    let portal = source.str_at(&["targetPortal"]);
    source.get("initiatorName").is_some() && name.len() + 1 + portal.len() > INITIATOR_MAX
}

/// What follows the portal, of which is known that it is given.
pub(super) fn after_portal(
    source: &Value,
    within: Within,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if check::required_text(source, "iqn", path, errors) {
        name(source.str_at(&["iqn"]), within, &path.child("iqn"), errors);
    }
    let lun = source.i64_at(&["lun"]).unwrap_or_default();
    range(lun, LUN_MAX, &path.child("lun"), errors);
    let authenticated =
        source.bool_at(&["chapAuthDiscovery"]) || source.bool_at(&["chapAuthSession"]);
    let at = path.child("secretRef");
    match source.get("secretRef") {
        None if authenticated => errors.required(&at, ""),
        Some(secret) if within == Within::PersistentVolume => {
            check::required_text(secret, "name", &at, errors);
        }
        _ => {}
    }
    if let Some(initiator) = source.get("initiatorName").and_then(Value::as_str) {
        name(initiator, within, &path.child("initiatorname"), errors);
    }
}

/// The name of a target or an initiator.
fn name(text: &str, within: Within, path: &Path<'_>, errors: &mut FieldErrors) {
    let format = FORMATS.iter().find(|(start, _)| text.starts_with(start));
    match format {
        Some((_, format)) if format.is_match(text) => {}
        None if within == Within::Pod => errors.invalid_text(path, text, ODD_START),
        _ => errors.invalid_text(path, text, ODD),
    }
}
