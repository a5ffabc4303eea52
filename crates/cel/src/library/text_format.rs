//! `"%d of %s".format([1, "a"])`

use std::fmt::Write as _;

use super::convert;
use crate::error::EvalError;
use crate::limits::RESULT_BYTES_MAX;
use crate::value::{List, Map, Result, Val, int_to_double, uint_to_double};

/// Digits behind the point, where the clause does not say.
const PRECISION: usize = 6;
/// More digits than this are refused.
const PRECISION_MAX: usize = 1000;

/// The text with each clause replaced by the value at its place.
pub(super) fn format(text: &str, values: &List<'_>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut used = 0;
    while let Some((before, clause)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = clause.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, clause) = precision(clause)?;
        let verb = clause.chars().next();
        let verb = verb.ok_or_else(|| failed("unexpected end of string"))?;
        rest = &clause[verb.len_utf8()..];
        if used >= values.len() {
            return Err(failed(&format!("index {used} out of range")));
        }
        write_value(&mut out, verb, precision, &values.get(used)?)?;
        used += 1;
        if out.len() > RESULT_BYTES_MAX {
            return Err(EvalError::new("string size limit exceeded"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn failed(why: &str) -> EvalError {
    EvalError::new(format!("error during formatting: {why}"))
}

fn precision(clause: &str) -> Result<(Option<usize>, &str)> {
    let Some(digits) = clause.strip_prefix('.') else { return Ok((None, clause)) };
    let after = digits.trim_start_matches(|it: char| it.is_ascii_digit());
    let number =
        digits[..digits.len() - after.len()].parse().ok().filter(|it| *it <= PRECISION_MAX);
    number.map(|it| (Some(it), after)).ok_or_else(|| failed("error while parsing precision"))
}

fn write_value(
    out: &mut String,
    verb: char,
    precision: Option<usize>,
    value: &Val<'_>,
) -> Result<()> {
    match verb {
        's' => write_string(out, value),
        'd' => write_decimal(out, value),
        'f' | 'e' => write_double(out, verb, precision.unwrap_or(PRECISION), value),
        'b' => write_binary(out, value),
        'o' => write_octal(out, value),
        'x' | 'X' => write_hex(out, verb == 'X', value),
        other => Err(failed(&format!(
            "could not parse formatting clause: unrecognized formatting clause \"{other}\""
        ))),
    }
}

fn refused(what: &str, value: &Val<'_>) -> EvalError {
    let name = value.type_of();
    failed(&format!("{what}, was given {}", name.name()))
}

fn write_string(out: &mut String, value: &Val<'_>) -> Result<()> {
    if out.len() > RESULT_BYTES_MAX {
        return Err(EvalError::new("string size limit exceeded"));
    }
    match value {
        Val::String(text) => out.push_str(text),
        Val::Null => out.push_str("null"),
        Val::Double(number) => out.push_str(&double(*number)),
        Val::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Val::Type(ty) => out.push_str(ty.name()),
        Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::Duration(_) | Val::Timestamp(_) => {
            out.push_str(&convert::show(value));
        }
        Val::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_string(out, &item?)?;
            }
            out.push(']');
        }
        Val::Map(map) if map.struct_name().is_none() => write_map(out, map)?,
        Val::Map(_) | Val::Optional(_) | Val::Opaque(_) => {
            let what = "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps";
            return Err(refused(what, value));
        }
    }
    Ok(())
}

fn write_map(out: &mut String, map: &Map<'_>) -> Result<()> {
    let mut entries = Vec::new();
    for (key, value) in map.entries()? {
        let (mut name, mut text) = (String::new(), String::new());
        write_string(&mut name, &key)?;
        write_string(&mut text, &value)?;
        entries.push((name, text));
    }
    entries.sort();
    out.push('{');
    for (index, (key, value)) in entries.iter().enumerate() {
        let _ = write!(out, "{}{key}: {value}", if index > 0 { ", " } else { "" });
    }
    out.push('}');
    Ok(())
}

/// A double in full, without an exponent.
fn double(number: f64) -> String {
    match number {
        it if it.is_nan() => "NaN".into(),
        it if it.is_infinite() => if it > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        it => it.to_string(),
    }
}

fn write_decimal(out: &mut String, value: &Val<'_>) -> Result<()> {
    match value {
        Val::Int(_) | Val::Uint(_) => out.push_str(&convert::show(value)),
        Val::Double(number) if !number.is_finite() => out.push_str(&double(*number)),
        _ => return Err(refused("decimal clause can only be used on integers", value)),
    }
    Ok(())
}

fn write_double(out: &mut String, verb: char, precision: usize, value: &Val<'_>) -> Result<()> {
    let number = match value {
        Val::Double(number) => *number,
        Val::Int(number) => int_to_double(*number),
        Val::Uint(number) => uint_to_double(*number),
        Val::String(text) if matches!(&**text, "NaN" | "Infinity" | "-Infinity") => {
            out.push_str(text);
            return Ok(());
        }
        _ if verb == 'f' => {
            return Err(refused("fixed-point clause can only be used on doubles", value));
        }
        _ => return Err(refused("scientific clause can only be used on doubles", value)),
    };
    if !number.is_finite() {
        out.push_str(&double(number));
    } else if verb == 'f' {
        let _ = write!(out, "{number:.precision$}");
    } else {
        let text = format!("{number:.precision$e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let sign = if exponent.starts_with('-') { '-' } else { '+' };
        let _ = write!(out, "{digits}e{sign}{:0>2}", exponent.trim_start_matches('-'));
    }
    Ok(())
}

fn write_binary(out: &mut String, value: &Val<'_>) -> Result<()> {
    let _ = match value {
        Val::Bool(truth) => write!(out, "{}", u8::from(*truth)),
        Val::Int(number) => {
            let sign = if *number < 0 { "-" } else { "" };
            write!(out, "{sign}{:b}", number.unsigned_abs())
        }
        Val::Uint(number) => write!(out, "{number:b}"),
        _ => return Err(refused("only integers and bools can be formatted as binary", value)),
    };
    Ok(())
}

fn write_octal(out: &mut String, value: &Val<'_>) -> Result<()> {
    let _ = match value {
        Val::Int(number) => {
            let sign = if *number < 0 { "-" } else { "" };
            write!(out, "{sign}{:o}", number.unsigned_abs())
        }
        Val::Uint(number) => write!(out, "{number:o}"),
        _ => return Err(refused("octal clause can only be used on integers", value)),
    };
    Ok(())
}

fn write_hex(out: &mut String, upper: bool, value: &Val<'_>) -> Result<()> {
    let text = match value {
        Val::Int(number) => {
            let sign = if *number < 0 { "-" } else { "" };
            format!("{sign}{:x}", number.unsigned_abs())
        }
        Val::Uint(number) => format!("{number:x}"),
        Val::String(text) => hex(text.as_bytes()),
        Val::Bytes(bytes) => hex(bytes),
        _ => {
            let what = "only integers, byte buffers, and strings can be formatted as hex";
            return Err(refused(what, value));
        }
    };
    out.push_str(&if upper { text.to_uppercase() } else { text });
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
