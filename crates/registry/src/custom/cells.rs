//! Paths into objects as columns, selectable fields and scale subresources write them: `.spec.replicas`,
//! `.status.conditions[?(@.type=="Ready")].status`, `.metadata.labels.example\.com/size`.

use apimachinery::{Value, json, time};
use jiff::Timestamp;

/// How many steps a path may have.
const STEPS_MAX: usize = 100;
/// How many values one step may lead to.
const FOUND_MAX: usize = 10_000;

/// A path.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// `.name`, `['name']`
    Field(String),
    /// `[3]`, `[-1]`
    Index(i64),
    /// `[1:3]`
    Slice(Option<i64>, Option<i64>),
    /// `[*]`, `.*`
    All,
    /// `..name`
    Anywhere(String),
    /// `[?(@.type=="Ready")]`
    Where(Filter),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    path: JsonPath,
    /// The comparison and what is compared with; `None` asks whether the path leads anywhere.
    compared: Option<(Comparison, Value)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const COMPARISONS: &[(&str, Comparison)] = &[
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl JsonPath {
    /// The path that a text spells; `None` where it spells none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text.trim().strip_prefix('$').unwrap_or(text.trim());
        while !rest.is_empty() {
            if steps.len() == STEPS_MAX {
                return None;
            }
            let step;
            (step, rest) = if let Some(after) = rest.strip_prefix("..") {
                let (name, rest) = name(after);
                (Step::Anywhere(name), rest)
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                (bracket(&after[..end])?, &after[end + 1..])
            } else {
                let after = rest.strip_prefix('.').unwrap_or(rest);
                if after.is_empty() && steps.is_empty() {
                    break;
                }
                if after.starts_with('[') {
                    rest = after;
                    continue;
                }
                let (name, rest) = name(after);
                let step = if name == "*" { Step::All } else { Step::Field(name) };
                (step, rest)
            };
            steps.push(step);
        }
        Some(Self(steps))
    }

    /// The first value that it leads to.
    pub(super) fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for it in found {
                step.take(it, &mut next);
            }
            found = next;
        }
        found.first().copied()
    }
}

/// A name up to the next step; a backslash takes the next letter as it is.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(letters.next().map(|(_, it)| it)),
            other => name.push(other),
        }
    }
    (name, "")
}

/// Where the bracket that is open ends; brackets in quotes and in filters do not count.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(it), letter) if it == letter => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|it| it.strip_suffix(')')) {
        return Some(Step::Where(self::filter(filter)?));
    }
    if let Some(name) = quoted(text) {
        return Some(Step::Field(name.replace('\\', "")));
    }
    if let Some((from, to)) = text.split_once(':') {
        let number = |it: &str| if it.is_empty() { Some(None) } else { it.parse().ok().map(Some) };
        return Some(Step::Slice(number(from)?, number(to)?));
    }
    text.parse().ok().map(Step::Index)
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|it| text.strip_prefix(*it)?.strip_suffix(*it))
}

fn filter(text: &str) -> Option<Filter> {
    let place = |(word, _): &&(&str, Comparison)| outside_quotes(text, word);
    let found = COMPARISONS
        .iter()
        .filter_map(|it| Some((place(&it)?, it)))
        // The one that comes first; of two that begin there, the longer.
        .min_by_key(|(at, (word, _))| (*at, usize::MAX - word.len()));
    let path = |text: &str| JsonPath::parse(text.trim().strip_prefix('@')?);
    let Some((at, (word, comparison))) = found else {
        return Some(Filter { path: path(text)?, compared: None });
    };
    let right = text[at + word.len()..].trim();
    let right = match quoted(right) {
        Some(text) => Value::from(text),
        None => json::parse(right.as_bytes()).ok()?,
    };
    Some(Filter { path: path(&text[..at])?, compared: Some((*comparison, right)) })
}

fn outside_quotes(text: &str, word: &str) -> Option<usize> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match quote {
            Some(it) if it == letter => quote = None,
            Some(_) => {}
            None if matches!(letter, '\'' | '"') => quote = Some(letter),
            None if text[at..].starts_with(word) => return Some(at),
            None => {}
        }
    }
    None
}

impl Step {
    fn take<'v>(&self, value: &'v Value, found: &mut Vec<&'v Value>) {
        if found.len() >= FOUND_MAX {
            return;
        }
        match (self, value) {
            (Self::Field(name), Value::Object(object)) => found.extend(object.get(name)),
            (Self::Index(at), Value::Array(items)) => {
                found.extend(place(*at, items.len()).and_then(|at| items.get(at)));
            }
            (Self::Slice(from, to), Value::Array(items)) => {
                let edge = |at: &Option<i64>, other| {
                    at.map_or(Some(other), |at| place(at, items.len() + 1)).unwrap_or(other)
                };
                let (from, to) = (edge(from, 0), edge(to, items.len()).min(items.len()));
                found.extend(items.get(from..to).unwrap_or_default());
            }
            (Self::All, Value::Array(items)) => found.extend(items),
            (Self::All, Value::Object(object)) => found.extend(object.iter().map(|(_, it)| it)),
            (Self::Where(filter), Value::Array(items)) => {
                found.extend(items.iter().filter(|it| filter.takes(it)));
            }
            (Self::Anywhere(name), it) => anywhere(name, it, found),
            _ => {}
        }
    }
}

fn place(at: i64, length: usize) -> Option<usize> {
    match usize::try_from(at) {
        Ok(at) => Some(at),
        Err(_) => length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?),
    }
}

fn anywhere<'v>(name: &str, value: &'v Value, found: &mut Vec<&'v Value>) {
    if found.len() >= FOUND_MAX {
        return;
    }
    match value {
        Value::Object(object) => {
            found.extend(object.get(name));
            object.iter().for_each(|(_, it)| anywhere(name, it, found));
        }
        Value::Array(items) => items.iter().for_each(|it| anywhere(name, it, found)),
        _ => {}
    }
}

impl Filter {
    fn takes(&self, item: &Value) -> bool {
        let Some(left) = self.path.first(item) else { return false };
        let Some((comparison, right)) = &self.compared else { return true };
        let order = match (left, right) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) if a == b => Some(std::cmp::Ordering::Equal),
            _ => None,
        };
        match comparison {
            Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
            Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

/// The cell of a column of this type.
pub(super) fn cell(path: &JsonPath, kind: &str, object: &Value, now: Timestamp) -> Value {
    let Some(value) = path.first(object) else { return Value::Null };
    match (kind, value) {
        ("string", value) => text(value).into(),
        ("integer", Value::Int(_)) | ("number", Value::Float(_)) | ("boolean", Value::Bool(_)) => {
            value.clone()
        }
        #[expect(clippy::cast_possible_truncation, reason = "as upstream: what is shown is whole")]
        ("integer", Value::Float(it)) => Value::Int(*it as i64),
        ("number", Value::Int(_)) => value.clone(),
        ("date", Value::String(text)) => match time::parse_time(text) {
            Ok(_) => crate::table::age(value, &[], now),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

/// A value as text: what is text as it is, the rest as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Null => "<nil>".into(),
        other => json::to_string(other),
    }
}

/// The value of a selectable field, which is a scalar.
pub(super) fn field(path: &JsonPath, object: &Value) -> compact_str::CompactString {
    match path.first(object) {
        None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => Default::default(),
        Some(value) => text(value).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    fn check(path: &str, kind: &str, expected: &Value) {
        let object = value!({
            "metadata": {"labels": {"example.com/size": "big"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"n": 3, "f": 1.5, "list": ["a", "b", "c"], "on": true},
            "status": {"conditions": [
                {"type": "Other", "status": "False", "n": 1},
                {"type": "Ready", "status": "True", "n": 2},
            ]},
        });
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        let path = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(cell(&path, kind, &object, now), *expected, "{path:?}");
    }

    #[test]
    fn paths_lead_where_upstream_goes() {
        check(".spec.n", "integer", &value!(3));
        check(".spec.n", "string", &value!("3"));
        check(".spec.on", "boolean", &value!(true));
        check(".spec.n", "boolean", &Value::Null);
        check(".spec.missing", "string", &Value::Null);
        check(".spec.list", "string", &value!("[\"a\",\"b\",\"c\"]"));
        check(".spec.list[1]", "string", &value!("b"));
        check(".spec.list[-1]", "string", &value!("c"));
        check(".spec.list[1:]", "string", &value!("b"));
        check(".spec.list[*]", "string", &value!("a"));
        check(".spec['n']", "integer", &value!(3));
        check(r".metadata.labels.example\.com/size", "string", &value!("big"));
        check(r".metadata.labels['example\.com/size']", "string", &value!("big"));
        check(".status.conditions[?(@.type==\"Ready\")].status", "string", &value!("True"));
        check(".status.conditions[?(@.type=='Ready')].status", "string", &value!("True"));
        check(".status.conditions[?(@.n>=2)].type", "string", &value!("Ready"));
        check(".status.conditions[?(@.type!=\"Ready\")].type", "string", &value!("Other"));
        check("..type", "string", &value!("Other"));
        check(".metadata.creationTimestamp", "date", &value!("120m"));
        check(".spec.list[0]", "date", &value!("<invalid>"));
    }

    #[test]
    fn what_is_no_path_is_none() {
        for text in [".a[", ".a[?(@.b==)]", ".a[x]", &".a".repeat(200)] {
            assert_eq!(JsonPath::parse(text), None, "{text}");
        }
    }
}
