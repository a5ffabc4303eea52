//! Field selectors: `metadata.name=web,status.phase!=Running`.
//!
//! Knows the text, not which fields a kind can be selected by: the caller maps names first.

use std::fmt;

use compact_str::CompactString;

/// One term of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The field's path.
    pub field: CompactString,
    /// The value it must, or must not, have.
    pub value: CompactString,
    /// Whether the value is the one it must not have.
    pub not: bool,
}

/// All terms must hold; no term holds for every object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    terms: Vec<Term>,
}

/// A selector that does not parse, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// No operator.
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The part of it.
        part: String,
    },
    /// A backslash before something that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A comma or equals sign that needs a backslash.
    #[error("invalid field selector: unescaped character in value: {}", u32::from(*.0))]
    Unescaped(char),
    /// The kind cannot be selected by this field; the text is the caller's.
    #[error("{0}")]
    Field(String),
}

impl Selector {
    /// Every object.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Objects whose field has this value.
    #[must_use]
    pub fn one(field: &str, value: &str) -> Self {
        Self { terms: vec![Term { field: field.into(), value: value.into(), not: false }] }
    }

    /// Reads a selector.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(selector: &str) -> Result<Self, SelectorError> {
        let mut parts = split(selector);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let (field, operator, value) = operator(part).ok_or_else(|| SelectorError::Term {
                selector: selector.to_owned(),
                part: part.to_owned(),
            })?;
            let value = unescape(value)?;
            // Nothing equals nothing: upstream takes such a term for every object.
            if !field.is_empty() || !value.is_empty() {
                terms.push(Term { field: field.into(), value, not: operator == "!=" });
            }
        }
        Ok(Self { terms })
    }

    /// The same selector with each field and value made into the kind's own by `map`.
    ///
    /// # Errors
    /// What `map` says about a field that the kind cannot be selected by.
    pub fn map(
        self,
        mut map: impl FnMut(&str, &str) -> Result<(CompactString, CompactString), String>,
    ) -> Result<Self, SelectorError> {
        let terms = self.terms.into_iter().map(|term| {
            let (field, value) = map(&term.field, &term.value).map_err(SelectorError::Field)?;
            Ok(Term { field, value, ..term })
        });
        Ok(Self { terms: terms.collect::<Result<_, SelectorError>>()? })
    }

    /// Whether every object is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms, in order of their text.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The value that a field must have, if the selector says so.
    #[must_use]
    pub fn requires(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| !term.not && term.field == field)?;
        Some(&term.value)
    }

    /// Whether an object with these fields is selected; a field it lacks is the empty text.
    pub fn matches<'l>(&self, lookup: impl Fn(&str) -> Option<&'l str>) -> bool {
        let holds =
            |term: &Term| (lookup(&term.field).unwrap_or_default() == term.value) != term.not;
        self.terms.iter().all(holds)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let operator = if term.not { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// A value with backslashes where a selector needs them.
#[must_use]
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The parts between commas that are not escaped.
fn split(selector: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, byte) in selector.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&selector[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&selector[start..]);
    parts
}

/// Field, operator and value, divided at the first operator.
fn operator(part: &str) -> Option<(&str, &str, &str)> {
    let at = part.bytes().enumerate().find_map(|(index, byte)| {
        (byte == b'=' || (byte == b'!' && part[index + 1..].starts_with('='))).then_some(index)
    })?;
    let rest = &part[at..];
    let operator = ["!=", "==", "="].into_iter().find(|operator| rest.starts_with(operator))?;
    Some((&part[..at], operator, &rest[operator.len()..]))
}

fn unescape(value: &str) -> Result<CompactString, SelectorError> {
    let mut out = CompactString::default();
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                next => {
                    let sequence = std::iter::once('\\').chain(next).collect();
                    return Err(SelectorError::Escape(sequence));
                }
            },
            ',' | '=' => return Err(SelectorError::Unescaped(c)),
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let outcome = Selector::parse(text).map_or_else(|e| e.to_string(), |s| s.to_string());
        assert_eq!(outcome, expected, "for {text:?}");
    }

    #[test]
    fn selectors_read_and_print() {
        check("", "");
        check("=", "");
        check("b=2,a==1,c!=3", "a=1,b=2,c!=3");
        check(r"a=x\,y\=z\\", r"a=x\,y\=z\\");
        check("a=b,,", "a=b");
        check("é!=ü", "é!=ü");
        check("a", "invalid selector: 'a'; can't understand 'a'");
        check("a=1,b!c", "invalid selector: 'a=1,b!c'; can't understand 'b!c'");
        check(r"a=\x", r"invalid field selector: invalid escape sequence: \x");
        check("a=\\", "invalid field selector: invalid escape sequence: \\");
        check("a=b=c", "invalid field selector: unescaped character in value: 61");
    }

    #[test]
    fn selectors_match_and_map() {
        let selector = Selector::parse("a=1,b!=2").unwrap();
        assert!(selector.matches(|field| (field == "a").then_some("1")));
        assert!(!selector.matches(|field| Some(if field == "a" { "1" } else { "2" })));
        assert_eq!(selector.requires("a"), Some("1"));
        assert_eq!(selector.requires("b"), None);
        let refused = selector.map(|field, _| Err(format!("field label not supported: {field}")));
        assert_eq!(refused.unwrap_err().to_string(), "field label not supported: a");
    }
}
