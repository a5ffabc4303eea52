//! Deployment.

use apimachinery::Value;

use crate::Rules;
use crate::declaration::{Declaration, Scale};
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "deployments",
        default,
        rules: Rules { scale: Some(Scale::REPLICAS), ..Declaration::SPEC_AND_STATUS.rules },
        ..Declaration::SPEC_AND_STATUS
    }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    spec.default_at(&["replicas"], 1);
    let strategy = spec.member_mut("strategy");
    strategy.default_at(&["type"], "RollingUpdate");
    if strategy.str_at(&["type"]) == "RollingUpdate" {
        strategy.default_at(&["rollingUpdate", "maxUnavailable"], "25%");
        strategy.default_at(&["rollingUpdate", "maxSurge"], "25%");
    }
    spec.default_at(&["revisionHistoryLimit"], 10);
    spec.default_at(&["progressDeadlineSeconds"], 600);
    defaults::template(spec.get_mut("template"));
}
