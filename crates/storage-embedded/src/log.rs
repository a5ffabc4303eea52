//! Appending to the log: frames into the current segment, and from one segment to the next.
//!
//! Segments are filled with zeros before they are used, since a write into existing blocks needs no change
//! of the file's metadata and is durable a third sooner.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use component_base::Random;
use parking_lot::Mutex;
use storage::Rev;

use crate::dir::{Dir, Files};
use crate::format::{FileKind, FrameBuilder, FrameFacts, HEADER_BYTES, Header, Salt};
use crate::fs::File;

/// How many zeros are written at once.
const ZEROS: usize = 256 << 10;

/// A file that is to become the next segment, mostly filled with zeros.
#[derive(Debug)]
pub(crate) struct Spare {
    file: Box<dyn File>,
    path: PathBuf,
}

impl Spare {
    /// Makes one of a name that nobody else uses.
    pub(crate) fn create(dir: &Dir, name: &str) -> io::Result<Self> {
        let path = dir.tmp(name);
        let file = dir.fs.create(&path)?;
        Ok(Self { file, path })
    }

    /// Makes one filled with zeros.
    pub(crate) fn create_filled(dir: &Dir, name: &str, len: u64) -> io::Result<Self> {
        let mut spare = Self::create(dir, name)?;
        if let Err(error) = spare.fill(len) {
            // What little space is left is for writes.
            let _ = dir.fs.remove(&spare.path);
            return Err(error);
        }
        Ok(spare)
    }

    fn fill(&mut self, len: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        let mut offset = 0;
        while offset < len {
            self.file.write_at(offset, &zeros)?;
            offset += zeros.len() as u64;
        }
        self.file.sync_data()
    }
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    dir: Dir,
    random: Arc<dyn Random>,
    files: Arc<Mutex<Files>>,
    spare: Arc<Mutex<Option<Spare>>>,
    file: Box<dyn File>,
    segment_bytes: u64,
    salt: Salt,
    offset: u64,
}

/// Why a frame is not in the log.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// As if nothing had been tried: it may be tried again.
    NotWritten(io::Error),
    /// Nobody knows what is on the disk. The store must end.
    Fatal(String),
}

/// What a log is made from.
pub(crate) struct LogParts {
    pub(crate) dir: Dir,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) files: Arc<Mutex<Files>>,
    pub(crate) spare: Arc<Mutex<Option<Spare>>>,
    pub(crate) segment_bytes: u64,
}

/// Which revisions a segment is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Revs {
    /// The next one.
    pub(crate) next: Rev,
    /// The last one that is in the log.
    pub(crate) last: Rev,
}

impl Log {
    /// Begins a segment.
    pub(crate) fn begin(parts: LogParts, revs: Revs) -> Result<Self, AppendError> {
        let (file, salt) = begin_segment(&parts, revs)?;
        let LogParts { dir, random, files, spare, segment_bytes } = parts;
        let offset = HEADER_BYTES as u64;
        Ok(Self { dir, random, files, spare, file, segment_bytes, salt, offset })
    }

    /// Writes a frame and makes it durable. Says whether a new segment was begun for it.
    pub(crate) fn append(
        &mut self,
        frame: &mut FrameBuilder,
        facts: FrameFacts,
        revs: Revs,
    ) -> Result<Appended, AppendError> {
        let is_full = self.offset + frame.len() as u64 > self.segment_bytes;
        let is_rotated = is_full && self.offset > HEADER_BYTES as u64;
        if is_rotated {
            self.rotate(revs)?;
        }
        let bytes = frame.finish(self.salt, facts);
        if let Err(error) = self.file.write_at(self.offset, bytes) {
            return Err(self.roll_back(error));
        }
        // What failed to become durable may be lost although the next attempt succeeds: never retried.
        if let Err(error) = self.file.sync_data() {
            return Err(AppendError::Fatal(format!("could not make a write durable: {error}")));
        }
        self.offset += bytes.len() as u64;
        Ok(Appended { bytes: bytes.len() as u64, is_rotated })
    }

    /// Part of a frame may be in the file. It must not come to light after a crash: those who sent it are told
    /// that it did not happen.
    fn roll_back(&mut self, error: io::Error) -> AppendError {
        let undone = self.file.set_len(self.offset).and_then(|()| self.file.sync_data());
        match undone {
            Ok(()) => AppendError::NotWritten(error),
            Err(second) => {
                AppendError::Fatal(format!("could not undo a failed write ({error}): {second}"))
            }
        }
    }

    fn rotate(&mut self, revs: Revs) -> Result<(), AppendError> {
        let parts = LogParts {
            dir: self.dir.clone(),
            random: Arc::clone(&self.random),
            files: Arc::clone(&self.files),
            spare: Arc::clone(&self.spare),
            segment_bytes: self.segment_bytes,
        };
        let (file, salt) = begin_segment(&parts, revs)?;
        // Gives the zeros behind the last frame back; whether that succeeds matters to nobody.
        let _ = self.file.set_len(self.offset);
        self.file = file;
        self.salt = salt;
        self.offset = HEADER_BYTES as u64;
        Ok(())
    }
}

/// A frame is in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    pub(crate) bytes: u64,
    pub(crate) is_rotated: bool,
}

/// The segment exists once its name is durable, which is the last step: until then a failure leaves nothing.
fn begin_segment(parts: &LogParts, revs: Revs) -> Result<(Box<dyn File>, Salt), AppendError> {
    let dir = &parts.dir;
    let taken = parts.spare.lock().take();
    let mut spare = match taken {
        Some(spare) => spare,
        None => {
            let name = format!("segment-{}", parts.random.next_u64());
            Spare::create(dir, &name).map_err(AppendError::NotWritten)?
        }
    };
    let salt = Salt::new(parts.random.next_u64());
    let header = Header { salt, rev: revs.next, prev_rev: revs.last };
    let named = spare
        .file
        .write_at(0, &header.encode(FileKind::Segment))
        .and_then(|()| spare.file.sync_data())
        .and_then(|()| dir.fs.rename(&spare.path, &dir.segment(revs.next)));
    if let Err(error) = named {
        let _ = dir.fs.remove(&spare.path);
        return Err(AppendError::NotWritten(error));
    }
    dir.sync().map_err(|error| {
        AppendError::Fatal(format!("could not make the name of a log segment durable: {error}"))
    })?;
    parts.files.lock().segments.insert(revs.next, revs.last);
    Ok((spare.file, salt))
}
