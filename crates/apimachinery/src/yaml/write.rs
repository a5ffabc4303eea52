//! [`Value`] to YAML text, as Go's YAML (`goyaml.v2`) writes it: members in natural order, lists as deep as what they belong
//! to, quotes only where text would mean something else, long lines folded.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::scalar;
use crate::value::Value;

/// A line is folded at the first single space beyond this column.
const WIDTH: usize = 80;
/// How much deeper each level is.
const STEP: usize = 2;
/// The longest text, in bytes, that can be a key without being marked as one.
const SIMPLE_KEY_MAX: usize = 128;

/// The text of a value, which ends in a line break.
#[must_use]
pub fn to_string(value: &Value) -> String {
    let mut writer = Writer::default();
    writer.node(value, 0, Place::Root);
    writer.text.push('\n');
    writer.text
}

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    /// After the key of its mapping.
    Member,
    /// After `- `, `? ` or `: ` at the beginning of a line.
    Item,
}

/// How text is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

#[derive(Default)]
struct Writer {
    text: String,
    column: usize,
}

impl Writer {
    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        self.column += text.chars().count();
    }

    fn line(&mut self, indent: usize) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    /// Writes a node whose container is `indent` deep; what is before it on the line is written.
    fn node(&mut self, value: &Value, indent: usize, place: Place) {
        let deeper = if place == Place::Root { 0 } else { indent + STEP };
        match value {
            Value::Object(members) if !members.is_empty() => {
                let sorted = sorted(members.iter().collect());
                for (index, (name, member)) in sorted.into_iter().enumerate() {
                    if index > 0 || place == Place::Member {
                        self.line(deeper);
                    }
                    self.member(name, member, deeper);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                // A member's list is no deeper than its mapping.
                let depth = if place == Place::Member { indent } else { deeper };
                for (index, item) in items.iter().enumerate() {
                    if index > 0 || place == Place::Member {
                        self.line(depth);
                    }
                    self.put("- ");
                    self.node(item, depth, Place::Item);
                }
            }
            scalar => {
                if place == Place::Member {
                    self.put(" ");
                }
                self.scalar(scalar, indent + STEP);
            }
        }
    }

    fn member(&mut self, name: &str, value: &Value, indent: usize) {
        if name.len() <= SIMPLE_KEY_MAX && !name.contains('\n') {
            self.string(name, indent, true);
            self.put(":");
            self.node(value, indent, Place::Member);
        } else {
            self.put("? ");
            self.string(name, indent + STEP, false);
            self.line(indent);
            self.put(": ");
            self.node(value, indent, Place::Item);
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.put("null"),
            Value::Bool(truth) => self.put(if *truth { "true" } else { "false" }),
            Value::Int(number) => self.put(&number.to_string()),
            Value::Float(number) => self.put(&float(*number)),
            Value::String(text) => self.string(text, indent, false),
            Value::Array(_) => self.put("[]"),
            Value::Object(_) => self.put("{}"),
        }
    }

    fn string(&mut self, text: &str, indent: usize, key: bool) {
        match style(text, key) {
            Style::Plain => self.folded(text, indent, key, false),
            Style::Single => {
                self.put("'");
                self.folded(text, indent, key, true);
                self.put("'");
            }
            Style::Double => self.double(text, indent, key),
            Style::Literal => self.literal(text, indent),
        }
    }

    /// Text as it is, with line breaks in place of single spaces beyond the width.
    fn folded(&mut self, text: &str, indent: usize, key: bool, quoted: bool) {
        let letters: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (index, letter) in letters.iter().copied().enumerate() {
            let inside = !quoted || (index > 0 && index + 1 < letters.len());
            if letter == ' ' {
                let breaks = !key
                    && !after_space
                    && self.column > WIDTH
                    && inside
                    && letters.get(index + 1) != Some(&' ');
                if breaks {
                    self.line(indent);
                } else {
                    self.put(" ");
                }
            } else if quoted && letter == '\'' {
                self.put("''");
            } else {
                self.put(letter.encode_utf8(&mut [0; 4]));
            }
            after_space = letter == ' ';
        }
    }

    fn double(&mut self, text: &str, indent: usize, key: bool) {
        let letters: Vec<char> = text.chars().collect();
        self.put("\"");
        let mut after_space = false;
        for (index, letter) in letters.iter().copied().enumerate() {
            let inside = index > 0 && index + 1 < letters.len();
            if letter == ' ' && !key && !after_space && self.column > WIDTH && inside {
                self.line(indent);
                if letters.get(index + 1) == Some(&' ') {
                    self.put("\\");
                }
            } else if !is_printable(letter) || matches!(letter, '"' | '\\' | '\n' | '\u{feff}') {
                let escaped = escape(letter);
                self.put(&escaped);
            } else {
                self.put(letter.encode_utf8(&mut [0; 4]));
            }
            after_space = letter == ' ';
        }
        self.put("\"");
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.put("|");
        if text.starts_with([' ', '\n']) {
            self.put("2");
        }
        // How many line breaks the end has: none are to be read, one, or all.
        match text.strip_suffix('\n') {
            None => self.put("-"),
            Some(rest) if rest.is_empty() || rest.ends_with('\n') => self.put("+"),
            Some(_) => {}
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if line.is_empty() {
                self.text.push('\n');
            } else {
                self.line(indent);
                self.put(line);
            }
        }
    }
}

/// How Go's writer chooses: text that means something else without quotes is in double ones, with line breaks it is a
/// block, and what cannot be plain for its letters is in single quotes where these can hold it.
fn style(text: &str, key: bool) -> Style {
    let wanted = if text.contains('\n') {
        Style::Literal
    } else if scalar::means_text(text) {
        Style::Plain
    } else {
        Style::Double
    };
    let letters = Letters::of(text);
    match wanted {
        Style::Plain if letters.plain => Style::Plain,
        Style::Plain | Style::Single if letters.single => Style::Single,
        Style::Literal if letters.block && !key => Style::Literal,
        _ => Style::Double,
    }
}

/// Which styles the letters of a text allow.
struct Letters {
    plain: bool,
    single: bool,
    block: bool,
}

impl Letters {
    fn of(text: &str) -> Self {
        let letters: Vec<char> = text.chars().collect();
        let blank =
            |at: usize| letters.get(at).is_none_or(|it| matches!(it, ' ' | '\t' | '\n' | '\r'));
        let mut marks = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut breaks, mut break_space, mut space_break) =
            (false, false, false, false);
        for (at, letter) in letters.iter().copied().enumerate() {
            special |= !is_printable(letter);
            marks |= match letter {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"'
                | '%' | '@' | '`'
                    if at == 0 =>
                {
                    true
                }
                '?' | '-' if at == 0 => blank(at + 1),
                ':' => blank(at + 1),
                '#' => blank(at - 1),
                _ => false,
            };
            breaks |= letter == '\n';
            let before = at.checked_sub(1).map(|it| letters[it]);
            break_space |= letter == ' ' && before == Some('\n');
            space_break |= letter == '\n' && before == Some(' ');
        }
        let edge = |it: Option<&char>| matches!(it, Some(' ' | '\n'));
        let edges = edge(letters.first()) || edge(letters.last());
        let odd = space_break || special;
        Self {
            plain: !(marks || edges || breaks || break_space || odd),
            single: !(break_space || odd),
            block: !(odd || letters.last() == Some(&' ')),
        }
    }
}

/// What Go's writer puts as it is.
fn is_printable(letter: char) -> bool {
    matches!(letter, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        && letter != '\u{feff}'
}

fn escape(letter: char) -> String {
    let short = match letter {
        '\0' => "\\0",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        '\u{1b}' => "\\e",
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{85}' => "\\N",
        '\u{a0}' => "\\_",
        '\u{2028}' => "\\L",
        '\u{2029}' => "\\P",
        other => {
            let code = u32::from(other);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    short.into()
}

/// A number as Go's `%g` has it, which is short up to a million.
fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&power) {
        return number.to_string();
    }
    let mut text = digits.to_owned();
    let sign = if power < 0 { '-' } else { '+' };
    let _ = write!(text, "e{sign}{:02}", power.abs());
    text
}

/// The members in natural order. That goes in circles (`a9`, `a10`, `a1b`), for which the standard library's sorts may panic:
/// halves are merged here.
fn sorted<'v>(mut members: Vec<(&'v str, &'v Value)>) -> Vec<(&'v str, &'v Value)> {
    if members.len() < 2 {
        return members;
    }
    let right = sorted(members.split_off(members.len() / 2));
    let mut left = sorted(members).into_iter().peekable();
    let mut all = Vec::with_capacity(left.len() + right.len());
    for member in right {
        while let Some(before) = left.next_if(|it| natural(it.0, member.0).is_le()) {
            all.push(before);
        }
        all.push(member);
    }
    all.extend(left);
    all
}

/// Letters after everything else, numbers within names by their size.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) else {
        return a.len().cmp(&b.len());
    };
    let letters = (a[at].is_alphabetic(), b[at].is_alphabetic());
    match letters {
        (true, true) => return a[at].cmp(&b[at]),
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    // A zero within a number counts as a digit of it.
    let digits_before = a[..at].iter().rev().take_while(|it| it.is_ascii_digit());
    let inside = (a[at] == '0' || b[at] == '0') && digits_before.clone().any(|it| *it != '0');
    let number = |of: &[char]| {
        let digits = of[at..].iter().take_while(|it| it.is_ascii_digit());
        let value = digits.clone().fold(i64::from(inside), |sum, digit| {
            sum.wrapping_mul(10).wrapping_add(i64::from(digit.to_digit(10).unwrap_or_default()))
        });
        (value, digits.count())
    };
    number(&a).cmp(&number(&b)).then(a[at].cmp(&b[at]))
}
