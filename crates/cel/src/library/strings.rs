//! Functions of text. Positions count code points.

use super::standard::no_overload;
use super::text_format;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::limits::{ITEMS_MAX, RESULT_BYTES_MAX};
use crate::value::{Result, Val, char_count};

/// Where a code point starts in bytes; the end counts as one.
fn byte_at(text: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    if text.is_ascii() {
        return (index <= text.len()).then_some(index);
    }
    text.char_indices().map(|it| it.0).chain([text.len()]).nth(index)
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

fn count(text: &str) -> i64 {
    i64::try_from(char_count(text)).unwrap_or(i64::MAX)
}

fn char_at<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::String(text), Val::Int(index)] = args else { return no_overload() };
    let at = byte_at(text, *index).ok_or_else(|| out_of_range(*index))?;
    let length = text[at..].chars().next().map_or(0, char::len_utf8);
    Ok(Val::string(&text[at..at + length]))
}

fn index_of<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let (text, part, from) = match args {
        [Val::String(text), Val::String(part)] => (text, part, 0),
        [Val::String(text), Val::String(part), Val::Int(from)] => (text, part, *from),
        _ => return no_overload(),
    };
    if part.is_empty() {
        return Ok(Val::Int(from));
    }
    let start = byte_at(text, from).ok_or_else(|| out_of_range(from))?;
    let found = text[start..].find(&**part);
    Ok(Val::Int(found.map_or(-1, |at| count(&text[..start + at]))))
}

fn last_index_of<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let (text, part, from) = match args {
        [Val::String(text), Val::String(part)] => (text, part, None),
        [Val::String(text), Val::String(part), Val::Int(from)] => (text, part, Some(*from)),
        _ => return no_overload(),
    };
    let length = count(text);
    if part.is_empty() {
        return Ok(Val::Int(from.unwrap_or(length)));
    }
    let from = from.unwrap_or(length);
    if from < 0 || from > length {
        return Err(out_of_range(from));
    }
    // The match may begin at `from` and reach beyond it.
    let end = byte_at(text, from.saturating_add(count(part)).min(length)).unwrap_or(text.len());
    Ok(Val::Int(text[..end].rfind(&**part).map_or(-1, |at| count(&text[..at]))))
}

fn substring<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let (text, from, to) = match args {
        [Val::String(text), Val::Int(from)] => (text, *from, count(text)),
        [Val::String(text), Val::Int(from), Val::Int(to)] => (text, *from, *to),
        _ => return no_overload(),
    };
    if from > to {
        return Err(EvalError::new(format!("invalid substring range. start: {from}, end: {to}")));
    }
    let start = byte_at(text, from).ok_or_else(|| out_of_range(from))?;
    let end = byte_at(text, to).ok_or_else(|| out_of_range(to))?;
    Ok(Val::string(&text[start..end]))
}

fn limit(args: &[Val<'_>], index: usize) -> Option<usize> {
    match args.get(index) {
        Some(Val::Int(limit)) => usize::try_from(*limit).ok(),
        _ => None,
    }
}

fn replace<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::String(text), Val::String(from), Val::String(to), ..] = args else {
        return no_overload();
    };
    let times = limit(args, 3).unwrap_or(usize::MAX);
    let found = if from.is_empty() { char_count(text) + 1 } else { text.matches(&**from).count() };
    let size = found.min(times).saturating_mul(to.len()).saturating_add(text.len());
    if size > RESULT_BYTES_MAX {
        return Err(EvalError::new("string size limit exceeded"));
    }
    Ok(Val::string(&text.replacen(&**from, to, times)))
}

fn split<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let [Val::String(text), Val::String(by), ..] = args else { return no_overload() };
    let parts: Vec<&str> = match limit(args, 2) {
        Some(0) => Vec::new(),
        Some(1) => vec![text],
        limit => {
            let limit = limit.unwrap_or(usize::MAX);
            if by.is_empty() { letters(text, limit) } else { text.splitn(limit, &**by).collect() }
        }
    };
    if parts.len() > ITEMS_MAX {
        return Err(EvalError::new("list size limit exceeded"));
    }
    Ok(Val::list(parts.into_iter().map(Val::string).collect()))
}

/// The code points, the last part holding what is beyond the limit.
fn letters(text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        if parts.len() + 1 == limit {
            parts.push(rest);
            break;
        }
        let (letter, after) = rest.split_at(char.len_utf8());
        parts.push(letter);
        rest = after;
    }
    parts
}

fn join<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let (list, by) = match args {
        [Val::List(list)] => (list, ""),
        [Val::List(list), Val::String(by)] => (list, &**by),
        _ => return no_overload(),
    };
    let mut text = String::new();
    for (index, item) in list.iter().enumerate() {
        let item = item?;
        if index > 0 {
            text.push_str(by);
        }
        text.push_str(item.as_str().ok_or_else(EvalError::no_such_overload)?);
        if text.len() > RESULT_BYTES_MAX {
            return Err(EvalError::new("string size limit exceeded"));
        }
    }
    Ok(Val::string(&text))
}

fn mapped<'v>(args: &[Val<'v>], map: fn(&str) -> String) -> Result<Val<'v>> {
    match args {
        [Val::String(text)] => Ok(Val::string(&map(text))),
        _ => no_overload(),
    }
}

/// The text in double quotes, with escapes for what cannot stand in them.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' | '"' => {
                quoted.push('\\');
                quoted.push(char);
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("charAt", "string_char_at_int", "string.(int) -> string", char_at),
    f("indexOf", "string_index_of_string", "string.(string) -> int", index_of),
    f("indexOf", "string_index_of_string_int", "string.(string, int) -> int", index_of),
    f("lastIndexOf", "string_last_index_of_string", "string.(string) -> int", last_index_of),
    f(
        "lastIndexOf",
        "string_last_index_of_string_int",
        "string.(string, int) -> int",
        last_index_of,
    ),
    f("lowerAscii", "string_lower_ascii", "string.() -> string", |args| {
        mapped(args, str::to_ascii_lowercase)
    }),
    f("upperAscii", "string_upper_ascii", "string.() -> string", |args| {
        mapped(args, str::to_ascii_uppercase)
    }),
    f("replace", "string_replace_string_string", "string.(string, string) -> string", replace),
    f(
        "replace",
        "string_replace_string_string_int",
        "string.(string, string, int) -> string",
        replace,
    ),
    f("split", "string_split_string", "string.(string) -> list(string)", split),
    f("split", "string_split_string_int", "string.(string, int) -> list(string)", split),
    f("substring", "string_substring_int", "string.(int) -> string", substring),
    f("substring", "string_substring_int_int", "string.(int, int) -> string", substring),
    f("trim", "string_trim", "string.() -> string", |args| mapped(args, |it| it.trim().to_owned())),
    f("join", "list_join", "list(string).() -> string", join),
    f("join", "list_join_string", "list(string).(string) -> string", join),
];

pub(super) const FORMAT: &[Decl] = &[
    f("format", "string_format", "string.(list(dyn)) -> string", |args| match args {
        [Val::String(text), Val::List(values)] => {
            text_format::format(text, values).map(|it| Val::string(&it))
        }
        _ => no_overload(),
    }),
    f("strings.quote", "strings_quote", "(string) -> string", |args| mapped(args, quote)),
];

pub(super) const REVERSE: &[Decl] =
    &[f("reverse", "string_reverse", "string.() -> string", |args| {
        mapped(args, |it| it.chars().rev().collect())
    })];
