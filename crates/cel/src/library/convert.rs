//! Conversions between types, and numbers as Go prints them.

use std::fmt::Write as _;

use super::opaque::Opaque;
use super::standard::no_overload;
use super::time;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::value::{Result, Val, int_to_double, uint_to_double, whole};

/// The text of a scalar.
pub(crate) fn to_string<'v>(value: &Val<'v>) -> Result<Val<'v>> {
    let text = match value {
        Val::String(text) => return Ok(Val::String(text.clone())),
        Val::Bool(truth) => truth.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => double(*number),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string"));
            }
        },
        Val::Duration(it) => time::duration_text(*it),
        Val::Timestamp(at) => time::timestamp_text(*at),
        Val::Opaque(it) => match &**it {
            Opaque::Ip(ip) => ip.to_string(),
            Opaque::Cidr(ip, bits) => format!("{ip}/{bits}"),
            _ => return no_overload(),
        },
        _ => return no_overload(),
    };
    Ok(Val::string(&text))
}

/// A value in an error.
pub(crate) fn show(value: &Val<'_>) -> String {
    match to_string(value) {
        Ok(text) => text.as_str().unwrap_or_default().to_owned(),
        Err(_) => value.type_of().name().to_owned(),
    }
}

/// A double as Go's `%g` prints it: the shortest text that reads back the same.
pub(crate) fn double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let mut text = digits.to_owned();
    let _ = write!(text, "e{sign}{:02}", exponent.abs());
    text
}

fn to_int<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let overflow = || EvalError::new("integer overflow");
    let number = match args {
        [Val::Int(number)] => *number,
        [Val::Uint(number)] => i64::try_from(*number).map_err(|_| overflow())?,
        [Val::Double(number)] => {
            // Both ends are out: a double cannot tell them from what is beyond.
            let truncated = number.trunc();
            let inside =
                truncated > -9.223_372_036_854_776e18 && truncated < 9.223_372_036_854_776e18;
            let number = whole(truncated).filter(|_| inside).and_then(|it| i64::try_from(it).ok());
            number.ok_or_else(overflow)?
        }
        [Val::String(text)] => text.parse().map_err(|_| invalid(text, "ParseInt"))?,
        [Val::Timestamp(at)] => at.seconds(),
        [Val::Duration(it)] => it.as_nanos(),
        _ => return no_overload(),
    };
    Ok(Val::Int(number))
}

fn invalid(text: &str, function: &str) -> EvalError {
    let quoted = apimachinery::field::quote(text);
    EvalError::new(format!("strconv.{function}: parsing {quoted}: invalid syntax"))
}

fn to_uint<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let overflow = || EvalError::new("unsigned integer overflow");
    let number = match args {
        [Val::Uint(number)] => *number,
        [Val::Int(number)] => u64::try_from(*number).map_err(|_| overflow())?,
        [Val::Double(number)] => {
            let truncated = number.trunc();
            let inside = *number >= 0.0 && truncated < 1.844_674_407_370_955_2e19;
            let number = whole(truncated).filter(|_| inside).and_then(|it| u64::try_from(it).ok());
            number.ok_or_else(overflow)?
        }
        [Val::String(text)] => text.parse().map_err(|_| invalid(text, "ParseUint"))?,
        _ => return no_overload(),
    };
    Ok(Val::Uint(number))
}

fn to_double<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let number = match args {
        [Val::Double(number)] => *number,
        [Val::Int(number)] => int_to_double(*number),
        [Val::Uint(number)] => uint_to_double(*number),
        [Val::String(text)] => {
            text.trim_start_matches('+').parse().map_err(|_| invalid(text, "ParseFloat"))?
        }
        _ => return no_overload(),
    };
    Ok(Val::Double(number))
}

fn to_bool<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Bool(truth)] => Ok(Val::Bool(*truth)),
        [Val::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            other => Err(invalid(other, "ParseBool")),
        },
        _ => no_overload(),
    }
}

fn to_bytes<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Bytes(bytes)] => Ok(Val::Bytes(std::sync::Arc::clone(bytes))),
        [Val::String(text)] => Ok(Val::Bytes(text.as_bytes().into())),
        _ => no_overload(),
    }
}

fn first_to_string<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    args.first().map_or_else(no_overload, to_string)
}

fn first_to_duration<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Duration(it)] => Ok(Val::Duration(*it)),
        [Val::String(text)] => time::duration(text),
        _ => no_overload(),
    }
}

fn first_to_timestamp<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    match args {
        [Val::Timestamp(at)] => Ok(Val::Timestamp(*at)),
        [Val::String(text)] => time::timestamp(text),
        [Val::Int(seconds)] => time::from_seconds(*seconds),
        _ => no_overload(),
    }
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("bool", "bool_to_bool", "(bool) -> bool", to_bool),
    f("bool", "string_to_bool", "(string) -> bool", to_bool),
    f("bytes", "bytes_to_bytes", "(bytes) -> bytes", to_bytes),
    f("bytes", "string_to_bytes", "(string) -> bytes", to_bytes),
    f("double", "double_to_double", "(double) -> double", to_double),
    f("double", "int64_to_double", "(int) -> double", to_double),
    f("double", "string_to_double", "(string) -> double", to_double),
    f("double", "uint64_to_double", "(uint) -> double", to_double),
    f("duration", "duration_to_duration", "(duration) -> duration", first_to_duration),
    f("duration", "string_to_duration", "(string) -> duration", first_to_duration),
    f("int", "int64_to_int64", "(int) -> int", to_int),
    f("int", "double_to_int64", "(double) -> int", to_int),
    f("int", "duration_to_int64", "(duration) -> int", to_int),
    f("int", "string_to_int64", "(string) -> int", to_int),
    f("int", "timestamp_to_int64", "(timestamp) -> int", to_int),
    f("int", "uint64_to_int64", "(uint) -> int", to_int),
    f("string", "string_to_string", "(string) -> string", first_to_string),
    f("string", "bool_to_string", "(bool) -> string", first_to_string),
    f("string", "bytes_to_string", "(bytes) -> string", first_to_string),
    f("string", "double_to_string", "(double) -> string", first_to_string),
    f("string", "duration_to_string", "(duration) -> string", first_to_string),
    f("string", "int64_to_string", "(int) -> string", first_to_string),
    f("string", "timestamp_to_string", "(timestamp) -> string", first_to_string),
    f("string", "uint64_to_string", "(uint) -> string", first_to_string),
    f("timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", first_to_timestamp),
    f("timestamp", "string_to_timestamp", "(string) -> timestamp", first_to_timestamp),
    f("timestamp", "int64_to_timestamp", "(int) -> timestamp", first_to_timestamp),
    f("uint", "uint64_to_uint64", "(uint) -> uint", to_uint),
    f("uint", "double_to_uint64", "(double) -> uint", to_uint),
    f("uint", "int64_to_uint64", "(int) -> uint", to_uint),
    f("uint", "string_to_uint64", "(string) -> uint", to_uint),
];
