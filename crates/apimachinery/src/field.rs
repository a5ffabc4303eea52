//! Field errors: what is wrong, where, in upstream's words.

use std::fmt::{self, Write as _};

use crate::value::Value;

/// The path of a field: `spec.containers[0].image`. A chain of references; made into text only for an error.
#[derive(Debug, Clone, Copy)]
pub struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'p> {
    Name(&'p str),
    Index(usize),
    Key(&'p str),
}

impl<'p> Path<'p> {
    /// A path of one name.
    #[must_use]
    pub fn new(name: &'p str) -> Self {
        Self { parent: None, step: Step::Name(name) }
    }

    /// The path of a member.
    #[must_use]
    pub fn child(&'p self, name: &'p str) -> Self {
        // The root of a whole object has no name of its own.
        let parent = (!matches!(self, Path { parent: None, step: Step::Name("") })).then_some(self);
        Self { parent, step: Step::Name(name) }
    }

    /// The path of a list's item.
    #[must_use]
    pub fn index(&'p self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    /// The path of a map's entry: `data[key]`.
    #[must_use]
    pub fn key(&'p self, key: &'p str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Name(name) if self.parent.is_none() => f.write_str(name),
            Step::Name(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field. The reason strings are API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// Something named by the field does not exist.
    NotFound,
    /// It must be given.
    Required,
    /// It must be unique.
    Duplicate,
    /// It cannot have this value.
    Invalid,
    /// Its value is not one of those supported.
    NotSupported,
    /// It cannot have this value in this place.
    Forbidden,
    /// It is longer than allowed.
    TooLong,
    /// It has more items than allowed.
    TooMany,
    /// The server failed.
    InternalError,
    /// It has the wrong type.
    TypeInvalid,
}

impl ErrorType {
    /// The reason in a `Status`' causes.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::InternalError => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::InternalError => "Internal error",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Its sort.
    pub kind: ErrorType,
    /// Where.
    pub field: String,
    /// What the client is told, without the path.
    pub body: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body)
    }
}

/// Everything that is wrong with an object, collected; validation does not stop at the first problem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// Nothing is wrong.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many things are wrong.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The errors.
    pub fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter()
    }

    /// Adds an error made elsewhere.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Adds all errors of another collection.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Puts all errors of another collection before those that are here.
    pub fn extend_front(&mut self, other: Self) {
        self.0.splice(0..0, other.0);
    }

    fn add(&mut self, kind: ErrorType, path: &Path<'_>, body: String) {
        self.0.push(FieldError { kind, field: path.to_string(), body });
    }

    /// `spec.x: Required value: detail`
    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.add(ErrorType::Required, path, with_detail(ErrorType::Required.words(), detail));
    }

    /// `spec.x: Invalid value: "v": detail`
    pub fn invalid(&mut self, path: &Path<'_>, value: &Value, detail: &str) {
        let words = format!("{}: {}", ErrorType::Invalid.words(), shown(value));
        self.add(ErrorType::Invalid, path, with_detail(&words, detail));
    }

    /// The same for text that is not at hand as a value.
    pub fn invalid_text(&mut self, path: &Path<'_>, value: &str, detail: &str) {
        self.invalid(path, &Value::from(value), detail);
    }

    /// One [`FieldErrors::invalid_text`] a detail.
    pub fn invalid_all(
        &mut self,
        path: &Path<'_>,
        value: &str,
        details: impl IntoIterator<Item = impl AsRef<str>>,
    ) {
        for detail in details {
            self.invalid_text(path, value, detail.as_ref());
        }
    }

    /// `spec.x: Duplicate value: "v"`
    pub fn duplicate(&mut self, path: &Path<'_>, value: &Value) {
        self.add(
            ErrorType::Duplicate,
            path,
            format!("{}: {}", ErrorType::Duplicate.words(), shown(value)),
        );
    }

    /// `spec.x: Not found: "v"`
    pub fn not_found(&mut self, path: &Path<'_>, value: &Value) {
        self.add(
            ErrorType::NotFound,
            path,
            format!("{}: {}", ErrorType::NotFound.words(), shown(value)),
        );
    }

    /// `spec.x: Unsupported value: "v": supported values: "a", "b"`; the supported values in the order given.
    pub fn not_supported<'v>(
        &mut self,
        path: &Path<'_>,
        value: &Value,
        supported: impl IntoIterator<Item = &'v str>,
    ) {
        let mut body = format!("{}: {}", ErrorType::NotSupported.words(), shown(value));
        let mut separator = ": supported values: ";
        for one in supported {
            // Writing to a string does not fail.
            let _ = write!(body, "{separator}{}", quote(one));
            separator = ", ";
        }
        self.add(ErrorType::NotSupported, path, body);
    }

    /// `spec.x: Forbidden: detail`
    pub fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.add(ErrorType::Forbidden, path, with_detail(ErrorType::Forbidden.words(), detail));
    }

    /// `spec.x: Too long: may not be more than 63 bytes`
    pub fn too_long(&mut self, path: &Path<'_>, limit: usize) {
        let words = ErrorType::TooLong.words();
        self.add(ErrorType::TooLong, path, format!("{words}: may not be more than {limit} bytes"));
    }

    /// `spec.x: Too many: 20: must have at most 10 items`
    pub fn too_many(&mut self, path: &Path<'_>, count: usize, limit: usize) {
        let items = if limit == 1 { "item" } else { "items" };
        let words = ErrorType::TooMany.words();
        self.add(
            ErrorType::TooMany,
            path,
            format!("{words}: {count}: must have at most {limit} {items}"),
        );
    }

    /// `spec.x: Invalid value: "string": detail`, for a value of the wrong type.
    pub fn type_invalid(&mut self, path: &Path<'_>, value: &Value, detail: &str) {
        let words = format!("{}: {}", ErrorType::TypeInvalid.words(), shown(value));
        self.add(ErrorType::TypeInvalid, path, with_detail(&words, detail));
    }
}

fn with_detail(words: &str, detail: &str) -> String {
    if detail.is_empty() { words.to_owned() } else { format!("{words}: {detail}") }
}

/// Text as Go's `%q` shows it.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if is_printed(c) => out.push(c),
            c if u32::from(c) > 0xffff => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Whether Go prints a character as it is: of spaces only the plain one, and nothing that is not seen.
fn is_printed(c: char) -> bool {
    let unseen = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
            | '\u{f0000}'..
    );
    c == ' ' || !(c.is_control() || c.is_whitespace() || unseen)
}

/// A value as upstream shows it in errors: text quoted, the rest as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => crate::json::to_string(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn errors_are_worded_as_upstream_words_them() {
        let mut errors = FieldErrors::new();
        let spec = Path::new("spec");
        let ports = spec.child("ports");
        let first = ports.index(0);
        let port = first.child("port");
        errors.invalid(&port, &value!(0), "must be between 1 and 65535, inclusive");
        errors.required(&spec.child("selector"), "");
        errors.not_supported(&spec.child("type"), &value!("x"), ["A", "B"]);
        errors.forbidden(&Path::new("data").key("k"), "no");
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.selector: Required value",
                "spec.type: Unsupported value: \"x\": supported values: \"A\", \"B\"",
                "data[k]: Forbidden: no",
            ]
        );
    }
}
