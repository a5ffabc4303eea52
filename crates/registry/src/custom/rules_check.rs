//! The schema of a version when a definition is written: that it is structural, that its words fit each other, that its
//! defaults are allowed, and that its rules compile, can be compared with an old value where they want one, and cost no more
//! than a server can bear. In upstream's words, and in its order where that is not chance.

use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Value};
use cel::{DeclType, IssueKind, Issues, Program, Type, limits};

use super::rules::{environment, field_path};
use super::structural::{self, properties};
use super::{defaults_check, shown, words};
use crate::check::invalid_shown;
use crate::go;

const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// What ends a line.
const BREAKS: [char; 2] = ['\n', '\r'];
/// How many of the dearest rules are named where all together cost too much (upstream's).
const NAMED_MAX: usize = 4;
/// Rules cheaper than this are never named (upstream: a hundredth of the limit).
const NAMED_COST: u64 = limits::STATIC_ESTIMATED_CRD_COST_LIMIT / 100;

/// What is let through of a schema that was let in before there was a rule against it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tolerance {
    /// Types that are none.
    pub(crate) types: bool,
    /// Defaults with members that are not described.
    pub(crate) unpruned_defaults: bool,
    /// Sets of items that can be merged.
    pub(crate) granular_sets: bool,
    /// Keys of lists that may be absent or null.
    pub(crate) loose_keys: bool,
    /// Rules that cost too much: the schema has not changed.
    pub(crate) cost: bool,
}

/// What is let through of the schemas of a definition that is changed.
pub(crate) fn tolerance(schemas: &[&Value]) -> Tolerance {
    schemas.iter().map(|it| words::tolerance(it)).fold(Tolerance::default(), |a, b| Tolerance {
        types: a.types || b.types,
        unpruned_defaults: a.unpruned_defaults || b.unpruned_defaults,
        granular_sets: a.granular_sets || b.granular_sets,
        loose_keys: a.loose_keys || b.loose_keys,
        cost: false,
    })
}

/// What a schema may not say whose status is written by itself.
fn with_status(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = schema.str_at(&["type"]);
    if !kind.is_empty() && kind != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.invalid_text(&path.child("type"), kind, detail);
    } else if shown::has_more_than_root(schema) {
        let all = shown::AT_ROOT.join(" ");
        let detail = format!(
            "only [{all}] fields are allowed at the root of the schema if the status subresource is enabled"
        );
        invalid_shown(path, &shown::schema(schema), &detail, errors);
    }
}

/// Checks a whole schema, which stands at `path`; `has_status` says that the status of its objects is written by itself.
pub(crate) fn check(
    schema: &Value,
    has_status: bool,
    tolerance: Tolerance,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let before = errors.len();
    if has_status {
        with_status(schema, path, errors);
    }
    if schema.bool_at(&["nullable"]) {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let unreadable = structural::unreadable(schema);
    let mut is_sound = false;
    if unreadable.is_none() {
        let mut found = structural::check(schema, path);
        if found.is_empty() {
            found = defaults_check::check(schema, tolerance.unpruned_defaults, path);
        }
        is_sound = found.is_empty();
        errors.extend(found);
    }
    let mut checker = Checker {
        tolerance,
        total: 0,
        dear: Vec::new(),
        errors: FieldErrors::new(),
        rule_errors: FieldErrors::new(),
    };
    let place = Place {
        times: Some(1),
        is_root: true,
        is_outermost: true,
        has_rules: is_sound,
        ..Place::default()
    };
    checker.node(schema, place, path);
    let Checker { total, mut dear, errors: found, rule_errors, .. } = checker;
    errors.extend(found);
    errors.extend(rule_errors);
    if let Some(why) = unreadable.filter(|_| errors.len() == before) {
        errors.invalid_text(path, "", &why);
    }
    let limit = limits::STATIC_ESTIMATED_CRD_COST_LIMIT;
    if total <= limit {
        return;
    }
    dear.sort_by_key(|it| std::cmp::Reverse(it.1));
    for (at, _) in dear.into_iter().filter(|(_, cost)| *cost >= NAMED_COST).take(NAMED_MAX) {
        let what = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.forbidden(&Path::new(&at), what);
    }
    let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    errors.forbidden(path, &excess(what, total, limit));
}

/// Upstream's words for too much, also where it was told already in other words.
fn excess(what: &str, cost: u64, limit: u64) -> String {
    limits::excess(what, cost, limit).unwrap_or_else(|| what.to_owned())
        + " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place<'p> {
    /// How often there can be one; `None` where nothing bounds it.
    times: Option<u64>,
    is_root: bool,
    /// Whether it is the schema as a whole.
    is_outermost: bool,
    /// Whether rules are looked at: not in junctors, nor where the schema as a whole makes no sense.
    has_rules: bool,
    /// What has no identity of its own, so that there is no old value to compare with.
    uncorrelatable: Option<&'p str>,
    /// Whether this describes what says what an object is.
    in_meta: bool,
    /// Why there may be no defaults.
    defaults_forbidden: Option<&'p str>,
}

struct Checker {
    tolerance: Tolerance,
    total: u64,
    /// What costs, and how much.
    dear: Vec<(String, u64)>,
    errors: FieldErrors,
    /// What is wrong with rules, which is told after all the rest.
    rule_errors: FieldErrors,
}

/// By how much a node multiplies what is below it; `None` where nothing bounds it.
fn spread(schema: &Value) -> Option<u64> {
    let limit = |member: &str| Some(schema.i64_at(&[member])?.try_into().unwrap_or(0));
    match schema.str_at(&["type"]) {
        "object" if schema.get("additionalProperties").is_some() => limit("maxProperties"),
        "array" => limit("maxItems"),
        _ => Some(1),
    }
}

impl Checker {
    fn node(&mut self, schema: &Value, place: Place<'_>, path: &Path<'_>) {
        let before = self.errors.len();
        let forbidden = words::Forbidden {
            types: self.tolerance.types,
            in_meta: place.in_meta,
            defaults: place.defaults_forbidden,
        };
        words::unsupported(schema, forbidden, path, &mut self.errors);
        self.children(schema, place, path);
        words::lists_and_maps(schema, self.tolerance, path, &mut self.errors);
        let list = path.child("x-kubernetes-validations");
        for (index, rule) in schema.items_at(&["x-kubernetes-validations"]).iter().enumerate() {
            members(schema, rule, &list.index(index), &mut self.errors);
        }
        if self.errors.len() == before && place.has_rules {
            self.rules(schema, place, path);
        }
    }

    fn children(&mut self, schema: &Value, place: Place<'_>, path: &Path<'_>) {
        let here = path.to_string();
        let embedded = |it: &Value| it.bool_at(&["x-kubernetes-embedded-resource"]);
        let spread = spread(schema);
        let times = place.times.and_then(|it| Some(it.saturating_mul(spread?)));
        let is_object = place.is_outermost || embedded(schema);
        let is_outermost = place.is_outermost;
        let place = Place { times, is_outermost: false, ..place };
        if let Some(it @ Value::Object(_)) = schema.get("additionalProperties") {
            let inside = "inside additionalProperties applying to object metadata";
            let defaults_forbidden =
                if place.in_meta { Some(inside) } else { place.defaults_forbidden };
            let below = Place { is_root: embedded(it), defaults_forbidden, ..place };
            self.node(it, below, &path.child("additionalProperties"));
        }
        let at = path.child("properties");
        for (name, it) in properties(schema) {
            let is_meta = is_object && matches!(name, "metadata" | "kind" | "apiVersion");
            let reason = format!("in top-level {name}");
            let defaults_forbidden = if is_meta && is_outermost {
                Some(reason.as_str())
            } else {
                place.defaults_forbidden
            };
            let below = Place {
                is_root: embedded(it),
                in_meta: place.in_meta || is_meta,
                defaults_forbidden,
                ..place
            };
            self.node(it, below, &at.key(name));
        }
        let junctor = Place { is_root: false, has_rules: false, ..place };
        if let Some(it @ Value::Object(_)) = schema.get("not") {
            self.node(it, junctor, &path.child("not"));
        }
        for member in ["allOf", "oneOf", "anyOf"] {
            let at = path.child(member);
            for (index, it) in schema.items_at(&[member]).iter().enumerate() {
                self.node(it, junctor, &at.index(index));
            }
        }
        if let Some(it @ Value::Object(_)) = schema.get("items") {
            let keyed = schema.str_at(&["x-kubernetes-list-type"]) == "map";
            let uncorrelatable = place.uncorrelatable.or((!keyed).then_some(here.as_str()));
            let below = Place { is_root: embedded(it), uncorrelatable, ..place };
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
                let cost = of_all(&program, decl, place);
                self.cost(cost, &at, "estimated rule cost");
                let is_transition = program.reads(&env, "oldSelf");
                if is_transition && let Some(within) = place.uncorrelatable {
                    let detail = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                    );
                    self.rule_errors.invalid_text(&at, text, &detail);
                }
                if !is_transition {
                    self.old_is_optional(rule, path);
                }
            }
            Err(issues) => {
                self.refuse(rule, &at, &issues, "rule");
                return self.old_is_optional(rule, path);
            }
        }
        let message = rule.str_at(&["messageExpression"]);
        if message.trim().is_empty() {
            return;
        }
        let at = path.child("messageExpression");
        match env.compile(message, &[Type::String]) {
            Ok(program) => {
                let cost = program.cost_estimate().max;
                self.cost(cost, &at, "estimated messageExpression cost");
            }
            Err(issues) => self.refuse(rule, &at, &issues, "messageExpression"),
        }
    }

    /// A rule that uses no old value has nothing to say of it.
    fn old_is_optional(&mut self, rule: &Value, path: &Path<'_>) {
        if let Some(value) = rule.get("optionalOldSelf") {
            let detail = "may not be set if oldSelf is not used in rule";
            self.rule_errors.invalid(&path.child("optionalOldSelf"), value, detail);
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
        invalid_shown(at, &shown, &detail, &mut self.rule_errors);
    }

    fn cost(&mut self, cost: u64, at: &Path<'_>, what: &str) {
        let limit = limits::STATIC_ESTIMATED_COST_LIMIT;
        if cost > limit && !self.tolerance.cost {
            self.rule_errors.forbidden(at, &excess(what, cost, limit));
        }
        self.total = self.total.saturating_add(cost);
        self.dear.push((at.to_string(), cost));
    }
}

/// What a rule costs for all values of its node. What nothing bounds is there as often as a request has room for it.
fn of_all(program: &Program, decl: &DeclType, place: Place<'_>) -> u64 {
    let room = u64::try_from(limits::REQUEST_BYTES_MAX / (decl.min_bytes() + 1));
    let times = place.times.or(room.ok()).unwrap_or(u64::MAX);
    program.cost_estimate().max.saturating_mul(times)
}

/// What is wrong with the plain members of a rule.
fn members(schema: &Value, rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = |member| rule.str_at(&[member]);
    let blank = |member: &str| {
        rule.str_at(&[member]).trim().is_empty() && !rule.str_at(&[member]).is_empty()
    };
    let (rule_text, message) = (text("rule").trim(), text("message"));
    let at = path.child("message");
    if rule_text.is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
    } else if blank("message") {
        errors.invalid_text(&at, message, "must be non-empty if specified");
    } else if message.trim().contains(BREAKS) {
        errors.invalid_text(&at, message, "must not contain line breaks");
    } else if rule_text.contains(BREAKS) && message.trim().is_empty() {
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
        errors.invalid_text(&at, field, "must be non-empty if specified");
    }
    if field.contains(BREAKS) {
        errors.invalid_text(&at, field, "must not contain line breaks");
    }
    if !field.is_empty() && field_path(schema, field).is_err() {
        errors.invalid_text(&at, field, "must be a valid path");
    }
}
