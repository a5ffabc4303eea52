//! Makes a decoded value what its Go type would have made of it.
//!
//! Checks types, canonicalises quantities and times, drops and reports unknown fields, drops nulls and the zero
//! values Go would not write, and adds those it would. Errors are worded as Go's decoder words them, since clients
//! see them. Works in place: one walk, no allocation for a value that conforms.

use std::fmt;

use compact_str::CompactString;

use crate::json;
use crate::schema::{Field, Node, NodeId, Presence, Schema, Struct};
use crate::value::{Object, Value};

/// A value that its type cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConformError {
    /// The wrong sort of JSON value for a field.
    #[error("json: cannot unmarshal {found} into Go struct field {of} of type {wanted}")]
    Field {
        /// What was found: `string`, `number 1.5`.
        found: String,
        /// Type and path of the field: `ServicePort.spec.ports.port`.
        of: String,
        /// The type of the field.
        wanted: String,
        /// Where it is.
        at: Vec<json::Step>,
    },
    /// The wrong sort of JSON value where no field is known.
    #[error("json: cannot unmarshal {found} into Go value of type {wanted}")]
    Value {
        /// What was found.
        found: String,
        /// The type it should have.
        wanted: String,
    },
    /// Text that does not parse: a quantity, a time, base64.
    #[error("{0}")]
    Text(String),
    /// What is of the right types and no object all the same: it cannot be converted.
    #[error("{0}")]
    Conversion(String),
}

impl ConformError {
    /// The same with a number as it is written in the text that it comes from, which is how Go's decoder tells of it.
    #[must_use]
    pub fn as_written_in(mut self, text: &[u8]) -> Self {
        if let Self::Field { found, at, .. } = &mut self
            && found.starts_with("number ")
            && let Some(literal) = json::number_at(text, at)
        {
            *found = format!("number {literal}");
        }
        self
    }
}

/// How text of special types is checked and made canonical; `None` means it is canonical already.
pub type Canonical = Result<Option<CompactString>, String>;

/// The walk.
#[derive(Debug)]
struct Walk<'s> {
    schema: &'s Schema,
    unknown: Vec<String>,
}

/// Where the walk is; a chain on the stack, made into text only for errors.
struct Place<'p> {
    parent: Option<&'p Place<'p>>,
    step: Step<'p>,
}

enum Step<'p> {
    Root,
    /// A field, with the name of the struct it belongs to.
    Field(&'p str, &'p str),
    Key(&'p str),
    Index(usize),
}

/// Makes `value` conform to the type `node`. The paths of unknown fields, which are dropped, come back.
///
/// # Errors
/// The first value of a wrong type.
pub fn conform(
    schema: &Schema,
    node: NodeId,
    value: &mut Value,
) -> Result<Vec<String>, ConformError> {
    let mut walk = Walk { schema, unknown: Vec::new() };
    walk.value(node, value, &Place { parent: None, step: Step::Root })?;
    Ok(walk.unknown)
}

/// What Go writes for the zero value of a type.
#[must_use]
pub fn zero(schema: &Schema, node: NodeId) -> Value {
    match schema.node(node) {
        Node::Bool => Value::Bool(false),
        Node::Int32 | Node::Int64 | Node::IntOrString => Value::Int(0),
        Node::Float64 => Value::Float(0.0),
        Node::String => Value::String(CompactString::default()),
        Node::Quantity => Value::from("0"),
        Node::Duration => Value::from("0s"),
        Node::Struct(it) => {
            let mut object = Object::new();
            fill(schema, it, &mut object);
            Value::Object(object)
        }
        Node::Bytes
        | Node::Time
        | Node::MicroTime
        | Node::RawExtension
        | Node::FieldsV1
        | Node::Any
        | Node::SchemaOrBool(_)
        | Node::SchemaOrArray(_)
        | Node::SchemaOrStrings(_)
        | Node::Map(_)
        | Node::List(_) => Value::Null,
    }
}

/// Makes empty lists that Go writes null: what it stores as protobuf knows no empty lists.
pub fn empty_lists_are_null(schema: &Schema, node: NodeId, value: &mut Value) {
    match (schema.node(node), value) {
        (Node::Struct(it), Value::Object(object)) => {
            let lists = |value: &Value| matches!(value, Value::Array(_) | Value::Object(_));
            for (key, value) in object.iter_mut().filter(|(_, value)| lists(value)) {
                let Some(field) = it.field(key) else { continue };
                if field.presence == Presence::Always
                    && value.as_array().is_some_and(<[_]>::is_empty)
                {
                    *value = Value::Null;
                }
                empty_lists_are_null(schema, field.node, value);
            }
        }
        (Node::Map(map), Value::Object(object)) => {
            object.iter_mut().for_each(|(_, it)| empty_lists_are_null(schema, map.value, it));
        }
        (Node::List(list), Value::Array(items)) => {
            items.iter_mut().for_each(|it| empty_lists_are_null(schema, list.item, it));
        }
        _ => {}
    }
}

/// Adds the fields that are always written.
fn fill(schema: &Schema, of: &Struct, object: &mut Object) {
    for field in of.fields.iter().filter(|field| field.presence.is_always()) {
        if !object.contains_key(&field.name) {
            let nothing = match field.presence {
                Presence::Null => Value::Null,
                _ => zero(schema, field.node),
            };
            object.insert(field.name.as_ref(), nothing);
        }
    }
}

impl Walk<'_> {
    fn value(
        &mut self,
        node: NodeId,
        value: &mut Value,
        place: &Place<'_>,
    ) -> Result<(), ConformError> {
        let schema = self.schema;
        match (schema.node(node), &mut *value) {
            (Node::Struct(it), Value::Object(object)) => self.structure(it, object, place),
            (Node::Map(map), Value::Object(object)) => {
                for (key, item) in object.members_mut() {
                    let place = Place { parent: Some(place), step: Step::Key(key) };
                    self.item(map.value, item, &place)?;
                }
                Ok(())
            }
            (Node::List(list), Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let place = Place { parent: Some(place), step: Step::Index(index) };
                    self.item(list.item, item, &place)?;
                }
                Ok(())
            }
            (Node::Bool, Value::Bool(_))
            | (Node::Int64, Value::Int(_))
            | (Node::Float64, Value::Int(_) | Value::Float(_))
            | (Node::String, Value::String(_))
            | (Node::RawExtension | Node::FieldsV1 | Node::Any, _)
            | (Node::SchemaOrBool(_), Value::Bool(_)) => Ok(()),
            (Node::Int32, Value::Int(number)) if i32::try_from(*number).is_ok() => Ok(()),
            (Node::IntOrString, it) => {
                int_or_string(it).map_err(|error| placed(error, schema, place))
            }
            (Node::Quantity, it) => quantity(it),
            (Node::Time, Value::String(text)) => text_of(text, crate::time::canonical_time),
            (Node::MicroTime, Value::String(text)) => {
                text_of(text, crate::time::canonical_micro_time)
            }
            (Node::Duration, Value::String(text)) => text_of(text, crate::time::canonical_duration),
            (Node::Time | Node::MicroTime | Node::Duration, it) => {
                let error =
                    ConformError::Value { found: described(it, false), wanted: "string".into() };
                Err(placed(error, schema, place))
            }
            (Node::Bytes, Value::String(text)) => text_of(text, canonical_base64),
            (Node::SchemaOrArray(id), Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let place = Place { parent: Some(place), step: Step::Index(index) };
                    self.item(*id, item, &place)?;
                }
                Ok(())
            }
            (Node::SchemaOrStrings(_), Value::Array(items)) => {
                match items.iter().find(|it| it.as_str().is_none()) {
                    None => Ok(()),
                    Some(odd) => {
                        let found = described(odd, false);
                        let error = ConformError::Value { found, wanted: "string".into() };
                        Err(placed(error, schema, place))
                    }
                }
            }
            (
                Node::SchemaOrBool(id) | Node::SchemaOrArray(id) | Node::SchemaOrStrings(id),
                Value::Object(_),
            ) => self.value(*id, value, place),
            (Node::SchemaOrBool(_), _) => {
                Err(ConformError::Text("boolean or JSON schema expected".into()))
            }
            (_, odd) => Err(mismatch(schema, node, odd, place)),
        }
    }

    /// An item of a list or map: null stands for the zero value, and for no bytes once they were stored.
    fn item(
        &mut self,
        node: NodeId,
        value: &mut Value,
        place: &Place<'_>,
    ) -> Result<(), ConformError> {
        if value.is_null() {
            *value = match self.schema.node(node) {
                Node::Bytes => Value::String(CompactString::default()),
                _ => zero(self.schema, node),
            };
            return Ok(());
        }
        self.value(node, value, place)
    }

    fn structure(
        &mut self,
        of: &Struct,
        object: &mut Object,
        place: &Place<'_>,
    ) -> Result<(), ConformError> {
        let members = object.members_mut();
        let mut fields = of.fields.iter().peekable();
        let mut complete = true;
        let mut index = 0;
        while index < members.len() {
            let (key, value) = &mut members[index];
            // Both sides are sorted by name: walk them beside each other.
            while let Some(field) = fields.peek()
                && field.name.as_ref() < key.as_str()
            {
                complete &= !field.presence.is_always();
                fields.next();
            }
            let Some(field) = fields.next_if(|field| field.name.as_ref() == key.as_str()) else {
                if of.preserve_unknown {
                    index += 1;
                    continue;
                }
                let place = Place { parent: Some(place), step: Step::Field(key, &of.name) };
                self.unknown.push(place.strict_path());
                members.remove(index);
                continue;
            };
            if value.is_null() {
                complete &= !field.presence.is_always();
                members.remove(index);
                continue;
            }
            let place = Place { parent: Some(place), step: Step::Field(&field.name, &of.name) };
            self.value(field.node, value, &place)?;
            if dropped(field, value) && !counts_empty(of, field) {
                members.remove(index);
            } else {
                index += 1;
            }
        }
        complete &= fields.all(|field| !field.presence.is_always());
        if !complete {
            fill(self.schema, of, object);
        }
        Ok(())
    }
}

/// Fields that mean something else where they are sent empty: an autoscaler's rules that have no policy are refused, those
/// that say nothing of policies get some.
fn counts_empty(of: &Struct, field: &Field) -> bool {
    of.name.ends_with("HPAScalingRules") && field.name.as_ref() == "policies"
}

/// Whether Go leaves the field out.
fn dropped(field: &Field, value: &Value) -> bool {
    field.presence == Presence::OmitEmpty
        && match value {
            Value::Null => true,
            Value::Bool(truth) => !truth,
            Value::Int(number) => *number == 0,
            Value::Float(number) => *number == 0.0,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(object) => object.is_empty(),
        }
}

fn int_or_string(value: &mut Value) -> Result<(), ConformError> {
    match value {
        Value::String(_) => Ok(()),
        Value::Int(number) if i32::try_from(*number).is_ok() => Ok(()),
        odd => Err(ConformError::Value { found: described(odd, true), wanted: "int32".into() }),
    }
}

fn quantity(value: &mut Value) -> Result<(), ConformError> {
    let text = match value {
        Value::String(text) => text.clone(),
        ref other => crate::json::to_string(other).into(),
    };
    match crate::quantity::canonical(text.trim()) {
        Ok(None) if matches!(value, Value::String(_)) && text.trim().len() == text.len() => Ok(()),
        Ok(None) => {
            *value = Value::from(text.trim());
            Ok(())
        }
        Ok(Some(canonical)) => {
            *value = Value::String(canonical);
            Ok(())
        }
        Err(error) => Err(ConformError::Text(error.to_string())),
    }
}

fn text_of(
    text: &mut CompactString,
    canonical: impl Fn(&str) -> Canonical,
) -> Result<(), ConformError> {
    match canonical(text) {
        Ok(None) => Ok(()),
        Ok(Some(better)) => {
            *text = better;
            Ok(())
        }
        Err(message) => Err(ConformError::Text(message)),
    }
}

/// Standard base64 with padding; line breaks are dropped, as Go drops them.
pub(crate) fn canonical_base64(text: &str) -> Canonical {
    let clean: Option<CompactString> = text
        .contains(['\n', '\r'])
        .then(|| text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect());
    match base64_fault(clean.as_deref().unwrap_or(text).as_bytes()) {
        Some(at) => Err(format!("illegal base64 data at input byte {at}")),
        None => Ok(clean),
    }
}

/// Where Go's decoder stops in text that is not base64 with padding.
fn base64_fault(bytes: &[u8]) -> Option<usize> {
    let is_digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let body = bytes.iter().position(|b| !is_digit(*b)).unwrap_or(bytes.len());
    let in_group = body % 4;
    match bytes.get(body) {
        None if in_group == 0 => None,
        None => Some(body - in_group),
        // One or two digits short of a group is what padding is for.
        Some(b'=') if in_group >= 2 => {
            let end = body + 4 - in_group;
            if in_group == 2 && body + 1 == bytes.len() {
                Some(bytes.len())
            } else if in_group == 2 && bytes[body + 1] != b'=' {
                Some(body)
            } else {
                (end < bytes.len()).then_some(end)
            }
        }
        Some(_) => Some(body),
    }
}

/// What Go says it found. Numbers are named only where the target was a number type.
fn described(value: &Value, name_number: bool) -> String {
    match value {
        Value::Int(_) | Value::Float(_) if name_number => {
            format!("number {}", crate::json::to_string(value))
        }
        other => other.kind_name().into(),
    }
}

fn mismatch(schema: &Schema, node: NodeId, odd: &Value, place: &Place<'_>) -> ConformError {
    let numeric = matches!(schema.node(node), Node::Int32 | Node::Int64 | Node::Float64);
    let found = described(odd, numeric);
    let wanted = named_type(schema, node, place).unwrap_or_else(|| schema.go_type(node));
    placed(ConformError::Value { found, wanted }, schema, place)
}

/// A value of the wrong type is named by the field it is in, also where its type reads itself.
fn placed(error: ConformError, schema: &Schema, place: &Place<'_>) -> ConformError {
    match (error, place.field(schema)) {
        (ConformError::Value { found, wanted }, Some(of)) => {
            ConformError::Field { found, of, wanted, at: place.steps() }
        }
        (error, _) => error,
    }
}

/// The name Go has for the type of a field or of its items, where it has one.
fn named_type(schema: &Schema, node: NodeId, place: &Place<'_>) -> Option<String> {
    let (field, of) = place.innermost_field()?;
    let name = schema.go_name(of, field).map(|it| it.ty.as_ref()).filter(|ty| !ty.is_empty())?;
    match schema.node(node) {
        Node::String | Node::Map(_) => Some(name.to_owned()),
        Node::List(_) => Some(format!("[]{name}")),
        _ => None,
    }
}

impl Place<'_> {
    /// The field the value is in, and its struct.
    fn innermost_field(&self) -> Option<(&str, &str)> {
        let mut place = Some(self);
        while let Some(here) = place {
            if let Step::Field(name, owner) = here.step {
                return Some((name, owner));
            }
            place = here.parent;
        }
        None
    }

    /// The way from the root.
    fn steps(&self) -> Vec<json::Step> {
        let mut steps = self.parent.map(Place::steps).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Field(name, _) | Step::Key(name) => steps.push(json::Step::Key(name.into())),
            Step::Index(index) => steps.push(json::Step::Index(index)),
        }
        steps
    }

    /// `spec.containers[0].image`, as the strict decoder names unknown fields.
    fn strict_path(&self) -> String {
        self.to_string()
    }

    /// `Container.spec.containers.image`: the innermost struct, then the fields on the way, without indexes and keys.
    /// Embedded structs are named on the way.
    fn field(&self, schema: &Schema) -> Option<String> {
        let mut names = Vec::new();
        let mut of = None;
        let mut place = Some(self);
        while let Some(here) = place {
            if let Step::Field(name, owner) = here.step {
                names.push(name);
                let via = schema.go_name(owner, name).map_or("", |it| it.via.as_ref());
                names.extend((!via.is_empty()).then_some(via));
                of = of.or(Some(owner));
            }
            place = here.parent;
        }
        names.push(of?);
        names.reverse();
        // The innermost struct comes first, then the path from the root.
        Some(names.join("."))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let first = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name, _) | Step::Key(name) if first => f.write_str(name),
            Step::Field(name, _) | Step::Key(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::schema::{List, ListKind, Map, Patch};

    fn field(name: &'static str, node: NodeId, presence: Presence) -> Field {
        Field { name: name.into(), node, presence, patch: Patch::REPLACE, merge_key: "".into() }
    }

    fn schema() -> Schema {
        let list = |item| {
            Node::List(List {
                item,
                kind: ListKind::Atomic,
                keys: Cow::Borrowed(&[]),
                defaults: None,
            })
        };
        let structure = |name: &'static str, mut fields: Vec<Field>| {
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            Node::Struct(Struct {
                name: name.into(),
                package: "v1".into(),
                atomic: false,
                preserve_unknown: false,
                fields: fields.into(),
            })
        };
        let nodes = vec![
            structure(
                "Top",
                vec![
                    field("items", 1, Presence::Always),
                    field("labels", 6, Presence::OmitEmpty),
                    field("on", 3, Presence::OmitEmpty),
                    field("status", 7, Presence::Always),
                    field("count", 4, Presence::Pointer),
                ],
            ),
            list(2),
            structure(
                "Item",
                vec![
                    field("name", 5, Presence::Always),
                    field("port", 4, Presence::OmitEmpty),
                    field("target", 8, Presence::OmitEmpty),
                    field("time", 9, Presence::OmitEmpty),
                ],
            ),
            Node::Bool,
            Node::Int32,
            Node::String,
            Node::Map(Map { value: 5, atomic: false }),
            structure(
                "Status",
                vec![field("phase", 5, Presence::OmitEmpty), field("ready", 4, Presence::Always)],
            ),
            Node::IntOrString,
            Node::Time,
        ];
        Schema { nodes: nodes.into(), go_names: (&[]).into() }
    }

    fn check(input: &str, expected: &str) {
        let mut value = crate::json::parse(input.as_bytes()).unwrap();
        let outcome = match conform(&schema(), 0, &mut value) {
            Ok(unknown) if unknown.is_empty() => format!("{value:?}"),
            Ok(unknown) => format!("{value:?} unknown {}", unknown.join(" ")),
            Err(error) => error.as_written_in(input.as_bytes()).to_string(),
        };
        assert_eq!(outcome, expected, "for {input}");
    }

    #[test]
    fn zero_values_are_written_as_go_writes_them() {
        check("{}", r#"{"items":null,"status":{"ready":0}}"#);
        check(
            r#"{"items":[{"port":0},null],"on":false,"labels":{},"count":0}"#,
            r#"{"count":0,"items":[{"name":""},{"name":""}],"status":{"ready":0}}"#,
        );
        check(
            r#"{"labels":{"a":null},"status":null,"count":null}"#,
            r#"{"items":null,"labels":{"a":""},"status":{"ready":0}}"#,
        );
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        check(
            r#"{"items":[{"name":"a","zzz":1}],"status":{"ready":1,"x":{}},"aaa":2}"#,
            r#"{"items":[{"name":"a"}],"status":{"ready":1}} unknown aaa items[0].zzz status.x"#,
        );
    }

    #[test]
    fn mismatches_are_worded_as_clients_know_them() {
        let text = "json: cannot unmarshal";
        check(
            r#"{"items":[{"port":"x"}]}"#,
            &format!("{text} string into Go struct field Item.items.port of type int32"),
        );
        check(
            r#"{"items":[{"port":1099511627776}]}"#,
            &format!(
                "{text} number 1099511627776 into Go struct field Item.items.port of type int32"
            ),
        );
        check(
            r#"{"items":{}}"#,
            &format!("{text} object into Go struct field Top.items of type []v1.Item"),
        );
        check(
            r#"{"labels":{"a":1}}"#,
            &format!("{text} number into Go struct field Top.labels of type string"),
        );
        check("[]", &format!("{text} array into Go value of type v1.Top"));
        check(
            r#"{"items":[{"target":1099511627776}]}"#,
            &format!(
                "{text} number 1099511627776 into Go struct field Item.items.target of type int32"
            ),
        );
        for number in ["1.50", "1e3", "-0.0", "99999999999999999999"] {
            check(
                &format!(r#"{{"labels":{{}},"items":[{{}},{{"target":{number}}}]}}"#),
                &format!(
                    "{text} number {number} into Go struct field Item.items.target of type int32"
                ),
            );
        }
        check(
            r#"{"items":[{"time":5}]}"#,
            &format!("{text} number into Go struct field Item.items.time of type string"),
        );
    }

    #[test]
    fn base64_is_checked() {
        assert_eq!(canonical_base64("aGk="), Ok(None));
        assert_eq!(canonical_base64("aG\nk="), Ok(Some("aGk=".into())));
        let faults = [("a*==", 1), ("aGk=z", 4), ("aGk", 0), ("aG=", 3), ("aG=k", 2), ("a===", 1)];
        for (text, at) in faults {
            let expected = format!("illegal base64 data at input byte {at}");
            assert_eq!(canonical_base64(text), Err(expected), "{text}");
        }
        assert!(canonical_base64("aGk").is_err());
    }
}
