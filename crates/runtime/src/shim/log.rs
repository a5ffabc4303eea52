//! The log of a container in CRI's format: time, stream, tag, content, line by line.
//!
//! A line longer than [`MAX_LINE_BYTES`] is written in parts, each with the tag `P`, the last with `F`. What a stream
//! ends with and no new line follows is a part too: who reads it adds none.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;

/// The longest content of one line.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 10;

/// Which stream a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts what a stream brings into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The begun line: below [`MAX_LINE_BYTES`].
    begun: Vec<u8>,
}

impl Lines {
    /// The log's text for `bytes` that came at `now`.
    pub(crate) fn feed(&mut self, stream: Stream, now: Timestamp, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.take(stream, now, &rest[..end], out);
            let line = std::mem::take(&mut self.begun);
            write_line(out, now, stream, 'F', &line);
            rest = &rest[end + 1..];
        }
        self.take(stream, now, rest, out);
    }

    /// The log's text for a line that never ended.
    pub(crate) fn finish(&mut self, stream: Stream, now: Timestamp, out: &mut Vec<u8>) {
        if !self.begun.is_empty() {
            let line = std::mem::take(&mut self.begun);
            write_line(out, now, stream, 'P', &line);
        }
    }

    /// Adds to the begun line, writing full parts of it.
    fn take(&mut self, stream: Stream, now: Timestamp, mut bytes: &[u8], out: &mut Vec<u8>) {
        while self.begun.len() + bytes.len() > MAX_LINE_BYTES {
            let (now_full, later) = bytes.split_at(MAX_LINE_BYTES - self.begun.len());
            self.begun.extend_from_slice(now_full);
            write_line(out, now, stream, 'P', &self.begun);
            self.begun.clear();
            bytes = later;
        }
        self.begun.extend_from_slice(bytes);
    }
}

fn write_line(out: &mut Vec<u8>, now: Timestamp, stream: Stream, tag: char, line: &[u8]) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{now:.9} {} {tag} ", stream.name());
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// The file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens it at its end, making it where it is not there.
    ///
    /// # Errors
    /// When its directory is not there.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::options().create(true).append(true).mode(0o640).open(&path)?;
        Ok(Self { path, file })
    }

    /// Opens it again, after somebody moved it away.
    ///
    /// # Errors
    /// When it cannot be made; the old file is written on.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(self.path.clone())?;
        Ok(())
    }

    /// Writes whole lines. A full disk loses them and does not stop the container.
    pub(crate) fn write(&mut self, text: &[u8]) {
        if let Err(_lost) = self.file.write_all(text) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&[u8]], expected: &[(&str, usize)]) {
        let now: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.feed(Stream::Stdout, now, chunk, &mut out);
        }
        lines.finish(Stream::Stdout, now, &mut out);
        let text = String::from_utf8(out).unwrap();
        let got: Vec<(&str, usize)> = text
            .lines()
            .map(|line| {
                let line = line.strip_prefix("2026-01-02T03:04:05.000000006Z stdout ").unwrap();
                let (tag, content) = line.split_at(2);
                (tag.trim(), content.len())
            })
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn lines_are_cut_where_they_end_or_are_too_long() {
        let full = vec![b'x'; MAX_LINE_BYTES];
        check(&[b"one\ntwo\n"], &[("F", 3), ("F", 3)]);
        check(&[b"o", b"ne", b"\n\n"], &[("F", 3), ("F", 0)]);
        check(&[b"no end"], &[("P", 6)]);
        check(&[&full, b"\n"], &[("F", MAX_LINE_BYTES)]);
        check(&[&full, b"y\n"], &[("P", MAX_LINE_BYTES), ("F", 1)]);
        check(&[&full, &full, b"y"], &[("P", MAX_LINE_BYTES), ("P", MAX_LINE_BYTES), ("P", 1)]);
        check(&[], &[]);
    }
}
