//! Text to tokens. What is no token is reported the way upstream's generated lexer does, and skipped.

use crate::source::{Found, Source};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ident,
    /// In backquotes.
    EscapedIdent,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    /// `in`, `true`, `false`, `null`
    Word(&'static str),
    Punct(&'static str),
    End,
}

/// A token: what it is and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

const WORDS: [&str; 4] = ["in", "true", "false", "null"];
const PUNCTUATION: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!",
    "?", ":", "+", "*", "/", "%",
];

pub(crate) struct Lexer<'s> {
    source: &'s Source,
    chars: &'s [char],
    at: usize,
    tokens: Vec<Token>,
    issues: Found,
}

/// Whether a scan met a token, and where it ended or failed.
enum Scan {
    Token(Kind, usize),
    /// The index of the code point that fits nothing.
    Fails(usize),
}

/// All tokens, the last an end, and what was skipped.
pub(crate) fn tokens(source: &Source) -> (Vec<Token>, Found) {
    let lexer = Lexer {
        source,
        chars: source.chars(),
        at: 0,
        tokens: Vec::new(),
        issues: Found::default(),
    };
    lexer.run()
}

impl Lexer<'_> {
    fn run(mut self) -> (Vec<Token>, Found) {
        while let Some(first) = self.peek(0) {
            if matches!(first, ' ' | '\t' | '\r' | '\n' | '\u{c}') {
                self.at += 1;
            } else if first == '/' && self.peek(1) == Some('/') {
                let rest = &self.chars[self.at..];
                self.at += rest.iter().position(|it| *it == '\n').unwrap_or(rest.len());
            } else {
                self.token(first);
            }
        }
        let end = self.chars.len();
        self.tokens.push(Token { kind: Kind::End, start: end, end });
        (self.tokens, self.issues)
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn token(&mut self, first: char) {
        match self.scan(first) {
            Scan::Token(kind, end) => {
                self.tokens.push(Token { kind, start: self.at, end });
                self.at = end;
            }
            Scan::Fails(index) => {
                let end = (index + 1).min(self.chars.len());
                let text = display(self.chars[self.at..end].iter().collect::<String>().as_str());
                let message = format!("Syntax error: token recognition error at: '{text}'");
                self.issues.add(self.source, u32::try_from(self.at).ok(), message);
                self.at = end;
            }
        }
    }

    fn scan(&self, first: char) -> Scan {
        match first {
            '"' | '\'' => self.string(self.at, Kind::String, false),
            '`' => self.escaped_ident(),
            '0'..='9' => self.number(),
            '.' if self.peek(1).is_some_and(|it| it.is_ascii_digit()) => self.number(),
            'a'..='z' | 'A'..='Z' | '_' => self.word(),
            _ => self.punctuation(first),
        }
    }

    fn punctuation(&self, first: char) -> Scan {
        let fits = |text: &&&str| text.chars().enumerate().all(|(i, c)| self.peek(i) == Some(c));
        match PUNCTUATION.iter().find(fits) {
            Some(text) => Scan::Token(Kind::Punct(text), self.at + text.len()),
            None if matches!(first, '=' | '&' | '|') => Scan::Fails(self.at + 1),
            None => Scan::Fails(self.at),
        }
    }

    /// An identifier, or the prefix of a string: `r"..."`, `b'...'`, `br"..."`.
    fn word(&self) -> Scan {
        let mut prefix = 0;
        let (mut raw, mut bytes) = (false, false);
        loop {
            match self.peek(prefix) {
                Some('r' | 'R') if !raw => raw = true,
                Some('b' | 'B') if !bytes && !raw => bytes = true,
                Some('"' | '\'') if prefix > 0 => {
                    let kind = if bytes { Kind::Bytes } else { Kind::String };
                    return self.string(self.at + prefix, kind, raw);
                }
                _ => break,
            }
            prefix += 1;
        }
        let is_part = |it: &&char| it.is_ascii_alphanumeric() || **it == '_';
        let end = self.at + self.chars[self.at..].iter().take_while(is_part).count();
        let text = &self.chars[self.at..end];
        let word = WORDS.iter().find(|word| word.chars().eq(text.iter().copied()));
        Scan::Token(word.map_or(Kind::Ident, |word| Kind::Word(word)), end)
    }

    fn escaped_ident(&self) -> Scan {
        let allowed =
            |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '.' | '-' | '/' | ' ');
        let mut at = self.at + 1;
        while let Some(char) = self.chars.get(at) {
            if *char == '`' && at > self.at + 1 {
                return Scan::Token(Kind::EscapedIdent, at + 1);
            }
            if !allowed(*char) {
                break;
            }
            at += 1;
        }
        Scan::Fails(at)
    }

    fn digits(&self, from: usize, is_digit: impl Fn(char) -> bool) -> usize {
        from + self.chars[from.min(self.chars.len())..]
            .iter()
            .take_while(|it| is_digit(**it))
            .count()
    }

    fn number(&self) -> Scan {
        let at = |index: usize| self.chars.get(index).copied();
        let is_unsigned = |index: usize| matches!(at(index), Some('u' | 'U'));
        let whole = |end: usize| match is_unsigned(end) {
            true => Scan::Token(Kind::Uint, end + 1),
            false => Scan::Token(Kind::Int, end),
        };
        if at(self.at) == Some('0') && at(self.at + 1) == Some('x') {
            let end = self.digits(self.at + 2, |it| it.is_ascii_hexdigit());
            if end > self.at + 2 {
                return whole(end);
            }
        }
        let decimal = |from: usize| self.digits(from, |it| it.is_ascii_digit());
        let mut end = decimal(self.at);
        let mut float = false;
        if at(end) == Some('.') && at(end + 1).is_some_and(|it| it.is_ascii_digit()) {
            end = decimal(end + 1);
            float = true;
        }
        if matches!(at(end), Some('e' | 'E')) {
            let sign = usize::from(matches!(at(end + 1), Some('+' | '-')));
            let after = decimal(end + 1 + sign);
            if after > end + 1 + sign {
                return Scan::Token(Kind::Float, after);
            }
        }
        if float { Scan::Token(Kind::Float, end) } else { whole(end) }
    }

    /// A string whose quote is at `from`.
    fn string(&self, from: usize, kind: Kind, raw: bool) -> Scan {
        let quote = self.chars[from];
        let triple = self.chars[from..].iter().take_while(|it| **it == quote).count() >= 3;
        let mut at = from + if triple { 3 } else { 1 };
        while let Some(char) = self.chars.get(at) {
            if *char == quote {
                let closes = |it: usize| self.chars.get(at + it) == Some(&quote);
                if !triple {
                    return Scan::Token(kind, at + 1);
                }
                if closes(1) && closes(2) {
                    return Scan::Token(kind, at + 3);
                }
                at += 1;
            } else if *char == '\\' && !raw {
                match self.escape(at + 1) {
                    Ok(after) => at = after,
                    Err(index) => return Scan::Fails(index),
                }
            } else if !triple && matches!(char, '\n' | '\r') {
                return Scan::Fails(at);
            } else {
                at += 1;
            }
        }
        // `""` alone is an empty string even where a third quote opens what never closes.
        if triple {
            return Scan::Token(kind, from + 2);
        }
        Scan::Fails(self.chars.len())
    }

    /// Where an escape sequence ends whose letter is at `from`, or the code point that is wrong in it.
    fn escape(&self, from: usize) -> Result<usize, usize> {
        let exactly = |count: usize, is_digit: fn(&char) -> bool| {
            let digits =
                (from + 1..from + 1 + count).find(|it| !self.chars.get(*it).is_some_and(is_digit));
            digits.map_or(Ok(from + 1 + count), Err)
        };
        let hex: fn(&char) -> bool = char::is_ascii_hexdigit;
        match self.chars.get(from) {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => {
                Ok(from + 1)
            }
            Some('x' | 'X') => exactly(2, hex),
            Some('u') => exactly(4, hex),
            Some('U') => exactly(8, hex),
            Some('0'..='3') => exactly(2, |it| matches!(it, '0'..='7')),
            _ => Err(from),
        }
    }
}

/// Text in an error: upstream's parser shows line ends and tabs as escapes.
pub(crate) fn display(text: &str) -> String {
    text.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r")
}
