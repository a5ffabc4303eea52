//! Text, bytes and times.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use compact_str::CompactString;
use jiff::Timestamp;
use jiff::fmt::strtime;

use super::Decoder;
use crate::cbor::{CborError, Head, Major};
use crate::conform::canonical_base64;
use crate::time::parse_time;
use crate::value::Value;

impl Decoder<'_> {
    /// The bytes of a string, whatever its chunks.
    fn chunks(&mut self) -> Result<Vec<u8>, CborError> {
        let head = self.head();
        if !head.is_indefinite() {
            return self.chunk(head).map(<[u8]>::to_vec);
        }
        let (mut all, mut error) = (Vec::new(), None);
        while self.goes_on(head, 0) {
            let head = self.head();
            match self.chunk(head) {
                Ok(chunk) => all.extend_from_slice(chunk),
                Err(why) => error = error.or(Some(why)),
            }
        }
        error.map_or(Ok(all), Err)
    }

    fn chunk(&mut self, head: Head) -> Result<&[u8], CborError> {
        let len = usize::try_from(head.value).unwrap_or_default();
        let start = self.at;
        self.at += len;
        let bytes = self.bytes.get(start..self.at).unwrap_or_default();
        if head.major == Major::Text && std::str::from_utf8(bytes).is_err() {
            return Err(CborError::Refused("invalid UTF-8 string".into()));
        }
        Ok(bytes)
    }

    /// Text as it stands; bytes that are no UTF-8 are replaced, as they are wherever they are written as JSON.
    pub(super) fn plain_text(&mut self) -> Result<CompactString, CborError> {
        let bytes = self.chunks()?;
        Ok(CompactString::from_utf8_lossy(&bytes))
    }

    /// Text, or bytes written as the text that a tag around them asks for.
    pub(super) fn string(&mut self) -> Result<CompactString, CborError> {
        let is_text = self.next() == Major::Text;
        let bytes = self.chunks()?;
        Ok(match self.later.last() {
            Some(21) if !is_text => BASE64_URL_SAFE_NO_PAD.encode(bytes).into(),
            Some(22) if !is_text => BASE64_STANDARD.encode(bytes).into(),
            Some(_) if !is_text => {
                bytes.iter().map(|it| compact_str::format_compact!("{it:02x}")).collect()
            }
            _ => CompactString::from_utf8_lossy(&bytes),
        })
    }

    /// Bytes, as JSON has them: base64 already, unless a tag says that they are not.
    pub(super) fn base64(&mut self) -> Result<Value, CborError> {
        let bytes = self.chunks()?;
        if !self.later.is_empty() {
            return Ok(Value::from(BASE64_STANDARD.encode(bytes)));
        }
        let text = CompactString::from_utf8_lossy(&bytes);
        match canonical_base64(&text) {
            Ok(better) => Ok(Value::String(better.unwrap_or(text))),
            Err(why) => {
                Err(CborError::Refused(format!("failed to decode base64 from byte string: {why}")))
            }
        }
    }

    /// A key of a map.
    pub(super) fn item_text(&mut self) -> Result<CompactString, CborError> {
        match self.text()? {
            Value::String(text) => Ok(text),
            _ => Ok(CompactString::default()),
        }
    }

    /// Text and nothing else, null excepted; after an error it stands behind the data item all the same.
    pub(super) fn text(&mut self) -> Result<Value, CborError> {
        let (start, depth) = (self.at, self.later.len());
        let outcome = self.text_or_null();
        self.later.truncate(depth);
        if outcome.is_err() {
            self.at = start;
            self.skip();
        }
        outcome
    }

    fn text_or_null(&mut self) -> Result<Value, CborError> {
        self.self_described();
        self.built_in_tags()?;
        while self.next() == Major::Tag {
            let tag = self.head().value;
            if matches!(tag, 21..=23) {
                self.later.push(tag);
            }
        }
        let head = self.peek_head();
        match head.major {
            Major::Bytes | Major::Text => return self.string().map(Value::String),
            Major::Primitive => {
                self.known_simple(head)?;
                if head.info == 22 {
                    self.head();
                    return Ok(Value::Null);
                }
            }
            _ => {}
        }
        Err(CborError::Type {
            found: head.major.name(),
            wanted: "string".into(),
            field: String::new(),
            detail: String::new(),
        })
    }

    /// What stands in a tag of times, as RFC 3339.
    pub(super) fn time(&mut self) -> Result<CompactString, CborError> {
        let head = self.peek_head();
        match head.major {
            Major::Text => {
                let text = self.plain_text()?;
                let at = parse_time(&text).map_err(|why| {
                    CborError::Refused(format!("cannot set {text} for time.Time: {why}"))
                })?;
                Ok(as_written(&text, at))
            }
            Major::Positive | Major::Negative => {
                self.head();
                let seconds = i64::try_from(head.value).map_err(|_| beyond(head))?;
                in_utc(if head.major == Major::Negative { !seconds } else { seconds }, 0)
            }
            _ => {
                self.head();
                let number = head.float().unwrap_or_default();
                #[allow(clippy::cast_possible_truncation, reason = "beyond is no time anyway")]
                let (seconds, nanos) = (number.trunc() as i64, (number.fract() * 1e9) as i32);
                in_utc(seconds, nanos)
            }
        }
    }
}

/// A number of seconds that is beyond Go's `int64`.
fn beyond(head: Head) -> CborError {
    match super::overflow(head) {
        CborError::Type { found, field, detail, .. } => {
            CborError::Type { found, wanted: "time.Time".into(), field, detail }
        }
        other => other,
    }
}

/// `.5`; nothing where there is no fraction.
fn fraction(nanos: i32) -> String {
    match nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    }
}

/// A time in its own zone, in Go's form. `text` is one that was read as RFC 3339.
fn as_written(text: &str, at: Timestamp) -> CompactString {
    let (start, rest) = text.split_at_checked(19).unwrap_or((text, ""));
    let zone = rest.rfind(['Z', '+', '-']).map_or("Z", |at| &rest[at..]);
    let zone = if matches!(zone, "+00:00" | "-00:00") { "Z" } else { zone };
    let nanos = at.subsec_nanosecond().rem_euclid(1_000_000_000);
    compact_str::format_compact!("{start}{}{zone}", fraction(nanos))
}

fn in_utc(seconds: i64, nanos: i32) -> Result<CompactString, CborError> {
    let refused = || {
        let why = "decoded time cannot be represented in RFC3339 format with sub-second precision: Time.MarshalText: year outside of range [0,9999]";
        CborError::Refused(why.into())
    };
    let at = Timestamp::new(seconds, nanos).map_err(|_| refused())?;
    // The second that has begun, and what is over of it.
    let nanos = at.subsec_nanosecond().rem_euclid(1_000_000_000);
    let text = strtime::format("%Y-%m-%dT%H:%M:%S", at).map_err(|_| refused())?;
    if text.starts_with('-') {
        return Err(refused());
    }
    Ok(compact_str::format_compact!("{text}{}Z", fraction(nanos)))
}
