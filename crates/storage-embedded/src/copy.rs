//! Copies of a store in one file: made while the store runs, and made into a store again elsewhere.
//!
//! A copy is a snapshot as the store itself writes it: the state at one revision, each frame under a checksum, the last one
//! with the count. A store that is made of one goes on [`LEAP`] revisions later and with its history forgotten: whoever saw
//! more of the store than is in the copy is told that it is too old, instead of being shown other things under numbers that
//! it knows (upstream: `etcdutl snapshot restore --bump-revision --mark-compacted`).

use std::path::Path;
use std::sync::Arc;

use component_base::Random;
use storage::Rev;

use crate::dir::Dir;
use crate::format::{FileKind, FrameBuilder, FrameFacts, HEADER_BYTES, Header, Salt};
use crate::fs::{Fs, RealFs};
use crate::{EmbeddedStore, OpenError, snapshot};

/// How many revisions are left out when a store is made of a copy: more than are written between two copies.
pub const LEAP: u64 = 1_000_000_000;
/// What is written at the first revision after the leap: revisions are of writes. Outside of what the API server reads.
const MARK: &[u8] = b"/kubelith/restored";
/// How much is copied at once.
const CHUNK_BYTES: u64 = 4 << 20;

/// What is in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The revision whose state it is.
    pub rev: Rev,
    /// How many keys.
    pub keys: u64,
    /// The bytes of keys and values.
    pub bytes: u64,
}

impl EmbeddedStore {
    /// Writes the present state to a file, which must not be there yet. Takes as long as writing all values does; the store
    /// goes on meanwhile.
    ///
    /// # Errors
    /// When the file cannot be written, or the store's history moves on faster than it is.
    pub fn copy(&self, file: &Path) -> Result<Copied, OpenError> {
        let failed = |source| OpenError::Io { doing: "write", path: file.to_owned(), source };
        if file.exists() {
            return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
        }
        let Some(parent) = file.parent() else {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        };
        let mut part = file.as_os_str().to_owned();
        part.push(".part");
        let part = Path::new(&part);
        let fs = RealFs;
        // What an earlier attempt left.
        let _ = fs.remove(part);
        let (mvcc, random) = (&self.maintenance.mvcc, self.maintenance.random.as_ref());
        snapshot::write_to(&fs, part, mvcc, random)
            .map_err(|error| failed(std::io::Error::other(error)))?;
        fs.rename(part, file).and_then(|()| fs.sync_dir(parent)).map_err(failed)?;
        inspect(file)
    }
}

/// Reads a copy to its end.
///
/// # Errors
/// When it is damaged, of a newer format, or no copy.
pub fn inspect(file: &Path) -> Result<Copied, OpenError> {
    let dir = beside(file);
    let (mut keys, mut bytes) = (0, 0);
    let header = snapshot::read(&dir, file, &mut |version| {
        keys += 1;
        bytes += version.live().map_or(0, |kv| kv.key.as_bytes().len() + kv.value.len()) as u64;
    })?;
    Ok(Copied { rev: header.rev, keys, bytes })
}

/// Makes a store of a copy, in a directory where there is none.
///
/// # Errors
/// When the copy is damaged, something is in the directory, or it cannot be written.
pub fn restore(file: &Path, into: &Path, random: &dyn Random) -> Result<Copied, OpenError> {
    let copied = inspect(file)?;
    let (dir, _lock) = Dir::open(Arc::new(RealFs), into)?;
    let found = dir.find()?;
    if !(found.segments.is_empty() && found.snapshots.is_empty()) {
        return Err(dir.error("restore into", into, std::io::ErrorKind::DirectoryNotEmpty.into()));
    }
    let (snapshot, segment) = (dir.snapshot(copied.rev), dir.segment(after_leap(copied.rev)));
    duplicate(&dir, file, &snapshot).map_err(|source| dir.error("write", &snapshot, source))?;
    // Last: without it the directory is refused, since a snapshot needs a log that follows on it.
    begin_log(&dir, &segment, copied.rev, random)
        .map_err(|source| dir.error("write", &segment, source))?;
    Ok(copied)
}

fn after_leap(rev: Rev) -> Rev {
    Rev(rev.0.saturating_add(LEAP))
}

/// For reading a file wherever it lies.
fn beside(file: &Path) -> Dir {
    let path = file.parent().unwrap_or(Path::new("/")).to_owned();
    Dir { fs: Arc::new(RealFs), path }
}

fn duplicate(dir: &Dir, from: &Path, to: &Path) -> std::io::Result<()> {
    let mut file = dir.fs.create(to)?;
    let (mut offset, mut bytes) = (0, Vec::new());
    loop {
        dir.fs.read(from, offset, CHUNK_BYTES, &mut bytes)?;
        if bytes.is_empty() {
            file.sync_data()?;
            return dir.sync();
        }
        file.write_at(offset, &bytes)?;
        offset += bytes.len() as u64;
    }
}

/// A log of one write after the leap, as of which everything before is forgotten.
fn begin_log(dir: &Dir, path: &Path, copied: Rev, random: &dyn Random) -> std::io::Result<()> {
    let (salt, rev) = (Salt::new(random.next_u64()), after_leap(copied));
    let header = Header { salt, rev, prev_rev: copied };
    let mut frame = FrameBuilder::default();
    frame.clear();
    frame.put(MARK, format!("of revision {copied}").as_bytes(), 0);
    let bytes = frame.finish(salt, FrameFacts { first_rev: rev, extra: rev.0 });
    let mut file = dir.fs.create(path)?;
    file.write_at(0, &header.encode(FileKind::Segment))?;
    file.write_at(HEADER_BYTES as u64, bytes)?;
    file.sync_data()?;
    dir.sync()
}
