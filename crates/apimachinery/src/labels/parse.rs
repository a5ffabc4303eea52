//! The grammar of label selectors, read from left to right with one token of lookahead.

use compact_str::CompactString;
use smallvec::SmallVec;

use super::{Operator, Requirement, SelectorError, Values};
use crate::validation;

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    End,
    Open,
    Close,
    Comma,
    Not,
    Operator(Operator, &'t str),
    Identifier(&'t str),
}

impl<'t> Token<'t> {
    fn text(self) -> &'t str {
        match self {
            Self::End => "",
            Self::Open => "(",
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::Operator(_, text) | Self::Identifier(text) => text,
        }
    }

    /// `in` and `notin` are names wherever no operator is looked for.
    fn as_value(self) -> Self {
        match self {
            Self::Operator(Operator::In | Operator::NotIn, text) => Self::Identifier(text),
            other => other,
        }
    }
}

/// Upstream's reader gives this byte where there is no more text. One in the text ends the word or symbol that it follows and is
/// lost; where a word would begin it ends the selector, whatever comes after.
const NUL: char = '\0';

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { text, position: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::End => return Ok(requirements),
            Token::Identifier(_) | Token::Not => {}
            other => return failed(other, ", expected: !, identifier, or 'end of string'"),
        }
        let requirement = parser.requirement().map_err(|SelectorError(problem)| {
            SelectorError(format!("unable to parse requirement: {problem}"))
        })?;
        requirements.push(requirement);
        match parser.next() {
            Token::End => return Ok(requirements),
            Token::Comma => match parser.peek() {
                Token::Identifier(_) | Token::Not => {}
                other => return failed(other, ", expected: identifier after ','"),
            },
            other => return failed(other, ", expected: ',' or 'end of string'"),
        }
    }
}

fn failed<T>(found: Token<'_>, expected: &str) -> Result<T, SelectorError> {
    Err(SelectorError(format!("found '{}'{expected}", found.text())))
}

struct Parser<'t> {
    text: &'t str,
    position: usize,
}

impl<'t> Parser<'t> {
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut first = self.next();
        let not = first == Token::Not;
        if not {
            first = self.next();
        }
        let Token::Identifier(key) = first else { return failed(first, ", expected: identifier") };
        let problems = validation::qualified_name(key);
        if !problems.is_empty() {
            let (key, problems) = (crate::field::quote(key), problems.join("; "));
            return Err(SelectorError(format!("<nil>: Invalid value: {key}: {problems}")));
        }
        if not {
            return Requirement::new(key, Operator::DoesNotExist, Values::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Values::new());
        }
        let operator = match self.scan() {
            Token::Operator(operator, _) => operator,
            other => return failed(other, &format!(", expected: {OPERATORS}")),
        };
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        values.sort_unstable();
        values.dedup();
        Requirement::new(key, operator, values)
    }

    fn values(&mut self) -> Result<Values, SelectorError> {
        let open = self.next();
        if open != Token::Open {
            return failed(open, " expected: '('");
        }
        match self.peek() {
            Token::Close => {
                self.next();
                Ok(SmallVec::from_elem(CompactString::default(), 1))
            }
            Token::Identifier(_) | Token::Comma => self.value_list(),
            other => failed(other, ", expected: ',', ')' or identifier"),
        }
    }

    /// Values with commas between, to the closing parenthesis; a value may be empty.
    fn value_list(&mut self) -> Result<Values, SelectorError> {
        let mut values = Values::new();
        loop {
            match self.next() {
                Token::Identifier(value) => {
                    values.push(value.into());
                    match self.peek() {
                        Token::Comma => {}
                        Token::Close => break,
                        other => return failed(other, ", expected: ',' or ')'"),
                    }
                }
                Token::Comma => {
                    let next = self.peek();
                    if values.is_empty() || matches!(next, Token::Close | Token::Comma) {
                        values.push(CompactString::default());
                    }
                    if next == Token::Close {
                        break;
                    }
                }
                other => return failed(other, ", expected: ',', or identifier"),
            }
        }
        self.next();
        Ok(values)
    }

    fn exact_value(&mut self) -> Result<Values, SelectorError> {
        let value = match self.peek() {
            Token::End | Token::Comma => CompactString::default(),
            Token::Identifier(value) => {
                self.next();
                value.into()
            }
            other => return failed(other, ", expected: identifier"),
        };
        Ok(SmallVec::from_elem(value, 1))
    }

    fn peek(&self) -> Token<'t> {
        Parser { ..*self }.next()
    }

    fn next(&mut self) -> Token<'t> {
        self.scan().as_value()
    }

    fn scan(&mut self) -> Token<'t> {
        let rest = &self.text[self.position..];
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.position += rest.len() - trimmed.len();
        if trimmed.starts_with(NUL) {
            return Token::End;
        }
        let (token, length) = symbol(trimmed).unwrap_or_else(|| word(trimmed));
        self.position += length + usize::from(trimmed[length..].starts_with(NUL));
        token
    }
}

fn symbol(text: &str) -> Option<(Token<'_>, usize)> {
    let operator = |operator, length| Some((Token::Operator(operator, &text[..length]), length));
    let bytes = text.as_bytes();
    match (bytes.first()?, bytes.get(1)) {
        (b'(', _) => Some((Token::Open, 1)),
        (b')', _) => Some((Token::Close, 1)),
        (b',', _) => Some((Token::Comma, 1)),
        (b'=', Some(b'=')) => operator(Operator::DoubleEquals, 2),
        (b'=', _) => operator(Operator::Equals, 1),
        (b'!', Some(b'=')) => operator(Operator::NotEquals, 2),
        (b'!', _) => Some((Token::Not, 1)),
        (b'>', _) => operator(Operator::GreaterThan, 1),
        (b'<', _) => operator(Operator::LessThan, 1),
        _ => None,
    }
}

fn word(text: &str) -> (Token<'_>, usize) {
    let end = |c: char| {
        matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<' | ' ' | '\t' | '\r' | '\n' | NUL)
    };
    let length = text.find(end).unwrap_or(text.len());
    let token = match &text[..length] {
        "" => Token::End,
        word @ "in" => Token::Operator(Operator::In, word),
        word @ "notin" => Token::Operator(Operator::NotIn, word),
        word => Token::Identifier(word),
    };
    (token, length)
}
