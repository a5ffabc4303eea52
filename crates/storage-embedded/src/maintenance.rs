//! What is done beside the writer: filling the next segment with zeros, writing snapshots, removing files
//! that nobody needs.

use std::io;
use std::sync::Arc;

use component_base::Random;
use parking_lot::{Condvar, Mutex};
use storage::Rev;
use storage::mvcc::Mvcc;

use crate::dir::{Dir, Files};
use crate::log::Spare;
use crate::snapshot::{self, SnapshotError};
use crate::{Limits, OpenError};

/// The work and what it is done on.
#[derive(Debug)]
pub(crate) struct Maintenance {
    pub(crate) dir: Dir,
    pub(crate) mvcc: Arc<Mvcc>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) files: Arc<Mutex<Files>>,
    pub(crate) spare: Arc<Mutex<Option<Spare>>>,
    limits: Limits,
    wanted: Mutex<Wanted>,
    wake: Condvar,
}

/// What it is made from.
pub(crate) struct MaintenanceParts {
    pub(crate) dir: Dir,
    pub(crate) mvcc: Arc<Mvcc>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) files: Files,
    pub(crate) limits: Limits,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) spare: bool,
    pub(crate) snapshot: bool,
    pub(crate) stop: bool,
}

impl Maintenance {
    pub(crate) fn new(parts: MaintenanceParts) -> Self {
        let MaintenanceParts { dir, mvcc, random, files, limits } = parts;
        Self {
            dir,
            mvcc,
            random,
            files: Arc::new(Mutex::new(files)),
            spare: Arc::default(),
            limits,
            wanted: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Asks for work to be done soon. Asking twice is asking once.
    pub(crate) fn want(&self, more: Wanted) {
        let mut wanted = self.wanted.lock();
        wanted.spare |= more.spare;
        wanted.snapshot |= more.snapshot;
        wanted.stop |= more.stop;
        self.wake.notify_one();
    }

    /// Works until it is asked to stop: the body of a thread.
    pub(crate) fn run(&self) {
        loop {
            let wanted = {
                let mut wanted = self.wanted.lock();
                while !(wanted.spare || wanted.snapshot || wanted.stop) {
                    self.wake.wait(&mut wanted);
                }
                std::mem::take(&mut *wanted)
            };
            if wanted.stop {
                return;
            }
            self.work(wanted);
        }
    }

    /// Does what is wanted. A failure costs time or space and no data: it is logged, and tried again when
    /// the next one is due.
    pub(crate) fn work(&self, wanted: Wanted) {
        if wanted.spare
            && let Err(error) = self.make_spare()
        {
            tracing::warn!(dir = %self.dir.path.display(), %error, "could not prepare a segment of the store's log");
        }
        if wanted.snapshot
            && let Err(error) = self.make_snapshot()
        {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(dir = %self.dir.path.display(), %error, cause, "the store has no new snapshot");
        }
    }

    fn make_spare(&self) -> io::Result<()> {
        if self.spare.lock().is_none() {
            let name = format!("spare-{}", self.random.next_u64());
            let spare = Spare::create_filled(&self.dir, &name, self.limits.segment_bytes)?;
            *self.spare.lock() = Some(spare);
        }
        Ok(())
    }

    fn make_snapshot(&self) -> Result<(), SnapshotError> {
        let rev = snapshot::write(&self.dir, &self.mvcc, &*self.random)?;
        let unneeded = {
            let mut files = self.files.lock();
            files.snapshots.insert(rev, ());
            files.take_unneeded(self.mvcc.oldest())
        };
        self.remove(&unneeded)?;
        Ok(())
    }

    /// Snapshots first: one that came back after a crash would miss the segments that follow it. Then segments,
    /// oldest first, each durably: a hole among them would look like damage.
    fn remove(&self, unneeded: &Files) -> io::Result<()> {
        for rev in unneeded.snapshots.keys() {
            self.dir.fs.remove(&self.dir.snapshot(*rev))?;
        }
        self.dir.sync()?;
        for rev in unneeded.segments.keys() {
            self.dir.fs.remove(&self.dir.segment(*rev))?;
            self.dir.sync()?;
        }
        Ok(())
    }

    /// Removes segments that nothing was written to, now that another one has begun.
    pub(crate) fn remove_empty(&self, empty: &[Rev]) -> Result<(), OpenError> {
        let mut files = self.files.lock();
        for rev in empty {
            files.segments.remove(rev);
            let path = self.dir.segment(*rev);
            let removed = self.dir.fs.remove(&path);
            removed.map_err(|source| self.dir.error("remove", &path, source))?;
        }
        let synced = self.dir.sync();
        synced.map_err(|source| self.dir.error("sync", &self.dir.path, source))
    }
}
