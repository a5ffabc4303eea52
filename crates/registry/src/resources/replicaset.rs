//! ReplicaSet.

use apimachinery::Value;

use crate::Rules;
use crate::declaration::{Declaration, Scale};
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "replicasets",
        default,
        rules: Rules { scale: Some(Scale::REPLICAS), ..Declaration::SPEC_AND_STATUS.rules },
        ..Declaration::SPEC_AND_STATUS
    }
}

fn default(value: &mut Value) {
    value.default_at(&["spec", "replicas"], 1);
    defaults::template(value.at_mut(&["spec", "template"]));
}
