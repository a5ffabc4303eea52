//! The file port: the few things the log asks of a file system, and what it relies on.
//!
//! Relied on: what was written before a successful [`File::sync_data`] survives power loss, its length
//! included; a created, renamed or removed name survives after [`Fs::sync_dir`]; a rename is atomic. Nothing
//! else: unsynced writes may be lost, kept in part, or kept out of order. `SimFs` takes exactly these
//! liberties.

use std::fmt::Debug;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// A file system.
pub trait Fs: Send + Sync + Debug {
    /// Makes a directory that only its owner enters, where there is none, and makes its name durable.
    ///
    /// # Errors
    /// Of the file system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory.
    ///
    /// # Errors
    /// Of the file system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes an empty file that only its owner reads, of a name that there is not yet.
    ///
    /// # Errors
    /// Of the file system.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// The bytes from an offset on, as many as there are up to `len_max`, in place of what `into` holds.
    ///
    /// # Errors
    /// Of the file system.
    fn read(&self, path: &Path, offset: u64, len_max: u64, into: &mut Vec<u8>) -> io::Result<()>;
    /// How many bytes a file has.
    ///
    /// # Errors
    /// Of the file system.
    fn size(&self, path: &Path) -> io::Result<u64>;
    /// Cuts a file off, durably.
    ///
    /// # Errors
    /// Of the file system.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Gives a file another name, in place of one of that name.
    ///
    /// # Errors
    /// Of the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Of the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Of the file system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes a lock that ends with the process; `None` when somebody else has it.
    ///
    /// # Errors
    /// Of the file system.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
}

/// An open file that is written to.
pub trait File: Send + Debug {
    /// Writes all the bytes at an offset, which may be behind the end.
    ///
    /// # Errors
    /// Of the file system; part of the bytes may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file off.
    ///
    /// # Errors
    /// Of the file system.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Makes what was written durable.
    ///
    /// # Errors
    /// Of the file system. What was written since the last success is in an unknown state then, and stays
    /// so whatever a second attempt says.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// A lock, held until it is dropped.
pub trait Lock: Send + Sync + Debug {}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

impl Fs for RealFs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => self.sync_dir(parent),
            None => self.sync_dir(Path::new(".")),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn read(&self, path: &Path, offset: u64, len_max: u64, into: &mut Vec<u8>) -> io::Result<()> {
        let mut file = fs::File::open(path)?;
        let len = file.metadata()?.len().saturating_sub(offset).min(len_max);
        file.seek(SeekFrom::Start(offset))?;
        into.clear();
        into.reserve_exact(usize::try_from(len).unwrap_or(0));
        file.take(len).read_to_end(into)?;
        Ok(())
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).open(path)?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(FileLock { _file: file }))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct FileLock {
    _file: fs::File,
}

impl Lock for FileLock {}

impl File for fs::File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        fs::File::set_len(self, len)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        fs::File::sync_data(self)
    }
}
