//! Where a node has its configuration from: a field that nobody uses any more, and that is checked as it always was.

use apimachinery::{FieldErrors, Path, Value, validation};

use crate::check;

/// Where a source stands. In a spec it names what is wanted, in a status what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum In {
    Spec,
    Status,
}

/// The sources that a status tells of.
pub(super) fn status(config: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["assigned", "active", "lastKnownGood"] {
        if let Some(source) = config.get(member) {
            self::source(source, In::Status, &path.child(member), errors);
        }
    }
}

pub(super) fn source(source: &Value, place: In, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(map) = source.get("configMap") else {
        let detail = "exactly one reference subfield must be non-nil";
        check::invalid_shown(path, "{\"ConfigMap\":null}", detail, errors);
        return;
    };
    let at = path.child("configMap");
    for member in ["uid", "resourceVersion"] {
        let given = !map.str_at(&[member]).is_empty();
        match place {
            In::Spec if given => {
                let detail = format!("{member} must not be set in spec");
                errors.forbidden(&at.child(member), &detail);
            }
            In::Status if !given => errors.required(&at.child(member), ""),
            In::Spec | In::Status => {}
        }
    }
    let names = [
        ("namespace", validation::dns1123_label as fn(&str) -> validation::Problems),
        ("name", validation::dns1123_subdomain),
        ("kubeletConfigKey", validation::config_map_key),
    ];
    for (member, rule) in names {
        check::required_name(map, member, rule, &at, errors);
    }
}
