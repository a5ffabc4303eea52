//! The data directory: what its files are called, which there are, and which are still needed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::Rev;

use crate::OpenError;
use crate::format::FORMAT_VERSION;
use crate::fs::{Fs, Lock};

const VERSION_FILE: &str = "VERSION";
const VERSION_PREFIX: &str = "kubelith-store ";
const LOCK_FILE: &str = "LOCK";
const TMP_SUFFIX: &str = ".tmp";
const SEGMENT_PREFIX: &str = "log-";
const SNAPSHOT_PREFIX: &str = "snapshot-";
/// A version file is one short line.
const VERSION_BYTES_MAX: u64 = 256;

/// The data directory.
#[derive(Debug, Clone)]
pub(crate) struct Dir {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) path: PathBuf,
}

/// The files of the log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    /// Snapshots by the revision they are the state of.
    pub(crate) snapshots: BTreeMap<Rev, ()>,
    /// Segments by the lowest revision that may be in them, with the last one before them.
    pub(crate) segments: BTreeMap<Rev, Rev>,
}

impl Dir {
    /// Makes the directory where there is none, takes its lock and checks its version.
    pub(crate) fn open(fs: Arc<dyn Fs>, path: &Path) -> Result<(Self, Box<dyn Lock>), OpenError> {
        let dir = Self { fs, path: path.to_owned() };
        dir.fs.create_dir(path).map_err(|source| dir.error("create", path, source))?;
        let lock_path = path.join(LOCK_FILE);
        let lock =
            dir.fs.lock(&lock_path).map_err(|source| dir.error("lock", &lock_path, source))?;
        let lock = lock.ok_or_else(|| OpenError::Locked { dir: path.to_owned() })?;
        dir.check_version()?;
        Ok((dir, lock))
    }

    fn check_version(&self) -> Result<(), OpenError> {
        let path = self.path.join(VERSION_FILE);
        let names = self.names()?;
        if !names.iter().any(|name| name == VERSION_FILE) {
            if names.iter().any(|name| parse(SEGMENT_PREFIX, name).is_some()) {
                return Err(self.corrupt(
                    self.path.join(VERSION_FILE),
                    "is missing beside the files of a store",
                ));
            }
            return self.write_version().map_err(|source| self.error("write", &path, source));
        }
        let mut bytes = Vec::new();
        self.read(&path, 0, VERSION_BYTES_MAX, &mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let found = text.strip_prefix(VERSION_PREFIX).and_then(|rest| rest.trim_end().parse().ok());
        match found {
            Some(found) if found > FORMAT_VERSION => {
                Err(OpenError::NewerFormat { file: path, found, supported: FORMAT_VERSION })
            }
            Some(FORMAT_VERSION) => Ok(()),
            Some(_) | None => {
                Err(self.corrupt(self.path.join(VERSION_FILE), "does not name a format"))
            }
        }
    }

    fn write_version(&self) -> io::Result<()> {
        let tmp = self.tmp(VERSION_FILE);
        // There is one when the very first start was cut short.
        let _ = self.fs.remove(&tmp);
        let mut file = self.fs.create(&tmp)?;
        file.write_at(0, format!("{VERSION_PREFIX}{FORMAT_VERSION}\n").as_bytes())?;
        file.sync_data()?;
        self.fs.rename(&tmp, &self.path.join(VERSION_FILE))?;
        self.sync()
    }

    fn names(&self) -> Result<Vec<String>, OpenError> {
        self.fs.list(&self.path).map_err(|source| self.error("list", &self.path, source))
    }

    /// How many bytes all files together have. One that goes meanwhile has none.
    pub(crate) fn size(&self) -> io::Result<u64> {
        let names = self.fs.list(&self.path)?;
        Ok(names.iter().filter_map(|name| self.fs.size(&self.path.join(name)).ok()).sum())
    }

    /// Which segments and snapshots there are; what was being written when the process ended is removed.
    pub(crate) fn find(&self) -> Result<Found, OpenError> {
        let mut found = Found::default();
        for name in self.names()? {
            if name.ends_with(TMP_SUFFIX) {
                let path = self.path.join(&name);
                self.fs.remove(&path).map_err(|source| self.error("remove", &path, source))?;
            } else if let Some(rev) = parse(SEGMENT_PREFIX, &name) {
                found.segments.push(rev);
            } else if let Some(rev) = parse(SNAPSHOT_PREFIX, &name) {
                found.snapshots.push(rev);
            }
        }
        found.segments.sort_unstable();
        found.snapshots.sort_unstable();
        Ok(found)
    }

    pub(crate) fn segment(&self, rev: Rev) -> PathBuf {
        self.path.join(format!("{SEGMENT_PREFIX}{:016x}", rev.0))
    }

    pub(crate) fn snapshot(&self, rev: Rev) -> PathBuf {
        self.path.join(format!("{SNAPSHOT_PREFIX}{:016x}", rev.0))
    }

    pub(crate) fn tmp(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}{TMP_SUFFIX}"))
    }

    pub(crate) fn read(
        &self,
        path: &Path,
        offset: u64,
        len_max: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let read = self.fs.read(path, offset, len_max, into);
        read.map_err(|source| self.error("read", path, source))
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.fs.sync_dir(&self.path)
    }

    pub(crate) fn error(&self, doing: &'static str, path: &Path, source: io::Error) -> OpenError {
        OpenError::Io { doing, path: path.to_owned(), source }
    }

    /// What is in a file, wherever it lies, cannot be what was written.
    pub(crate) fn corrupt(&self, file: impl Into<PathBuf>, what: impl Into<String>) -> OpenError {
        OpenError::Corrupt { file: file.into(), what: what.into() }
    }
}

/// What a listing of the directory has, in order.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) segments: Vec<Rev>,
    pub(crate) snapshots: Vec<Rev>,
}

fn parse(prefix: &str, name: &str) -> Option<Rev> {
    let hex = name.strip_prefix(prefix).filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok().map(Rev)
}

impl Files {
    /// Takes out what nobody needs to rebuild the history from `oldest` on: snapshots older than the one the
    /// history begins with, and segments that end before that one.
    pub(crate) fn take_unneeded(&mut self, oldest: Rev) -> Files {
        let mut unneeded = Files::default();
        let Some((&base, ())) = self.snapshots.range(..=oldest).next_back() else {
            return unneeded;
        };
        let kept = self.snapshots.split_off(&base);
        unneeded.snapshots = std::mem::replace(&mut self.snapshots, kept);
        // A segment ends where the next one says that it does.
        let ends: Vec<(Rev, Rev)> = {
            let nexts = self.segments.values().skip(1);
            self.segments.keys().copied().zip(nexts.copied()).collect()
        };
        for (first, last) in ends {
            if last > base {
                break;
            }
            if let Some(prev) = self.segments.remove(&first) {
                unneeded.segments.insert(first, prev);
            }
        }
        unneeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(snapshots: &[u64], segments: &[(u64, u64)]) -> Files {
        Files {
            snapshots: snapshots.iter().map(|rev| (Rev(*rev), ())).collect(),
            segments: segments.iter().map(|(first, prev)| (Rev(*first), Rev(*prev))).collect(),
        }
    }

    #[test]
    fn what_the_history_begins_with_is_kept() {
        let all = files(&[50, 90], &[(2, 1), (41, 40), (71, 70), (95, 94)]);
        let cases = [
            (40, files(&[], &[])),
            (50, files(&[], &[(2, 1)])),
            (89, files(&[], &[(2, 1)])),
            (90, files(&[50], &[(2, 1), (41, 40)])),
            (99, files(&[50], &[(2, 1), (41, 40)])),
        ];
        for (oldest, unneeded) in cases {
            assert_eq!(all.clone().take_unneeded(Rev(oldest)), unneeded, "oldest {oldest}");
        }
    }
}
