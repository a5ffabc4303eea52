//! The text of an expression and what is wrong with it, shown the way clients of upstream read it.
//!
//! Positions count code points. Knows nothing of the language.

use std::fmt;

/// Of more problems than this the rest is only counted.
const ISSUES_MAX: usize = 100;
/// Problems in long lines take much space; what is beyond this is only counted too.
const ISSUE_BYTES_MAX: usize = 1 << 20;

/// The text of an expression.
#[derive(Debug, Clone)]
pub struct Source {
    chars: Vec<char>,
    /// Where each line starts.
    lines: Vec<u32>,
}

/// A line counted from 1 and a column counted from 0; `None` is upstream's "no location".
pub type Location = Option<(u32, u32)>;

/// What kind of problem an [`Issue`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssueKind {
    /// The text does not parse, or does not type-check.
    Compilation,
    /// The result is not of a type that was asked for.
    OutputType,
    /// A constant call in it cannot be evaluated.
    Instantiation,
}

/// One problem of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// What kind of problem it is.
    pub kind: IssueKind,
    /// Where it is.
    pub location: Location,
    /// What it is, without its place.
    pub message: String,
    /// The line it is in, and a line that points at it.
    snippet: String,
}

/// All problems of an expression, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Issues(pub Vec<Issue>, usize);

/// Problems as they are found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    issues: Vec<Issue>,
    bytes: usize,
    omitted: usize,
}

impl Source {
    /// Takes the text apart.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut lines = vec![0];
        for (at, char) in (1u32..).zip(&chars) {
            if *char == '\n' {
                lines.push(at);
            }
        }
        Self { chars, lines }
    }

    /// The code points.
    #[must_use]
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    /// The place of a code point.
    #[must_use]
    pub fn location(&self, offset: u32) -> Location {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        Some((u32::try_from(line).unwrap_or(u32::MAX), offset - start))
    }

    fn line(&self, line: u32) -> &[char] {
        let index = usize::try_from(line).unwrap_or_default();
        let start = |at: usize| self.lines.get(at).map(|it| usize::try_from(*it).unwrap_or(0));
        let from = start(index.saturating_sub(1)).unwrap_or(self.chars.len());
        let to = start(index).map_or(self.chars.len(), |it| it - 1);
        &self.chars[from..to]
    }

    pub(crate) fn issue(&self, offset: Option<u32>, message: String) -> Issue {
        let location = offset.and_then(|it| self.location(it));
        let snippet = location.map(|it| self.snippet(it)).unwrap_or_default();
        Issue { kind: IssueKind::Compilation, location, message, snippet }
    }

    /// The line with a place in it and a pointer below; wide characters get wide dots, as upstream draws them.
    fn snippet(&self, (line, column): (u32, u32)) -> String {
        let text = self.line(line);
        let column = usize::try_from(column).unwrap_or(usize::MAX);
        let mut shown = String::from("\n | ");
        shown.extend(text.iter().map(|char| if *char == '\t' { ' ' } else { *char }));
        shown.push_str("\n | ");
        let wide = |char: &char| char.len_utf8() > 1;
        shown
            .extend(text.iter().take(column).map(|char| if wide(char) { '\u{ff0e}' } else { '.' }));
        let dots = text.len().min(column);
        shown.extend(std::iter::repeat_n('.', column.saturating_sub(dots).min(1)));
        shown.push(if text.get(column).is_some_and(wide) { '\u{ff3e}' } else { '^' });
        shown
    }
}

impl Issue {
    pub(crate) fn unplaced(kind: IssueKind, message: String) -> Self {
        Self { kind, location: None, message, snippet: String::new() }
    }
}

impl Found {
    pub(crate) fn add(&mut self, source: &Source, offset: Option<u32>, message: String) {
        if self.issues.len() >= ISSUES_MAX || self.bytes >= ISSUE_BYTES_MAX {
            self.omitted += 1;
            return;
        }
        let issue = source.issue(offset, message);
        self.bytes += issue.message.len() + issue.snippet.len();
        self.issues.push(issue);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.issues.is_empty()
    }

    /// In the order of their places.
    pub(crate) fn sorted(mut self) -> Issues {
        self.issues.sort_by_key(|it| it.location);
        Issues(self.issues, self.omitted)
    }
}

impl Issues {
    pub(crate) fn one(issue: Issue) -> Self {
        Self(vec![issue], 0)
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != IssueKind::Compilation {
            return f.write_str(&self.message);
        }
        let message = &self.message;
        match self.location {
            Some((line, column)) => write!(f, "ERROR: <input>:{line}:{}: {message}", column + 1)?,
            None => write!(f, "ERROR: <input>:-1:0: {message}")?,
        }
        f.write_str(&self.snippet)
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{issue}")?;
        }
        match self.1 {
            0 => Ok(()),
            more => write!(f, "\n{more} more errors were truncated"),
        }
    }
}
