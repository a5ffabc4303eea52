//! A part of a volume as a container's mount: found inside the volume without following a link out of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Binds what `sub_path` names inside `volume` at a place of its own, which is safe to give to a container however
/// the volume changes later. What is not there is made as a directory.
///
/// # Errors
/// When the path leads out, or the kernel refuses.
pub(crate) fn bind(volume: &Path, sub_path: &str, place: &Path) -> io::Result<PathBuf> {
    let wanted = Path::new(sub_path);
    if wanted.is_absolute() || wanted.components().any(|it| it == std::path::Component::ParentDir) {
        let text = format!("subPath {sub_path:?} must stay inside the volume");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mode = volume.metadata()?;
    // A volume may be a single file: then the path names nothing inside.
    if !mode.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "the volume is not a directory"));
    }
    let root = sys::fs::Root::open(volume)?;
    let source = match root.locate(wanted) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            use std::os::unix::fs::PermissionsExt;
            let made = root.make_dirs(wanted, mode.permissions().mode() & 0o7777)?;
            // The mask of the process does not count here.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made));
            fs::set_permissions(
                &path,
                fs::Permissions::from_mode(mode.permissions().mode() & 0o7777),
            )?;
            made
        }
        Err(error) => return Err(error),
    };
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    sys::mount::detach(place)?;
    if sys::fs::file_type(&source)? == rustix::fs::FileType::Directory {
        fs::create_dir_all(place)?;
    } else if !place.exists() {
        fs::write(place, "")?;
    }
    let target = rustix::fs::open(
        place,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let copy = sys::mount::clone_tree(&source, true)?;
    sys::mount::attach(copy, target)?;
    Ok(place.to_owned())
}
