//! StatefulSet.

use apimachinery::Value;

use crate::Rules;
use crate::declaration::{Declaration, Scale};
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "statefulsets",
        default,
        rules: Rules { scale: Some(Scale::REPLICAS), ..Declaration::SPEC_AND_STATUS.rules },
        ..Declaration::SPEC_AND_STATUS
    }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    spec.default_at(&["podManagementPolicy"], "OrderedReady");
    let strategy = spec.member_mut("updateStrategy");
    if strategy.str_at(&["type"]).is_empty() {
        strategy.set_at(&["type"], "RollingUpdate");
        strategy.default_at(&["rollingUpdate", "partition"], 0);
    } else if strategy.str_at(&["type"]) == "RollingUpdate"
        && strategy.get("rollingUpdate").is_some()
    {
        strategy.default_at(&["rollingUpdate", "partition"], 0);
    }
    spec.default_at(&["persistentVolumeClaimRetentionPolicy", "whenDeleted"], "Retain");
    spec.default_at(&["persistentVolumeClaimRetentionPolicy", "whenScaled"], "Retain");
    spec.default_at(&["replicas"], 1);
    spec.default_at(&["revisionHistoryLimit"], 10);
    for claim in spec.items_at_mut(&["volumeClaimTemplates"]) {
        defaults::claim_spec(claim.member_mut("spec"));
        claim.default_at(&["status", "phase"], "Pending");
    }
    defaults::template(spec.get_mut("template"));
}
