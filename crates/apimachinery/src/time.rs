//! Times and durations in the forms objects hold them.

use compact_str::CompactString;
use jiff::Timestamp;
use jiff::fmt::strtime;

use crate::conform::Canonical;

/// `metav1.Time`: RFC 3339 in UTC, to the second.
#[must_use]
pub fn format_time(at: Timestamp) -> CompactString {
    strtime::format("%Y-%m-%dT%H:%M:%SZ", at).unwrap_or_default().into()
}

/// `metav1.MicroTime`: RFC 3339 in UTC with six digits of fraction.
#[must_use]
pub fn format_micro_time(at: Timestamp) -> CompactString {
    strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", at).unwrap_or_default().into()
}

/// Reads RFC 3339.
///
/// # Errors
/// In the words of Go's `time.Parse`.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let strict = looks_like_rfc3339(text);
    let parsed = strict.then(|| text.parse().ok()).flatten();
    parsed.ok_or_else(|| {
        format!(
            "parsing time {0} as \"2006-01-02T15:04:05Z07:00\": cannot parse {0} as \"2006\"",
            crate::field::quote(text)
        )
    })
}

/// `2006-01-02T15:04:05` with upper-case letters, then a fraction and a zone.
fn looks_like_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20
        && bytes[..19].iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            10 => *byte == b'T',
            13 | 16 => *byte == b':',
            _ => byte.is_ascii_digit(),
        })
        && (text.ends_with('Z') || bytes[bytes.len() - 3] == b':')
}

pub(crate) fn canonical_time(text: &str) -> Canonical {
    canonical(text, format_time)
}

pub(crate) fn canonical_micro_time(text: &str) -> Canonical {
    canonical(text, format_micro_time)
}

fn canonical(text: &str, format: impl Fn(Timestamp) -> CompactString) -> Canonical {
    let better = format(parse_time(text)?);
    Ok((better != text).then_some(better))
}

/// Durations are kept as they are written; Go checks them.
pub(crate) fn canonical_duration(_text: &str) -> Canonical {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_canonical() {
        assert_eq!(canonical_time("2026-01-02T03:04:05Z"), Ok(None));
        assert_eq!(
            canonical_time("2026-01-02T03:04:05.9+02:00"),
            Ok(Some("2026-01-02T01:04:05Z".into()))
        );
        assert_eq!(
            canonical_micro_time("2026-01-02T03:04:05Z"),
            Ok(Some("2026-01-02T03:04:05.000000Z".into()))
        );
        assert_eq!(
            canonical_time("tomorrow"),
            Err("parsing time \"tomorrow\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"tomorrow\" as \"2006\"".into())
        );
    }
}
