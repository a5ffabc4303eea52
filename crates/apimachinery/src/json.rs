//! JSON text to [`Value`] and back.
//!
//! Reading reports repeated names with their paths, as Kubernetes' strict decoder does, and words its errors as
//! Go's `encoding/json`. Writing is canonical: sorted names, no spaces, Go's number forms.

use compact_str::CompactString;

use crate::value::{Object, Value};

/// How deeply values may nest that are held: reading, comparing and dropping them goes down the stack.
pub const MAX_DEPTH: usize = 1000;
/// How deeply what clients send may nest at all, as upstream's.
pub const INPUT_DEPTH_MAX: usize = 10_000;
/// How deep what is kept of it may be: less than half of [`MAX_DEPTH`], since managed fields repeat it with up to two
/// levels for each of its own.
pub const KEPT_DEPTH_MAX: usize = 400;

/// Text that is not JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text ends inside a value.
    #[error("unexpected end of JSON input")]
    End,
    /// A character where it cannot stand.
    #[error("invalid character {} {context}", quoted(*.character))]
    Character {
        /// The character.
        character: char,
        /// Where it stands.
        context: &'static str,
    },
    /// Nested deeper than allowed.
    #[error("exceeded max depth")]
    Depth,
    /// A number that is too large.
    #[error("json: cannot unmarshal number {text} into Go value of type float64")]
    Number {
        /// The number.
        text: String,
    },
    /// A string that is not UTF-8.
    #[error("invalid UTF-8 in string literal")]
    Utf8,
}

fn quoted(character: char) -> String {
    match character {
        '\'' => r"'\''".into(),
        '"' => "'\"'".into(),
        '\n' => r"'\n'".into(),
        '\t' => r"'\t'".into(),
        '\r' => r"'\r'".into(),
        c => format!("'{}'", crate::field::quote(c.encode_utf8(&mut [0; 4])).trim_matches('"')),
    }
}

/// Reads one JSON value; anything but white space after it is an error.
///
/// # Errors
/// When `text` is not JSON or nests deeper than [`MAX_DEPTH`].
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    parse_reporting(text).map(|(value, _)| value)
}

/// Like [`parse`], and names each member that occurs twice in its object, by path (`spec.ports[0].port`).
///
/// # Errors
/// When `text` is not JSON or nests deeper than [`MAX_DEPTH`].
pub fn parse_reporting(text: &[u8]) -> Result<(Value, Vec<String>), JsonError> {
    Parser::new(text, Deep::Refused).all()
}

/// Like [`parse_reporting`], for what clients send: it may nest up to [`INPUT_DEPTH_MAX`]. What nests deeper than
/// [`KEPT_DEPTH_MAX`] is read and left out, null in its place, which is right where it is dropped as an unknown field;
/// the caller asks [`is_too_deep`] of what is left.
///
/// # Errors
/// When `text` is not JSON or nests deeper than [`INPUT_DEPTH_MAX`].
pub fn parse_input(text: &[u8]) -> Result<(Value, Vec<String>), JsonError> {
    Parser::new(text, Deep::LeftOut).all()
}

/// How the number at a place is written in a text: `1.50`, `1e3`.
#[must_use]
pub fn number_at<'t>(text: &'t [u8], place: &'t [Step]) -> Option<&'t str> {
    let mut parser = Parser { sought: Some(place), ..Parser::new(text, Deep::LeftOut) };
    parser.value().ok()?;
    parser.literal
}

/// Whether a value nests so deeply that it may not be kept, or that part of it was left out by [`parse_input`].
#[must_use]
pub fn is_too_deep(value: &Value) -> bool {
    nests_deeper(value, KEPT_DEPTH_MAX - 1)
}

/// Whether there are more than `levels` arrays and objects in one another.
#[must_use]
pub fn nests_deeper(value: &Value, levels: usize) -> bool {
    let deeper = |value| levels == 0 || nests_deeper(value, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(deeper),
        Value::Object(object) => levels == 0 || object.iter().any(|(_, value)| deeper(value)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => false,
    }
}

/// A step from a value to one in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To a member.
    Key(CompactString),
    /// To an item.
    Index(usize),
}

/// What becomes of values that nest too deeply to be held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deep {
    Refused,
    LeftOut,
}

struct Parser<'t> {
    text: &'t [u8],
    /// The same, where all of it is UTF-8: its strings need not be looked at again.
    characters: Option<&'t str>,
    position: usize,
    path: Vec<Step>,
    repeated: Vec<String>,
    deep: Deep,
    /// Where a number is whose text is looked for, and that text.
    sought: Option<&'t [Step]>,
    literal: Option<&'t str>,
}

impl<'t> Parser<'t> {
    fn new(text: &'t [u8], deep: Deep) -> Self {
        let characters = std::str::from_utf8(text).ok();
        Self {
            text,
            characters,
            position: 0,
            path: Vec::new(),
            repeated: Vec::new(),
            deep,
            sought: None,
            literal: None,
        }
    }

    fn all(mut self) -> Result<(Value, Vec<String>), JsonError> {
        let value = self.value()?;
        self.skip_space();
        match self.peek() {
            None => Ok((value, self.repeated)),
            Some(_) => Err(self.unexpected("after top-level value")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.position += 1;
        }
    }

    fn unexpected(&self, context: &'static str) -> JsonError {
        let rest = &self.text[self.position.min(self.text.len())..];
        // Where a word or a number breaks off, Go's decoder tries to go on with a blank.
        let breaks_off = ["in literal", "in numeric literal", "after decimal", "in exponent"];
        let first = match rest.first() {
            None if breaks_off.iter().any(|it| context.starts_with(it)) => &b' ',
            None => return JsonError::End,
            Some(first) => first,
        };
        // Go reports the byte, not the character.
        JsonError::Character { character: char::from(*first), context }
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        self.skip_space();
        match self.peek() {
            None => Err(JsonError::End),
            Some(b'{' | b'[')
                if self.deep == Deep::LeftOut && self.path.len() >= KEPT_DEPTH_MAX =>
            {
                self.leave_out().map(|()| Value::Null)
            }
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &'static str, value: Value) -> Result<Value, JsonError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.unexpected(literal_context(word, expected)));
            }
            self.position += 1;
        }
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        self.enter()?;
        let mut members = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.position += 1;
            return Ok(Value::object());
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let key = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.position += 1;
            self.path.push(Step::Key(key));
            let value = self.value()?;
            if let Some(Step::Key(key)) = self.path.pop() {
                members.push((key, value));
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
        self.position += 1;
        let Self { path, repeated, .. } = self;
        let object = Object::from_members(members, |key| repeated.push(path_text(path, key)));
        Ok(Value::Object(object))
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        self.enter()?;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.position += 1;
            return Ok(Value::Array(items));
        }
        loop {
            self.path.push(Step::Index(items.len()));
            items.push(self.value()?);
            self.path.pop();
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("after array element")),
            }
        }
        self.position += 1;
        Ok(Value::Array(items))
    }

    /// Steps over an array or object without going down the stack.
    fn leave_out(&mut self) -> Result<(), JsonError> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            // Before a value.
            self.skip_space();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    if self.path.len() + open.len() >= INPUT_DEPTH_MAX {
                        return Err(JsonError::Depth);
                    }
                    self.position += 1;
                    self.skip_space();
                    let closing = if bracket == b'{' { b'}' } else { b']' };
                    if self.peek() == Some(closing) {
                        self.position += 1;
                    } else {
                        open.push(bracket);
                        self.skip_key(bracket)?;
                        continue;
                    }
                }
                _ => drop(self.value()?),
            }
            if self.skip_ends(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Steps over the name of a member, in objects.
    fn skip_key(&mut self, bracket: u8) -> Result<(), JsonError> {
        if bracket != b'{' {
            return Ok(());
        }
        self.skip_space();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("looking for beginning of object key string"));
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("after object key"));
        }
        self.position += 1;
        Ok(())
    }

    /// After a value: steps over what ends here, up to where the next one begins. Whether everything has ended.
    fn skip_ends(&mut self, open: &mut Vec<u8>) -> Result<bool, JsonError> {
        while let Some(bracket) = open.last().copied() {
            self.skip_space();
            match (bracket, self.peek()) {
                (_, Some(b',')) => {
                    self.position += 1;
                    self.skip_key(bracket)?;
                    return Ok(false);
                }
                (b'{', Some(b'}')) | (b'[', Some(b']')) => {
                    self.position += 1;
                    open.pop();
                }
                (b'{', _) => return Err(self.unexpected("after object key:value pair")),
                _ => return Err(self.unexpected("after array element")),
            }
        }
        Ok(true)
    }

    /// Steps over the opening bracket.
    fn enter(&mut self) -> Result<(), JsonError> {
        self.position += 1;
        if self.path.len() >= MAX_DEPTH { Err(JsonError::Depth) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.position;
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        match self.peek() {
            Some(b'0') => self.position += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        let mut integral = true;
        if self.peek() == Some(b'.') {
            integral = false;
            self.position += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integral = false;
            self.position += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.position += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        let text = &self.text[start..self.position];
        // Only ASCII got this far.
        let text = std::str::from_utf8(text).map_err(|_| JsonError::Utf8)?;
        if self.sought.is_some_and(|sought| sought == self.path) {
            self.literal = Some(text);
        }
        if integral && let Ok(number) = text.parse() {
            return Ok(Value::Int(number));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            // It could not be written again.
            _ => Err(JsonError::Number { text: text.into() }),
        }
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.position += 1;
        }
    }

    fn some_digits(&mut self, context: &'static str) -> Result<(), JsonError> {
        let Some(b'0'..=b'9') = self.peek() else { return Err(self.unexpected(context)) };
        self.digits();
        Ok(())
    }

    fn string(&mut self) -> Result<CompactString, JsonError> {
        self.position += 1;
        let start = self.position;
        let rest = &self.text[start..];
        let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        // Nothing else ends a string that is whole, and few hold anything that may not be in one.
        let is_clean = !rest[..end].iter().fold(false, |found, byte| found | (*byte < 0x20));
        let offset = if is_clean { Some(end) } else { rest.iter().position(|byte| *byte < 0x20) };
        let Some(offset) = offset.filter(|it| *it < rest.len()) else {
            self.position = self.text.len();
            return Err(JsonError::End);
        };
        self.position += offset;
        match self.text[self.position] {
            b'"' => {
                let place = start..self.position;
                self.position += 1;
                let text = self.characters.and_then(|it| it.get(place.clone()));
                Ok(text.map_or_else(|| lossy(&self.text[place]), CompactString::from))
            }
            b'\\' => self.escaped_string(start),
            _ => Err(self.unexpected("in string literal")),
        }
    }

    /// A string with escapes; the position is at the first backslash.
    fn escaped_string(&mut self, start: usize) -> Result<CompactString, JsonError> {
        let mut bytes = self.text[start..self.position].to_vec();
        loop {
            let byte = self.peek().ok_or(JsonError::End)?;
            match byte {
                b'"' => {
                    self.position += 1;
                    return Ok(lossy(&bytes));
                }
                b'\\' => {
                    self.position += 1;
                    self.escape(&mut bytes)?;
                }
                0..=0x1f => return Err(self.unexpected("in string literal")),
                _ => {
                    bytes.push(byte);
                    self.position += 1;
                }
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), JsonError> {
        let plain = match self.peek().ok_or(JsonError::End)? {
            b'u' => {
                self.position += 1;
                let character = self.unicode_escape()?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            b'"' => b'"',
            b'\\' => b'\\',
            b'/' => b'/',
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => return Err(self.unexpected("in string escape code")),
        };
        bytes.push(plain);
        self.position += 1;
        Ok(())
    }

    /// The character of `\uXXXX`; half a surrogate pair becomes the replacement character, as in Go.
    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if self.text[self.position..].starts_with(b"\\u") {
            let back = self.position;
            self.position += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.position = back;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or(JsonError::End)?;
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = code * 16 + digit;
            self.position += 1;
        }
        Ok(code)
    }
}

fn literal_context(word: &str, expected: u8) -> &'static str {
    match (word, expected) {
        ("true", b'r') => "in literal true (expecting 'r')",
        ("true", b'u') => "in literal true (expecting 'u')",
        ("true", _) => "in literal true (expecting 'e')",
        ("false", b'a') => "in literal false (expecting 'a')",
        ("false", b'l') => "in literal false (expecting 'l')",
        ("false", b's') => "in literal false (expecting 's')",
        ("false", _) => "in literal false (expecting 'e')",
        (_, b'u') => "in literal null (expecting 'u')",
        _ => "in literal null (expecting 'l')",
    }
}

/// Go replaces what is not UTF-8 in a string.
fn lossy(bytes: &[u8]) -> CompactString {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(bytes).into(),
    }
}

fn path_text(path: &[Step], last: &str) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(index) => {
                text.push('[');
                text.push_str(&index.to_string());
                text.push(']');
            }
        }
    }
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(last);
    text
}

/// The canonical JSON text of a value.
#[must_use]
pub fn to_string(value: &Value) -> String {
    let mut bytes = Vec::new();
    write(value, &mut bytes);
    // Every piece written is UTF-8; the fallback is never taken.
    String::from_utf8(bytes).unwrap_or_default()
}

/// The canonical JSON text of a value.
#[must_use]
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    write(value, &mut bytes);
    bytes
}

/// Appends the canonical JSON text of a value.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Value::Float(number) => write_float(*number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(object) => write_object(object, out),
    }
}

/// Appends the canonical JSON text of an object.
pub fn write_object(object: &Object, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (key, value)) in object.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_member(key, value, out);
    }
    out.push(b'}');
}

/// Appends a member of an object.
pub fn write_member(key: &str, value: &Value, out: &mut Vec<u8>) {
    write_string(key, out);
    out.push(b':');
    match value {
        Value::Array(entries) if key == "managedFields" => write_managed_fields(entries, out),
        value => write(value, out),
    }
}

/// Who owns what, with the members of each entry in the order in which upstream writes them: clients that compare
/// text see who and when before what.
fn write_managed_fields(entries: &[Value], out: &mut Vec<u8>) {
    const MEMBERS: [&str; 7] =
        ["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"];
    out.push(b'[');
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let Value::Object(entry) = entry else {
            write(entry, out);
            continue;
        };
        let known = MEMBERS.iter().filter_map(|name| entry.get(name).map(|value| (*name, value)));
        let others = entry.iter().filter(|(name, _)| !MEMBERS.contains(name));
        out.push(b'{');
        for (index, (name, value)) in known.chain(others).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(name, out);
            out.push(b':');
            write(value, out);
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// Go writes plain digits for exponents from -6 to 20, and a short exponent otherwise.
fn write_float(number: f64, out: &mut Vec<u8>) {
    // A zero below zero is another when it is read again, so its sign goes now.
    let number = number + 0.0;
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        out.extend_from_slice(mantissa.as_bytes());
        out.push(b'e');
        if !exponent.starts_with('-') {
            out.push(b'+');
        }
        // Two digits at least for positive exponents; Go trims e-09 to e-9 in JSON.
        out.extend_from_slice(exponent.as_bytes());
    } else {
        out.extend_from_slice(format!("{number}").as_bytes());
    }
}

/// Makes a value what it is when it is read again: numbers like `2.0` are written without a fraction.
pub fn settle(value: &mut Value) {
    match value {
        Value::Float(number) => {
            let mut text = Vec::with_capacity(24);
            write_float(*number, &mut text);
            let whole = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            if let Some(whole) = whole {
                *value = Value::Int(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(object) => object.iter_mut().for_each(|(_, member)| settle(member)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::String(_) => {}
    }
}

/// Appends a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut clean = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && !matches!(byte, b'"' | b'\\') {
            continue;
        }
        out.extend_from_slice(&bytes[clean..index]);
        clean = index + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[clean..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        let outcome = match parse_reporting(input.as_bytes()) {
            Ok((value, repeated)) if repeated.is_empty() => to_string(&value),
            Ok((value, repeated)) => {
                format!("{} repeated {}", to_string(&value), repeated.join(" "))
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(outcome, expected, "for {input}");
    }

    #[test]
    fn values_survive_a_round_trip_in_canonical_form() {
        check(
            r#" {"b": [1, -2.50, 1e3], "a": {"x": null}} "#,
            r#"{"a":{"x":null},"b":[1,-2.5,1000]}"#,
        );
        check(r#""\u00e9\ud83d\ude00\n\"\\""#, r#""é😀\n\"\\""#);
        check(r#""\ud800x""#, "\"\u{fffd}x\"");
        check("12345678901234567890", "12345678901234567000");
        check("1e21", "1e+21");
        check("0.0000001", "1e-7");
        check("[-0e1,-0.0,-0]", "[0,0,0]");
    }

    #[test]
    fn managed_fields_say_what_they_are_before_what_they_own() {
        check(
            r#"{"managedFields":[{"fieldsV1":{},"manager":"m","time":"t","apiVersion":"v1"},{},{"x":1}]}"#,
            r#"{"managedFields":[{"manager":"m","apiVersion":"v1","time":"t","fieldsV1":{}},{},{"x":1}]}"#,
        );
    }

    #[test]
    fn errors_are_worded_as_clients_know_them() {
        check("", "unexpected end of JSON input");
        check("nul", "invalid character ' ' in literal null (expecting 'l')");
        check(r#"{"a":"#, "unexpected end of JSON input");
        check("{a}", "invalid character 'a' looking for beginning of object key string");
        check("[1 2]", "invalid character '2' after array element");
        check("{} x", "invalid character 'x' after top-level value");
        check("tru!", "invalid character '!' in literal true (expecting 'e')");
        check("-x", "invalid character 'x' in numeric literal");
        check("[-1e999]", "json: cannot unmarshal number -1e999 into Go value of type float64");
        check("\"a\nb\"", r"invalid character '\n' in string literal");
        check(&"[".repeat(MAX_DEPTH + 5), "exceeded max depth");
    }

    #[test]
    fn what_clients_send_may_nest_as_deeply_as_upstream_takes_it() {
        let nested = |levels: usize, inner: &str| {
            let mut text = r#"{"x":["#.repeat(levels / 2);
            text.push_str(inner);
            text.push_str(&"]}".repeat(levels / 2));
            text
        };
        for (text, expected) in [
            (nested(KEPT_DEPTH_MAX - 2, "{}"), "kept"),
            (nested(KEPT_DEPTH_MAX, "1"), "too deep"),
            (nested(INPUT_DEPTH_MAX, "1"), "too deep"),
            (nested(INPUT_DEPTH_MAX, "[]"), "exceeded max depth"),
            (nested(INPUT_DEPTH_MAX, r#"{"a":1, "b" : [ ] , "c":{}}"#), "exceeded max depth"),
            (nested(2000, r#"{"a":1, "b" : [ ] , "c":{}}"#), "too deep"),
            (
                nested(2000, "{a"),
                "invalid character 'a' looking for beginning of object key string",
            ),
            (nested(2000, r#"{"a" 1"#), "invalid character '1' after object key"),
            (nested(2000, r#"{"a":1]"#), "invalid character ']' after object key:value pair"),
            (nested(2000, "1}"), "invalid character '}' after array element"),
            (nested(2000, "1,,"), "invalid character ',' looking for beginning of value"),
            ("[".repeat(5000), "unexpected end of JSON input"),
            ("[".repeat(1 << 20), "exceeded max depth"),
        ] {
            let outcome = match parse_input(text.as_bytes()) {
                Ok((value, _)) if is_too_deep(&value) => "too deep".to_owned(),
                Ok(_) => "kept".to_owned(),
                Err(error) => error.to_string(),
            };
            assert_eq!(
                outcome,
                expected,
                "for {}...",
                &text[text.len() / 2..][..20.min(text.len() / 2)]
            );
        }
    }

    #[test]
    fn what_is_left_out_does_not_take_its_surroundings_along() {
        let text = format!(r#"{{"a":{}1{},"b":2}}"#, "[".repeat(3000), "]".repeat(3000));
        let (mut value, _) = parse_input(text.as_bytes()).unwrap();
        assert!(is_too_deep(&value));
        value.remove_at(&["a"]);
        assert!(!is_too_deep(&value));
        assert_eq!(to_string(&value), r#"{"b":2}"#);
    }

    #[test]
    fn repeated_members_are_named_with_their_path() {
        check(
            r#"{"spec":{"ports":[{"p":1,"q":0,"p":2}]},"spec":{}}"#,
            r#"{"spec":{}} repeated spec.ports[0].p spec"#,
        );
    }
}
