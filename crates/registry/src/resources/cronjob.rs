//! CronJob.

use apimachinery::cron::Schedule;
use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use super::{job, job_checks, printing};
use crate::declaration::{Declaration, MetadataChecks};
use crate::{check, table};

/// The longest name: the jobs' names are made of it.
const NAME_LENGTH_MAX: usize = 52;
/// The longest part of the name of a time zone.
const ZONE_PART_MAX: usize = 14;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "batch",
        resource: "cronjobs",
        warnings: |it, old| {
            crate::pod_spec::warnings::of_workload(
                it,
                old,
                &["spec", "jobTemplate", "spec", "template"],
                true,
            )
        },
        default,
        validate_create,
        validate_update: |it, old, errors| spec(&it["spec"], old.get("spec"), errors),
        row,
        metadata_checks: MetadataChecks::Update,
        ..Declaration::SPEC_AND_STATUS
    }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    spec.default_at(&["concurrencyPolicy"], "Allow");
    spec.default_at(&["suspend"], false);
    spec.default_at(&["successfulJobsHistoryLimit"], 3);
    spec.default_at(&["failedJobsHistoryLimit"], 1);
    job::default_spec(spec.member_mut("jobTemplate").member_mut("spec"));
}

fn validate_create(value: &Value, errors: &mut FieldErrors) {
    spec(&value["spec"], None, errors);
    let name = value.str_at(&["metadata", "name"]);
    if name.len() > NAME_LENGTH_MAX {
        let detail = format!("must be no more than {NAME_LENGTH_MAX} characters");
        errors.invalid_text(&Path::new("metadata").child("name"), name, &detail);
    }
}

/// Checks a spec; what was taken once may stay.
fn spec(spec: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let empty = Value::object();
    let path = Path::new("spec");
    if check::required_text(spec, "schedule", &path, errors) {
        schedule(spec, old, &path.child("schedule"), errors);
    }
    check::non_negative(spec, &["startingDeadlineSeconds"], &path, errors);
    if old.is_none_or(|it| it.get("timeZone") != spec.get("timeZone")) {
        time_zone(spec, &path.child("timeZone"), errors);
    }
    if check::required_text(spec, "concurrencyPolicy", &path, errors) {
        check::one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &path, errors);
    }
    let template = path.child("jobTemplate");
    let at = template.child("spec");
    job_checks::template(spec.at(&["jobTemplate", "spec"]).unwrap_or(&empty), &at, errors);
    let counts = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    check::non_negative(spec, &counts, &path, errors);
}

fn schedule(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = spec.str_at(&["schedule"]);
    if let Err(problem) = Schedule::parse(text) {
        errors.invalid_text(path, text, &problem);
    }
    let had = old.is_some_and(|it| it.str_at(&["schedule"]).contains("TZ"));
    let detail = match (text.contains("TZ"), had) {
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        (true, true) if spec.get("timeZone").is_some() => {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        }
        _ => return,
    };
    errors.invalid_text(path, text, detail);
}

fn time_zone(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(zone) = spec.get("timeZone").and_then(Value::as_str) else { return };
    if zone.is_empty() {
        errors.invalid_text(path, zone, "timeZone must be nil or non-empty string");
        return;
    }
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(is_zone_part) {
        errors.invalid_text(path, zone, &unknown);
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        let detail =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid_text(path, zone, detail);
    }
    // Names differ by case upstream, where zones are files.
    let known = jiff::tz::TimeZone::get(zone).is_ok_and(|it| {
        let name = it.iana_name().unwrap_or(zone);
        name == zone || !name.eq_ignore_ascii_case(zone)
    });
    if !known && zone != "Local" {
        errors.invalid_text(path, zone, &unknown);
    }
}

/// Whether a text can be a part of the name of a time zone.
fn is_zone_part(part: &str) -> bool {
    let fits = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b'_' | b'+');
    !matches!(part, "" | "." | "..")
        && !part.starts_with('-')
        && part.len() <= ZONE_PART_MAX
        && part.bytes().all(fits)
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let template = ["spec", "jobTemplate", "spec"];
    let spec = value.at(&template);
    let [names, images] = printing::containers(spec.and_then(|it| it.at(&["template", "spec"])));
    let suspended = if value.bool_at(&["spec", "suspend"]) { "True" } else { "False" };
    let active = i64::try_from(value.items_at(&["status", "active"]).len()).unwrap_or(i64::MAX);
    let last = ["status", "lastScheduleTime"];
    vec![
        value.str_at(&["metadata", "name"]).into(),
        value.str_at(&["spec", "schedule"]).into(),
        printing::or_none(value.str_at(&["spec", "timeZone"])),
        suspended.into(),
        active.into(),
        if value.at(&last).is_some() { table::age(value, &last, now) } else { "<none>".into() },
        table::created(value, now),
        names,
        images,
        printing::selector(spec.and_then(|it| it.get("selector"))),
    ]
}
