//! What is wrong with groups of pods and with what they are made from. Upstream declares most of these rules on its types
//! (`k8s.io/api/scheduling/v1beta1`); what has not changed is not judged again.

use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Path, Value};

use crate::check;

/// The most templates of a workload.
const TEMPLATES_MAX: usize = 8;
/// The most claims of a group.
const CLAIMS_MAX: usize = 4;
/// The most labels that say what one place is.
const TOPOLOGIES_MAX: usize = 1;
/// The highest priority that people may give.
const PRIORITY_MAX: i64 = 1_000_000_000;
/// The longest reason, message and type of a condition (upstream: `ValidateCondition`).
const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;
const SHAPE: &str = "must match the regex ^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";

/// What is judged: a value, and what was before it.
#[derive(Debug, Clone, Copy)]
struct Change<'v> {
    now: &'v Value,
    old: Option<&'v Value>,
}

impl<'v> Change<'v> {
    fn get(self, member: &str) -> (Option<&'v Value>, Option<&'v Value>) {
        (given(self.now, member), self.old.and_then(|it| given(it, member)))
    }

    fn is_same(self, member: &str) -> bool {
        let (now, old) = self.get(member);
        self.old.is_some() && now == old
    }

    fn child(self, member: &str) -> Self {
        Self { now: &self.now[member], old: self.old.map(|it| &it[member]) }
    }

    /// A text that is new or another one, where it is given.
    fn text(
        self,
        member: &str,
        rule: fn(&str) -> Problems,
        path: &Path<'_>,
        errors: &mut FieldErrors,
    ) {
        if !self.is_same(member) {
            check::optional_name(self.now, member, rule, path, errors);
        }
    }

    fn required(
        self,
        member: &str,
        rule: fn(&str) -> Problems,
        path: &Path<'_>,
        errors: &mut FieldErrors,
    ) {
        if !self.is_same(member) {
            check::required_name(self.now, member, rule, path, errors);
        }
    }

    /// Says what may not change and did; whether it is still to be judged.
    fn immutable(self, member: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
        if self.is_same(member) {
            return false;
        }
        let (now, old) = self.get(member);
        if self.old.is_some() {
            check::immutable(now, old, &path.child(member), errors);
            return false;
        }
        true
    }
}

/// A member that is there; an empty text is none.
fn given<'v>(of: &'v Value, member: &str) -> Option<&'v Value> {
    of.get(member).filter(|it| !it.is_null() && it.as_str() != Some(""))
}

/// Exactly one of some members is given.
fn one_of(change: Change<'_>, members: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let is_given = |of: &Value, member: &str| match given(of, member) {
        Some(Value::Array(items)) => !items.is_empty(),
        other => other.is_some(),
    };
    let set = |of: &Value| -> Vec<bool> { members.iter().map(|it| is_given(of, it)).collect() };
    if change.old.is_some_and(|old| set(old) == set(change.now)) {
        return;
    }
    let all: Vec<String> = members.iter().map(|it| format!("`{it}`")).collect();
    let there: Vec<&str> = members.iter().copied().filter(|it| is_given(change.now, it)).collect();
    match there.as_slice() {
        [] => {
            let detail = format!("must specify one of: {}", all.join(", "));
            errors.invalid_text(path, "", &detail);
        }
        [_] => {}
        several => {
            let detail = format!("must specify exactly one of: {}", all.join(", "));
            errors.invalid_text(path, &format!("{{{}}}", several.join(", ")), &detail);
        }
    }
}

/// A group's spec.
pub(super) fn group(spec: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (change, path) = (Change { now: spec, old }, Path::new("spec"));
    if change.immutable("workloadRef", &path, errors) && given(spec, "workloadRef").is_some() {
        let (at, reference) = (path.child("workloadRef"), change.child("workloadRef"));
        reference.required("workloadName", validation::dns1123_subdomain, &at, errors);
        reference.required("templateName", validation::dns1123_label, &at, errors);
    }
    common(change, &path, errors);
}

/// How a job's spec says that its pods are scheduled.
pub(super) fn of_job(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(scheduling) = given(spec, "scheduling") else { return };
    let at = path.child("scheduling");
    if let Some(policy) = given(scheduling, "schedulingPolicy") {
        let at = at.child("schedulingPolicy");
        one_of(Change { now: policy, old: None }, &["basic", "gang"], &at, errors);
        let count = policy.i64_at(&["gang", "minCount"]);
        let (gang, most) = (at.child("gang"), spec.i64_at(&["parallelism"]).unwrap_or(1));
        match count {
            Some(count) if count < 1 => {
                let detail = "must be greater than or equal to 1";
                errors.invalid(&gang.child("minCount"), &count.into(), detail);
            }
            Some(count) if count > most => {
                let detail = "must be less than or equal to `parallelism`";
                errors.invalid(&gang.child("minCount"), &count.into(), detail);
            }
            _ => {}
        }
    }
    if let Some(it) = given(scheduling, "schedulingConstraints") {
        constraints(it, &at.child("schedulingConstraints"), errors);
    }
    if let Some(mode) = given(scheduling, "disruptionMode") {
        let change = Change { now: mode, old: None };
        one_of(change, &["single", "all"], &at.child("disruptionMode"), errors);
    }
}

/// Of that only the size of a gang may change.
pub(super) fn of_job_changed(job: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let fixed = |of: &Value| {
        let mut scheduling = of.at(&["spec", "scheduling"]).cloned()?;
        scheduling.remove_at(&["schedulingPolicy", "gang", "minCount"]);
        Some(scheduling)
    };
    let (now, before) = (fixed(job), fixed(old));
    check::immutable(now.as_ref(), before.as_ref(), &path.child("scheduling"), errors);
}

/// Where a group may be.
fn constraints(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("topology");
    let topology = of.items_at(&["topology"]);
    if topology.len() > TOPOLOGIES_MAX {
        errors.too_many(&at, topology.len(), TOPOLOGIES_MAX);
        return;
    }
    for (index, it) in topology.iter().enumerate() {
        let change = Change { now: it, old: None };
        change.required("key", validation::qualified_name, &at.index(index), errors);
    }
}

/// What groups and their templates share.
fn common(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    policy(change.child("schedulingPolicy"), &path.child("schedulingPolicy"), errors);
    if change.immutable("resourceClaims", path, errors) {
        claims(change.now, path, errors);
    }
    if change.immutable("schedulingConstraints", path, errors)
        && let Some(it) = given(change.now, "schedulingConstraints")
    {
        constraints(it, &path.child("schedulingConstraints"), errors);
    }
    if change.immutable("disruptionMode", path, errors)
        && given(change.now, "disruptionMode").is_some()
    {
        let mode = change.child("disruptionMode");
        one_of(mode, &["single", "all"], &path.child("disruptionMode"), errors);
    }
    if change.immutable("priorityClassName", path, errors) {
        change.text("priorityClassName", validation::dns1123_subdomain, path, errors);
    }
    if change.immutable("priority", path, errors)
        && let Some(priority) = change.now.i64_at(&["priority"])
        && priority > PRIORITY_MAX
    {
        let detail = format!("must be less than or equal to {PRIORITY_MAX}");
        errors.invalid(&path.child("priority"), &priority.into(), &detail);
    }
}

fn policy(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    one_of(change, &["basic", "gang"], path, errors);
    change.immutable("basic", path, errors);
    let at = path.child("gang");
    match change.get("gang") {
        (now, before) if change.old.is_some() && now.is_some() != before.is_some() => {
            let detail = match now {
                Some(_) => "field cannot be set once created",
                None => "field cannot be cleared once set",
            };
            errors.invalid(&at, &Value::Null, detail);
        }
        (Some(gang), _) if !change.child("gang").is_same("minCount") => {
            let count = gang.i64_at(&["minCount"]).unwrap_or_default();
            if count == 0 {
                errors.required(&at.child("minCount"), "");
            } else if count < 1 {
                let detail = "must be greater than or equal to 1";
                errors.invalid(&at.child("minCount"), &count.into(), detail);
            }
        }
        _ => {}
    }
}

fn claims(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (at, claims) = (path.child("resourceClaims"), of.items_at(&["resourceClaims"]));
    if claims.len() > CLAIMS_MAX {
        errors.too_many(&at, claims.len(), CLAIMS_MAX);
        return;
    }
    unique(claims, &at, errors);
    for (index, claim) in claims.iter().enumerate() {
        let at = at.index(index);
        let change = Change { now: claim, old: None };
        one_of(change, &["resourceClaimName", "resourceClaimTemplateName"], &at, errors);
        change.required("name", validation::dns1123_label, &at, errors);
        for member in ["resourceClaimName", "resourceClaimTemplateName"] {
            change.text(member, validation::dns1123_subdomain, &at, errors);
        }
    }
}

/// Items of a list have names of their own.
fn unique(items: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, item) in items.iter().enumerate() {
        let name = item.str_at(&["name"]);
        if items[..index].iter().any(|it| it.str_at(&["name"]) == name) {
            errors.duplicate(&path.index(index), &apimachinery::value!({"name": name}));
        }
    }
}

/// A workload's spec.
pub(super) fn workload(spec: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (change, path) = (Change { now: spec, old }, Path::new("spec"));
    let (own, composite) = ("podGroupTemplates", "compositePodGroupTemplates");
    if !spec.items_at(&[composite]).is_empty() && !change.is_same(composite) {
        errors.forbidden(&path.child(composite), "");
    }
    one_of(change, &[own, composite], &path, errors);
    if change.immutable("controllerRef", &path, errors) && given(spec, "controllerRef").is_some() {
        let (at, reference) = (path.child("controllerRef"), change.child("controllerRef"));
        reference.text("apiGroup", validation::dns1123_subdomain, &at, errors);
        for member in ["kind", "name"] {
            reference.required(member, validation::path_segment_name, &at, errors);
        }
    }
    if !change.is_same(own) {
        templates(change, &path.child(own), errors);
    }
    one_priority(spec.items_at(&[own]), &path, errors);
}

fn templates(change: Change<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let now = change.now.items_at(&["podGroupTemplates"]);
    if now.len() > TEMPLATES_MAX {
        errors.too_many(path, now.len(), TEMPLATES_MAX);
        return;
    }
    let before = change.old.map(|it| it.items_at(&["podGroupTemplates"]));
    let named = |list: &[Value], name: &str| list.iter().any(|it| it.str_at(&["name"]) == name);
    if let Some(before) = before {
        let count = errors.len();
        for (index, item) in now.iter().enumerate() {
            if !named(before, item.str_at(&["name"])) {
                errors.forbidden(&path.index(index), "item may not be added");
            }
        }
        for _ in before.iter().filter(|it| !named(now, it.str_at(&["name"]))) {
            errors.forbidden(path, "item may not be removed");
        }
        if errors.len() > count {
            return;
        }
    }
    unique(now, path, errors);
    for (index, item) in now.iter().enumerate() {
        let name = item.str_at(&["name"]);
        let old = before.and_then(|it| it.iter().find(|it| it.str_at(&["name"]) == name));
        let (at, change) = (path.index(index), Change { now: item, old });
        change.required("name", validation::dns1123_label, &at, errors);
        common(change, &at, errors);
    }
}

/// All templates have one priority.
fn one_priority(templates: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let of = |it: &Value| (it.str_at(&["priorityClassName"]).to_owned(), it.i64_at(&["priority"]));
    if templates.windows(2).any(|pair| of(&pair[0]) != of(&pair[1])) {
        errors.invalid(path, &Value::Null, "detected multiple priority configurations");
    }
}

/// A group's status.
pub(super) fn status(group: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    let list = status.child("conditions");
    let conditions = group.items_at(&["status", "conditions"]);
    for (index, condition) in conditions.iter().enumerate() {
        let at = list.index(index);
        let kind = condition.str_at(&["type"]);
        if conditions[..index].iter().any(|it| it.str_at(&["type"]) == kind) {
            errors.duplicate(&at.child("type"), &Value::from(kind));
        }
        one_condition(condition, &at, errors);
    }
    let list = status.child("resourceClaimStatuses");
    let known = group.items_at(&["spec", "resourceClaims"]);
    for (index, it) in group.items_at(&["status", "resourceClaimStatuses"]).iter().enumerate() {
        let name = it.str_at(&["name"]);
        if !known.iter().any(|it| it.str_at(&["name"]) == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid_text(&list.index(index).child("name"), name, detail);
        }
    }
}

fn one_condition(condition: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_name(condition, "type", validation::qualified_name, path, errors);
    check::one_of(condition, "status", &["False", "True", "Unknown"], path, errors);
    if condition.i64_at(&["observedGeneration"]).is_some_and(|it| it < 0) {
        let at = path.child("observedGeneration");
        let detail = "must be greater than or equal to zero";
        errors.invalid(&at, &condition["observedGeneration"], detail);
    }
    if given(condition, "lastTransitionTime").is_none() {
        errors.required(&path.child("lastTransitionTime"), "must be set");
    }
    let at = path.child("reason");
    let reason = condition.str_at(&["reason"]);
    if reason.is_empty() {
        errors.required(&at, "");
    } else if reason.len() > REASON_MAX {
        errors.too_long(&at, REASON_MAX);
    } else if !is_reason(reason) {
        errors.invalid_text(&at, reason, SHAPE);
    }
    if condition.str_at(&["message"]).len() > MESSAGE_MAX {
        errors.too_long(&path.child("message"), MESSAGE_MAX);
    }
}

/// `^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`
fn is_reason(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |it: &u8| it.is_ascii_alphanumeric() || *it == b'_';
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|it| word(it) || matches!(it, b',' | b':'))
}
