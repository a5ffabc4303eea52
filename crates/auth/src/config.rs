//! The configuration files of authentication and authorization: read strictly, checked as a whole, in upstream's words.
//!
//! Knows files only as text.

pub mod authentication;
pub mod authorization;

use apimachinery::{FieldErrors, Path, Value, yaml};

/// The largest configuration file, in bytes.
pub const MAX_FILE_BYTES: usize = 10 << 20;
const GROUP: &str = "apiserver.config.k8s.io";

/// What a member of a file may be.
#[derive(Debug)]
enum Shape {
    Text,
    Bool,
    List(&'static Shape),
    Object(&'static [(&'static str, Shape)]),
}

/// Reads a file of one kind, which may have no members but those of `members`.
fn read(
    text: &[u8],
    kind: &str,
    versions: &[&str],
    members: &'static [(&'static str, Shape)],
) -> Result<Value, String> {
    if text.len() > MAX_FILE_BYTES {
        return Err(format!("the file has more than {MAX_FILE_BYTES} bytes"));
    }
    let parsed = yaml::parse_reporting(text).map_err(|error| error.to_string())?;
    let (value, repeated) = parsed;
    let version = value.str_at(&["apiVersion"]);
    let given = value.str_at(&["kind"]);
    for (member, text) in [("kind", given), ("apiVersion", version)] {
        if text.is_empty() {
            return Err(format!("Object '{member}' is missing in the configuration"));
        }
    }
    let known = versions.iter().any(|it| version == format!("{GROUP}/{it}"));
    if !known || given != kind {
        return Err(format!("no kind {given:?} is registered for version {version:?}"));
    }
    if let Some(problem) = yaml::strict_error(&repeated) {
        return Err(problem);
    }
    let mut problems = Vec::new();
    check_members(&value, members, "", &mut problems);
    if problems.is_empty() {
        return Ok(value);
    }
    Err(format!("strict decoding error: {}", problems.join(", ")))
}

fn check_members(
    value: &Value,
    members: &'static [(&'static str, Shape)],
    at: &str,
    problems: &mut Vec<String>,
) {
    let Some(object) = value.as_object() else {
        problems.push(format!("{at}: must be an object"));
        return;
    };
    for (name, value) in object.iter() {
        if at.is_empty() && matches!(name, "apiVersion" | "kind") {
            continue;
        }
        let path = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        match members.iter().find(|it| it.0 == name) {
            Some((_, shape)) => check(value, shape, &path, problems),
            None => problems.push(format!("unknown field {path:?}")),
        }
    }
}

fn check(value: &Value, shape: &'static Shape, at: &str, problems: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match shape {
        Shape::Text if value.as_str().is_none() => {
            problems.push(format!("{at}: must be a string"));
        }
        Shape::Bool if value.as_bool().is_none() => {
            problems.push(format!("{at}: must be true or false"));
        }
        Shape::Text | Shape::Bool => {}
        Shape::List(item) => match value.as_array() {
            None => problems.push(format!("{at}: must be a list")),
            Some(items) => {
                for (index, value) in items.iter().enumerate() {
                    check(value, item, &format!("{at}[{index}]"), problems);
                }
            }
        },
        Shape::Object(members) => check_members(value, members, at, problems),
    }
}

/// All errors as one text.
fn joined(errors: &FieldErrors) -> String {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// The list of texts below a member.
fn texts(value: &Value, member: &str) -> Vec<String> {
    value.items_at(&[member]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A key must be a domain, a slash, and a path (upstream: `IsDomainPrefixedPath`).
pub fn domain_prefixed_path(at: &Path<'_>, key: &str, errors: &mut FieldErrors) {
    if key.is_empty() {
        errors.required(at, "");
        return;
    }
    let Some((host, path)) =
        key.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty())
    else {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.invalid_text(at, key, why);
        return;
    };
    for problem in &apimachinery::validation::dns1123_subdomain(host) {
        errors.invalid_text(at, host, problem);
    }
    let allowed = |it: char| it.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(it);
    if !path.chars().all(allowed) {
        let why = "Invalid path (e.g. '/a/b/c')";
        errors.invalid_text(at, path, why);
    }
}
