//! Checks of a change of a job's status (upstream: `ValidateJobStatusUpdate`). Who manages jobs may be somebody else than the
//! job controller, and clients rely on it that a finished job stays so. Most rules look at what changed alone, so that an
//! object which breaks one can still be written otherwise.

use apimachinery::{FieldErrors, Path, Value, time};

use crate::check;
use crate::status::holds;

const TERMINAL: [&str; 3] = ["Failed", "Complete", "FailureTarget"];
const COUNTS: [&str; 5] = ["active", "succeeded", "failed", "ready", "terminating"];

/// A job as it is to be, and as it was.
#[derive(Debug, Clone, Copy)]
struct Change<'v> {
    job: &'v Value,
    old: &'v Value,
}

impl<'v> Change<'v> {
    /// A member of the status, as it is to be.
    fn now(self, member: &str) -> Option<&'v Value> {
        self.job.at(&["status", member])
    }

    fn before(self, member: &str) -> Option<&'v Value> {
        self.old.at(&["status", member])
    }

    fn differs(self, member: &str) -> bool {
        self.now(member) != self.before(member)
    }

    /// Whether a count differs that is none where it is not given.
    fn count_differs(self, member: &str) -> bool {
        let count = |it: Option<&Value>| it.and_then(Value::as_i64).unwrap_or_default();
        count(self.now(member)) != count(self.before(member))
    }

    fn is(self, kind: &str) -> bool {
        holds(self.job, kind)
    }

    fn turned(self, kind: &str) -> bool {
        self.is(kind) != holds(self.old, kind)
    }

    fn is_finished(self) -> bool {
        is_finished(self.job)
    }

    fn turned_finished(self) -> bool {
        self.is_finished() != is_finished(self.old)
    }

    fn count(self, member: &str) -> i64 {
        self.now(member).and_then(Value::as_i64).unwrap_or_default()
    }

    fn text(self, member: &str) -> Option<&'v str> {
        self.now(member).and_then(Value::as_str)
    }

    fn spec(self, member: &str) -> Option<&'v Value> {
        self.job.at(&["spec", member])
    }

    fn is_indexed(self) -> bool {
        self.spec("completionMode").and_then(Value::as_str) == Some("Indexed")
    }
}

fn is_finished(job: &Value) -> bool {
    holds(job, "Complete") || holds(job, "Failed")
}

/// Everything wrong with a change of status.
pub(super) fn validate(job: &Value, old: &Value, errors: &mut FieldErrors) {
    let (change, path) = (Change { job, old }, Path::new("status"));
    if let Some(status) = job.get("status") {
        check::non_negative(status, &COUNTS, &path, errors);
    }
    uncounted(change, &path.child("uncountedTerminatedPods"), errors);
    completion(change, &path, errors);
    finished(change, &path, errors);
    indexes(change, &path, errors);
    counts(change, &path, errors);
    criteria(change, &path, errors);
    steps(change, &path, errors);
}

/// Pods that ended and are not counted yet: each once.
fn uncounted(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(pods) = change.now("uncountedTerminatedPods") else { return };
    let mut seen: Vec<&Value> = Vec::new();
    for member in ["succeeded", "failed"] {
        let list = path.child(member);
        for (index, uid) in pods.items_at(&[member]).iter().enumerate() {
            if uid.as_str().is_none_or(str::is_empty) {
                errors.invalid(&list.index(index), uid, "must not be empty");
            } else if seen.contains(&uid) {
                errors.duplicate(&list.index(index), uid);
            }
            seen.push(uid);
        }
    }
}

/// What a completed job is not, and when it was.
fn completion(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let (complete, turned) = (change.is("Complete"), change.turned("Complete"));
    let conditions = path.child("conditions");
    if (turned || change.turned("Failed")) && complete && change.is("Failed") {
        let detail = "cannot set Complete=True and Failed=true conditions";
        check::invalid_unshown(&conditions, detail, errors);
    }
    if (turned || change.turned("FailureTarget")) && complete && change.is("FailureTarget") {
        let detail = "cannot set Complete=True and FailureTarget=true conditions";
        check::invalid_unshown(&conditions, detail, errors);
    }
    let at = path.child("completionTime");
    let (end, other_end) = (change.now("completionTime"), change.differs("completionTime"));
    if turned || other_end {
        match end {
            Some(end) if !complete => {
                let detail = "cannot set completionTime when there is no Complete=True condition";
                errors.invalid(&at, end, detail);
            }
            None if complete => {
                errors.required(&at, "completionTime is required for Complete jobs");
            }
            _ => {}
        }
    }
    let read = |member| time::parse_time(change.text(member)?).ok();
    if (other_end || change.differs("startTime"))
        && let (Some(end), Some(from), Some(to)) = (end, read("startTime"), read("completionTime"))
        && to < from
    {
        errors.invalid(&at, end, "completionTime cannot be set before startTime");
    }
    if (change.turned("Failed") || change.differs("failedIndexes"))
        && change.is("Failed")
        && !change.is("FailureTarget")
    {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        check::invalid_unshown(&conditions, detail, errors);
    }
    if (turned || change.turned("SuccessCriteriaMet"))
        && complete
        && !change.is("SuccessCriteriaMet")
    {
        let detail =
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        check::invalid_unshown(&conditions, detail, errors);
    }
}

/// What a finished job has none of, and what it has.
fn finished(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    if !change.is_finished() {
        return;
    }
    let turned = change.turned_finished();
    let active = change.count("active");
    if (turned || change.count_differs("active")) && active > 0 {
        let detail = "active>0 is invalid for finished job";
        errors.invalid(&path.child("active"), &active.into(), detail);
    }
    // A job that is suspended and has nothing to complete is finished before it starts.
    let nothing = change.job.bool_at(&["spec", "suspend"])
        && change.spec("completions").and_then(Value::as_i64) == Some(0);
    let start = change.now("startTime");
    if (turned || change.differs("startTime")) && start.is_none() && !nothing {
        errors.required(&path.child("startTime"), "startTime is required for finished job");
    }
    let uncounted = change.now("uncountedTerminatedPods");
    if (turned || change.differs("uncountedTerminatedPods"))
        && let Some(pods) = uncounted
        && ["succeeded", "failed"].iter().any(|it| !pods.items_at(&[it]).is_empty())
    {
        let shown = check::go_struct(pods, &[("Succeeded", "succeeded"), ("Failed", "failed")]);
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        check::invalid_shown(&path.child("uncountedTerminatedPods"), &shown, detail, errors);
    }
}

fn indexes(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let (completed, failed) = (change.text("completedIndexes"), change.text("failedIndexes"));
    let completed = completed.unwrap_or_default();
    let (new, newly_failed) = (change.differs("completedIndexes"), change.differs("failedIndexes"));
    let per_index = change.spec("backoffLimitPerIndex").is_some();
    let all = change.spec("completions").and_then(Value::as_i64);
    let (at, failed_at) = (path.child("completedIndexes"), path.child("failedIndexes"));
    if new
        && let Some(all) = all
        && let Err(problem) = well_formed(completed, all)
    {
        let detail = format!("error parsing completedIndexes: {problem}");
        errors.invalid_text(&at, completed, &detail);
    }
    if newly_failed
        && per_index
        && let (Some(all), Some(failed)) = (all, failed)
        && let Err(problem) = well_formed(failed, all)
    {
        let detail = format!("error parsing failedIndexes: {problem}");
        errors.invalid_text(&failed_at, failed, &detail);
    }
    if new && !completed.is_empty() && !change.is_indexed() {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid_text(&at, completed, detail);
    }
    if newly_failed
        && !per_index
        && let Some(failed) = failed
    {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid_text(&failed_at, failed, detail);
    }
    if (new || newly_failed)
        && let (Some(all), Some(failed)) = (all, failed)
        && let Some(index) = overlap(completed, failed, all)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid_text(&failed_at, failed, &detail);
    }
}

/// Counts that do not go together.
fn counts(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let terminating = change.count("terminating");
    if (change.turned_finished() || change.differs("terminating"))
        && terminating > 0
        && change.is_finished()
    {
        let detail = "terminating>0 is invalid for finished job";
        errors.invalid(&path.child("terminating"), &terminating.into(), detail);
    }
    let ready = change.count("ready");
    if (change.differs("ready") || change.count_differs("active")) && ready > change.count("active")
    {
        let detail = "cannot set more ready pods than active";
        errors.invalid(&path.child("ready"), &ready.into(), detail);
    }
}

/// A job that has met its criteria does not fail, and one that has criteria does not complete without.
fn criteria(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let (met, at) = (change.is("SuccessCriteriaMet"), path.child("conditions"));
    for (kind, said) in [("Failed", "Failed=true"), ("FailureTarget", "FailureTarget=true")] {
        if met && change.is(kind) {
            let detail = format!("cannot set SuccessCriteriaMet=True and {said} conditions");
            check::invalid_unshown(&at, &detail, errors);
        }
    }
    if change.spec("successPolicy").is_some() && !met && change.is("Complete") {
        let detail =
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        check::invalid_unshown(&at, detail, errors);
    }
}

/// What does not go back.
fn steps(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let (was, at) = (|kind| holds(change.old, kind), path.child("conditions"));
    for kind in TERMINAL {
        if was(kind) && !change.is(kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            check::invalid_unshown(&at, &detail, errors);
        }
    }
    // An indexed job that is made smaller has fewer indexes that succeeded.
    let elastic = change.is_indexed() && change.spec("completions") == change.spec("parallelism");
    for member in ["failed", "succeeded"] {
        let before = change.before(member).and_then(Value::as_i64).unwrap_or_default();
        let now = change.count(member);
        if now < before && !(member == "succeeded" && elastic) {
            let detail = format!("cannot decrease the {member} counter");
            errors.invalid(&path.child(member), &now.into(), &detail);
        }
    }
    if let (Some(now), Some(before)) =
        (change.now("completionTime"), change.before("completionTime"))
        && now != before
    {
        errors.invalid(&path.child("completionTime"), now, "completionTime cannot be mutated");
    }
    let suspended = change.job.bool_at(&["spec", "suspend"]);
    if change.before("startTime").is_some() && change.differs("startTime") && !suspended {
        let detail = "startTime cannot be removed for unsuspended job";
        errors.required(&path.child("startTime"), detail);
    }
    let (met, was_met) = (change.is("SuccessCriteriaMet"), was("SuccessCriteriaMet"));
    if was_met && !met {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        check::invalid_unshown(&at, detail, errors);
    }
    if was("Complete") && !was_met && met {
        let detail =
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        check::invalid_unshown(&at, detail, errors);
    }
}

/// What is wrong with indexes (`0,3-5`) of a job with so many completions; how many they are where nothing is.
pub(super) fn well_formed(indexes: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut count) = (None, 0);
    for text in indexes.split(',').filter(|_| !indexes.is_empty()) {
        let (first, end) = interval(text, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        count += end - first + 1;
        last = Some(end);
    }
    Ok(count)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.len() > 2 {
        let quoted = apimachinery::field::quote(text);
        return Err(format!(
            "the fragment {quoted} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let read = |part: &str| {
        let quoted = apimachinery::field::quote(part);
        let number: i64 = part
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {quoted}"))?;
        if number >= completions {
            return Err(format!("too large index: {quoted}"));
        }
        Ok(number)
    };
    let first = read(parts[0])?;
    let Some(last) = parts.get(1) else { return Ok((first, first)) };
    let last = read(last)?;
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

/// The first index that both have. What cannot be read is told elsewhere.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|it| interval(it, completions).ok()).collect()
    };
    let (completed, failed) = (read(completed), read(failed));
    let both = completed.iter().flat_map(|one| {
        failed.iter().filter_map(move |other| {
            let first = one.0.max(other.0);
            (first <= one.1.min(other.1)).then_some(first)
        })
    });
    both.min()
}

#[cfg(test)]
mod tests {
    use apimachinery::{json, value};

    use super::*;

    /// Checks what is told of a change of a job's status.
    fn check(spec: &str, old: &str, new: &str, expected: &[&str]) {
        let read = |text: &str| json::parse(text.as_bytes()).unwrap();
        let job = |status: &str| value!({"spec": (read(spec)), "status": (read(status))});
        let mut errors = FieldErrors::new();
        validate(&job(new), &job(old), &mut errors);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{old} to {new} of {spec}");
    }

    const PLAIN: &str = r#"{"parallelism":1,"completions":1}"#;
    const INDEXED: &str =
        r#"{"completionMode":"Indexed","parallelism":1,"completions":3,"backoffLimitPerIndex":1}"#;
    const FAILED: &str = r#"{"startTime":"2024-01-01T00:00:00Z","failed":2,"conditions":[
        {"type":"FailureTarget","status":"True"},{"type":"Failed","status":"True"}]}"#;

    #[test]
    fn counts_are_not_negative_and_do_not_fall() {
        check(
            PLAIN,
            r#"{"failed":2,"succeeded":1}"#,
            r#"{"active":-1,"failed":1,"succeeded":-1,"ready":1}"#,
            &[
                "status.active: Invalid value: -1: must be greater than or equal to 0",
                "status.succeeded: Invalid value: -1: must be greater than or equal to 0",
                "status.ready: Invalid value: 1: cannot set more ready pods than active",
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
                "status.succeeded: Invalid value: -1: cannot decrease the succeeded counter",
            ],
        );
        let elastic = r#"{"completionMode":"Indexed","parallelism":1,"completions":1}"#;
        check(elastic, r#"{"succeeded":2}"#, r#"{"succeeded":1}"#, &[]);
        check(
            PLAIN,
            "{}",
            r#"{"uncountedTerminatedPods":{"succeeded":["a",""],"failed":["a"]}}"#,
            &[
                "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty",
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
            ],
        );
    }

    #[test]
    fn a_finished_job_stays_finished() {
        check(
            PLAIN,
            FAILED,
            "{}",
            &[
                "status.conditions: Invalid value: cannot disable the terminal Failed=True condition",
                "status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",
                "status.failed: Invalid value: 0: cannot decrease the failed counter",
                "status.startTime: Required value: startTime cannot be removed for unsuspended job",
            ],
        );
        let active = FAILED.replace("\"failed\":2", "\"failed\":2,\"active\":5");
        let told = "status.active: Invalid value: 5: active>0 is invalid for finished job";
        check(PLAIN, FAILED, &active, &[told]);
        // What was wrong before is not told again.
        check(PLAIN, &active, &active, &[]);
    }

    #[test]
    fn a_job_completes_once_its_criteria_are_met() {
        check(
            PLAIN,
            r#"{"startTime":"2024-01-02T00:00:00Z"}"#,
            r#"{"startTime":"2024-01-02T00:00:00Z","completionTime":"2024-01-01T00:00:00Z"}"#,
            &[
                "status.completionTime: Invalid value: \"2024-01-01T00:00:00Z\": cannot set completionTime when there is no Complete=True condition",
                "status.completionTime: Invalid value: \"2024-01-01T00:00:00Z\": completionTime cannot be set before startTime",
            ],
        );
        check(
            r#"{"completions":1,"successPolicy":{}}"#,
            "{}",
            r#"{"conditions":[{"type":"Complete","status":"True"}]}"#,
            &[
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.startTime: Required value: startTime is required for finished job",
                "status.conditions: Invalid value: cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ],
        );
        check(
            PLAIN,
            "{}",
            r#"{"conditions":[{"type":"FailureTarget","status":"True"},{"type":"SuccessCriteriaMet","status":"True"}]}"#,
            &[
                "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
            ],
        );
    }

    #[test]
    fn indexes_are_in_order_and_below_the_completions() {
        check(
            INDEXED,
            "{}",
            r#"{"completedIndexes":"9","failedIndexes":"a"}"#,
            &[
                "status.completedIndexes: Invalid value: \"9\": error parsing completedIndexes: too large index: \"9\"",
                "status.failedIndexes: Invalid value: \"a\": error parsing failedIndexes: cannot convert string to integer for index: \"a\"",
            ],
        );
        check(
            INDEXED,
            "{}",
            r#"{"completedIndexes":"0,2","failedIndexes":"1-2"}"#,
            &[
                "status.failedIndexes: Invalid value: \"1-2\": failedIndexes and completedIndexes overlap at index: 2",
            ],
        );
        check(
            PLAIN,
            "{}",
            r#"{"completedIndexes":"0","failedIndexes":""}"#,
            &[
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
                "status.failedIndexes: Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ],
        );
        for (indexes, expected) in [
            ("", Ok(0)),
            ("0,2-4", Ok(4)),
            ("2,1", Err("non-increasing order, previous: 2, current: 1")),
            ("3-3", Err("non-increasing order, previous: 3, current: 3")),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ] {
            assert_eq!(well_formed(indexes, 5), expected.map_err(str::to_owned), "{indexes}");
        }
    }
}
