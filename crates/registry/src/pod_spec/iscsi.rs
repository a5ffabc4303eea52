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
