//! From a data item to a value, by its type where there is one.
//!
//! Everything is read once it is known to be well-formed. An error is kept while the rest is read, since a later one of an outer
//! map may come before it: upstream's decoder does so, and clients see which error it is.

mod strings;

use std::collections::BTreeSet;

use compact_str::CompactString;

use super::wellformed::{self, not_accepted};
use super::{BREAK, CborError, ELEMENTS_MAX, Head, Major, Typed};
use crate::schema::{Node, Struct};
use crate::value::{Object, Value};

/// What keys of maps that are no fields do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They are left out, and what they hold is not looked at.
    Skip,
    /// The first is an error.
    Refuse,
}

/// Reads a data item, into a type or into what it is by itself. Zero values are left as they are: see [`crate::conform`].
///
/// # Errors
/// Where the bytes are no data item within the limits, or its type cannot take it.
pub fn decode(
    bytes: &[u8],
    typed: Option<Typed<'_>>,
    unknown: Unknown,
) -> Result<Value, CborError> {
    wellformed::check(bytes, ELEMENTS_MAX)?;
    let mut decoder = Decoder { bytes, at: 0, later: Vec::new(), unknown };
    decoder.item(&Wanted { typed, name: None })
}

/// Reads a data item that a server wrote, without a type: there may be any number of elements in it.
///
/// # Errors
/// Where the bytes are no data item.
pub fn decode_own(bytes: &[u8]) -> Result<Value, CborError> {
    wellformed::check(bytes, usize::MAX / 2)?;
    let mut decoder = Decoder { bytes, at: 0, later: Vec::new(), unknown: Unknown::Skip };
    decoder.item(&Wanted { typed: None, name: None })
}

/// What upstream says of a whole data item that is none of this Go type; nothing where the bytes are no data item.
#[must_use]
pub fn wrong_type(bytes: &[u8], wanted: &str) -> Option<CborError> {
    wellformed::check(bytes, ELEMENTS_MAX).ok()?;
    let mut decoder = Decoder { bytes, at: 0, later: Vec::new(), unknown: Unknown::Skip };
    while decoder.next() == Major::Tag {
        decoder.head();
    }
    Some(CborError::Type {
        found: decoder.next().name(),
        wanted: wanted.into(),
        field: String::new(),
        detail: String::new(),
    })
}

/// The apiVersion and kind of a data item; empty where it says none.
///
/// # Errors
/// Where the bytes are no map within the limits, where one of its keys stands twice, and where one of the two is no text.
pub fn kind_of(bytes: &[u8]) -> Result<(String, String), CborError> {
    const TYPE_META: &str = "v1.TypeMeta";
    wellformed::check(bytes, ELEMENTS_MAX)?;
    let mut decoder = Decoder { bytes, at: 0, later: Vec::new(), unknown: Unknown::Skip };
    decoder.self_described();
    decoder.built_in_tags()?;
    while decoder.next() == Major::Tag {
        decoder.head();
    }
    let head = decoder.peek_head();
    let wrong = |detail: &str| CborError::Type {
        found: head.major.name(),
        wanted: TYPE_META.into(),
        field: String::new(),
        detail: detail.into(),
    };
    match head.major {
        Major::Map => {}
        Major::Primitive if head.info == 22 => return Ok(<_>::default()),
        Major::Array => {
            return Err(wrong("cannot decode CBOR array to struct without toarray option"));
        }
        _ => return Err(wrong("")),
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    decoder.fields(|decoder, key| {
        let told = match key {
            "apiVersion" => &mut api_version,
            "kind" => &mut kind,
            _ => return Ok(false),
        };
        if let Value::String(text) = decoder.text().map_err(|why| within(why, TYPE_META, key))? {
            *told = text.into();
        }
        Ok(true)
    })?;
    Ok((api_version, kind))
}

/// What a data item is read into.
struct Wanted<'w, 's> {
    typed: Option<Typed<'s>>,
    /// What Go calls the type, where it has a name.
    name: Option<&'w str>,
}

struct Decoder<'b> {
    bytes: &'b [u8],
    at: usize,
    /// The tags around that say how bytes are to be written as text: 21 to 23, the innermost last.
    later: Vec<u64>,
    unknown: Unknown,
}

/// The first error of many.
fn keep<T>(first: &mut Option<CborError>, outcome: Result<T, CborError>) -> Option<T> {
    match outcome {
        Ok(it) => Some(it),
        Err(error) => {
            first.get_or_insert(error);
            None
        }
    }
}

impl Decoder<'_> {
    /// Reads a data item; after an error it stands behind the item all the same.
    fn item(&mut self, wanted: &Wanted<'_, '_>) -> Result<Value, CborError> {
        let (start, depth) = (self.at, self.later.len());
        let outcome = self.value(wanted);
        self.later.truncate(depth);
        if outcome.is_err() {
            self.at = start;
            self.skip();
        }
        outcome
    }

    fn value(&mut self, wanted: &Wanted<'_, '_>) -> Result<Value, CborError> {
        self.self_described();
        self.built_in_tags()?;
        let Some(typed) = wanted.typed else { return self.untyped() };
        match typed.node() {
            Node::RawExtension | Node::FieldsV1 | Node::Any => return self.untyped(),
            Node::SchemaOrBool(node) | Node::SchemaOrArray(node) | Node::SchemaOrStrings(node) => {
                return self.schema_or(typed.at(*node));
            }
            _ => {}
        }
        while self.next() == Major::Tag {
            let tag = self.head().value;
            if matches!(tag, 21..=23) {
                self.later.push(tag);
            }
        }
        self.of_node(typed, wanted)
    }

    /// What tags enclose, by its type.
    fn of_node(&mut self, typed: Typed<'_>, wanted: &Wanted<'_, '_>) -> Result<Value, CborError> {
        let head = self.peek_head();
        if head.major == Major::Primitive {
            self.known_simple(head)?;
            if head.info == 22 {
                self.head();
                return Ok(Value::Null);
            }
        }
        match (typed.node(), head.major) {
            (Node::Struct(of), Major::Map) => self.structure(typed, of),
            (Node::Map(map), Major::Map) => {
                self.map(&Wanted { typed: Some(typed.at(map.value)), name: None })
            }
            (Node::List(list), Major::Array) => {
                self.array(&Wanted { typed: Some(typed.at(list.item)), name: None })
            }
            (Node::Struct(_), Major::Array) => {
                let why = "cannot decode CBOR array to struct without toarray option";
                Err(self.mismatch(typed, wanted, why.into()))
            }
            (Node::Bool, Major::Primitive) if matches!(head.info, 20 | 21) => {
                self.head();
                Ok(Value::Bool(head.info == 21))
            }
            (Node::Int32 | Node::Int64 | Node::Float64, Major::Positive | Major::Negative) => {
                self.integer(typed, wanted)
            }
            (Node::IntOrString, Major::Positive | Major::Negative) => self.integer(typed, wanted),
            (Node::Float64, Major::Primitive) if head.float().is_some() => {
                self.head();
                Ok(head.float().map_or(Value::Null, Value::Float))
            }
            (Node::Bytes, Major::Bytes) => self.base64(),
            (
                Node::String
                | Node::IntOrString
                | Node::Time
                | Node::MicroTime
                | Node::Duration
                | Node::Quantity,
                Major::Bytes | Major::Text,
            ) => self.string().map(Value::String),
            _ => Err(self.mismatch(typed, wanted, String::new())),
        }
    }

    /// A JSON schema, or what may stand for one.
    fn schema_or(&mut self, typed: Typed<'_>) -> Result<Value, CborError> {
        let wanted = Wanted { typed: Some(typed), name: None };
        match self.next() {
            Major::Map => self.item(&wanted),
            Major::Array if !self.holds_text() => self.array(&wanted),
            _ => self.untyped(),
        }
    }

    /// Whether the first element of an array is text.
    fn holds_text(&self) -> bool {
        let mut inside =
            Decoder { bytes: self.bytes, at: self.at, later: vec![], unknown: self.unknown };
        inside.head();
        matches!(inside.next(), Major::Bytes | Major::Text)
    }

    /// A number, for a field that takes numbers.
    fn integer(&mut self, typed: Typed<'_>, wanted: &Wanted<'_, '_>) -> Result<Value, CborError> {
        let start = self.at;
        let head = self.head();
        let number = i128::from(head.value);
        let number = if head.major == Major::Negative { -1 - number } else { number };
        let is_negative = head.major == Major::Negative;
        let fits = match typed.node() {
            Node::Int32 | Node::IntOrString => i32::try_from(number).is_ok(),
            _ => i64::try_from(number).is_ok(),
        };
        if fits {
            return Ok(Value::Int(i64::try_from(number).unwrap_or_default()));
        }
        #[allow(clippy::cast_precision_loss, reason = "the field is a double")]
        if matches!(typed.node(), Node::Float64) && !is_negative {
            return Ok(Value::Float(number as f64));
        }
        self.at = start;
        let (int, name) = match typed.node() {
            Node::Int32 | Node::IntOrString => (i64::try_from(number).is_ok(), "int32"),
            _ => (false, "int64"),
        };
        let beyond = if is_negative && !int { "Go's int64" } else { name };
        Err(self.mismatch(typed, wanted, format!("{number} overflows {beyond}")))
    }

    fn mismatch(&self, typed: Typed<'_>, wanted: &Wanted<'_, '_>, detail: String) -> CborError {
        let name = match typed.node() {
            Node::Quantity => Some("string".to_owned()),
            // It is tried as text first, then as a number, which is what the error is about.
            Node::IntOrString => Some("int32".to_owned()),
            Node::String => wanted.name.map(str::to_owned),
            _ => None,
        };
        CborError::Type {
            found: self.next().name(),
            wanted: name.unwrap_or_else(|| typed.schema.go_type(typed.node)),
            field: String::new(),
            detail,
        }
    }

    /// A data item by what it is itself.
    fn untyped(&mut self) -> Result<Value, CborError> {
        let head = self.peek_head();
        match head.major {
            Major::Positive | Major::Negative => {
                let head = self.head();
                let number = i64::try_from(head.value).map_err(|_| overflow(head))?;
                Ok(Value::Int(if head.major == Major::Negative { !number } else { number }))
            }
            Major::Bytes | Major::Text => self.string().map(Value::String),
            Major::Array => self.array(&Wanted { typed: None, name: None }),
            Major::Map => self.map(&Wanted { typed: None, name: None }),
            Major::Primitive => {
                self.known_simple(head)?;
                self.head();
                Ok(match head.info {
                    20 => Value::Bool(false),
                    21 => Value::Bool(true),
                    _ => head.float().map_or(Value::Null, Value::Float),
                })
            }
            Major::Tag => match self.head().value {
                0 | 1 => self.time().map(Value::String),
                tag => {
                    if matches!(tag, 21..=23) {
                        self.later.push(tag);
                    }
                    self.built_in_tags()?;
                    self.untyped()
                }
            },
        }
    }

    fn array(&mut self, wanted: &Wanted<'_, '_>) -> Result<Value, CborError> {
        let head = self.head();
        let (mut items, mut error, mut index) = (Vec::new(), None, 0);
        while self.goes_on(head, index) {
            let item = self.item(wanted);
            items.extend(keep(&mut error, item));
            index += 1;
        }
        error.map_or(Ok(Value::Array(items)), Err)
    }

    /// A map with keys of its own choice.
    fn map(&mut self, wanted: &Wanted<'_, '_>) -> Result<Value, CborError> {
        let head = self.head();
        let (mut members, mut seen) = (Vec::new(), BTreeSet::new());
        let (mut error, mut index) = (None, 0);
        while self.goes_on(head, index) {
            let key = self.item_text();
            let Some(key) = keep(&mut error, key) else {
                self.skip();
                index += 1;
                continue;
            };
            let value = self.item(wanted);
            if let Some(value) = keep(&mut error, value) {
                if !seen.insert(key.clone()) {
                    return Err(repeated(&key, index));
                }
                members.push((key, value));
            }
            index += 1;
        }
        error.map_or_else(|| Ok(Value::Object(Object::from_members(members, |_| {}))), Err)
    }

    fn structure(&mut self, typed: Typed<'_>, of: &Struct) -> Result<Value, CborError> {
        let name = format!("{}.{}", of.package, of.name);
        let mut members = Vec::new();
        self.fields(|decoder, key| {
            let Some(field) = of.field(key) else { return Ok(false) };
            let go_name = typed.schema.go_name(&of.name, key).map(|it| it.ty.as_ref());
            let named = go_name.filter(|it| !it.is_empty());
            let wanted = Wanted { typed: Some(typed.at(field.node)), name: named };
            let value = decoder.item(&wanted).map_err(|why| within(why, &name, key))?;
            members.push((CompactString::from(key), value));
            Ok(true)
        })?;
        Ok(Value::Object(Object::from_members(members, |_| {})))
    }

    /// Calls `field` with each key of a map that is text, to read what follows; it says whether the key is a field.
    fn fields(
        &mut self,
        mut field: impl FnMut(&mut Self, &str) -> Result<bool, CborError>,
    ) -> Result<(), CborError> {
        let head = self.head();
        let (mut seen, mut error, mut index) = (BTreeSet::new(), None, 0);
        while self.goes_on(head, index) {
            let (at, found) = (index, self.next());
            index += 1;
            let key = match found {
                Major::Bytes | Major::Text => self.plain_text(),
                Major::Positive | Major::Negative => self.integer_key(),
                found => Err(CborError::Type {
                    found: found.name(),
                    wanted: "string".into(),
                    field: String::new(),
                    detail: format!(
                        "map key is of type {} and cannot be used to match struct field name",
                        found.name()
                    ),
                }),
            };
            if !matches!(found, Major::Bytes | Major::Text | Major::Positive | Major::Negative) {
                self.skip();
            }
            let Some(key) = keep(&mut error, key) else {
                self.skip();
                continue;
            };
            let is_text = matches!(found, Major::Bytes | Major::Text);
            if !seen.insert((is_text, key.clone())) {
                return Err(if is_text { repeated(&key, at) } else { repeated_number(&key, at) });
            }
            let known = if is_text { field(self, &key) } else { Ok(false) };
            match known {
                Ok(true) => {}
                Ok(false) if self.unknown == Unknown::Refuse => {
                    return Err(CborError::UnknownField(at));
                }
                Ok(false) => self.skip(),
                Err(why) => {
                    error.get_or_insert(why);
                }
            }
        }
        error.map_or(Ok(()), Err)
    }

    /// A key that is a number: no field is called so.
    fn integer_key(&mut self) -> Result<CompactString, CborError> {
        let head = self.head();
        let number = i64::try_from(head.value).map_err(|_| overflow(head))?;
        let number = if head.major == Major::Negative { !number } else { number };
        Ok(compact_str::format_compact!("{number}"))
    }

    /// Whether another element of an array or map follows.
    fn goes_on(&mut self, head: Head, index: usize) -> bool {
        if !head.is_indefinite() {
            return (index as u64) < head.value;
        }
        let ends = self.bytes.get(self.at) == Some(&BREAK);
        self.at += usize::from(ends);
        !ends
    }

    /// Simple values other than false, true and null stand for nothing.
    fn known_simple(&self, head: Head) -> Result<(), CborError> {
        let value = head.value;
        if head.info > 24 || matches!(value, 20..=22) {
            return Ok(());
        }
        Err(not_accepted(head.major, &format!("simple value {value} is not recognized")))
    }

    fn self_described(&mut self) {
        while self.bytes[self.at..].starts_with(super::MAGIC) {
            self.at += super::MAGIC.len();
        }
    }

    /// Tags of times enclose what is a time.
    fn built_in_tags(&self) -> Result<(), CborError> {
        let mut ahead =
            Decoder { bytes: self.bytes, at: self.at, later: vec![], unknown: self.unknown };
        while ahead.next() == Major::Tag {
            let tag = ahead.head().value;
            let next = ahead.peek_head();
            let wanted = match (tag, next.major) {
                (0, Major::Text) | (1, Major::Positive | Major::Negative) => continue,
                (1, Major::Primitive) if next.float().is_some() => continue,
                (0, _) => "text string",
                (1, _) => "integer or floating-point number",
                _ => continue,
            };
            let got = next.major.name();
            return Err(CborError::Refused(format!(
                "tag number {tag} must be followed by {wanted}, got {got}"
            )));
        }
        Ok(())
    }

    fn next(&self) -> Major {
        self.bytes.get(self.at).map_or(Major::Primitive, |first| Major::of(*first))
    }

    fn peek_head(&self) -> Head {
        let mut ahead =
            Decoder { bytes: self.bytes, at: self.at, later: vec![], unknown: self.unknown };
        ahead.head()
    }

    /// The head of what comes next, which is known to be whole.
    fn head(&mut self) -> Head {
        let first = self.bytes.get(self.at).copied().unwrap_or(BREAK);
        let (major, info) = (Major::of(first), first & 0x1f);
        self.at += 1;
        let len = if (24..28).contains(&info) { 1 << (info - 24) } else { 0 };
        let bytes = self.bytes.get(self.at..self.at + len).unwrap_or_default();
        self.at += len;
        let value = match len {
            0 => u64::from(info),
            _ => bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)),
        };
        Head { major, info, value }
    }

    /// Past a data item.
    fn skip(&mut self) {
        let head = self.head();
        match head.major {
            Major::Positive | Major::Negative | Major::Primitive => {}
            Major::Tag => self.skip(),
            _ if head.is_indefinite() => {
                while self.goes_on(head, 0) {
                    self.skip();
                }
            }
            Major::Bytes | Major::Text => {
                self.at += usize::try_from(head.value).unwrap_or_default();
            }
            Major::Array => (0..head.value).for_each(|_| self.skip()),
            Major::Map => (0..2 * head.value).for_each(|_| self.skip()),
        }
    }
}

/// An error names the outermost field that it is in.
fn within(error: CborError, of: &str, field: &str) -> CborError {
    match error {
        CborError::Type { found, wanted, detail, .. } => {
            CborError::Type { found, wanted, field: format!("{of}.{field}"), detail }
        }
        other => other,
    }
}

/// A number beyond Go's `int64`.
fn overflow(head: Head) -> CborError {
    let number = match head.major {
        Major::Negative => -1 - i128::from(head.value),
        _ => i128::from(head.value),
    };
    CborError::Type {
        found: head.major.name(),
        wanted: "int64".into(),
        field: String::new(),
        detail: format!("{number} overflows Go's int64"),
    }
}

fn repeated(key: &str, index: usize) -> CborError {
    repeated_number(&crate::field::quote(key), index)
}

fn repeated_number(key: &str, index: usize) -> CborError {
    CborError::Refused(format!("found duplicate map key {key} at map element index {index}"))
}
