//! The value of a string or bytes literal.

/// The text of a string literal with its quotes and prefix.
pub(crate) fn string(literal: &str) -> Option<String> {
    let (body, raw) = body(literal);
    let mut text = String::with_capacity(body.len());
    pieces(body, raw, |piece| {
        match piece {
            Piece::Char(char) => text.push(char),
            Piece::Code(code, _) => text.push(char::from_u32(code)?),
        }
        Some(())
    })?;
    Some(text)
}

/// The bytes of a bytes literal: octal and hexadecimal escapes are bytes, all else is UTF-8.
pub(crate) fn bytes(literal: &str) -> Option<Vec<u8>> {
    let (body, raw) = body(literal);
    let mut bytes = Vec::with_capacity(body.len());
    pieces(body, raw, |piece| {
        let char = match piece {
            Piece::Char(char) => char,
            Piece::Code(code, true) => {
                bytes.push(u8::try_from(code).ok()?);
                return Some(());
            }
            Piece::Code(..) => return None,
        };
        bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        Some(())
    })?;
    Some(bytes)
}

/// What is between the quotes, and whether backslashes mean themselves.
fn body(literal: &str) -> (&str, bool) {
    let quoted = literal.trim_start_matches(|it: char| it.is_ascii_alphabetic());
    let raw = literal[..literal.len() - quoted.len()].contains(['r', 'R']);
    let triple = quoted.len() >= 6 && (quoted.starts_with("\"\"\"") || quoted.starts_with("'''"));
    let edge = if triple { 3 } else { 1 };
    (&quoted[edge..quoted.len() - edge], raw)
}

enum Piece {
    Char(char),
    /// An escape by number; whether it can be a byte.
    Code(u32, bool),
}

fn pieces(body: &str, raw: bool, mut each: impl FnMut(Piece) -> Option<()>) -> Option<()> {
    let mut rest = body;
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        if char == '\r' {
            // Line ends are one character, whatever the text was written with.
            rest = rest.strip_prefix('\n').unwrap_or(rest);
            each(Piece::Char('\n'))?;
        } else if char == '\\' && !raw {
            let letter = rest.chars().next()?;
            rest = &rest[letter.len_utf8()..];
            let (piece, after) = escape(letter, rest)?;
            rest = after;
            each(piece)?;
        } else {
            each(Piece::Char(char))?;
        }
    }
    Some(())
}

fn escape(letter: char, rest: &str) -> Option<(Piece, &str)> {
    let code = |digits: usize, radix: u32, is_byte: bool| {
        let code = u32::from_str_radix(rest.get(..digits)?, radix).ok()?;
        Some((Piece::Code(code, is_byte), &rest[digits..]))
    };
    let char = match letter {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' | '\'' | '"' | '`' | '?' => letter,
        'x' | 'X' => return code(2, 16, true),
        'u' => return code(4, 16, false),
        'U' => return code(8, 16, false),
        '0'..='3' => {
            let low = u32::from_str_radix(rest.get(..2)?, 8).ok()?;
            return Some((Piece::Code(letter.to_digit(8)? * 64 + low, true), &rest[2..]));
        }
        _ => return None,
    };
    Some((Piece::Char(char), rest))
}
