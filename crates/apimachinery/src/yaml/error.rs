//! What is wrong with YAML text, in the words of Go's YAML where the cause is the same.

use granit_parser::{ErrorKind, ScanError};

/// Text that is not YAML, or YAML that is no JSON value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// Not YAML.
    #[error("yaml: {}{problem}", place(*.line))]
    Syntax {
        /// The line as Go counts it; 0 where it names none.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Bytes that are no text.
    #[error("yaml: invalid leading UTF-8 octet")]
    Utf8,
    /// Aliases make the document much larger than its text.
    #[error("yaml: document contains excessive aliasing")]
    Aliases,
    /// Nested deeper than can be held.
    #[error("yaml: line {line}: exceeded max depth of {}", super::DEPTH_MAX)]
    Depth {
        /// The line.
        line: usize,
    },
    /// An alias inside of what it names.
    #[error("yaml: line {line}: anchor value contains itself")]
    Recursive {
        /// The line.
        line: usize,
    },
    /// An alias of nothing.
    #[error("yaml: line {line}: unknown anchor referenced")]
    UnknownAnchor {
        /// The line.
        line: usize,
    },
    /// A key that is a list, a mapping or null.
    #[error("yaml: line {line}: unsupported map key: only text, numbers and booleans can be keys")]
    Key {
        /// The line.
        line: usize,
    },
    /// A merge of something that has no members.
    #[error("yaml: line {line}: map merge requires map or sequence of maps as the value")]
    Merge {
        /// The line.
        line: usize,
    },
    /// A scalar that is not of the type it is tagged with.
    #[error("yaml: line {line}: cannot decode !!str `{text}` as a !!{tag}")]
    Tag {
        /// The line.
        line: usize,
        /// The scalar.
        text: String,
        /// The tag's name.
        tag: String,
    },
    /// A number that JSON cannot hold.
    #[error("json: unsupported value: {0}")]
    Number(&'static str),
    /// The parser said something out of turn.
    #[error("yaml: unknown problem parsing YAML content")]
    Structure,
}

fn place(line: usize) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

/// Whether Go's scanner or its parser finds such an error: they count lines differently.
#[derive(PartialEq)]
enum Finder {
    Scanner,
    Parser,
}

impl From<ScanError> for YamlError {
    fn from(error: ScanError) -> Self {
        if *error.kind() == ErrorKind::RecursionLimitExceeded {
            return Self::Depth { line: error.marker().line() };
        }
        let (problem, finder) = words(&error);
        // Counted from 1 here. Go counts from 0, and its scanner adds one, but not to 0.
        let line = error.marker().line();
        let line = if finder == Finder::Scanner && line <= 1 { 0 } else { line };
        Self::Syntax { line, problem }
    }
}

fn words(error: &ScanError) -> (String, Finder) {
    use ErrorKind as Kind;
    use Finder::{Parser, Scanner};
    let (text, finder) = match error.kind() {
        Kind::ExpectedNodeContent
        | Kind::UnexpectedEofFlowSequence
        | Kind::UnexpectedEofFlowMapping
        | Kind::UnexpectedEofImplicitFlowMapping
        | Kind::UnclosedFlowCollection { .. }
        | Kind::UnexpectedEof => ("did not find expected node content", Parser),
        Kind::ExpectedBlockMappingKey | Kind::UnexpectedEofBlockMapping => {
            ("did not find expected key", Parser)
        }
        Kind::ExpectedBlockSequenceEntry | Kind::UnexpectedEofBlockSequence => {
            ("did not find expected '-' indicator", Parser)
        }
        Kind::ExpectedFlowSequenceSeparator => ("did not find expected ',' or ']'", Parser),
        Kind::ExpectedFlowMappingSeparator => ("did not find expected ',' or '}'", Parser),
        Kind::ExpectedDocumentStart => ("did not find expected <document start>", Parser),
        Kind::UnknownAnchor => ("unknown anchor referenced", Parser),
        Kind::TabNotAllowed
        | Kind::TabInBlockIndentation
        | Kind::TabInIndentation
        | Kind::UnexpectedCharacter { .. } => {
            ("found character that cannot start any token", Scanner)
        }
        Kind::SimpleKeyExpected | Kind::InvalidSimpleKey => {
            ("could not find expected ':'", Scanner)
        }
        Kind::MappingValueNotAllowed | Kind::InvalidColonPlacement => {
            ("mapping values are not allowed in this context", Scanner)
        }
        Kind::MappingKeyNotAllowed => ("mapping keys are not allowed in this context", Scanner),
        Kind::BlockSequenceEntryNotAllowed | Kind::BlockEntryInFlowCollection => {
            ("block sequence entries are not allowed in this context", Scanner)
        }
        Kind::UnclosedQuotedScalar => ("found unexpected end of stream", Scanner),
        Kind::DocumentIndicatorInQuotedScalar => ("found unexpected document indicator", Scanner),
        Kind::UnknownQuotedScalarEscape => ("found unknown escape character", Scanner),
        // The parser's own words where Go knows no such error; its kinds may grow.
        _ => return (error.info(), Scanner),
    };
    (text.to_owned(), finder)
}
