//! ReplicationController.

use apimachinery::Value;

use crate::Rules;
use crate::declaration::{Declaration, Scale};
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "replicationcontrollers",
        prefix: "controllers",
        default,
        rules: Rules { scale: Some(Scale::REPLICAS), ..Declaration::SPEC_AND_STATUS.rules },
        ..Declaration::SPEC_AND_STATUS
    }
}

fn default(value: &mut Value) {
    let labels = value.at(&["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels {
        value.default_at(&["spec", "selector"], labels.clone());
        value.default_at(&["metadata", "labels"], labels);
    }
    value.default_at(&["spec", "replicas"], 1);
    defaults::template(value.at_mut(&["spec", "template"]));
}
