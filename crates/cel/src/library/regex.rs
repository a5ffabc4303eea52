//! Patterns, in the syntax of Go's regular expressions.
//!
//! The engine is another with almost the same syntax; where the two differ, the pattern is rewritten: classes such as
//! `\d` are ASCII, `[` and `&` in a class are themselves, braces that repeat nothing too.

use ::regex::{Regex, RegexBuilder};

use super::standard::no_overload;
use crate::decl::{Decl, f};
use crate::error::EvalError;
use crate::limits::ITEMS_MAX;
use crate::value::{Result, Val};

/// How large a compiled pattern may become.
const COMPILED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How deep groups may nest, as Go allows.
const NEST_MAX: u32 = 250;

/// The engine's words, and Go's for the same.
const WORDS: [(&str, &str); 7] = [
    ("unclosed group", "missing closing )"),
    ("unclosed character class", "missing closing ]"),
    ("unopened group", "unexpected )"),
    ("repetition operator missing expression", "missing argument to repetition operator"),
    ("look-around", "invalid or unsupported Perl syntax"),
    ("escape sequence, reached end", "trailing backslash at end of expression"),
    ("escape sequence", "invalid escape sequence"),
];

/// Compiles a pattern.
pub(crate) fn compile(pattern: &str) -> std::result::Result<Regex, String> {
    let translated =
        translate(pattern).map_err(|why| format!("error parsing regexp: {why}: `{pattern}`"))?;
    let built =
        RegexBuilder::new(&translated).size_limit(COMPILED_BYTES_MAX).nest_limit(NEST_MAX).build();
    built.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let why = WORDS.iter().find(|it| last.contains(it.0)).map_or(last, |it| it.1);
        format!("error parsing regexp: {why}: `{pattern}`")
    })
}

/// The same pattern in the engine's syntax.
fn translate(pattern: &str) -> std::result::Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut in_class = false;
    let mut repetition = Repetition::None;
    while let Some(char) = rest.chars().next() {
        let after = &rest[char.len_utf8()..];
        if char == '\\' {
            repetition = Repetition::None;
            rest = escape(after, in_class, &mut out);
            continue;
        }
        if !in_class {
            repetition = repetition.then(char, after)?;
        }
        rest = after;
        match char {
            '[' if in_class => match after.strip_prefix(':').and_then(|it| it.split_once(":]")) {
                Some((name, tail))
                    if name.bytes().all(|it| it.is_ascii_alphabetic() || it == b'^') =>
                {
                    out.push_str("[:");
                    out.push_str(name);
                    out.push_str(":]");
                    rest = tail;
                }
                _ => out.push_str("\\["),
            },
            '[' => {
                in_class = true;
                out.push('[');
                if let Some(tail) = rest.strip_prefix('^') {
                    out.push('^');
                    rest = tail;
                }
                // First in a class, a closing bracket is itself.
                if let Some(tail) = rest.strip_prefix(']') {
                    out.push_str("\\]");
                    rest = tail;
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(char);
            }
            '-' if in_class && after.starts_with('-') => out.push_str("\\-"),
            '{' if !in_class => match after.split_once('}').filter(|_| is_repetition(after)) {
                Some((times, tail)) => {
                    out.push('{');
                    out.push_str(times);
                    out.push('}');
                    rest = tail;
                }
                None => out.push_str("\\{"),
            },
            '}' if !in_class => out.push_str("\\}"),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// What the last thing read repeats.
#[derive(Clone, Copy)]
enum Repetition {
    None,
    /// `*`, `+`, `?`, `{n}`
    Some,
    /// The same with `?`.
    Lazy,
}

impl Repetition {
    fn then(self, char: char, after: &str) -> std::result::Result<Self, &'static str> {
        let repeats = matches!(char, '*' | '+' | '?') || char == '{' && is_repetition(after);
        match self {
            _ if !repeats => Ok(Self::None),
            Self::None => Ok(Self::Some),
            Self::Some if char == '?' => Ok(Self::Lazy),
            Self::Some | Self::Lazy => Err("invalid nested repetition operator"),
        }
    }
}

/// Rewrites what follows a backslash; what is left comes back.
fn escape<'p>(after: &'p str, in_class: bool, out: &mut String) -> &'p str {
    let Some(letter) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[letter.len_utf8()..];
    let class = |inside: &str, negated: bool| match (in_class, negated) {
        (true, false) => inside.to_owned(),
        (_, true) => format!("[^{inside}]"),
        (false, false) => format!("[{inside}]"),
    };
    match letter {
        'd' | 'D' => out.push_str(&class("0-9", letter == 'D')),
        'w' | 'W' => out.push_str(&class("0-9A-Za-z_", letter == 'W')),
        's' | 'S' => out.push_str(&class("\\t\\n\\x0c\\r\\x20", letter == 'S')),
        'b' | 'B' if !in_class => {
            out.push_str("(?-u:\\");
            out.push(letter);
            out.push(')');
        }
        'Q' => {
            let (literal, tail) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&::regex::escape(literal));
            return tail;
        }
        'p' | 'P' if rest.starts_with('{') => {
            let (name, tail) = rest.split_once('}').unwrap_or((rest, ""));
            out.push('\\');
            out.push(letter);
            out.push_str(name);
            out.push('}');
            return tail;
        }
        _ => {
            out.push('\\');
            out.push(letter);
        }
    }
    rest
}

/// Whether a brace is followed by `n}`, `n,}` or `n,m}`.
fn is_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else { return false };
    let is_number = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    match inside.split_once(',') {
        None => is_number(inside),
        Some((low, high)) => is_number(low) && (high.is_empty() || is_number(high)),
    }
}

fn texts<'a>(args: &'a [Val<'_>]) -> Result<(&'a str, &'a str)> {
    match args {
        [Val::String(text), Val::String(pattern), ..] => Ok((text, pattern)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `matches` with a pattern that is known only now.
pub(super) fn match_text<'v>(args: &[Val<'v>]) -> Result<Val<'v>> {
    let (_, pattern) = texts(args)?;
    matches(&compile(pattern).map_err(EvalError::new)?, args)
}

pub(crate) fn matches(regex: &Regex, args: &[Val<'_>]) -> Result<Val<'static>> {
    Ok(Val::Bool(regex.is_match(texts(args)?.0)))
}

pub(crate) fn find(regex: &Regex, args: &[Val<'_>]) -> Result<Val<'static>> {
    let found = regex.find(texts(args)?.0);
    Ok(Val::string(found.map_or("", |it| it.as_str())))
}

pub(crate) fn find_all(regex: &Regex, args: &[Val<'_>]) -> Result<Val<'static>> {
    let limit = match args.get(2) {
        Some(Val::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let found = regex.find_iter(texts(args)?.0).take(limit.min(ITEMS_MAX + 1));
    let found = found.map(|it| Val::string(it.as_str())).collect::<Vec<_>>();
    if found.len() > ITEMS_MAX {
        return Err(EvalError::new("list size limit exceeded"));
    }
    Ok(Val::list(found))
}

fn illegal(error: &str) -> EvalError {
    EvalError::new(format!("Illegal regex: {error}"))
}

fn find_with<'v>(
    args: &[Val<'v>],
    function: fn(&Regex, &[Val<'_>]) -> Result<Val<'static>>,
) -> Result<Val<'v>> {
    match args {
        [Val::String(_), Val::String(pattern), ..] => {
            function(&compile(pattern).map_err(|error| illegal(&error))?, args)
        }
        _ => no_overload(),
    }
}

pub(super) const FUNCTIONS: &[Decl] = &[
    f("find", "string_find_string", "string.(string) -> string", |args| find_with(args, find)),
    f("findAll", "string_find_all_string", "string.(string) -> list(string)", |args| {
        find_with(args, find_all)
    }),
    f("findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", |args| {
        find_with(args, find_all)
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, found) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{663}", false),
            (r"^[\w-]+$", "a-b_1", true),
            (r"^[[]$", "[", true),
            (r"^[]a]+$", "]a", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^a{2}$", "aa", true),
            (r"^{}$", "{}", true),
            (r"^\Q.*\E$", ".*", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^\pL+$", "\u{e9}", true),
            (r"^\p{Greek}$", "\u{3b1}", true),
            (r"^[^\s]+$", "ab", true),
            (r"^[\D]+$", "ab", true),
            (r"\bfoo\b", "a foo b", true),
            (r"(?i)ABC", "abc", true),
            (r"^[a--]$", "-", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), found, "{pattern} on {text}");
        }
        for wrong in ["(", "[a", "a**", r"\", "(?=a)", r"\1"] {
            assert!(compile(wrong).is_err(), "{wrong}");
        }
    }
}
