//! A stored object as bytes, and the few facts that reads need without decoding it.
//!
//! Layout of the bytes: `{"kind":K,"apiVersion":V,"metadata":{` then the members of metadata in order, then the rest of
//! the object in order; no resource version inside. A reader gets the object by splicing the resource version in as
//! the first member of metadata ([`Obj::write`]), so that one copy of the bytes serves the store, every list and
//! every watcher. Kind and version stand in front, so that a list's items drop them by starting later.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use compact_str::CompactString;
use parking_lot::Mutex;

use crate::json::{self, JsonError};
use crate::value::{Object, Value};

/// An object as it is stored, with its resource version.
#[derive(Debug, Clone, Default)]
pub struct Obj {
    bytes: Bytes,
    /// Where the members of metadata begin.
    members_at: u32,
    /// The revision of its last write.
    pub resource_version: u64,
    /// What reads select by.
    pub facts: Facts,
    decoded: Decoded,
}

/// The largest object whose decoded form is kept, in encoded bytes.
const MAX_KEPT_BYTES: usize = 64 << 10;

/// The decoded form of an object, which is many times as large as its bytes and so is kept for a short time only: while
/// those work who follow its changes.
#[derive(Debug, Default)]
struct Decoded {
    kept: Mutex<Option<Arc<Value>>>,
    /// Kept from the first who asks on. Changed under the lock of `kept`.
    from_now: AtomicBool,
}

impl Clone for Decoded {
    /// A copy keeps nothing: whoever made it did not ask for that.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What reads select by, taken from the bytes once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `metadata.namespace`; empty for what is not namespaced.
    pub namespace: CompactString,
    /// `metadata.name`
    pub name: CompactString,
    /// Names and values of `metadata.labels` in turn, in order of the names, then the values of the resource's selectable
    /// fields, in the order of its declaration: in one allocation, since of objects there are many.
    texts: Box<str>,
    /// How many of its bytes are labels.
    labels_bytes: u32,
}

/// Texts in a row: each has its length in bytes before it, as netstrings have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Texts<'t>(&'t str);

/// What stands between a length and its text.
const AFTER_LENGTH: char = ':';

/// Appends texts to a row.
fn push_texts<'t>(row: &mut String, texts: impl IntoIterator<Item = &'t str>) {
    for text in texts {
        row.push_str(itoa::Buffer::new().format(text.len()));
        row.push(AFTER_LENGTH);
        row.push_str(text);
    }
}

impl<'t> Texts<'t> {
    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = &'t str> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_once(AFTER_LENGTH)?;
            let (text, behind) = behind.split_at_checked(length.parse().ok()?)?;
            rest = behind;
            Some(text)
        })
    }

    /// One by its place.
    #[must_use]
    pub fn get(self, index: usize) -> Option<&'t str> {
        self.iter().nth(index)
    }
}

impl Facts {
    /// Labels: names with their values, in order of the names.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = Texts(self.split().0).iter();
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().find(|(it, _)| *it == key).map(|(_, value)| value)
    }

    /// The values of the resource's selectable fields, in the order of its declaration.
    #[must_use]
    pub fn fields(&self) -> Texts<'_> {
        Texts(self.split().1)
    }

    fn split(&self) -> (&str, &str) {
        self.texts.split_at_checked(self.labels_bytes as usize).unwrap_or_default()
    }
}

/// Bytes that are not a stored object.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjError {
    /// Not JSON.
    #[error("stored object is not JSON: {0}")]
    Json(#[from] JsonError),
    /// Not in the layout of [`encode`].
    #[error("stored object does not begin with kind, apiVersion and metadata")]
    Layout,
}

/// The bytes of an object as it is stored. A resource version inside is left out.
#[must_use]
pub fn encode(value: &Value) -> Vec<u8> {
    encode_by(value, json::write_member)
}

/// The same for a custom resource: of managed fields too, members are in order of their names, as upstream writes objects
/// that no Go type describes.
#[must_use]
pub fn encode_custom(value: &Value) -> Vec<u8> {
    encode_by(value, |key, value, out| {
        json::write_string(key, out);
        out.push(b':');
        json::write(value, out);
    })
}

/// How a member of an object is written.
type WriteMember = fn(&str, &Value, &mut Vec<u8>);

/// The largest text whose room is kept for the next one, in bytes.
const KEPT_ROOM_BYTES: usize = 256 << 10;

thread_local! {
    /// Where objects are written before their size is known: what is stored stays for long, so that it has no room to spare.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

fn encode_by(value: &Value, write: WriteMember) -> Vec<u8> {
    let mut room = ROOM.take();
    room.clear();
    write_object_by(value, write, &mut room);
    if room.capacity() > KEPT_ROOM_BYTES {
        room.shrink_to_fit();
        return room;
    }
    let exact = room.as_slice().to_vec();
    ROOM.set(room);
    exact
}

fn write_object_by(value: &Value, write: WriteMember, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"kind\":");
    json::write_string(value.str_at(&["kind"]), out);
    out.extend_from_slice(b",\"apiVersion\":");
    json::write_string(value.str_at(&["apiVersion"]), out);
    out.extend_from_slice(b",\"metadata\":{");
    let empty = Object::new();
    let metadata = value.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    write_members(metadata, &["resourceVersion"], (false, write), out);
    out.push(b'}');
    let rest = value.as_object().unwrap_or(&empty);
    write_members(rest, &["kind", "apiVersion", "metadata"], (true, write), out);
    out.push(b'}');
}

fn write_members(
    object: &Object,
    except: &[&str],
    (mut comma, write): (bool, WriteMember),
    out: &mut Vec<u8>,
) {
    for (key, value) in object.iter().filter(|(key, _)| !except.contains(key)) {
        if comma {
            out.push(b',');
        }
        comma = true;
        write(key, value, out);
    }
}

/// Where the members of metadata begin in bytes made by [`encode`].
fn members_at(bytes: &[u8]) -> Option<usize> {
    const METADATA: &[u8] = b",\"metadata\":{";
    let mut rest = after_kind(bytes)?;
    if let Some(version) = rest.strip_prefix(VERSION) {
        rest = version.get(string_end(version)..)?;
    }
    let members = rest.strip_prefix(METADATA)?;
    Some(bytes.len() - members.len())
}

/// The version, with its group, of an object in bytes made by [`encode`]; nothing where they are none.
#[must_use]
pub fn api_version(bytes: &[u8]) -> Option<&str> {
    members_at(bytes).map(|at| version_in(&bytes[..at]))
}

/// The version in what stands before the members of metadata.
fn version_in(head: &[u8]) -> &str {
    let version = after_kind(head).and_then(|rest| rest.strip_prefix(VERSION)).unwrap_or_default();
    let text = version.get(1..string_end(version).saturating_sub(1)).unwrap_or_default();
    str::from_utf8(text).unwrap_or_default()
}

/// What follows the kind in bytes made by [`encode`].
fn after_kind(bytes: &[u8]) -> Option<&[u8]> {
    let kind = bytes.strip_prefix(KIND)?;
    kind.get(string_end(kind)..)
}

/// What bytes made by [`encode`] begin with, and what the version follows.
const KIND: &[u8] = b"{\"kind\":";
const VERSION: &[u8] = b",\"apiVersion\":";

/// Where the value ends that text of JSON begins with.
fn value_end(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at += string_end(&text[at..]),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' | b',' if depth == 0 => break,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

/// Where the string ends that text of JSON begins with, its quotes included.
fn string_end(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = text.get(at..).and_then(|it| memchr::memchr2(b'"', b'\\', it)) {
        at += found;
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

impl Obj {
    /// The object of these bytes. `fields` names the resource's selectable fields as paths.
    ///
    /// # Errors
    /// When the bytes are not in the layout of [`encode`].
    pub fn from_stored(
        bytes: Bytes,
        resource_version: u64,
        facts: impl FnOnce(&Value) -> Facts,
    ) -> Result<Self, ObjError> {
        let at = members_at(&bytes).ok_or(ObjError::Layout)?;
        let value = json::parse(&bytes)?;
        let members_at = u32::try_from(at).map_err(|_| ObjError::Layout)?;
        let decoded = Decoded::default();
        Ok(Self { facts: facts(&value), bytes, members_at, resource_version, decoded })
    }

    /// The object of these bytes, whose facts are known already.
    ///
    /// # Errors
    /// When the bytes are not in the layout of [`encode`].
    pub fn with_facts(bytes: Bytes, resource_version: u64, facts: Facts) -> Result<Self, ObjError> {
        Ok(Self { facts, ..Self::unindexed(bytes, resource_version)? })
    }

    /// The object of a value, which has its resource version inside; without selectable fields.
    ///
    /// # Errors
    /// When it is too large.
    pub fn of(value: &Value) -> Result<Self, ObjError> {
        let version = value.str_at(&["metadata", "resourceVersion"]).parse().unwrap_or_default();
        Self::with_facts(encode(value).into(), version, facts(value, &[]))
    }

    /// Whether its text has this in it, which is far cheaper to know than what the object holds.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        memchr::memmem::find(&self.bytes, text.as_bytes()).is_some()
    }

    /// The text of a member of metadata, which is far cheaper to find than what the object holds.
    #[must_use]
    pub fn metadata_text(&self, member: &str) -> Option<&[u8]> {
        let (_, value) = self.find(member)?;
        self.bytes.get(value)
    }

    /// The version that its text is of, with its group.
    #[must_use]
    pub fn api_version(&self) -> &str {
        version_in(self.split().0)
    }

    /// `metadata.uid`; empty where it has none.
    #[must_use]
    pub fn uid(&self) -> CompactString {
        let text = self.metadata_text("uid").unwrap_or_default();
        json::parse(text).ok().and_then(|it| it.as_str().map(Into::into)).unwrap_or_default()
    }

    /// Where a member of metadata begins, and where its value is.
    fn find(&self, member: &str) -> Option<(usize, Range<usize>)> {
        let mut at = self.members_at as usize;
        while self.bytes.get(at) == Some(&b'"') {
            let name = at + 1..at + string_end(&self.bytes[at..]) - 1;
            let value = name.end + 2;
            // They are in order, but for the version, which comes first where a reader got the text.
            let (this, wanted) = (self.bytes.get(name.clone())?, member.as_bytes());
            if this > wanted && this != b"resourceVersion" {
                return None;
            }
            let end = value + value_end(self.bytes.get(value..)?);
            if self.bytes.get(name)? == member.as_bytes() {
                return Some((at, value..end));
            }
            at = end + 1;
        }
        None
    }

    /// Appends the object as a reader gets it, but for its managed fields: what nobody looks at need not be decoded.
    pub fn write_unmanaged(&self, out: &mut Vec<u8>) {
        let Some((start, managed)) = self.find("managedFields") else { return self.write(out) };
        let (head, _) = self.split();
        let mut before = &self.bytes[head.len()..start];
        let mut after = &self.bytes[managed.end..];
        // One comma goes with them: the one behind, or else the one before.
        match (after.strip_prefix(b","), before.strip_suffix(b",")) {
            (Some(rest), _) => after = rest,
            (None, Some(rest)) => before = rest,
            (None, None) => {}
        }
        out.reserve(self.bytes.len() + 48);
        out.extend_from_slice(head);
        self.write_version(if before.is_empty() { after } else { before }, out);
        if !before.is_empty() {
            out.extend_from_slice(after);
        }
    }

    /// The object of these bytes for a reader that asks for nothing but the bytes: its facts are empty.
    ///
    /// # Errors
    /// When the bytes are not in the layout of [`encode`].
    pub fn unindexed(bytes: Bytes, resource_version: u64) -> Result<Self, ObjError> {
        let at = members_at(&bytes).ok_or(ObjError::Layout)?;
        let members_at = u32::try_from(at).map_err(|_| ObjError::Layout)?;
        let (facts, decoded) = (Facts::default(), Decoded::default());
        Ok(Self { facts, bytes, members_at, resource_version, decoded })
    }

    /// The same bytes under another resource version, as a deletion reports them.
    #[must_use]
    pub fn at_version(&self, resource_version: u64) -> Self {
        Self { resource_version, ..self.clone() }
    }

    /// The stored bytes, without resource version.
    #[must_use]
    pub fn stored(&self) -> &Bytes {
        &self.bytes
    }

    /// Roughly how many bytes this object keeps alive.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.bytes.len() + size_of::<Self>() + self.facts.texts.len()
    }

    fn split(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.members_at as usize)
    }

    /// Appends the object as a reader gets it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (head, rest) = self.split();
        out.reserve(self.bytes.len() + 48);
        out.extend_from_slice(head);
        self.write_version(rest, out);
    }

    /// Appends the object as an item of a list, which has no kind and version of its own.
    pub fn write_item(&self, out: &mut Vec<u8>) {
        let (_, rest) = self.split();
        out.reserve(self.bytes.len() + 48);
        out.extend_from_slice(b"{\"metadata\":{");
        self.write_version(rest, out);
    }

    fn write_version(&self, rest: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        out.extend_from_slice(itoa::Buffer::new().format(self.resource_version).as_bytes());
        out.extend_from_slice(if rest.first() == Some(&b'}') { b"\"" } else { b"\"," });
        out.extend_from_slice(rest);
    }

    /// The object decoded, resource version included.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn to_value(&self) -> Result<Value, ObjError> {
        decode(&self.bytes, self.resource_version)
    }

    /// The decoded form, if it is kept.
    #[must_use]
    pub fn kept(&self) -> Option<Arc<Value>> {
        self.decoded.kept.lock().clone()
    }

    /// The same, shared with whoever else asks while it is kept.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn value(&self) -> Result<Arc<Value>, ObjError> {
        let mut kept = self.decoded.kept.lock();
        if let Some(value) = &*kept {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(self.to_value()?);
        if self.decoded.from_now.load(Ordering::Relaxed) {
            *kept = Some(Arc::clone(&value));
        }
        Ok(value)
    }

    /// Keeps the decoded form from the next who asks on, until [`Obj::unkeep`]. Of large objects nothing is kept.
    pub fn keep(&self) {
        let _kept = self.decoded.kept.lock();
        if self.bytes.len() <= MAX_KEPT_BYTES {
            self.decoded.from_now.store(true, Ordering::Relaxed);
        }
    }

    /// Keeps the value that this was encoded from. It may have had another resource version, or none.
    pub fn keep_value(&self, mut value: Value) {
        if self.bytes.len() > MAX_KEPT_BYTES {
            return;
        }
        set_version(&mut value, self.resource_version);
        json::settle(&mut value);
        debug_assert_eq!(self.to_value().ok().as_ref(), Some(&value), "encoded from another value");
        *self.decoded.kept.lock() = Some(Arc::new(value));
    }

    /// Forgets the decoded form.
    pub fn unkeep(&self) {
        let mut kept = self.decoded.kept.lock();
        self.decoded.from_now.store(false, Ordering::Relaxed);
        *kept = None;
    }
}

fn set_version(value: &mut Value, resource_version: u64) {
    let mut buffer = itoa::Buffer::new();
    value.set_at(&["metadata", "resourceVersion"], buffer.format(resource_version));
}

/// Decodes stored bytes and adds the resource version.
///
/// # Errors
/// When the bytes are damaged.
pub fn decode(bytes: &[u8], resource_version: u64) -> Result<Value, ObjError> {
    let mut value = json::parse(bytes)?;
    set_version(&mut value, resource_version);
    Ok(value)
}

/// The facts every object has; the values of the selectable fields come from the caller.
#[must_use]
pub fn facts(value: &Value, fields: &[CompactString]) -> Facts {
    let labels = value.at(&["metadata", "labels"]).and_then(Value::as_object);
    let labels = labels.into_iter().flat_map(Object::iter);
    let mut texts = String::new();
    push_texts(
        &mut texts,
        labels.flat_map(|(key, value)| [key, value.as_str().unwrap_or_default()]),
    );
    // Objects have 16 MiB at most.
    let labels_bytes = u32::try_from(texts.len()).unwrap_or_default();
    push_texts(&mut texts, fields.iter().map(CompactString::as_str));
    Facts {
        namespace: value.str_at(&["metadata", "namespace"]).into(),
        name: value.str_at(&["metadata", "name"]).into(),
        texts: texts.into(),
        labels_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn texts_come_back_whatever_is_in_them() {
        for texts in [
            &[][..],
            &[""],
            &["a"],
            &["", "a", ""],
            &["", ""],
            &["a\0b", "", "c"],
            &["3:", "ä", ":"],
        ] {
            let given: Vec<CompactString> = texts.iter().map(|it| (*it).into()).collect();
            for metadata in [value!({}), value!({"labels": {"3:": "1:x", "a": ""}})] {
                let facts = facts(&value!({"metadata": (metadata.clone())}), &given);
                let kept = facts.fields();
                assert_eq!(kept.iter().collect::<Vec<_>>(), texts);
                assert_eq!((kept.len(), kept.is_empty()), (texts.len(), texts.is_empty()));
                assert_eq!(kept.get(0), texts.first().copied());
                assert_eq!(kept.get(texts.len()), None);
                let labels = metadata.get("labels").and_then(Value::as_object);
                let labels = labels.into_iter().flat_map(Object::iter);
                let labels: Vec<_> = labels.map(|(key, it)| (key, it.as_str().unwrap())).collect();
                assert_eq!(facts.labels().collect::<Vec<_>>(), labels);
            }
        }
    }

    #[test]
    fn a_decoded_form_is_shared_while_it_is_kept() {
        let value = value!({"kind": "K", "apiVersion": "v1", "metadata": {"name": "x"}, "data": 1});
        let object = Obj::with_facts(encode(&value).into(), 7, Facts::default()).unwrap();
        let shared = |object: &Obj| Arc::ptr_eq(&object.value().unwrap(), &object.value().unwrap());
        assert!(!shared(&object), "nobody asked to keep it");
        object.keep();
        assert!(shared(&object));
        assert!(!shared(&object.clone()), "a copy is another object");
        object.unkeep();
        assert!(!shared(&object));
        object.keep_value(value);
        assert!(shared(&object));
        assert_eq!(*object.value().unwrap(), object.to_value().unwrap());
        let mut floats = value!({"kind": "K", "apiVersion": "v1", "metadata": {}});
        floats
            .set_at(&["a"], Value::Array([2.0, 2.5, 1e30, -0.0, 1e10].map(Value::Float).to_vec()));
        let object = Obj::of(&floats).unwrap();
        object.keep_value(floats);
        assert_eq!(*object.value().unwrap(), object.to_value().unwrap(), "whole floats");
        let mut large = value!({"kind": "K", "apiVersion": "v1", "metadata": {"name": "x"}});
        large.set_at(&["data"], "x".repeat(MAX_KEPT_BYTES));
        let object = Obj::of(&large).unwrap();
        object.keep();
        assert!(!shared(&object), "too large to keep");
    }

    #[test]
    fn members_are_found_in_the_text_and_managed_fields_left_out() {
        let check = |metadata: &str, rest: &str| {
            let text =
                format!(r#"{{"kind":"K","apiVersion":"v1","metadata":{{{metadata}}}{rest}}}"#);
            let object = Obj::unindexed(text.into_bytes().into(), 7).unwrap();
            let mut out = Vec::new();
            object.write_unmanaged(&mut out);
            let mut expected = object.to_value().unwrap();
            expected.remove_at(&["metadata", "managedFields"]);
            assert_eq!(json::parse(&out).unwrap(), expected, "{metadata}");
            let owners = object.metadata_text("ownerReferences").map(|it| json::parse(it).unwrap());
            assert_eq!(
                owners.as_ref(),
                expected.at(&["metadata", "ownerReferences"]),
                "{metadata}"
            );
        };
        let managed =
            r#""managedFields":[{"fieldsV1":{"f:a":{"k:{\"x\":\"]\"}":{}}},"manager":"m\\"}]"#;
        check(managed, "");
        check(managed, r#","spec":{"a":[1,2]}"#);
        check(&format!(r#"{managed},"name":"x""#), "");
        check(&format!(r#""labels":{{}},{managed}"#), r#","data":1"#);
        let owners = r#""ownerReferences":[{"name":"o","uid":"u"}]"#;
        check(
            r#""annotations":{"ownerReferences":"[]"},"name":"x""#,
            r#","spec":{"ownerReferences":[]}"#,
        );
        check(&format!(r#""a":"\"managedFields\":[",{managed},"name":"x",{owners}"#), "");
        check(&format!(r#""resourceVersion":"7",{managed},"name":"x",{owners}"#), "");
        check(r#""name":"x""#, r#","data":true"#);
        check("", "");
    }

    #[test]
    fn a_reader_gets_the_object_with_its_version() {
        let value = value!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
            "metadata": {"name": "x", "resourceVersion": "1", "labels": {"l": "1"}}});
        let stored = encode(&value);
        assert_eq!(
            String::from_utf8_lossy(&stored),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"labels":{"l":"1"},"name":"x"},"data":{"a":"b"}}"#
        );
        let object = Obj::from_stored(stored.into(), 7, |value| facts(value, &[])).unwrap();
        assert_eq!(object.facts.label("l"), Some("1"));
        let mut out = Vec::new();
        object.write(&mut out);
        assert_eq!(json::parse(&out).unwrap().str_at(&["metadata", "resourceVersion"]), "7");
        assert_eq!(json::parse(&out).unwrap(), object.to_value().unwrap());
        out.clear();
        object.write_item(&mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            r#"{"metadata":{"resourceVersion":"7","labels":{"l":"1"},"name":"x"},"data":{"a":"b"}}"#
        );
    }
}
