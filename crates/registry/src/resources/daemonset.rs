//! DaemonSet.

use apimachinery::Value;

use crate::declaration::Declaration;
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration { group: "apps", resource: "daemonsets", default, ..Declaration::SPEC_AND_STATUS }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    let strategy = spec.member_mut("updateStrategy");
    strategy.default_at(&["type"], "RollingUpdate");
    if strategy.str_at(&["type"]) == "RollingUpdate" {
        strategy.default_at(&["rollingUpdate", "maxUnavailable"], 1);
        strategy.default_at(&["rollingUpdate", "maxSurge"], 0);
    }
    spec.default_at(&["revisionHistoryLimit"], 10);
    defaults::template(spec.get_mut("template"));
}
