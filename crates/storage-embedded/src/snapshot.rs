//! Snapshots: the state at a revision in one file, written beside the log without stopping it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use component_base::Random;
use storage::mvcc::{Mvcc, Pin, Version};
use storage::{At, Key, Kv, Rev, StorageError};

use crate::OpenError;
use crate::dir::Dir;
use crate::format::{
    self, FileKind, Frame, FrameBuilder, FrameFacts, HEADER_BYTES, Header, Record, Salt,
};
use crate::fs::{File, Fs};

/// How large a frame of a snapshot is, unless one value is larger.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// How much is written before it is made durable: little by little, so that the log's own syncs need not wait
/// for all of it.
const SYNC_BYTES: u64 = 4 << 20;
/// How much of a snapshot is read at once.
const READ_BYTES: usize = 4 << 20;

/// Why there is no new snapshot. The log goes on, and grows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("could not write a snapshot")]
    Io(#[from] io::Error),
    #[error("the history moved on before the snapshot was complete")]
    Overtaken(#[from] StorageError),
}

/// A snapshot being written.
#[derive(Debug)]
struct Writing {
    file: Box<dyn File>,
    salt: Salt,
    rev: Rev,
    frame: FrameBuilder,
    offset: u64,
    synced: u64,
    records: u64,
}

/// Writes the present state. Returns its revision.
pub(crate) fn write(
    dir: &Dir,
    mvcc: &Arc<Mvcc>,
    random: &dyn Random,
) -> Result<Rev, SnapshotError> {
    let tmp = dir.tmp(&format!("snapshot-{}", random.next_u64()));
    let rev = write_to(dir.fs.as_ref(), &tmp, mvcc, random)?;
    dir.fs.rename(&tmp, &dir.snapshot(rev))?;
    dir.sync()?;
    Ok(rev)
}

/// Writes the present state to a file, durably; its name is not made so. Returns its revision.
pub(crate) fn write_to(
    fs: &dyn Fs,
    path: &Path,
    mvcc: &Arc<Mvcc>,
    random: &dyn Random,
) -> Result<Rev, SnapshotError> {
    let pin = mvcc.pin(At::Latest)?;
    let salt = Salt::new(random.next_u64());
    let file = fs.create(path)?;
    let result = write_file(file, salt, &pin, mvcc);
    if let Err(error) = result {
        let _ = fs.remove(path);
        return Err(error);
    }
    Ok(pin.rev())
}

fn write_file(
    file: Box<dyn File>,
    salt: Salt,
    pin: &Pin,
    mvcc: &Mvcc,
) -> Result<(), SnapshotError> {
    let (rev, offset) = (pin.rev(), HEADER_BYTES as u64);
    let frame = FrameBuilder::default();
    let mut writing = Writing { file, salt, rev, frame, offset, synced: 0, records: 0 };
    let header = Header { salt, rev, prev_rev: mvcc.oldest().min(rev) };
    writing.file.write_at(0, &header.encode(FileKind::Snapshot))?;
    writing.frame.clear();
    let everything = Key::new("");
    let (mut after, mut some) = (None, Vec::new());
    loop {
        // Only pointers are taken while the state is locked; the bytes are copied after.
        after = pin.scan(&everything, after.as_ref(), |version| some.push(Arc::clone(version)))?;
        for version in some.drain(..) {
            writing.add(&version)?;
        }
        if after.is_none() {
            return Ok(writing.finish()?);
        }
    }
}

impl Writing {
    fn add(&mut self, version: &Version) -> io::Result<()> {
        let Some(kv) = version.live() else { return Ok(()) };
        if !self.frame.is_empty() && self.frame.len() + kv.value.len() > FRAME_BYTES_MAX {
            self.flush(0)?;
        }
        self.frame.state(kv, version.expires_at_ms());
        self.records += 1;
        Ok(())
    }

    fn flush(&mut self, extra: u64) -> io::Result<()> {
        let bytes = self.frame.finish(self.salt, FrameFacts { first_rev: self.rev, extra });
        self.file.write_at(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        self.frame.clear();
        if self.offset - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.offset;
        }
        Ok(())
    }

    /// The last frame has no records and says how many there were.
    fn finish(mut self) -> io::Result<()> {
        if !self.frame.is_empty() {
            self.flush(0)?;
        }
        self.flush(self.records)?;
        self.file.sync_data()
    }
}

/// Reads a snapshot, giving its versions to `visit`.
pub(crate) fn read(
    dir: &Dir,
    path: &Path,
    visit: &mut dyn FnMut(Arc<Version>),
) -> Result<Header, OpenError> {
    let mut reader = Reader { dir, path, window: Vec::new(), base: 0 };
    let damaged = |at: u64| dir.corrupt(path, format!("is damaged at offset {at}"));
    let bytes = reader.at(0, HEADER_BYTES)?;
    let header = Header::decode(FileKind::Snapshot, bytes)
        .map_err(|error| OpenError::format(path, &error))?;
    let (mut offset, mut records) = (HEADER_BYTES as u64, 0);
    loop {
        let head = reader.at(offset, format::FRAME_BYTES)?;
        let len = format::claimed_len(header.salt, head).ok_or_else(|| damaged(offset))?;
        let bytes = reader.at(offset, len)?;
        let frame = format::decode_frame(header.salt, bytes).ok_or_else(|| damaged(offset))?;
        if frame.count == 0 {
            let is_whole = frame.facts.extra == records;
            return if is_whole { Ok(header) } else { Err(damaged(offset)) };
        }
        visit_state(&frame, visit).ok_or_else(|| damaged(offset))?;
        records += u64::from(frame.count);
        offset += len as u64;
    }
}

fn visit_state(frame: &Frame<'_>, visit: &mut dyn FnMut(Arc<Version>)) -> Option<()> {
    for record in frame.records()? {
        let Record::State { key, value, expires_at_ms, create_rev, mod_rev } = record else {
            return None;
        };
        let value = value.to_vec().into();
        let kv = Kv { key: format::key_of(key), value, create_rev, mod_rev };
        visit(Version::put(kv, expires_at_ms));
    }
    Some(())
}

/// Reads a file through a window.
struct Reader<'a> {
    dir: &'a Dir,
    path: &'a Path,
    window: Vec<u8>,
    base: u64,
}

impl Reader<'_> {
    /// Up to `len` bytes at an offset, fewer at the end of the file.
    fn at(&mut self, offset: u64, len: usize) -> Result<&[u8], OpenError> {
        let start = usize::try_from(offset - self.base).unwrap_or(usize::MAX);
        if start.checked_add(len).is_none_or(|end| end > self.window.len()) {
            let len = len.max(READ_BYTES) as u64;
            self.dir.read(self.path, offset, len, &mut self.window)?;
            self.base = offset;
        }
        let start = usize::try_from(offset - self.base).unwrap_or(usize::MAX);
        let rest = self.window.get(start..).unwrap_or_default();
        Ok(&rest[..len.min(rest.len())])
    }
}
