//! ControllerRevision.

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use super::printing;
use crate::declaration::Declaration;
use crate::{check, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "controllerrevisions",
        validate,
        validate_update,
        row,
        ..Declaration::PLAIN
    }
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    if value.get("data").is_none() {
        errors.required(&Path::new("data"), "data is mandatory");
    }
    if let Some(revision) = value.i64_at(&["revision"]).filter(|it| *it < 0) {
        errors.invalid(&Path::new("revision"), &revision.into(), check::NOT_NEGATIVE);
    }
}

fn validate_update(value: &Value, old: &Value, errors: &mut FieldErrors) {
    check::immutable(value.get("data"), old.get("data"), &Path::new("data"), errors);
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let owners = value.items_at(&["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|it| it.bool_at(&["controller"]));
    let controller = controller.map_or_else(String::new, |it| {
        let kind = it.str_at(&["kind"]).to_lowercase();
        let group = it.str_at(&["apiVersion"]).rsplit_once('/').map_or("", |(group, _)| group);
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", it.str_at(&["name"]))
    });
    vec![
        value.str_at(&["metadata", "name"]).into(),
        printing::or_none(&controller),
        printing::count(value, &["revision"]),
        table::created(value, now),
    ]
}
