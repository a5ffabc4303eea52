//! Rebuilding the state and its history from the data directory.
//!
//! The oldest snapshot is where the history begins; every write since is replayed through the same code that
//! publishes it. What a crash cut short at the very end was acknowledged to nobody and is cut off. Damage
//! anywhere else is refused, with its place.

use std::path::Path;
use std::sync::Arc;

use storage::mvcc::{EMPTY_REV, Mvcc, Version};
use storage::{Key, Kv, Rev};

use crate::OpenError;
use crate::dir::{Dir, Files, Found};
use crate::engine::BATCH_WRITES_MAX;
use crate::format::{self, FileKind, FormatError, Frame, HEADER_BYTES, Header, Record, SegmentEnd};
use crate::log::Revs;
use crate::snapshot;

/// What was found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) mvcc: Arc<Mvcc>,
    pub(crate) files: Files,
    pub(crate) revs: Revs,
    pub(crate) compacted: Rev,
    /// The bytes of the log that the newest snapshot does not cover.
    pub(crate) log_bytes: u64,
    /// Segments that no frame is in.
    pub(crate) empty: Vec<Rev>,
}

/// Reads the directory, mending the end of the log.
pub(crate) fn recover(dir: &Dir, history_bytes: usize) -> Result<Recovered, OpenError> {
    let found = dir.find()?;
    let segments = headers(dir, &found)?;
    let bases = usable_bases(dir, &found, &segments)?;
    let mut refused = None;
    for base in bases {
        let mut replay = Replay::new(dir, &found, history_bytes);
        match replay.load(base) {
            Ok(()) => {
                replay.run(&segments)?;
                return Ok(replay.finish(&segments));
            }
            Err(error @ OpenError::Corrupt { .. }) => {
                // A later snapshot holds the same state and less history.
                tracing::warn!(%error, "a snapshot of the store is damaged, trying the next");
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused
        .unwrap_or_else(|| dir.corrupt(&dir.path, "has no snapshot that its log follows on")))
}

/// The header of each segment, by the order of revisions.
fn headers(dir: &Dir, found: &Found) -> Result<Vec<Header>, OpenError> {
    let read = |rev: &Rev| {
        let path = dir.segment(*rev);
        let mut bytes = Vec::new();
        dir.read(&path, 0, HEADER_BYTES as u64, &mut bytes)?;
        let header = Header::decode(FileKind::Segment, &bytes)
            .map_err(|error| OpenError::format(&path, &error))?;
        if header.rev == *rev {
            Ok(header)
        } else {
            Err(dir.corrupt(&path, format!("begins with revision {}", header.rev)))
        }
    };
    found.segments.iter().map(read).collect()
}

/// Where the history can begin, the longest history first: `None` is the empty store.
fn usable_bases(
    dir: &Dir,
    found: &Found,
    segments: &[Header],
) -> Result<Vec<Option<Rev>>, OpenError> {
    if segments.is_empty() {
        return match found.snapshots.first() {
            None => Ok(vec![None]),
            Some(rev) => Err(dir.corrupt(dir.snapshot(*rev), "has no log that follows on it")),
        };
    }
    let first = segments[0].prev_rev;
    let empty = (first == EMPTY_REV).then_some(None);
    let snapshots = found.snapshots.iter().filter(|rev| **rev >= first).map(|rev| Some(*rev));
    Ok(empty.into_iter().chain(snapshots).collect())
}

struct Replay<'a> {
    dir: &'a Dir,
    mvcc: Arc<Mvcc>,
    files: Files,
    newest_snapshot: Rev,
    /// Writes up to here are in the base.
    base: Rev,
    last: Rev,
    compacted: Rev,
    log_bytes: u64,
    empty: Vec<Rev>,
}

impl<'a> Replay<'a> {
    fn new(dir: &'a Dir, found: &Found, history_bytes: usize) -> Self {
        let snapshots = found.snapshots.iter().map(|rev| (*rev, ())).collect();
        Self {
            dir,
            mvcc: Arc::new(Mvcc::new(history_bytes)),
            files: Files { snapshots, ..Files::default() },
            newest_snapshot: found.snapshots.last().copied().unwrap_or(EMPTY_REV),
            base: EMPTY_REV,
            last: EMPTY_REV,
            compacted: EMPTY_REV,
            log_bytes: 0,
            empty: Vec::new(),
        }
    }

    fn load(&mut self, base: Option<Rev>) -> Result<(), OpenError> {
        let Some(rev) = base else { return Ok(()) };
        let path = self.dir.snapshot(rev);
        let mut versions = Vec::new();
        let header = snapshot::read(self.dir, &path, &mut |version| versions.push(version))?;
        if header.rev != rev {
            return Err(self.dir.corrupt(&path, format!("is of revision {}", header.rev)));
        }
        self.mvcc.restore(versions, rev);
        self.base = rev;
        self.compacted = header.prev_rev;
        Ok(())
    }

    fn run(&mut self, segments: &[Header]) -> Result<(), OpenError> {
        // What ends before the base is not needed, and may have been half removed.
        let start = segments.iter().rposition(|header| header.prev_rev <= self.base);
        let needed = &segments[start.unwrap_or(0)..];
        self.last = needed.first().map_or(EMPTY_REV, |header| header.prev_rev);
        let mut bytes = Vec::new();
        for (at, header) in needed.iter().enumerate() {
            self.check_chain(header)?;
            self.segment(header, needed.get(at + 1), &mut bytes)?;
            self.files.segments.insert(header.rev, header.prev_rev);
        }
        if self.last < self.base {
            let what = format!("is newer than the log, which ends with revision {}", self.last);
            return Err(self.dir.corrupt(self.dir.snapshot(self.base), what));
        }
        let oldest = self.compacted.min(self.mvcc.current());
        self.mvcc
            .compact(oldest)
            .map_err(|error| self.dir.corrupt(&self.dir.path, error.to_string()))
    }

    fn check_chain(&self, header: &Header) -> Result<(), OpenError> {
        if header.prev_rev == self.last {
            return Ok(());
        }
        let path = self.dir.segment(header.rev);
        let what = format!(
            "follows on revision {}, but the log before it ends with {}",
            header.prev_rev, self.last
        );
        Err(self.dir.corrupt(path, what))
    }

    fn segment(
        &mut self,
        header: &Header,
        next: Option<&Header>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let path = self.dir.segment(header.rev);
        self.dir.read(&path, 0, u64::MAX, bytes)?;
        let before = self.last;
        let mut broken = None;
        let read = format::read_segment(bytes, |frame, records| {
            if broken.is_none() {
                broken = self.frame(header, frame, &records).err();
            }
        });
        if let Some(what) = broken {
            return Err(self.dir.corrupt(&path, what));
        }
        match read {
            Ok((_, SegmentEnd::Clean { offset })) => self.end(&path, offset, next)?,
            Ok((_, SegmentEnd::Torn { offset })) => {
                if let Some(next) = next {
                    return Err(self.damage(&path, offset, Some(Rev(next.prev_rev.0 + 1))));
                }
                tracing::warn!(
                    file = %path.display(), offset, last_revision = self.last.0,
                    "cut off a write that was not complete, and that nobody was told of"
                );
                self.end(&path, offset, next)?;
            }
            Err(FormatError::Frame { offset, next_rev }) => {
                return Err(self.damage(&path, offset, next_rev));
            }
            Err(error) => return Err(OpenError::format(&path, &error)),
        }
        if self.last == before {
            self.empty.push(header.rev);
        }
        Ok(())
    }

    /// Takes what follows the last frame off the last segment, and makes its frames durable: the process may
    /// have died between a write and its sync, and what is read now is shown to others.
    fn end(&self, path: &Path, offset: usize, next: Option<&Header>) -> Result<(), OpenError> {
        if next.is_some() {
            return Ok(());
        }
        let cut = self.dir.fs.truncate(path, offset as u64);
        cut.map_err(|source| self.dir.error("truncate", path, source))
    }

    fn damage(&self, path: &Path, offset: usize, next_rev: Option<Rev>) -> OpenError {
        let first = self.last.0 + 1;
        let affected = match next_rev {
            Some(next) if next.0 > first => format!("revisions {first} to {}", next.0 - 1),
            Some(_) | None => format!("revisions from {first} on"),
        };
        self.dir.corrupt(path, format!("is damaged at offset {offset}: {affected} cannot be read"))
    }

    fn frame(
        &mut self,
        header: &Header,
        frame: &Frame<'_>,
        records: &[Record<'_>],
    ) -> Result<(), String> {
        let first = frame.facts.first_rev;
        if first <= self.last || first < header.rev {
            return Err(format!("has revision {first} after {}", self.last));
        }
        let end = first.0.checked_add(u64::from(frame.count));
        let end = end.ok_or_else(|| format!("has revision {first}, which is too high"))?;
        let mut versions = Vec::with_capacity(records.len());
        for (record, rev) in records.iter().zip(first.0..end) {
            if Rev(rev) > self.base {
                versions.push(self.version(record, Rev(rev), &versions)?);
            }
        }
        if frame.count > 0 {
            self.last = Rev(end - 1);
        }
        self.compacted = self.compacted.max(Rev(frame.facts.extra));
        if self.last > self.newest_snapshot {
            self.log_bytes += frame.len as u64;
        }
        self.mvcc.publish(versions);
        Ok(())
    }

    fn version(
        &self,
        record: &Record<'_>,
        rev: Rev,
        batch: &[Arc<Version>],
    ) -> Result<Arc<Version>, String> {
        let create_rev = |key: &Key| {
            let earlier = batch.iter().rev().find(|version| version.key() == key);
            match earlier {
                Some(version) => version.live().map(|kv| kv.create_rev),
                None => self.mvcc.inspect(|newest| {
                    newest.get(key).and_then(|version| version.live()).map(|kv| kv.create_rev)
                }),
            }
        };
        match *record {
            Record::Put { key, value, expires_at_ms } => {
                let key = format::key_of(key);
                let create_rev = create_rev(&key).unwrap_or(rev);
                let kv = Kv { key, value: value.to_vec().into(), create_rev, mod_rev: rev };
                Ok(Version::put(kv, expires_at_ms))
            }
            Record::Delete { key } => Ok(Version::delete(format::key_of(key), rev)),
            Record::State { .. } => Err(format!("has a snapshot's record at revision {rev}")),
        }
    }

    fn finish(self, segments: &[Header]) -> Recovered {
        // Numbers that a write may have been given which a crash then took are not given again.
        let next = match segments.last() {
            Some(last) => self.last.0.max(last.rev.0).saturating_add(BATCH_WRITES_MAX as u64),
            None => self.last.0 + 1,
        };
        Recovered {
            mvcc: self.mvcc,
            files: self.files,
            revs: Revs { next: Rev(next), last: self.last },
            compacted: self.compacted,
            log_bytes: self.log_bytes,
            empty: self.empty,
        }
    }
}
