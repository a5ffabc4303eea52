//! RuntimeClass.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use crate::declaration::Declaration;
use crate::pod_spec::scheduling;
use crate::{Rules, check, go, rules, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "node.k8s.io",
        resource: "runtimeclasses",
        warnings: |it, _| {
            let labels = it.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object);
            let keys = labels.into_iter().flat_map(apimachinery::Object::iter).map(|it| it.0);
            let said = keys.filter_map(crate::pod_spec::warnings::of_label);
            said.map(|it| format!("scheduling.nodeSelector: {it}")).collect()
        },
        validate,
        validate_update: |it, old, errors| {
            rules::immutable(it, old, "handler", &Path::new(""), errors);
        },
        row,
        rules: Rules { unconditional_update: false, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    check::required_name(class, "handler", validation::dns1123_label, &root, errors);
    let overhead = root.child("overhead");
    // Upstream checks it as the limits of a container, and calls it so.
    let at = overhead.child("limits");
    for (name, text) in rules::quantities(&class["overhead"], "podFixed") {
        errors.invalid_all(&at.key(name), name, rules::container_resource_name(name));
        rules::amount(name, text, &at.key(name), errors);
    }
    let path = root.child("scheduling");
    let Some(it) = class.get("scheduling") else { return };
    check::label_map(it.get("nodeSelector"), &path.child("nodeSelector"), errors);
    let (tolerations, at) = (it.items_at(&["tolerations"]), path.child("tolerations"));
    scheduling::tolerations(tolerations, &at, errors);
    for (index, toleration) in tolerations.iter().enumerate() {
        let repeats = |earlier: &Value| {
            ["key", "operator", "value", "effect"]
                .into_iter()
                .all(|member| earlier.str_at(&[member]) == toleration.str_at(&[member]))
        };
        if tolerations[..index].iter().any(repeats) {
            let shown = go::compact(toleration, go::TOLERATION);
            check::duplicate_shown(&at.index(index), &shown, errors);
        }
    }
}

fn row(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        class.str_at(&["metadata", "name"]).into(),
        class.str_at(&["handler"]).into(),
        table::created(class, now),
    ]
}
