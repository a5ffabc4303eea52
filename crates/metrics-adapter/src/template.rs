//! The part of Go's templates that rules are written in: `<<.Name>>`, `<<.Map.key>>`, `<<index .Map "key">>` and
//! `<<index .List 0>>`. Anything else is refused when the rule is read.

use std::collections::BTreeMap;

/// What a name in a template stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    /// Text.
    Text(String),
    /// Texts by name.
    Map(BTreeMap<String, String>),
    /// Texts in order.
    List(Vec<String>),
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// The arguments of a template, by name.
pub(crate) type Arguments = BTreeMap<&'static str, Argument>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(&'static str),
    Key(&'static str, String),
    Nth(&'static str, usize),
}

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

impl Template {
    /// Reads a template that may name these.
    ///
    /// # Errors
    /// What of it is not understood.
    pub(crate) fn parse(text: &str, names: &[&'static str]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("<<") {
            let (action, next) = after
                .split_once(">>")
                .ok_or_else(|| format!("unclosed action in template {text:?}"))?;
            let (before, action) = match action.strip_prefix("- ") {
                Some(action) => (before.trim_end(), action),
                None => (before, action),
            };
            let (next, action) = match action.strip_suffix(" -") {
                Some(action) => (next.trim_start(), action),
                None => (next, action),
            };
            pieces.push(Piece::Text(before.to_owned()));
            let read = piece(action.trim(), names);
            pieces.push(read.ok_or_else(|| {
                format!("template {text:?}: <<{action}>> is not understood here")
            })?);
            rest = next;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|it| *it != Piece::Text(String::new()));
        Ok(Self(pieces))
    }

    /// The text with these arguments.
    pub(crate) fn execute(&self, arguments: &Arguments) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(it) => text.push_str(it),
                Piece::Name(name) => text.push_str(&shown(arguments.get(name))),
                Piece::Key(name, key) => {
                    if let Some(Argument::Map(map)) = arguments.get(name) {
                        text.push_str(map.get(key).map_or("", String::as_str));
                    }
                }
                Piece::Nth(name, nth) => {
                    if let Some(Argument::List(list)) = arguments.get(name) {
                        text.push_str(list.get(*nth).map_or("", String::as_str));
                    }
                }
            }
        }
        text
    }
}

/// As Go prints it.
fn shown(argument: Option<&Argument>) -> String {
    match argument {
        None => String::new(),
        Some(Argument::Text(text)) => text.clone(),
        Some(Argument::Map(map)) => {
            let members: Vec<String> = map.iter().map(|(key, it)| format!("{key}:{it}")).collect();
            format!("map[{}]", members.join(" "))
        }
        Some(Argument::List(list)) => format!("[{}]", list.join(" ")),
    }
}

fn piece(action: &str, names: &[&'static str]) -> Option<Piece> {
    let named = |text: &str| {
        let name = text.strip_prefix('.')?;
        names.iter().find(|it| **it == name).copied()
    };
    if let Some(rest) = action.strip_prefix("index ") {
        let (name, key) = rest.trim().split_once(' ')?;
        let (name, key) = (named(name)?, key.trim());
        if let Ok(nth) = key.parse() {
            return (name == "GroupBySlice").then_some(Piece::Nth(name, nth));
        }
        let key = key.strip_prefix('"')?.strip_suffix('"')?;
        let plain = !key.contains(['"', '\\']);
        return (plain && name == "LabelValuesByName").then(|| Piece::Key(name, key.to_owned()));
    }
    if let Some(name) = named(action) {
        return Some(Piece::Name(name));
    }
    let key = action.strip_prefix(".LabelValuesByName.")?;
    let name = named(".LabelValuesByName")?;
    let is_word = !key.is_empty() && key.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    is_word.then(|| Piece::Key(name, key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] =
        &["Series", "LabelMatchers", "LabelValuesByName", "GroupBy", "GroupBySlice"];

    #[test]
    fn templates_are_filled_as_go_does() {
        let map = BTreeMap::from([("namespace".into(), "n".into()), ("pod".into(), "a|b".into())]);
        let arguments = Arguments::from([
            ("Series", "http_requests_total".into()),
            ("LabelMatchers", "namespace=\"n\"".into()),
            ("LabelValuesByName", Argument::Map(map)),
            ("GroupBy", "pod".into()),
            ("GroupBySlice", Argument::List(vec!["pod".into()])),
        ]);
        for (template, expected) in [
            (
                "sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)",
                "sum(rate(http_requests_total{namespace=\"n\"}[2m])) by (pod)",
            ),
            ("x{a=\"<<index .LabelValuesByName \"namespace\">>\"}", "x{a=\"n\"}"),
            ("x{a=~\"<< .LabelValuesByName.pod >>\"}", "x{a=~\"a|b\"}"),
            (
                "<<.LabelValuesByName>> <<index .GroupBySlice 0>> <<.GroupBySlice>>",
                "map[namespace:n pod:a|b] pod [pod]",
            ),
            ("a <<- .GroupBy ->> b", "apodb"),
            ("plain", "plain"),
        ] {
            let read = Template::parse(template, NAMES).unwrap();
            assert_eq!(read.execute(&arguments), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for template in [
            "<<range .GroupBySlice>>x<<end>>",
            "<<.Nothing>>",
            "<<if .Series>>a<<end>>",
            "<<.Series",
            "<<printf \"%s\" .Series>>",
            "<<index .Series 0>>",
            "<<.Series | len>>",
        ] {
            assert!(Template::parse(template, NAMES).is_err(), "{template}");
        }
    }
}
