//! `profile.proto`, packed by gzip: stacks with how often they were seen.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use grpc::wire::{write_message, write_number};
use pprof::{Frames, Symbol};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// The label of a sample's thread.
const THREAD: &str = "thread";

/// A place in the code: what was called, from the innermost of inlined functions on, each with its line.
type Location = Vec<(u64, u64)>;

/// Things by number, in the order in which they came.
#[derive(Debug)]
struct Numbered<T>(BTreeMap<T, u64>);

impl<T: Ord> Numbered<T> {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn number(&mut self, it: T) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(it).or_insert(next)
    }

    fn in_order(&self) -> Vec<&T> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_unstable_by_key(|(_, number)| **number);
        all.into_iter().map(|(it, _)| it).collect()
    }
}

/// What samples refer to by number. Numbers of locations and functions are told as one more.
#[derive(Debug)]
struct Tables {
    texts: Numbered<String>,
    /// Name and file, as texts.
    functions: Numbered<(u64, u64)>,
    locations: Numbered<Location>,
}

impl Tables {
    fn text(&mut self, text: &str) -> u64 {
        match self.texts.0.get(text) {
            Some(number) => *number,
            None => self.texts.number(text.to_owned()),
        }
    }

    fn line(&mut self, symbol: &Symbol) -> (u64, u64) {
        let (name, file) = (self.text(&symbol.name()), self.text(&symbol.filename()));
        (self.functions.number((name, file)) + 1, u64::from(symbol.lineno()))
    }

    fn location(&mut self, inlined: &[Symbol]) -> u64 {
        let location = inlined.iter().map(|it| self.line(it)).collect();
        self.locations.number(location) + 1
    }
}

/// The profile of stacks seen so many times a second, from a time on and for so long, in nanoseconds.
///
/// # Errors
/// When it cannot be packed.
pub(crate) fn packed<'f>(
    seen: impl IntoIterator<Item = (&'f Frames, &'f isize)>,
    hertz: u32,
    (at, took): (u64, u64),
) -> std::io::Result<Vec<u8>> {
    let mut tables =
        Tables { texts: Numbered::new(), functions: Numbered::new(), locations: Numbered::new() };
    tables.text("");
    let period = NANOS_PER_SECOND / u64::from(hertz.max(1));
    let mut out = Vec::new();
    let mut kind = |number, (what, unit): (&str, &str)| {
        let mut message = Vec::new();
        write_number(&mut message, 1, tables.text(what));
        write_number(&mut message, 2, tables.text(unit));
        write_message(&mut out, number, &message);
    };
    let time = ("cpu", "nanoseconds");
    kind(1, ("samples", "count"));
    kind(1, time);
    kind(11, time);
    for (frames, count) in seen {
        let count = u64::try_from(*count).unwrap_or_default();
        let mut sample = Vec::new();
        for inlined in &frames.frames {
            write_number(&mut sample, 1, tables.location(inlined));
        }
        write_number(&mut sample, 2, count);
        write_number(&mut sample, 2, count * period);
        let mut label = Vec::new();
        write_number(&mut label, 1, tables.text(THREAD));
        write_number(&mut label, 2, tables.text(&frames.thread_name));
        write_message(&mut sample, 3, &label);
        write_message(&mut out, 2, &sample);
    }
    for (index, location) in tables.locations.in_order().into_iter().enumerate() {
        let mut message = Vec::new();
        write_number(&mut message, 1, index as u64 + 1);
        for (function, number) in location {
            let mut line = Vec::new();
            write_number(&mut line, 1, *function);
            write_number(&mut line, 2, *number);
            write_message(&mut message, 4, &line);
        }
        write_message(&mut out, 4, &message);
    }
    for (index, (name, file)) in tables.functions.in_order().into_iter().enumerate() {
        let mut message = Vec::new();
        write_number(&mut message, 1, index as u64 + 1);
        write_number(&mut message, 2, *name);
        write_number(&mut message, 3, *name);
        write_number(&mut message, 4, *file);
        write_message(&mut out, 5, &message);
    }
    for text in tables.texts.in_order() {
        // The first is nothing, and is told nevertheless.
        write_message(&mut out, 6, text.as_bytes());
    }
    write_number(&mut out, 9, at);
    write_number(&mut out, 10, took);
    write_number(&mut out, 12, period);
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&out)?;
    packer.finish()
}
