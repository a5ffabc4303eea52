//! A file system in memory that loses power: for tests of whoever writes through [`Fs`].
//!
//! It takes every liberty that the port leaves. Until a sync, each write may be lost, kept, or kept in some
//! of its sectors, whatever happens to those before and after it; each change of a name may be lost or kept.
//! It can also run out of space, fail to sync, and lie about syncs, which shows that a test would notice.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use component_base::Random;
use parking_lot::Mutex;

use crate::fs::{File, Fs, Lock};

/// The unit in which a write is kept or lost.
const SECTOR: usize = 512;

/// The disk. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct SimFs(Arc<Mutex<Disk>>);

/// How the disk misbehaves from now on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// After this many more operations the power is gone: that one is carried out perhaps, none after it.
    pub power_lost_after: Option<u64>,
    /// How many bytes all files together may have.
    pub space: Option<usize>,
    /// Syncs of files fail.
    pub sync_fails: bool,
    /// Syncs of files do nothing, successfully.
    pub sync_lies: bool,
    /// Syncs of directories do nothing, successfully.
    pub sync_dir_lies: bool,
}

type Inode = u64;

#[derive(Debug, Default)]
struct Disk {
    inodes: BTreeMap<Inode, Content>,
    next_inode: Inode,
    names: BTreeMap<PathBuf, Inode>,
    durable_names: BTreeMap<PathBuf, Inode>,
    unsynced_names: Vec<NameChange>,
    faults: Faults,
    is_dark: bool,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Add(PathBuf, Inode),
    Rename { from: PathBuf, to: PathBuf, inode: Inode },
    Remove(PathBuf),
}

impl SimFs {
    /// Sets how the disk misbehaves.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// Whether the power is gone.
    #[must_use]
    pub fn is_dark(&self) -> bool {
        self.0.lock().is_dark
    }

    /// The power goes and comes back: what was not synced is lost, kept or torn, as `random` has it.
    pub fn lose_power(&self, random: &dyn Random) {
        let mut disk = self.0.lock();
        for content in disk.inodes.values_mut() {
            for change in std::mem::take(&mut content.unsynced) {
                change.apply_torn(&mut content.durable, random);
            }
            content.now = content.durable.clone();
        }
        for change in std::mem::take(&mut disk.unsynced_names) {
            if random.below(2) == 0 {
                change.apply(&mut disk.durable_names);
            }
        }
        disk.names = disk.durable_names.clone();
        disk.faults = Faults::default();
        disk.is_dark = false;
    }

    /// Flips bits of a byte, as failing hardware does.
    pub fn damage(&self, path: &Path, offset: usize) {
        let mut disk = self.0.lock();
        let Some(inode) = disk.names.get(path).copied() else { return };
        if let Some(content) = disk.inodes.get_mut(&inode) {
            content.now[offset] ^= 0x55;
            content.durable[offset] ^= 0x55;
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => write(content, *offset, bytes),
            Change::SetLen(len) => content.resize(*len, 0),
        }
    }

    fn apply_torn(&self, content: &mut Vec<u8>, random: &dyn Random) {
        let fate = random.below(4);
        match self {
            Change::SetLen(_) | Change::Write { .. } if fate == 0 => self.apply(content),
            Change::Write { offset, bytes } if fate == 1 => {
                let sectors = (bytes.len() / SECTOR + 1) as u64;
                let kept = usize::try_from(random.below(sectors)).unwrap_or(0) * SECTOR;
                write(content, *offset, &bytes[..kept]);
            }
            Change::Write { offset, bytes } if fate == 2 => {
                for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                    if random.below(2) == 0 {
                        write(content, offset + n * SECTOR, sector);
                    }
                }
            }
            Change::SetLen(_) | Change::Write { .. } => {}
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            NameChange::Add(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Disk {
    /// Counts an operation. `true` when it is the last one: it may have happened, but nobody learns of it.
    fn begin(&mut self) -> io::Result<bool> {
        if self.is_dark {
            return Err(power_lost());
        }
        if let Some(left) = &mut self.faults.power_lost_after {
            if *left == 0 {
                self.is_dark = true;
                return Ok(true);
            }
            *left -= 1;
        }
        Ok(false)
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn content(&mut self, inode: Inode) -> &mut Content {
        self.inodes.entry(inode).or_default()
    }

    fn space_left(&self) -> usize {
        let used: usize = self
            .names
            .values()
            .filter_map(|inode| self.inodes.get(inode))
            .map(|content| content.now.len())
            .sum();
        self.faults.space.map_or(usize::MAX, |space| space.saturating_sub(used))
    }

    fn write_at(&mut self, inode: Inode, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let len = self.content(inode).now.len();
        let room = len.saturating_sub(offset).saturating_add(self.space_left());
        let fits = bytes.len().min(room);
        let bytes = &bytes[..fits];
        let content = self.content(inode);
        write(&mut content.now, offset, bytes);
        content.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn sync(&mut self, inode: Inode) {
        let content = self.content(inode);
        for change in std::mem::take(&mut content.unsynced) {
            change.apply(&mut content.durable);
        }
    }
}

fn power_lost() -> io::Error {
    io::Error::other("the power is lost")
}

fn finish(is_last: bool) -> io::Result<()> {
    if is_last { Err(power_lost()) } else { Ok(()) }
}

impl Fs for SimFs {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.0.lock();
        let names = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.0.lock();
        let is_last = disk.begin()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.next_inode += 1;
        let inode = disk.next_inode;
        disk.inodes.insert(inode, Content::default());
        disk.change_name(NameChange::Add(path.to_owned(), inode));
        finish(is_last)?;
        Ok(Box::new(SimFile { disk: Arc::clone(&self.0), inode }))
    }

    fn read(&self, path: &Path, offset: u64, len_max: u64, into: &mut Vec<u8>) -> io::Result<()> {
        let mut disk = self.0.lock();
        let inode = disk.inode(path)?;
        let content = &disk.content(inode).now;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
        into.clear();
        into.extend_from_slice(&content[place(offset)..place(offset.saturating_add(len_max))]);
        Ok(())
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        let mut disk = self.0.lock();
        let inode = disk.inode(path)?;
        Ok(disk.content(inode).now.len() as u64)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let inode = self.0.lock().inode(path)?;
        let mut file = SimFile { disk: Arc::clone(&self.0), inode };
        file.set_len(len)?;
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        let is_last = disk.begin()?;
        let inode = disk.inode(from)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        disk.change_name(NameChange::Rename { from, to, inode });
        finish(is_last)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        let is_last = disk.begin()?;
        disk.inode(path)?;
        disk.change_name(NameChange::Remove(path.to_owned()));
        finish(is_last)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        if disk.begin()? {
            return Err(power_lost());
        }
        if !disk.faults.sync_dir_lies {
            disk.durable_names = disk.names.clone();
            disk.unsynced_names.clear();
        }
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        Ok(Some(Box::new(SimLock)))
    }
}

/// Whoever held the lock lost power too.
#[derive(Debug)]
struct SimLock;

impl Lock for SimLock {}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: Inode,
}

impl File for SimFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let is_last = disk.begin()?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(bytes.len());
        disk.write_at(self.inode, offset, bytes)?;
        finish(is_last)?;
        if disk.content(self.inode).now.len() < end {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let is_last = disk.begin()?;
        let change = Change::SetLen(usize::try_from(len).unwrap_or(usize::MAX));
        let content = disk.content(self.inode);
        change.apply(&mut content.now);
        content.unsynced.push(change);
        finish(is_last)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if disk.begin()? {
            return Err(power_lost());
        }
        if disk.faults.sync_fails {
            return Err(io::Error::other("the device reports an error"));
        }
        if !disk.faults.sync_lies {
            disk.sync(self.inode);
        }
        Ok(())
    }
}
