//! Rules when a definition is written: that they compile, that they can be compared with an old value where they want one,
//! and that they cost no more than a server can bear. In upstream's words.

use std::sync::Arc;

use apimachinery::{FieldErrors, Object, Path, Value};
use cel::{DeclType, IssueKind, Issues, Program, Type, limits};

use super::rules::{environment, field_path};
use crate::check::invalid_shown;
use crate::go;

const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// How many of the dearest rules are named where all together cost too much (upstream's).
const NAMED_MAX: usize = 4;
/// Rules cheaper than this are never named (upstream: a hundredth of the limit).
const NAMED_COST: u64 = limits::STATIC_ESTIMATED_CRD_COST_LIMIT / 100;

/// Checks the rules of a whole schema. Nothing is said where the schema itself is wrong: rules of a schema that makes no
/// sense make none either.
pub(crate) fn check(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut checker = Checker { total: 0, dear: Vec::new(), errors };
    checker.node(schema, Place { times: Some(1), is_root: true, uncorrelatable: None }, path);
    let limit = limits::STATIC_ESTIMATED_CRD_COST_LIMIT;
    let Checker { total, mut dear, errors } = checker;
    if total <= limit {
        return;
    }
    dear.sort_by_key(|it| std::cmp::Reverse(it.1));
    for (at, cost) in dear.into_iter().take(NAMED_MAX).filter(|(_, cost)| *cost > NAMED_COST) {
        let what =
            "contributed to estimated rule & messageExpression cost total exceeding cost limit";
        errors.forbidden(&Path::new(&at), &excess(what, cost, limit));
    }
    let what = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
    errors.forbidden(path, &excess(what, total, limit));
}

/// Upstream's words for too much, also where it was told already in other words.
fn excess(what: &str, cost: u64, limit: u64) -> String {
    limits::excess(what, cost, limit).unwrap_or_else(|| what.to_owned())
        + " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
}

/// Where a node stands.
#[derive(Debug, Clone, Copy)]
struct Place<'p> {
    /// How often there can be one; `None` where nothing bounds it.
    times: Option<u64>,
    is_root: bool,
    /// What has no identity of its own, so that there is no old value to compare with.
    uncorrelatable: Option<&'p str>,
}

struct Checker<'e> {
    total: u64,
    /// What costs, and how much.
    dear: Vec<(String, u64)>,
    errors: &'e mut FieldErrors,
}

impl Checker<'_> {
    fn node(&mut self, schema: &Value, place: Place<'_>, path: &Path<'_>) {
        self.rules(schema, place, path);
        let limit = |member: &str| schema.i64_at(&[member]).and_then(|it| u64::try_from(it).ok());
        let multiplied = |by: Option<u64>| Some(place.times?.saturating_mul(by?));
        let here = path.to_string();
        let embedded = |it: &Value| it.bool_at(&["x-kubernetes-embedded-resource"]);
        let atomic = schema.str_at(&["x-kubernetes-map-type"]) == "atomic";
        let uncorrelatable = place.uncorrelatable.or(atomic.then_some(here.as_str()));
        let properties = path.child("properties");
        for (name, it) in
            schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Object::iter)
        {
            let below = Place { is_root: embedded(it), uncorrelatable, ..place };
            self.node(it, below, &properties.key(name));
        }
        if let Some(it @ Value::Object(_)) = schema.get("additionalProperties") {
            let times = multiplied(limit("maxProperties"));
            let below = Place { times, is_root: embedded(it), uncorrelatable };
            self.node(it, below, &path.child("additionalProperties"));
        }
        if let Some(it @ Value::Object(_)) = schema.get("items") {
            let keyed = schema.str_at(&["x-kubernetes-list-type"]) == "map";
            let uncorrelatable = place.uncorrelatable.or((!keyed).then_some(here.as_str()));
            let times = multiplied(limit("maxItems"));
            let below = Place { times, is_root: embedded(it), uncorrelatable };
            self.node(it, below, &path.child("items"));
        }
    }

    fn rules(&mut self, schema: &Value, place: Place<'_>, path: &Path<'_>) {
        let rules = schema.items_at(&["x-kubernetes-validations"]);
        if rules.is_empty() {
            return;
        }
        let Some(decl) = DeclType::from_schema(schema, "selfType", place.is_root) else { return };
        let decl = Arc::new(decl);
        let list = path.child("x-kubernetes-validations");
        for (index, rule) in rules.iter().enumerate() {
            self.rule(rule, &decl, place, &list.index(index));
        }
    }

    fn rule(&mut self, rule: &Value, decl: &Arc<DeclType>, place: Place<'_>, path: &Path<'_>) {
        let text = rule.str_at(&["rule"]);
        if text.trim().is_empty() {
            return;
        }
        let optional_old = rule.bool_at(&["optionalOldSelf"]);
        let env = environment(decl, optional_old);
        let at = path.child("rule");
        match env.compile(text, &[Type::Bool]) {
            Ok(program) => {
                self.cost(&program, decl, place, &at, "estimated rule cost");
                let is_transition = program.reads(&env, "oldSelf");
                if is_transition && let Some(within) = place.uncorrelatable {
                    let detail = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                    );
                    self.errors.invalid_text(&at, text, &detail);
                }
                if !is_transition && rule.get("optionalOldSelf").is_some() {
                    let detail = "may not be set if oldSelf is not used in rule";
                    let at = path.child("optionalOldSelf");
                    self.errors.invalid(&at, &rule["optionalOldSelf"], detail);
                }
            }
            Err(issues) => self.refuse(rule, &at, &issues, "rule"),
        }
        let message = rule.str_at(&["messageExpression"]);
        if message.trim().is_empty() {
            return;
        }
        let at = path.child("messageExpression");
        match env.compile(message, &[Type::String]) {
            Ok(program) => {
                self.cost(&program, decl, place, &at, "estimated messageExpression cost");
            }
            Err(issues) => self.refuse(rule, &at, &issues, "messageExpression"),
        }
    }

    /// Says what is wrong with an expression. The whole rule is shown, as upstream does.
    fn refuse(&mut self, rule: &Value, at: &Path<'_>, issues: &Issues, what: &str) {
        let is_type = issues.0.iter().any(|it| it.kind == IssueKind::OutputType);
        let detail = match (is_type, what) {
            (true, "rule") => "cel expression must evaluate to a bool".to_owned(),
            (true, _) => "messageExpression must evaluate to a string".to_owned(),
            (false, "rule") => format!("compilation failed: {issues}"),
            (false, _) => format!("messageExpression compilation failed: {issues}"),
        };
        // Go's JSON is safe to stand in a page.
        let shown = go::compact(rule, go::VALIDATION_RULE)
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026");
        invalid_shown(at, &shown, &detail, self.errors);
    }

    fn cost(
        &mut self,
        program: &Program,
        decl: &DeclType,
        place: Place<'_>,
        at: &Path<'_>,
        what: &str,
    ) {
        // What nothing bounds is there as often as a request has room for it.
        let room = u64::try_from(limits::REQUEST_BYTES_MAX / (decl.min_bytes() + 1));
        let times = place.times.or(room.ok()).unwrap_or(u64::MAX);
        let cost = program.cost_estimate().max.saturating_mul(times);
        let limit = limits::STATIC_ESTIMATED_COST_LIMIT;
        if cost > limit {
            self.errors.forbidden(at, &excess(what, cost, limit));
        }
        self.total = self.total.saturating_add(cost);
        self.dear.push((at.to_string(), cost));
    }
}

/// What is wrong with the plain members of a rule.
pub(crate) fn members(schema: &Value, rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = |member| rule.str_at(&[member]);
    let blank = |member: &str| {
        rule.str_at(&[member]).trim().is_empty() && !rule.str_at(&[member]).is_empty()
    };
    let (rule_text, message) = (text("rule").trim(), text("message"));
    let at = path.child("message");
    if rule_text.is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
    } else if blank("message") {
        errors.invalid_text(&at, message, "message must be non-empty if specified");
    } else if message.trim().contains('\n') {
        errors.invalid_text(&at, message, "message must not contain line breaks");
    } else if rule_text.contains('\n') && message.trim().is_empty() {
        errors.required(&at, "message must be specified if rule contains line breaks");
    }
    if blank("messageExpression") {
        let detail = "messageExpression must be non-empty if specified";
        errors.required(&path.child("messageExpression"), detail);
    }
    let reason = text("reason");
    if rule.get("reason").is_some() && !REASONS.contains(&reason) {
        let at = path.child("reason");
        errors.not_supported(&at, &reason.into(), REASONS.iter().copied());
    }
    let (field, at) = (text("fieldPath"), path.child("fieldPath"));
    if blank("fieldPath") {
        errors.invalid_text(&at, field, "fieldPath must be non-empty if specified");
    }
    if field.contains('\n') {
        errors.invalid_text(&at, field, "fieldPath must not contain line breaks");
    }
    if !field.is_empty()
        && let Err(why) = field_path(schema, field)
    {
        errors.invalid_text(&at, field, &format!("fieldPath must be a valid path: {why}"));
    }
}
