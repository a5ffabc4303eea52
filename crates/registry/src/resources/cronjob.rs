//! CronJob.

use apimachinery::Value;

use super::job;
use crate::declaration::Declaration;

pub(super) fn resource() -> Declaration {
    Declaration { group: "batch", resource: "cronjobs", default, ..Declaration::SPEC_AND_STATUS }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    spec.default_at(&["concurrencyPolicy"], "Allow");
    spec.default_at(&["suspend"], false);
    spec.default_at(&["successfulJobsHistoryLimit"], 3);
    spec.default_at(&["failedJobsHistoryLimit"], 1);
    if let Some(template) = spec.at_mut(&["jobTemplate", "spec"]) {
        job::default_spec(template);
    }
}
