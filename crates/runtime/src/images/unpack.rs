//! Layers from archives to directories, whatever the archive tries.
//!
//! Every path is found below the layer's own directory; links are made and never followed out; device nodes are
//! left out, since a container's `/dev` is made for it. Whiteouts become what an overlay understands.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use sha2::{Digest, Sha256};
use sys::fs::{Root, file_type, normalize, remove_at};

/// The most bytes that headers of one entry have, long names and attributes included: the reader holds them in memory.
const MAX_HEADER_BYTES: u64 = 4 << 20;
/// How much is written to a file before the disk is looked at again, in bytes.
const STRIDE_BYTES: u64 = 64 << 20;

/// What an archive may make of itself: few bytes can stand for many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The bytes of all files.
    pub file_bytes: u64,
    /// The bytes of the archive once it is decompressed, what nobody wants of it included.
    pub archive_bytes: u64,
    /// The entries.
    pub entries: u64,
    /// The bytes of the names of all directories, which are held in memory until the end.
    pub name_bytes: usize,
    /// What has to stay free on the disk, in bytes: others write to it too.
    pub free_bytes: u64,
}

impl Limits {
    /// For layers from anywhere.
    pub(crate) const STANDARD: Self = Self {
        file_bytes: 64 << 30,
        archive_bytes: 96 << 30,
        entries: 8 << 20,
        name_bytes: 256 << 20,
        free_bytes: 256 << 20,
    };
}

/// Marks the removal of a file below.
const WHITEOUT: &str = ".wh.";
/// Marks a directory that hides what is below.
const OPAQUE: &str = ".wh..wh..opq";

/// What unpacking found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// The digest of the uncompressed archive.
    pub diff_id: String,
    /// The bytes of its files.
    pub bytes: u64,
}

/// Unpacks an archive, compressed or not, into the empty directory `into`. `lower` are the layers below, the
/// uppermost first: directories that the archive takes for granted get the owner and mode that they have there.
///
/// # Errors
/// When the archive is broken or beyond the limits.
pub(crate) fn unpack(archive: File, into: &Path, lower: &[Root]) -> io::Result<Unpacked> {
    unpack_within(&Limits::STANDARD, archive, into, lower)
}

/// The same within other limits.
///
/// # Errors
/// When the archive is broken or beyond the limits.
pub(crate) fn unpack_within(
    limits: &Limits,
    archive: File,
    into: &Path,
    lower: &[Root],
) -> io::Result<Unpacked> {
    let allowed = Cell::new(u64::MAX);
    let inner = decompress(archive)?;
    let left = limits.archive_bytes;
    let mut hashed = Hashed { inner, hash: Sha256::new(), allowed: &allowed, limits, left };
    let mut layer = Layer::new(limits, into, lower)?;
    let mut tar = tar::Archive::new(&mut hashed);
    let mut entries = tar.entries()?;
    for count in 0_u64.. {
        allowed.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        allowed.set(u64::MAX);
        if count >= limits.entries {
            return Err(invalid(format!("the layer has more than {} entries", limits.entries)));
        }
        let path = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        layer.take(&path, &mut entry).map_err(|error| {
            io::Error::new(error.kind(), format!("unpack {}: {error}", path.display()))
        })?;
        // What nobody wanted of it is not part of the next one's headers.
        io::copy(&mut entry, &mut io::sink())?;
    }
    allowed.set(u64::MAX);
    layer.finish()?;
    let bytes = layer.bytes;
    // What follows the last entry belongs to the digest too.
    io::copy(&mut hashed, &mut io::sink())?;
    Ok(Unpacked { diff_id: format!("sha256:{}", hex::encode(hashed.hash.finalize())), bytes })
}

/// Whether so many bytes more leave `keep` free on the disk, whose last bytes others need for better things.
pub(super) fn leaves_room(dir: impl AsFd, more: u64, keep: u64) -> io::Result<()> {
    let disk = rustix::fs::fstatvfs(dir)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= more.saturating_add(keep) {
        return Ok(());
    }
    let text = format!(
        "{more} bytes more do not fit: the disk has {free} left, of which {keep} have to stay free"
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// By the first bytes, not by what a manifest claims.
fn decompress(archive: File) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(256 << 10, archive);
    let head = reader.fill_buf()?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader)?),
        _ => Box::new(reader),
    })
}

struct Hashed<'a, R> {
    inner: R,
    hash: Sha256,
    /// How many bytes may be read for an entry's headers.
    allowed: &'a Cell<u64>,
    limits: &'a Limits,
    /// How many bytes may be read at all.
    left: u64,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        let left = self.allowed.get().checked_sub(got as u64).ok_or_else(|| {
            invalid(format!("the headers of an entry have more than {MAX_HEADER_BYTES} bytes"))
        })?;
        self.allowed.set(left);
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| {
            let most = self.limits.archive_bytes;
            invalid(format!("the layer has more than {most} bytes when it is decompressed"))
        })?;
        self.hash.update(&buffer[..got]);
        Ok(got)
    }
}

type Entry<'a, R> = tar::Entry<'a, R>;

/// Owner, mode and time of something unpacked.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
}

struct Layer<'a> {
    limits: &'a Limits,
    root: Root,
    lower: &'a [Root],
    /// The directory that the last entry was put in.
    cached: Option<(PathBuf, OwnedFd)>,
    /// Times of directories, set when nothing is put into them any more.
    dirs: Vec<(PathBuf, i64)>,
    /// The bytes of their names.
    name_bytes: usize,
    bytes: u64,
}

impl<'a> Layer<'a> {
    fn new(limits: &'a Limits, into: &Path, lower: &'a [Root]) -> io::Result<Self> {
        let root = Root::open(into)?;
        Ok(Self { limits, root, lower, cached: None, dirs: Vec::new(), name_bytes: 0, bytes: 0 })
    }

    fn take<R: Read>(&mut self, path: &Path, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let clean = normalize(path)?;
        let Some(name) = clean.file_name().map(ToOwned::to_owned) else {
            return self.top(entry);
        };
        let parent_path = clean.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.parent(&parent_path)?;
        let text = name.to_string_lossy();
        if text == OPAQUE {
            return set_xattr_at(&parent, Path::new("."), "trusted.overlay.opaque", b"y");
        }
        if let Some(hidden) = text.strip_prefix(WHITEOUT) {
            return self.whiteout(&parent, hidden);
        }
        let name = PathBuf::from(name);
        let attributes = attributes(entry.header())?;
        self.make_way(&parent, &name, entry.header().entry_type().is_dir())?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                make_dir(&parent, &name)?;
                self.remember(clean, attributes.mtime)?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                self.file(&parent, &name, entry)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("link to nothing"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, &name)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("link to nothing"))?;
                return self.hard_link(&parent, &name, Path::new(OsStr::from_bytes(&target)));
            }
            tar::EntryType::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&parent, &name, FileType::Fifo, mode, 0)?;
            }
            // Device nodes, and extensions that carry no file.
            _ => return Ok(()),
        }
        dress(&parent, &name, attributes)?;
        extended(&parent, &name, entry)
    }

    /// The layer's own top directory.
    fn top<R: Read>(&mut self, entry: &Entry<'_, R>) -> io::Result<()> {
        if !entry.header().entry_type().is_dir() {
            return Err(invalid("the top of a layer is not a directory"));
        }
        let attributes = attributes(entry.header())?;
        self.remember(PathBuf::new(), attributes.mtime)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let top = self.root.open_at(Path::new("."), flags, Mode::empty())?;
        rustix::fs::fchown(
            &top,
            Some(Uid::from_raw(attributes.uid)),
            Some(Gid::from_raw(attributes.gid)),
        )?;
        Ok(rustix::fs::fchmod(&top, Mode::from_raw_mode(attributes.mode))?)
    }

    /// The directory `path`, made where the archive takes it for granted.
    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((cached, fd)) = &self.cached
            && cached == path
        {
            return fd.try_clone();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found = match self.root.open_at(path, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_parents(path)?,
            other => other?,
        };
        self.cached = Some((path.to_owned(), found.try_clone()?));
        Ok(found)
    }

    fn make_parents(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut so_far = PathBuf::new();
        let mut dir = self.root.as_dir().try_clone()?;
        for part in path.components() {
            let part = Path::new(part.as_os_str());
            so_far.push(part);
            let next = match self.root.open_at(&so_far, flags, Mode::empty()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_dir(&dir, part)?;
                    if let Some(attributes) = self.below(&so_far) {
                        dress(&dir, part, attributes)?;
                    }
                    self.root.open_at(&so_far, flags, Mode::empty())?
                }
                other => other?,
            };
            dir = next;
        }
        Ok(dir)
    }

    /// What the layers below have at `path`, if it is a directory there.
    fn below(&self, path: &Path) -> Option<Attributes> {
        self.lower.iter().find_map(|root| {
            let stat = rustix::fs::fstat(root.locate(path).ok()?).ok()?;
            (FileType::from_raw_mode(stat.st_mode) == FileType::Directory).then_some(Attributes {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: stat.st_mode & 0o7777,
                mtime: stat.st_mtime,
            })
        })
    }

    fn whiteout(&mut self, parent: &OwnedFd, hidden: &str) -> io::Result<()> {
        if hidden.starts_with(WHITEOUT) {
            // Of an older union file system; means nothing.
            return Ok(());
        }
        if matches!(hidden, "" | "." | "..") {
            return Err(invalid("a whiteout of nothing"));
        }
        self.cached = None;
        remove_at(parent, Path::new(hidden))?;
        let kind = FileType::CharacterDevice;
        Ok(rustix::fs::mknodat(parent, hidden, kind, Mode::empty(), 0)?)
    }

    /// An entry replaces what an earlier one left at its place, except a directory a directory.
    fn make_way(&mut self, parent: &OwnedFd, name: &Path, is_dir: bool) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if is_dir && file_type(&there)? == FileType::Directory {
            return Ok(());
        }
        self.cached = None;
        remove_at(parent, name)
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &Path,
        entry: &mut Entry<'_, R>,
    ) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let mut file = File::from(rustix::fs::openat(parent, name, flags, mode)?);
        loop {
            leaves_room(self.root.as_dir(), 0, self.limits.free_bytes)?;
            let left = self.limits.file_bytes - self.bytes;
            let stride = STRIDE_BYTES.min(left + 1);
            let copied = io::copy(&mut entry.by_ref().take(stride), &mut file)?;
            if copied > left {
                let most = self.limits.file_bytes;
                return Err(invalid(format!("the layer is larger than {most} bytes")));
            }
            self.bytes += copied;
            if copied < stride {
                return file.flush();
            }
        }
    }

    /// The time of a directory is set at the end.
    fn remember(&mut self, path: PathBuf, mtime: i64) -> io::Result<()> {
        self.name_bytes += path.as_os_str().len() + size_of::<(PathBuf, i64)>();
        if self.name_bytes > self.limits.name_bytes {
            return Err(invalid("the layer has too many directories with too long names"));
        }
        self.dirs.push((path, mtime));
        Ok(())
    }

    /// The target is what lies at that place in this layer, itself: a symbolic link there is not followed.
    fn hard_link(&mut self, parent: &OwnedFd, name: &Path, target: &Path) -> io::Result<()> {
        let (dir, file) = self.root.parent_of(target)?;
        Ok(rustix::fs::linkat(&dir, &file, parent, name, AtFlags::empty())?)
    }

    fn finish(&mut self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for (path, mtime) in self.dirs.drain(..).rev() {
            // A later entry may have replaced the directory.
            if let Ok(dir) = self.root.open_at(&path, flags, Mode::empty()) {
                rustix::fs::futimens(&dir, &times(mtime))?;
            }
        }
        Ok(())
    }
}

fn attributes(header: &tar::Header) -> io::Result<Attributes> {
    // An empty field reads as zero, as everywhere.
    let id = |id: io::Result<u64>| {
        u32::try_from(id.unwrap_or(0)).map_err(|_| invalid("owner is out of range"))
    };
    Ok(Attributes {
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        mode: header.mode()? & 0o7777,
        mtime: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0),
    })
}

fn make_dir(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Owner before mode: a change of owner clears set-user-id bits.
fn dress(parent: &OwnedFd, name: &Path, attributes: Attributes) -> io::Result<()> {
    let Attributes { uid, gid, mode, mtime } = attributes;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)?;
    let stat = rustix::fs::statat(parent, name, flags)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(parent, name, &times(mtime), flags)?)
}

fn times(mtime: i64) -> Timestamps {
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time(0, UTIME_OMIT), last_modification: time(mtime, 0) }
}

/// Extended attributes of the archive: capabilities of files and those of users. None of the overlay's own.
fn extended<R: Read>(parent: &OwnedFd, name: &Path, entry: &mut Entry<'_, R>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Ok(key) = extension.key() else { continue };
        let Some(attribute) = key.strip_prefix("SCHILY.xattr.") else { continue };
        if attribute == "security.capability" || attribute.starts_with("user.") {
            set_xattr_at(parent, name, attribute, extension.value_bytes())?;
        }
    }
    Ok(())
}

/// Through an open descriptor: there is no `*at` form on older kernels.
fn set_xattr_at(parent: &OwnedFd, name: &Path, attribute: &str, value: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        // Symbolic links have none of these attributes.
        Err(rustix::io::Errno::LOOP) => return Ok(()),
        other => other?,
    };
    match rustix::fs::fsetxattr(&fd, attribute, value, XattrFlags::empty()) {
        Err(rustix::io::Errno::OPNOTSUPP) if attribute.starts_with("user.") => Ok(()),
        other => Ok(other?),
    }
}
