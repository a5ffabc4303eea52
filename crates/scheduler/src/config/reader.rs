//! Reads members of a value by name, and tells what nobody asked for, as upstream's strict decoder does.
//!
//! Knows no configuration: who reads names the members.

use apimachinery::duration::Duration;
use apimachinery::field::quote;
use apimachinery::{Object, Value};

/// What is wrong with the form of a document.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Members that there are none of, by path.
    unknown: Vec<String>,
    /// The first member of the wrong type, in the words of Go's decoder.
    wrong: Option<String>,
}

impl Problems {
    /// # Errors
    /// All of it as one text, where there is any.
    pub(super) fn finish(self) -> Result<(), String> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if self.unknown.is_empty() {
            return Ok(());
        }
        let unknown = self.unknown.iter().map(|it| format!("unknown field {}", quote(it)));
        Err(format!("strict decoding error: {}", unknown.collect::<Vec<_>>().join(", ")))
    }

    /// Something that a nested document says of itself.
    pub(super) fn nested(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }
}

/// An object that is being read.
#[derive(Debug)]
pub(super) struct Reader<'v> {
    /// The name of the type, as Go's decoder tells it.
    of: &'static str,
    members: Option<&'v Object>,
    path: String,
    asked: Vec<&'static str>,
}

impl<'v> Reader<'v> {
    pub(super) fn new(
        of: &'static str,
        value: &'v Value,
        path: impl Into<String>,
        problems: &mut Problems,
    ) -> Self {
        let path = path.into();
        let members = value.as_object();
        if members.is_none() && !value.is_null() {
            wrong(problems, of, "", value, &format!("v1.{of}"));
        }
        Self { of, members, path, asked: Vec::new() }
    }

    fn get(&mut self, name: &'static str) -> Option<&'v Value> {
        self.asked.push(name);
        self.members?.get(name).filter(|it| !it.is_null())
    }

    /// Where a member lies.
    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn typed<T>(
        &mut self,
        name: &'static str,
        go: &str,
        problems: &mut Problems,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(name)?;
        let read = read(value);
        if read.is_none() {
            wrong(problems, self.of, name, value, go);
        }
        read
    }

    pub(super) fn text(&mut self, name: &'static str, problems: &mut Problems) -> Option<&'v str> {
        self.typed(name, "string", problems, Value::as_str)
    }

    /// Text; empty where there is none.
    pub(super) fn string(&mut self, name: &'static str, problems: &mut Problems) -> String {
        self.text(name, problems).unwrap_or_default().to_owned()
    }

    pub(super) fn flag(&mut self, name: &'static str, problems: &mut Problems) -> Option<bool> {
        self.typed(name, "bool", problems, Value::as_bool)
    }

    pub(super) fn integer(&mut self, name: &'static str, problems: &mut Problems) -> Option<i64> {
        self.typed(name, "int32", problems, Value::as_i64)
    }

    pub(super) fn number(&mut self, name: &'static str, problems: &mut Problems) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "it is a rate")]
        self.typed(name, "float32", problems, |value| match value {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        })
    }

    pub(super) fn duration(
        &mut self,
        name: &'static str,
        problems: &mut Problems,
    ) -> Option<std::time::Duration> {
        let text = self.text(name, problems)?;
        match Duration::parse(text) {
            Ok(it) => Some(std::time::Duration::from_nanos(it.as_nanos().try_into().unwrap_or(0))),
            Err(error) => {
                problems.wrong.get_or_insert(error.to_string());
                None
            }
        }
    }

    /// The items of a list, each with its path.
    pub(super) fn list(
        &mut self,
        name: &'static str,
        problems: &mut Problems,
    ) -> Vec<(&'v Value, String)> {
        let at = self.at(name);
        let items = self.typed(name, "[]", problems, Value::as_array).unwrap_or_default();
        items.iter().enumerate().map(|(index, it)| (it, format!("{at}[{index}]"))).collect()
    }

    /// Text in a list.
    pub(super) fn texts(&mut self, name: &'static str, problems: &mut Problems) -> Vec<String> {
        let of = self.of;
        let items = self.list(name, problems);
        let mut texts = Vec::with_capacity(items.len());
        for (item, _) in items {
            match item.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => wrong(problems, of, name, item, "string"),
            }
        }
        texts
    }

    /// Another object; without members where it is not there.
    pub(super) fn object(
        &mut self,
        name: &'static str,
        of: &'static str,
        problems: &mut Problems,
    ) -> Reader<'v> {
        self.maybe_object(name, of, problems).unwrap_or(Reader {
            of,
            members: None,
            path: self.at(name),
            asked: Vec::new(),
        })
    }

    /// Another object, where it is there.
    pub(super) fn maybe_object(
        &mut self,
        name: &'static str,
        of: &'static str,
        problems: &mut Problems,
    ) -> Option<Reader<'v>> {
        let value = self.get(name)?;
        Some(Reader::new(of, value, self.at(name), problems))
    }

    /// Whatever there is.
    pub(super) fn any(&mut self, name: &'static str) -> Option<&'v Value> {
        self.get(name)
    }

    /// Tells of members that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for name in self.members.into_iter().flat_map(Object::keys) {
            if !self.asked.contains(&name) {
                problems.unknown.push(self.at(name));
            }
        }
    }
}

fn wrong(problems: &mut Problems, of: &str, name: &str, value: &Value, go: &str) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let place = if name.is_empty() {
        "Go value".to_owned()
    } else {
        format!("Go struct field {of}.{name}")
    };
    problems
        .wrong
        .get_or_insert(format!("json: cannot unmarshal {kind} into {place} of type {go}"));
}
