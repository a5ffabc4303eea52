//! Checks of jobs and of the templates of jobs.

use apimachinery::labels::Selector;
use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::{job, job_status, pod_group_checks, workload};
use crate::check;
use crate::pod_spec::validate as pod_checks;
use crate::status::{copy, holds};

/// The most pods at once of an indexed job, and the most of its completions with failures counted by index.
const INDEXES_MAX: i64 = 100_000;
/// The longest name of what manages a job.
const MANAGED_BY_LENGTH_MAX: usize = 63;
/// The most rules of a failure policy, and of a success policy.
const RULES_MAX: usize = 20;
/// The most exit codes of a rule.
const EXIT_CODES_MAX: usize = 255;
/// The longest list of indexes that are to succeed, in bytes.
const SUCCEEDED_INDEXES_MAX: usize = 64 * 1024;
const NEEDS_INDEXES: &str = "requires indexed completion mode";

/// Checks a job.
pub(super) fn validate(job: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = job.get("spec").unwrap_or(&empty);
    generated_selector(job, spec, errors);
    whole_spec(spec, errors);
}

/// Checks the spec of a job with its selector.
fn whole_spec(spec: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let selector = spec.get("selector");
    self::spec(spec, &path, errors);
    if selector.is_none() {
        errors.required(&path.child("selector"), "");
    }
    check::label_selector(selector, &path.child("selector"), errors);
    if let Ok(selector) = Selector::from_value(selector) {
        let template = spec.get("template").unwrap_or(&empty);
        workload::template_labels(&selector, template, &path.child("template"), errors);
    }
}

/// A selector that the server makes is the one it would make.
fn generated_selector(job: &Value, spec: &Value, errors: &mut FieldErrors) {
    if spec.bool_at(&["manualSelector"]) || spec.get("selector").is_none() {
        return;
    }
    let labels = spec.at(&["template", "metadata", "labels"]);
    let path = Path::new("spec");
    let (template, name, uid) = (
        path.child("template"),
        job.str_at(&["metadata", "name"]),
        job.str_at(&["metadata", "uid"]),
    );
    let metadata = template.child("metadata");
    let at = metadata.child("labels");
    // The old names before those of today.
    for old in 0..2 {
        for (key, wanted) in [(job::UID_LABELS[old], uid), (job::NAME_LABELS[old], name)] {
            let detail = format!("must be '{wanted}'");
            match labels.and_then(|it| it.get(key)).and_then(Value::as_str) {
                None => errors.required(&at.key(key), &detail),
                Some(found) if found != wanted => {
                    errors.invalid(&at.key(key), labels.unwrap_or(&Value::Null), &detail);
                }
                Some(_) => {}
            }
        }
    }
    let made = |key: &str| match key {
        _ if job::UID_LABELS.contains(&key) => Some(uid),
        _ if job::NAME_LABELS.contains(&key) => Some(name),
        _ => None,
    };
    if Selector::from_value(spec.get("selector")).is_ok_and(|it| !it.matches(made)) {
        let detail = "`selector` not auto-generated";
        check::invalid_selector(&path.child("selector"), &spec["selector"], detail, errors);
    }
}

/// Checks the spec of a template of jobs.
pub(super) fn template(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.bool_at(&["manualSelector"]) {
        errors.not_supported(&path.child("manualSelector"), &true.into(), ["nil", "false"]);
    }
    if let Some(selector) = spec.get("selector") {
        let detail = "`selector` will be auto-generated";
        check::invalid_selector(&path.child("selector"), selector, detail, errors);
    }
    self::spec(spec, path, errors);
}

fn spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    check::non_negative(spec, &counts, path, errors);
    indexes(spec, path, errors);
    managed_by(spec, path, errors);
    pod_group_checks::of_job(spec, path, errors);
    let indexed = spec.str_at(&["completionMode"]) == "Indexed";
    if let Some(policy) = spec.get("podFailurePolicy") {
        failure_policy(spec, policy, &path.child("podFailurePolicy"), errors);
    }
    if let Some(policy) = spec.get("successPolicy") {
        let at = path.child("successPolicy");
        if indexed {
            success_policy(spec, policy, &at, errors);
        } else {
            check::invalid_shown(&at, &shown_success(policy), NEEDS_INDEXES, errors);
        }
    }
    let replacements: &[&str] = if spec.get("podFailurePolicy").is_some() {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    check::optional_one_of(spec, "podReplacementPolicy", replacements, path, errors);
    let empty = Value::object();
    let at = path.child("template");
    let template = spec.get("template").unwrap_or(&empty);
    pod_checks::template(template, &at, errors);
    let at = at.child("spec");
    let place = at.child("restartPolicy");
    match template.str_at(&["spec", "restartPolicy"]) {
        policy @ "OnFailure" if spec.get("podFailurePolicy").is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid_text(&place, policy, detail);
        }
        "OnFailure" | "Never" => {}
        "Always" => errors.required(&place, "valid values: \"OnFailure\", \"Never\""),
        odd => errors.not_supported(&place, &odd.into(), ["OnFailure", "Never"]),
    }
}

fn indexes(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = |member: &str| spec.i64_at(&[member]);
    let (per_index, most) = (number("backoffLimitPerIndex"), number("maxFailedIndexes"));
    if spec.get("completionMode").is_some() {
        check::one_of(spec, "completionMode", &["NonIndexed", "Indexed"], path, errors);
    }
    if spec.str_at(&["completionMode"]) == "Indexed" {
        if number("completions").is_none() {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        let too_many = |it: &i64| *it > INDEXES_MAX;
        if let Some(count) = number("parallelism").filter(too_many) {
            let detail = format!(
                "must be less than or equal to {INDEXES_MAX} when completion mode is Indexed"
            );
            errors.invalid(&path.child("parallelism"), &count.into(), &detail);
        }
        if let (Some(most), Some(all)) = (most, number("completions"))
            && most > all
        {
            let detail = "must be less than or equal to completions";
            errors.invalid(&path.child("maxFailedIndexes"), &most.into(), detail);
        }
    } else if spec.get("completionMode").is_none_or(|it| it.as_str() == Some("NonIndexed")) {
        for (member, given) in [("backoffLimitPerIndex", per_index), ("maxFailedIndexes", most)] {
            if let Some(given) = given {
                errors.invalid(&path.child(member), &given.into(), NEEDS_INDEXES);
            }
        }
    }
    if most.is_some() && per_index.is_none() {
        let detail = "when maxFailedIndexes is specified";
        errors.required(&path.child("backoffLimitPerIndex"), detail);
    }
}

fn managed_by(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(name) = spec.get("managedBy").and_then(Value::as_str) else { return };
    let at = path.child("managedBy");
    match name.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.invalid_all(&at, domain, validation::dns1123_subdomain(domain));
            errors.invalid_all(&at, rest, validation::http_path(rest));
        }
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.invalid_text(&at, name, detail);
        }
    }
    if name.len() > MANAGED_BY_LENGTH_MAX {
        errors.too_long(&at, MANAGED_BY_LENGTH_MAX);
    }
}

fn failure_policy(spec: &Value, policy: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rules = policy.items_at(&["rules"]);
    let list = path.child("rules");
    if rules.len() > RULES_MAX {
        errors.too_many(&list, rules.len(), RULES_MAX);
    }
    let pod = spec.at(&["template", "spec"]);
    let names: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|it| pod.map_or(&[][..], |pod| pod.items_at(&[it])))
        .map(|it| it.str_at(&["name"]))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        let at = list.index(index);
        let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
        if check::required_text(rule, "action", &at, errors) {
            check::one_of(rule, "action", &actions, &at, errors);
        }
        if rule.str_at(&["action"]) == "FailIndex" && spec.get("backoffLimitPerIndex").is_none() {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.invalid_text(&at.child("action"), "FailIndex", detail);
        }
        if let Some(codes) = rule.get("onExitCodes") {
            exit_codes(codes, &names, &at.child("onExitCodes"), errors);
        }
        let conditions = at.child("onPodConditions");
        for (index, pattern) in rule.items_at(&["onPodConditions"]).iter().enumerate() {
            let at = conditions.index(index);
            let rule = validation::qualified_name;
            check::required_name(pattern, "type", rule, &at, errors);
            if check::required_text(pattern, "status", &at, errors) {
                check::one_of(pattern, "status", &["False", "True", "Unknown"], &at, errors);
            }
        }
        match (rule.get("onExitCodes"), rule.items_at(&["onPodConditions"]).is_empty()) {
            (Some(_), false) => {
                let text = "specifying both OnExitCodes and OnPodConditions is not supported";
                check::invalid_shown(&at, text, "", errors);
            }
            (None, true) => {
                let text = "specifying one of OnExitCodes and OnPodConditions is required";
                check::invalid_shown(&at, text, "", errors);
            }
            _ => {}
        }
    }
}

fn exit_codes(codes: &Value, names: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let operator = codes.str_at(&["operator"]);
    if check::required_text(codes, "operator", path, errors) {
        check::one_of(codes, "operator", &["In", "NotIn"], path, errors);
    }
    if let Some(name) = codes.get("containerName").and_then(Value::as_str)
        && !names.contains(&name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid_text(&path.child("containerName"), name, detail);
    }
    let values = codes.items_at(&["values"]);
    let list = path.child("values");
    if values.is_empty() {
        check::invalid_shown(&list, "null", "at least one value is required", errors);
    } else if values.len() > EXIT_CODES_MAX {
        errors.too_many(&list, values.len(), EXIT_CODES_MAX);
    }
    for (index, value) in values.iter().enumerate() {
        if values[..index].contains(value) {
            errors.duplicate(&list.index(index), value);
        }
        if operator == "In" && value.as_i64() == Some(0) {
            errors.invalid(&list.index(index), value, "must not be 0 for the In operator");
        }
        if index > 0 && values[index - 1].as_i64() > value.as_i64() {
            errors.invalid(&list, &codes["values"], "must be ordered");
        }
    }
}

fn shown_success(policy: &Value) -> String {
    let fields = [("SucceededIndexes", "succeededIndexes"), ("SucceededCount", "succeededCount")];
    let rules: Vec<String> =
        policy.items_at(&["rules"]).iter().map(|it| check::go_struct(it, &fields)).collect();
    format!("{{\"Rules\":[{}]}}", rules.join(","))
}

fn success_policy(spec: &Value, policy: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rules = policy.items_at(&["rules"]);
    let list = path.child("rules");
    if rules.is_empty() {
        errors.required(
            &list,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if rules.len() > RULES_MAX {
        errors.too_many(&list, rules.len(), RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = list.index(index);
        let count = rule.i64_at(&["succeededCount"]);
        if count.is_none() && rule.get("succeededIndexes").is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.required(&at, detail);
        }
        let all = spec.i64_at(&["completions"]).unwrap_or_default();
        let named = rule.get("succeededIndexes").and_then(Value::as_str);
        let named = named.map(|it| succeeded_indexes(it, all, &at, errors));
        check::non_negative(rule, &["succeededCount"], &at, errors);
        let limits = [
            (Some(all), "the number of specified completions"),
            (named, "the number of indexes in the specified succeededIndexes field"),
        ];
        for (limit, what) in limits {
            if let (Some(count), Some(limit)) = (count, limit)
                && count > limit
            {
                let detail = format!("must be less than or equal to {limit} ({what})");
                errors.invalid(&at.child("succeededCount"), &count.into(), &detail);
            }
        }
    }
}

/// Checks the indexes that are to succeed; how many they are.
fn succeeded_indexes(
    indexes: &str,
    completions: i64,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> i64 {
    let at = path.child("succeededIndexes");
    if indexes.len() > SUCCEEDED_INDEXES_MAX {
        errors.too_long(&at, SUCCEEDED_INDEXES_MAX);
    }
    job_status::well_formed(indexes, completions).unwrap_or_else(|problem| {
        let detail = format!("error parsing succeededIndexes: {problem}");
        errors.invalid_text(&at, indexes, &detail);
        0
    })
}

/// Checks a change of a job.
pub(super) fn validate_update(job: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let pair = |member: &str| (job.at(&["spec", member]), old.at(&["spec", member]));
    // Upstream checks a changed spec twice, and says everything twice.
    whole_spec(job.get("spec").unwrap_or(&Value::Null), errors);
    completions(job, old, &path, errors);
    workload::same_selector(job, old, errors);
    template_update(job, old, errors);
    for member in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        let (now, before) = pair(member);
        check::immutable(now, before, &path.child(member), errors);
    }
    pod_group_checks::of_job_changed(job, old, &path, errors);
}

fn completions(job: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = |of: &Value, member: &str| of.i64_at(&["spec", member]);
    let (now, before) = (number(job, "completions"), number(old, "completions"));
    if now == before {
        return;
    }
    let at = path.child("completions");
    if job.str_at(&["spec", "completionMode"]) != "Indexed" {
        errors.invalid(&at, &now.into(), "field is immutable");
    } else if now != number(job, "parallelism") {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&at, &now.into(), detail);
    }
}

/// The template may change where pods are to run while the job is suspended and has not run yet, and what its containers ask
/// for also after that, once none of its pods is left (KEP-2926, KEP-5440).
fn template_update(job: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = ["spec", "template"];
    let template = |of: &Value| of.at(&path).cloned().unwrap_or_default();
    let (now, mut before) = (template(job), template(old));
    let free = old.bool_at(&["spec", "suspend"]) && old.at(&["status", "startTime"]).is_none();
    if free {
        for member in ["nodeSelector", "tolerations", "schedulingGates"] {
            copy(&now, &mut before, &["spec", member]);
        }
        copy(&now, &mut before, &["spec", "affinity", "nodeAffinity"]);
        for member in ["labels", "annotations"] {
            copy(&now, &mut before, &["metadata", member]);
        }
    }
    if is_at_rest(old) {
        for list in ["containers", "initContainers"] {
            resources(&now, &mut before, list);
        }
    }
    if now != before {
        let spec = Path::new("spec");
        let shown = crate::go::pod_template(&now);
        let at = spec.child("template");
        crate::check::invalid_shown(&at, &shown, "field is immutable", errors);
    }
}

/// Whether a job is suspended, and was seen to be by its controller if it ever ran.
fn is_at_rest(job: &Value) -> bool {
    let status = |member: &str| job.at(&["status", member]);
    let suspended = holds(job, "Suspended");
    let active = status("active").and_then(Value::as_i64).unwrap_or_default();
    job.bool_at(&["spec", "suspend"]) && active == 0 && (suspended || status("startTime").is_none())
}

/// Makes what the containers of a list ask for what it is now, where they are the same containers.
fn resources(now: &Value, before: &mut Value, list: &str) {
    let path = ["spec", list];
    let (now, before) = (now.items_at(&path), before.items_at_mut(&path));
    let same = now.len() == before.len()
        && now.iter().zip(before.iter()).all(|(a, b)| a["name"] == b["name"]);
    if same {
        for (now, before) in now.iter().zip(before) {
            copy(now, before, &["resources"]);
        }
    }
}
