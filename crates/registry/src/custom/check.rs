//! Values against a schema, in upstream's words and order.
//!
//! On an update a value that has not changed is not complained about again, wherever old and new can be told to be the
//! same value: members by name, items of lists with keys by their keys.

use std::collections::BTreeMap;

use apimachinery::field::{ErrorType, FieldError, quote};
use apimachinery::schema::ListKind;
use apimachinery::{FieldErrors, Object, Path, Value, json};

use super::schema::{Additional, Bound, Checks, Kind, Node, Pattern, number};

/// What is wrong, and how much was right: of several alternatives the one that fits best is told about.
#[derive(Debug, Default)]
struct Outcome {
    errors: FieldErrors,
    matches: usize,
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Checks a whole object; `old` is what it was.
pub(super) fn check(root: &Node, value: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    errors.extend(node(root, value, old, &Path::new("")).errors);
}

/// Whether a path is that of the whole object.
fn is_root(path: &Path<'_>) -> bool {
    path.to_string().is_empty()
}

/// An error of the whole object, which upstream tells without a field.
fn rootless(body: String) -> FieldError {
    FieldError { kind: ErrorType::Invalid, field: "<nil>".into(), body }
}

fn node(of: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) -> Outcome {
    let mut outcome = unratcheted(of, value, old, path);
    if !outcome.is_valid() && old == Some(value) {
        outcome.errors = FieldErrors::new();
    }
    outcome
}

/// A value by itself: alternatives know nothing of what was before.
fn alone(of: &Node, value: &Value, path: &Path<'_>) -> Outcome {
    unratcheted(of, value, None, path)
}

fn unratcheted(of: &Node, value: &Value, old: Option<&Value>, path: &Path<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    type_of(of, value, path, &mut outcome);
    if value.is_null() {
        if let Some(checks) = &of.checks {
            values(checks, value, path, &mut outcome);
        }
        return outcome;
    }
    if let Some(checks) = &of.checks {
        composed(checks, value, path, &mut outcome);
        scalar(of, checks, value, path, &mut outcome);
    } else if matches!(value, Value::Float(_)) {
        in_range(of, value, "Checked", path, &mut outcome.errors);
    }
    if let Value::Array(items) = value {
        list(of, items, old, path, &mut outcome);
    }
    if let Some(checks) = &of.checks {
        values(checks, value, path, &mut outcome);
    }
    if let Value::Object(object) = value {
        members(of, object, old, path, &mut outcome);
    }
    outcome
}

fn type_of(of: &Node, value: &Value, path: &Path<'_>, outcome: &mut Outcome) {
    let wanted = match (of.int_or_string, of.kind) {
        (true, _) => "integer,string",
        (false, Some(kind)) => kind.as_str(),
        (false, None) => "",
    };
    let format = of.checks.as_ref().map_or("", |it| it.format_name.as_str());
    let (found, found_format) = match value {
        Value::Int(_) => ("integer", "int64"),
        Value::Float(_) => ("number", "float64"),
        other => (other.schema_type(), ""),
    };
    let is = |name: &str| wanted.split(',').any(|it| it == name);
    // A whole number is one however it is written.
    let is_whole = matches!(value, Value::Float(it) if is_integer(*it)) && is("integer");
    let is_number = matches!(value, Value::Int(_)) && is("number");
    let is_text = matches!(value, Value::String(_) | Value::Array(_));
    let fits = is(found) || is_whole || is_number;
    if value.is_null() {
        if wanted.is_empty() || of.nullable {
            outcome.matches += 2;
        } else {
            outcome.matches += 1;
            wrong_type(path, wanted, found, &mut outcome.errors);
        }
    } else if !is_text && !format.is_empty() && !fits && format != found_format {
        outcome.matches += 1;
        wrong_type(path, format, found_format, &mut outcome.errors);
    } else if !wanted.is_empty() {
        // A text with a format is judged by the format alone.
        let by_format = is_text && !format.is_empty() && !is("number") && !is("integer");
        if fits || by_format {
            outcome.matches += 2;
        } else {
            outcome.matches += 1;
            wrong_type(path, wanted, found, &mut outcome.errors);
        }
    }
}

/// Whether a float is a whole number that JSON can be relied on to carry, or so near to one that it makes no difference.
fn is_integer(number: f64) -> bool {
    const LARGEST: f64 = 9_007_199_254_740_991.0;
    let (rounded, near) = (number.round(), 1e-9);
    number.abs() <= LARGEST
        && (number == rounded
            || (rounded != 0.0 && (number - rounded).abs() < near * rounded.abs()))
}

fn wrong_type(path: &Path<'_>, wanted: &str, found: &str, errors: &mut FieldErrors) {
    let detail = format!("{path} in body must be of type {wanted}: {}", quote(found));
    if is_root(path) {
        let body = format!("Invalid value: {}: {detail}", quote(found));
        errors.push(FieldError { kind: ErrorType::TypeInvalid, ..rootless(body) });
    } else {
        errors.type_invalid(path, &found.into(), &detail);
    }
}

fn invalid(path: &Path<'_>, value: &Value, detail: &str, errors: &mut FieldErrors) {
    let detail = format!("{path} in body {detail}");
    if is_root(path) {
        let shown = json::to_string(value);
        errors.push(rootless(format!("Invalid value: {shown}: {detail}")));
    } else {
        errors.invalid(path, value, &detail);
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn composed(checks: &Checks, value: &Value, path: &Path<'_>, outcome: &mut Outcome) {
    let said =
        |text: &str| rootless(format!("Invalid value: \"\": {} {text}", quote(&path.to_string())));
    if !checks.any_of.is_empty() {
        let (best, valid) = best_of(&checks.any_of, value, path, true);
        if valid == 0 {
            outcome.errors.push(said("must validate at least one schema (anyOf)"));
        }
        outcome.merge(best);
    }
    if !checks.one_of.is_empty() {
        let (best, valid) = best_of(&checks.one_of, value, path, false);
        if valid != 1 {
            let found = match valid {
                0 => "Found none valid".to_owned(),
                several => format!("Found {several} valid alternatives"),
            };
            let text = format!("must validate one and only one schema (oneOf). {found}");
            outcome.errors.push(said(&text));
        }
        outcome.merge(best);
    }
    if !checks.all_of.is_empty() {
        let mut valid = 0;
        for it in &checks.all_of {
            let of = alone(it, value, path);
            valid += usize::from(of.is_valid());
            outcome.merge(of);
        }
        if valid != checks.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            outcome.errors.push(said(&format!("must validate all the schemas (allOf){none}")));
        }
    }
    if let Some(not) = &checks.not
        && alone(not, value, path).is_valid()
    {
        outcome.errors.push(said("must not validate the schema (not)"));
    }
    outcome.matches += 2;
}

/// The first alternative that is valid, or else the one of which most was right; and how many are valid.
fn best_of(all: &[Node], value: &Value, path: &Path<'_>, stop: bool) -> (Outcome, usize) {
    let mut valid: Option<Outcome> = None;
    let mut best: Option<Outcome> = None;
    let mut count = 0;
    for it in all {
        let outcome = alone(it, value, path);
        if outcome.is_valid() {
            count += 1;
            valid = valid.or(Some(outcome));
            if stop {
                break;
            }
        } else if best.as_ref().is_none_or(|it| outcome.matches > it.matches) {
            best = Some(outcome);
        }
    }
    (valid.or(best).unwrap_or_default(), count)
}

/// Text and numbers.
fn scalar(of: &Node, checks: &Checks, value: &Value, path: &Path<'_>, outcome: &mut Outcome) {
    let errors = &mut outcome.errors;
    if let Some(text) = value.as_str() {
        self::text(checks, text, value, path, errors);
        outcome.matches += 1;
    } else if let Some(it) = number(value) {
        // As upstream, in this order.
        in_range(of, value, "Checked", path, errors);
        if let Some(bound) = &checks.multiple_of {
            multiple(of, bound, value, it, path, errors);
        }
        let whole = |bound: &Bound, errors: &mut FieldErrors, what: &str| {
            let fits = in_range(of, &bound.shown, what, path, errors);
            fits && matches!(value, Value::Int(_))
        };
        if let Some(bound) = &checks.maximum {
            let (limit, shown) = limit(bound, whole(bound, errors, "Maximum boundary"));
            if it > limit || (bound.exclusive && it >= limit) {
                let equal = if bound.exclusive { "" } else { "or equal to " };
                invalid(path, value, &format!("should be less than {equal}{shown}"), errors);
            }
        }
        if let Some(bound) = &checks.minimum {
            let (limit, shown) = limit(bound, whole(bound, errors, "Minimum boundary"));
            if it < limit || (bound.exclusive && it <= limit) {
                let equal = if bound.exclusive { "" } else { "or equal to " };
                invalid(path, value, &format!("should be greater than {equal}{shown}"), errors);
            }
        }
        outcome.matches += 1;
    }
}

/// A bound for a number, and how it is shown: whole numbers are compared with what is whole of it.
fn limit(bound: &Bound, is_whole: bool) -> (f64, String) {
    let limit = if is_whole { bound.limit.trunc() } else { bound.limit };
    (limit, apimachinery::patch::go_text(&Value::Float(limit)))
}

fn multiple(
    of: &Node,
    bound: &Bound,
    value: &Value,
    number: f64,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let fits = in_range(of, &bound.shown, "MultipleOf", path, errors);
    let factor =
        if let (true, Value::Int(_)) = (fits, value) { bound.limit.trunc() } else { bound.limit };
    let shown = apimachinery::patch::go_text(&Value::Float(factor));
    if factor <= 0.0 {
        let body = format!(
            "Invalid value: \"\": factor MultipleOf declared for {path} must be positive: {shown}"
        );
        return errors.push(rootless(body));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the bound is a whole number here")]
    let is_multiple = match value {
        Value::Int(it) if fits => i128::from(*it) % (factor as i128) == 0,
        _ if factor < 1.0 => is_integer(1.0 / factor * number),
        _ => is_integer(number / factor),
    };
    if !is_multiple {
        invalid(path, value, &format!("should be a multiple of {shown}"), errors);
    }
}

/// Whether a number can be what its type and format say without a loss; it is told where not.
fn in_range(
    of: &Node,
    value: &Value,
    what: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> bool {
    let format = of.checks.as_ref().map_or("", |it| it.format_name.as_str());
    let kind = of.kind.filter(|_| !of.int_or_string);
    let whole = match value {
        Value::Int(it) => Some(i128::from(*it)),
        #[expect(clippy::cast_possible_truncation, reason = "it is checked to be whole")]
        Value::Float(it) if it.fract() == 0.0 && it.abs() < 1e21 => Some(*it as i128),
        _ => None,
    };
    let (fits, format) = match (kind, format) {
        (Some(Kind::Integer), "int32") => {
            (whole.is_some_and(|it| i32::try_from(it).is_ok()), format)
        }
        (Some(Kind::Integer), _) => {
            let format = if format == "int64" { format } else { "" };
            (whole.is_some_and(|it| i64::try_from(it).is_ok()), format)
        }
        (Some(Kind::Number), "float") => {
            (number(value).is_some_and(|it| it.abs() <= f64::from(f32::MAX)), format)
        }
        _ => (true, ""),
    };
    if !fits {
        let kind = kind.map_or("", Kind::as_str);
        let format = match format {
            "" => "(default format)".to_owned(),
            format => format!("with format {format}"),
        };
        errors.push(rootless(format!(
            "Invalid value: \"\": {what} value must be of type {kind} {format} in {path}"
        )));
    }
    fits
}

fn text(checks: &Checks, text: &str, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(error) = first_fault(checks, text, value, path) {
        errors.extend(error);
    }
    if let Some(format) = checks.format.filter(|it| !it.fits(text)) {
        let detail = format!("{path} in body must be of type {}: {}", format.name, quote(text));
        errors.type_invalid(path, value, &detail);
    }
}

/// The first of what is wrong with a text; no more is told.
fn first_fault(checks: &Checks, text: &str, value: &Value, path: &Path<'_>) -> Option<FieldErrors> {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let mut errors = FieldErrors::new();
    if let Some(limit) = checks.max_length.filter(|limit| length > *limit) {
        errors.too_long(path, usize::try_from(limit).unwrap_or_default());
        return Some(errors);
    }
    if let Some(limit) = checks.min_length.filter(|limit| length < *limit) {
        invalid(path, value, &format!("should be at least {limit} chars long"), &mut errors);
        return Some(errors);
    }
    let Pattern { text: pattern, regex } = checks.pattern.as_ref()?;
    let detail = match regex {
        Ok(regex) if regex.is_match(text) => return None,
        Ok(_) => format!("should match '{pattern}'"),
        Err(error) => format!("should match '{pattern}, but pattern is invalid: {error}'"),
    };
    invalid(path, value, &detail, &mut errors);
    Some(errors)
}

/// The values that are allowed.
fn values(checks: &Checks, value: &Value, path: &Path<'_>, outcome: &mut Outcome) {
    if checks.values.is_empty() || checks.values.iter().any(|it| is_same(it, value)) {
        outcome.matches += 1;
        return;
    }
    let all: Vec<String> = checks
        .values
        .iter()
        .map(|it| it.as_str().map_or_else(|| json::to_string(it), str::to_owned))
        .collect();
    outcome.errors.not_supported(path, value, all.iter().map(String::as_str));
}

fn is_same(a: &Value, b: &Value) -> bool {
    a == b || matches!((number(a), number(b)), (Some(a), Some(b)) if a.total_cmp(&b).is_eq())
}

fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

fn list(of: &Node, items: &[Value], old: Option<&Value>, path: &Path<'_>, outcome: &mut Outcome) {
    if let Some(node_of) = &of.items {
        let olds = old_items(of, old);
        for (index, item) in items.iter().enumerate() {
            let before = if olds.is_empty() { None } else { olds.get(&key_text(of, item)) };
            outcome.merge(node(node_of, item, before.copied(), &path.index(index)));
        }
    }
    let Some(checks) = &of.checks else { return };
    let errors = &mut outcome.errors;
    if let Some(limit) = checks.min_items.filter(|limit| count(items.len()) < *limit) {
        let whole = Value::from(count(items.len()));
        invalid(path, &whole, &format!("should have at least {limit} items"), errors);
    }
    if let Some(limit) = checks.max_items.filter(|limit| count(items.len()) > *limit) {
        errors.too_many(path, items.len(), usize::try_from(limit).unwrap_or_default());
    }
    if checks.unique_items && !second_places(items.iter()).is_empty() {
        errors.invalid_text(path, "", &format!("{path} in body shouldn't contain duplicates"));
    }
    outcome.matches += 1;
}

/// What the items of a list were, by their keys: known of lists with keys only.
pub(super) fn old_items<'v>(of: &Node, old: Option<&'v Value>) -> BTreeMap<String, &'v Value> {
    let items = old.and_then(Value::as_array).filter(|_| of.list == ListKind::Map);
    items.into_iter().flatten().map(|it| (key_text(of, it), it)).collect()
}

/// The keys of an item as text.
pub(super) fn key_text(of: &Node, item: &Value) -> String {
    let default = |key: &str| of.items.as_ref()?.property(key)?.default.as_ref();
    let mut text = String::new();
    for key in &of.keys {
        if let Some(value) = item.get(key).or_else(|| default(key)) {
            text.push_str(&json::to_string(value));
        }
        text.push(',');
    }
    text
}

/// The places of items that are there a second time; a third is not told.
pub(super) fn second_places<'v>(items: impl Iterator<Item = &'v Value>) -> Vec<usize> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut places = Vec::new();
    for (place, item) in items.enumerate() {
        let times = seen.entry(json::to_string(item)).or_default();
        *times += 1;
        if *times == 2 {
            places.push(place);
        }
    }
    places
}

fn members(
    of: &Node,
    object: &Object,
    old: Option<&Value>,
    path: &Path<'_>,
    outcome: &mut Outcome,
) {
    if let Some(checks) = &of.checks {
        // Too few or too many members, and nothing is said of them.
        if let Some(limit) = checks.min_properties.filter(|it| count(object.len()) < *it) {
            let whole = Value::from(count(object.len()));
            let detail = format!("should have at least {limit} properties");
            return invalid(path, &whole, &detail, &mut outcome.errors);
        }
        if let Some(limit) = checks.max_properties.filter(|it| count(object.len()) > *it) {
            let limit = usize::try_from(limit).unwrap_or_default();
            return outcome.errors.too_many(path, object.len(), limit);
        }
    }
    for (name, member) in object.iter() {
        if of.property(name).is_some() {
            continue;
        }
        let at = path.child(name);
        match &of.additional {
            Additional::Of(it) => {
                outcome.merge(node(it, member, old.and_then(|it| it.get(name)), &at));
            }
            Additional::Nothing => {
                let detail = "is a forbidden property";
                outcome.errors.invalid_text(path, "", &format!("{at} in body {detail}"));
            }
            Additional::Unsaid | Additional::Anything => {}
        }
    }
    for (name, member) in object.iter() {
        if let Some(it) = of.property(name) {
            let before = old.and_then(|old| old.get(name));
            outcome.merge(node(it, member, before, &path.child(name)));
        }
    }
    for name in of.checks.iter().flat_map(|it| &it.required) {
        if !object.contains_key(name) {
            outcome.errors.required(&path.child(name), "");
        }
    }
    outcome.matches += 1;
}
