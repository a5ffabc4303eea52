//! Job.

use apimachinery::Value;

use crate::declaration::Declaration;
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration { group: "batch", resource: "jobs", default, ..Declaration::SPEC_AND_STATUS }
}

fn default(value: &mut Value) {
    let labels = value.at(&["spec", "template", "metadata", "labels"]).cloned();
    let spec = value.member_mut("spec");
    if spec.get("parallelism").is_none() {
        spec.default_at(&["completions"], 1);
        spec.set_at(&["parallelism"], 1);
    }
    let per_index = spec.get("backoffLimitPerIndex").is_some();
    spec.default_at(&["backoffLimit"], if per_index { i32::MAX } else { 6 });
    spec.default_at(&["completionMode"], "NonIndexed");
    spec.default_at(&["suspend"], false);
    let replacement =
        if spec.get("podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    spec.default_at(&["podReplacementPolicy"], replacement);
    default_spec(spec);
    if let Some(labels) = labels {
        value.default_at(&["metadata", "labels"], labels);
    }
}

/// The defaults of a job's spec that templates of jobs have too.
pub(super) fn default_spec(spec: &mut Value) {
    for rule in spec.items_at_mut(&["podFailurePolicy", "rules"]) {
        for pattern in rule.items_at_mut(&["onPodConditions"]) {
            pattern.default_at(&["status"], "True");
        }
    }
    defaults::template(spec.get_mut("template"));
}
