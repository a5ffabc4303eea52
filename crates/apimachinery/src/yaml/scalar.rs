//! What a scalar means: YAML 1.1 as Go's YAML reads it.

use compact_str::CompactString;
use granit_parser::{ScalarStyle, Tag};

use super::{Node, YamlError};
use crate::value::Value;

/// The node of a scalar.
pub(super) fn resolve(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    line: usize,
) -> Result<Node, YamlError> {
    if let Some(tag) = tag {
        let name = tag.suffix_in_namespace("tag:yaml.org,2002:");
        return tagged(text, name.as_deref(), line).map(|value| Node { value, merges: false });
    }
    if style != ScalarStyle::Plain {
        return Ok(Node { value: text.into(), merges: false });
    }
    Ok(Node { value: plain(text)?, merges: text == "<<" })
}

fn tagged(text: &str, tag: Option<&str>, line: usize) -> Result<Value, YamlError> {
    let wrong = |tag: &str| YamlError::Tag { line, text: text.into(), tag: tag.into() };
    match tag {
        Some("binary") => binary(text).ok_or_else(|| wrong("binary")),
        Some(tag @ ("bool" | "int" | "float" | "null")) => {
            let value = plain(text)?;
            let fits = match &value {
                Value::Bool(_) => tag == "bool",
                Value::Int(_) => tag == "int" || tag == "float",
                Value::Float(_) => tag == "float",
                Value::Null => tag == "null",
                Value::String(_) | Value::Array(_) | Value::Object(_) => false,
            };
            if fits { Ok(value) } else { Err(wrong(tag)) }
        }
        // A tag that means nothing here leaves the text.
        _ => Ok(text.into()),
    }
}

/// Whether Go takes text for text where it has no quotes. Times are no text to it either, nor numbers to the base 60.
pub(super) fn means_text(text: &str) -> bool {
    let is_text = text != "<<" && matches!(plain(text), Ok(Value::String(_)));
    is_text && !is_base_60(text) && !is_time(text)
}

/// `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?`
fn is_base_60(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let Some((first, rest)) = whole.split_once(':') else { return false };
    let sixtieth = |part: &str| match part.as_bytes() {
        [digit] => digit.is_ascii_digit(),
        [ten, digit] => (b'0'..=b'5').contains(ten) && digit.is_ascii_digit(),
        _ => false,
    };
    first.starts_with(|c: char| c.is_ascii_digit())
        && digits(first)
        && digits(fraction)
        && rest.split(':').all(sixtieth)
}

/// A date, or a date and a time of day with a zone after `T` or without one after a blank.
fn is_time(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some((text.as_bytes()[at], &text[at + 1..]))),
        None => (text, None),
    };
    let short =
        |text: &str| matches!(text.len(), 1 | 2) && text.bytes().all(|b| b.is_ascii_digit());
    let within = |text: &str, most: u8| short(text) && text.parse().is_ok_and(|it: u8| it <= most);
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    let (Some(year), Some(month), Some(day)) = (year, month, day) else { return false };
    if year.len() != 4 || !short(month) || !short(day) {
        return false;
    }
    let number = |text: &str| text.parse().unwrap_or_default();
    let Ok(year) = year.parse() else { return false };
    if jiff::civil::Date::new(year, number(month), number(day)).is_err() {
        return false;
    }
    let clock = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let parts: Vec<&str> = whole.split(':').collect();
        let [hour, minute, second] = parts[..] else { return false };
        within(hour, 23)
            && within(minute, 59)
            && within(second, 59)
            && !fraction.is_empty()
            && fraction.bytes().all(|b| b.is_ascii_digit())
    };
    match time {
        None => true,
        Some((b' ', time)) => clock(time),
        Some((_, time)) => {
            let Some(zone) = time.find(['Z', '+', '-']) else { return false };
            let (time, zone) = time.split_at(zone);
            let hours = zone.get(1..).and_then(|it| it.split_once(':'));
            let offset = hours.is_some_and(|(hours, minutes)| {
                hours.len() == 2 && minutes.len() == 2 && within(hours, 24) && within(minutes, 60)
            });
            clock(time) && (zone == "Z" || (!zone.starts_with('Z') && offset))
        }
    }
}

/// The value of an unquoted scalar.
fn plain(text: &str) -> Result<Value, YamlError> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => return Err(YamlError::Number("NaN")),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Err(YamlError::Number("+Inf"));
        }
        "-.inf" | "-.Inf" | "-.INF" => return Err(YamlError::Number("-Inf")),
        _ => number(text).unwrap_or_else(|| text.into()),
    })
}

fn number(text: &str) -> Option<Value> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let digits = text.replace('_', "");
    if let Some(number) = integer(&digits) {
        return Some(number);
    }
    // As in Go, what no double holds stays text; JSON could not write it.
    let float = || digits.parse().ok().filter(|it: &f64| it.is_finite()).map(Value::Float);
    is_float(&digits).then(float).flatten()
}

/// An integer with Go's prefixes; a leading 0 means octal.
fn integer(digits: &str) -> Option<Value> {
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let lower = unsigned.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if body.is_empty() || !body.bytes().all(|b| char::from(b).is_digit(radix)) {
        return None;
    }
    let size = u64::from_str_radix(body, radix).ok()?;
    let wide = i128::from(size);
    let wide = if digits.starts_with('-') { -wide } else { wide };
    match i64::try_from(wide) {
        Ok(number) => Some(Value::Int(number)),
        // Larger ones are unsigned in Go and keep their value in JSON; there is no smaller one.
        Err(_) if wide > 0 => size.to_string().parse().ok().map(Value::Float),
        Err(_) => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (text, None),
    };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    let some = !whole.is_empty() || (number.len() > 1 && !fraction.is_empty());
    some && all_digits(whole) && all_digits(fraction) && exponent_fits
}

fn binary(text: &str) -> Option<Value> {
    let clean: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let mut bytes = Vec::with_capacity(clean.len() / 4 * 3);
    for group in clean.chunks(4) {
        let kept = group.iter().take_while(|b| **b != b'=').count();
        if group.len() != 4 || kept < 2 {
            return None;
        }
        let mut bits = 0u32;
        for byte in group {
            bits = bits << 6 | if *byte == b'=' { 0 } else { sextet(*byte)? };
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..kept]);
    }
    Some(CompactString::from_utf8_lossy(&bytes).into())
}

fn sextet(byte: u8) -> Option<u32> {
    Some(match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

/// The name that a scalar makes as a key.
pub(super) fn key(value: &Value) -> Option<CompactString> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(true) => Some("true".into()),
        Value::Bool(false) => Some("false".into()),
        Value::Int(_) | Value::Float(_) => Some(crate::json::to_string(value).into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
