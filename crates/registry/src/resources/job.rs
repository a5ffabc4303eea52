//! Job.

use apimachinery::duration::{Duration, human};
use apimachinery::time::parse_time;
use apimachinery::{FieldErrors, Value};
use compact_str::CompactString;
use jiff::Timestamp;

use super::{job_checks, job_status, printing};
use crate::declaration::{Declaration, FieldLabel};
use crate::pod_spec::defaults;
use crate::status::holds;
use crate::{Rules, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "batch",
        resource: "jobs",
        warnings,
        default,
        prepare_create,
        validate: job_checks::validate,
        validate_create: forget_taken_over,
        validate_update: job_checks::validate_update,
        validate_status: job_status::validate,
        fields: FIELDS,
        row,
        rules: Rules {
            orphans: true,
            orphan_warning: "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
            ..Declaration::SPEC_AND_STATUS.rules
        },
        ..Declaration::SPEC_AND_STATUS
    }
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
    spec.default_at(&["manualSelector"], false);
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
            pattern.default_zero_at(&["status"], "True");
        }
    }
    defaults::template(Some(spec.member_mut("template")));
}

const FIELDS: &[FieldLabel] = &[FieldLabel::new("status.successful", |job| {
    let count = job.i64_at(&["status", "succeeded"]).unwrap_or_default();
    CompactString::from(count.to_string())
})];

/// The labels that a job's pods bear, by what they hold.
pub(super) const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
pub(super) const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// A job selects its pods by its own uid, unless its maker chose a selector.
fn prepare_create(job: &mut Value) {
    if job.bool_at(&["spec", "manualSelector"]) {
        return;
    }
    let path = ["spec", "template", "metadata", "labels"];
    let own = job.at(&["metadata", "labels"]);
    let defaulted = own.is_none() || own == job.at(&path);
    let of = |member| CompactString::from(job.str_at(&["metadata", member]));
    let (name, uid) = (of("name"), of("uid"));
    let spec = job.member_mut("spec");
    let labels = spec.object_at_mut(&["template", "metadata", "labels"]);
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            if !labels.contains_key(key) {
                labels.insert(key, value.clone());
            }
        }
    }
    spec.default_at(&["selector", "matchLabels", UID_LABELS[1]], uid);
    // Labels that came from the template are the template's: upstream keeps one map for both, or takes them over when it
    // reads the job back.
    if defaulted && let Some(labels) = job.at(&path).cloned() {
        job.set_at(&["metadata", "labels"], labels);
    }
}

/// Labels that a job has only because its template had none are upstream's only after it was checked: what is wrong with
/// them is told of the template alone.
fn forget_taken_over(job: &Value, errors: &mut FieldErrors) {
    let labels = job.at(&["metadata", "labels"]).and_then(Value::as_object);
    let ours = |key: &str| NAME_LABELS.contains(&key) || UID_LABELS.contains(&key);
    if labels.is_some_and(|it| it.iter().all(|(key, _)| ours(key))) {
        let kept: Vec<_> =
            errors.iter().filter(|it| it.field != "metadata.labels").cloned().collect();
        *errors = FieldErrors::new();
        kept.into_iter().for_each(|it| errors.push(it));
    }
}

fn status(job: &Value) -> &'static str {
    for kind in ["Complete", "Failed"] {
        if holds(job, kind) {
            return kind;
        }
    }
    if job.at(&["metadata", "deletionTimestamp"]).is_some() {
        return "Terminating";
    }
    let rest = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
    rest.into_iter().find(|kind| holds(job, kind)).unwrap_or("Running")
}

fn completions(job: &Value) -> String {
    let done = job.i64_at(&["status", "succeeded"]).unwrap_or_default();
    let at_once = job.i64_at(&["spec", "parallelism"]).unwrap_or_default();
    match job.i64_at(&["spec", "completions"]) {
        Some(wanted) => format!("{done}/{wanted}"),
        None if at_once > 1 => format!("{done}/1 of {at_once}"),
        None => format!("{done}/1"),
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let Ok(start) = parse_time(job.str_at(&["status", "startTime"])) else { return String::new() };
    let end = parse_time(job.str_at(&["status", "completionTime"])).unwrap_or(now);
    human(Duration::from_seconds(end.duration_since(start).as_secs()))
}

fn row(job: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(job.at(&["spec", "template", "spec"]));
    vec![
        job.str_at(&["metadata", "name"]).into(),
        status(job).into(),
        completions(job).into(),
        duration(job, now).into(),
        table::created(job, now),
        names,
        images,
        printing::selector(job.at(&["spec", "selector"])),
    ]
}

/// How many completions, and pods at once, can be kept account of by index.
const COMPLETIONS_MANY: i64 = 100_000;
const PARALLELISM_MANY: i64 = 10_000;

fn warnings(job: &Value, old: Option<&Value>) -> Vec<String> {
    let mut found = crate::pod_spec::warnings::of_workload(job, old, &["spec", "template"], true);
    let beyond =
        |member: &str, most: i64| job.i64_at(&["spec", member]).is_some_and(|it| it > most);
    let many = beyond("completions", COMPLETIONS_MANY) && beyond("parallelism", PARALLELISM_MANY);
    if many && job.str_at(&["spec", "completionMode"]) == "Indexed" {
        found.push(
            "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
                .into(),
        );
    }
    found
}
