//! PodTemplate.

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use super::printing;
use crate::declaration::{Declaration, MetadataChecks};
use crate::pod_spec::{defaults, validate as checks};
use crate::{Generation, Rules};

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "podtemplates",
        warnings: |it, old| crate::pod_spec::warnings::of_workload(it, old, &["template"], false),
        default,
        validate,
        metadata_checks: MetadataChecks::Update,
        row,
        rules: Rules {
            generation: Generation::Spec,
            returns_deleted: true,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn default(value: &mut Value) {
    defaults::template(Some(value.member_mut("template")));
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    checks::template(value.get("template").unwrap_or(&empty), &Path::new("template"), errors);
}

fn row(value: &Value, _now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(value.at(&["template", "spec"]));
    let labels = printing::labels(value.at(&["template", "metadata", "labels"]));
    vec![value.str_at(&["metadata", "name"]).into(), names, images, labels]
}
