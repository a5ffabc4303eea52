//! Files: writes that survive a crash, and paths that cannot leave a directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// How deep a path may be. Longer ones are refused rather than walked.
pub const MAX_PATH_COMPONENTS: usize = 256;

/// Replaces a file: the old content or the new one is there after a crash, never a part.
///
/// # Errors
/// When any step fails; the old content is there then.
pub fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = dir.join(format!(".{}.tmp", name.to_string_lossy()));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&temporary, path)?;
    sync_dir(dir)
}

/// Makes entries of a directory durable.
///
/// # Errors
/// When it is not a directory.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes a tree; gone already is fine.
///
/// # Errors
/// When something stays.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A directory as the root of all paths given to it: neither `..` nor any symbolic link leads out.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
}

impl Root {
    /// The directory at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// The directory itself.
    #[must_use]
    pub fn as_dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Opens a path, following links inside.
    ///
    /// # Errors
    /// As `open` would below a changed root.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let inside = inside(path);
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // The kernel answers EAGAIN when a rename elsewhere raced with `..`; that passes.
        for _ in 0..64 {
            match rustix::fs::openat2(&self.dir, &inside, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(rustix::io::Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// The place `path` names, for `*at` calls and mounts.
    ///
    /// # Errors
    /// When it is not there.
    pub fn locate(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::PATH, Mode::empty())
    }

    /// The directory that holds `path`, made if it is not there, and the last name of `path`.
    ///
    /// # Errors
    /// When a part of it is not a directory, or `path` names the root.
    pub fn parent_of(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let clean = normalize(path)?;
        let name = clean.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = clean.parent().unwrap_or(Path::new(""));
        Ok((self.make_dirs(parent, 0o755)?, PathBuf::from(name)))
    }

    /// The directory `path`, made with its parents where they are not there.
    ///
    /// # Errors
    /// When a part of it is something else.
    pub fn make_dirs(&self, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        let clean = normalize(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_at(&clean, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut so_far = PathBuf::new();
        let mut dir = self.dir.try_clone()?;
        for part in clean.components() {
            match rustix::fs::mkdirat(&dir, part.as_os_str(), Mode::from_raw_mode(mode)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            so_far.push(part);
            dir = self.open_at(&so_far, flags, Mode::empty())?;
        }
        Ok(dir)
    }

    /// The file `path`, made empty where nothing is there.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn make_file(&self, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        match self.locate(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(mode)) {
            Ok(_) | Err(rustix::io::Errno::EXIST) => self.locate(path),
            Err(error) => Err(error.into()),
        }
    }

    /// A whole small file, following links inside; longer than `limit` is an error.
    ///
    /// # Errors
    /// When it is not there, not a regular file, or too long.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        use std::io::Read;
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        if file_type(&fd)? != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut content = Vec::new();
        File::from(fd).take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file is too large"));
        }
        Ok(content)
    }
}

/// What an open file is.
///
/// # Errors
/// Never for a valid descriptor.
pub fn file_type(fd: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Removes what `name` is in `dir`, tree or not, without following links.
///
/// # Errors
/// When something stays. Not there is fine.
pub fn remove_at(dir: impl AsFd, name: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    clear_dir(&inner)?;
    rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Empties a directory that was opened for reading.
///
/// # Errors
/// When something stays.
pub fn clear_dir(dir: impl AsFd) -> io::Result<()> {
    let names: Vec<PathBuf> = rustix::fs::Dir::read_from(&dir)?
        .map(|entry| {
            entry.map(|e| {
                use std::os::unix::ffi::OsStrExt;
                PathBuf::from(std::ffi::OsStr::from_bytes(e.file_name().to_bytes()))
            })
        })
        .collect::<Result<_, _>>()?;
    names
        .iter()
        .filter(|name| name.as_os_str() != "." && name.as_os_str() != "..")
        .try_for_each(|name| remove_at(&dir, name))
}

/// `path` without its leading slash, so that it is looked up below a directory. Empty becomes `.`.
fn inside(path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() { PathBuf::from(".") } else { relative.to_owned() }
}

/// `path` relative, without `.` and `..`; a `..` above the top stays at the top, as below a changed root.
///
/// # Errors
/// When it has too many parts.
pub fn normalize(path: &Path) -> io::Result<PathBuf> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        if parts.len() > MAX_PATH_COMPONENTS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "path has too many parts"));
        }
    }
    Ok(parts.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_top() {
        for (path, expected) in
            [("/a/b", "a/b"), ("../../a", "a"), ("a/../../b/./c", "b/c"), ("/", ""), ("a/..", "")]
        {
            assert_eq!(normalize(Path::new(path)).unwrap(), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn links_do_not_lead_out_of_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let top = dir.path().join("root");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(&outside, top.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", top.join("relative")).unwrap();
        let root = Root::open(&top).unwrap();
        for link in ["absolute", "relative"] {
            // The link dangles inside the root, so nothing can be made through it, and nothing is outside.
            root.make_file(&Path::new(link).join("planted"), 0o644).unwrap_err();
        }
        root.make_file(Path::new("../../../escaped"), 0o644).unwrap();
        assert!(top.join("escaped").exists());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn atomic_writes_replace_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn trees_are_removed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("keep")).unwrap();
        fs::write(dir.path().join("keep/file"), b"x").unwrap();
        fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
        std::os::unix::fs::symlink("../../keep", dir.path().join("tree/sub/link")).unwrap();
        let parent = File::open(dir.path()).unwrap();
        remove_at(&parent, Path::new("tree")).unwrap();
        remove_at(&parent, Path::new("tree")).unwrap();
        assert!(!dir.path().join("tree").exists());
        assert!(dir.path().join("keep/file").exists());
    }
}
