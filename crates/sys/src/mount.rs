//! Mounts, made detached and attached to open places, so that no path is looked up twice.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

/// What `mount_setattr(2)` sets and clears.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Of `MOUNT_ATTR_*`.
    pub set: u64,
    /// Of `MOUNT_ATTR_*`.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, or 0 for as it is.
    pub propagation: u64,
}

/// Not writable.
pub const RDONLY: u64 = 0x1;
/// Set-user-id bits do nothing.
pub const NOSUID: u64 = 0x2;
/// Device nodes do nothing.
pub const NODEV: u64 = 0x4;
/// Nothing can be executed.
pub const NOEXEC: u64 = 0x8;

/// Every access is noted in the access time.
pub const STRICTATIME: u64 = 0x20;
/// The bits of which one says how access times are noted.
const ATIME: u64 = 0x70;

/// Changes a mount, and all below it when `recursive`.
///
/// # Errors
/// When the kernel is older than 5.12, or refuses.
pub fn set_attributes(mount: impl AsFd, attributes: Attributes, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct Raw {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let Attributes { set, clear, propagation } = attributes;
    let clear = if set & ATIME == 0 { clear } else { clear | ATIME };
    let raw = Raw { set, clear, propagation, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty path, and a structure of the size given that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<Raw>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A detached copy of the mount that `source` is in, from there on; with what is mounted below when `recursive`.
///
/// # Errors
/// When the kernel refuses.
pub fn clone_tree(source: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(source, c"", flags)?)
}

/// Attaches a detached mount over an open place.
///
/// # Errors
/// When one is a directory and the other not, or the kernel refuses.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", flags)?)
}

/// A new, detached file system: `proc`, `tmpfs`, `sysfs`... with options `(name, value)`; an empty value is a flag.
///
/// # Errors
/// When the kernel does not know the type or an option.
pub fn new_filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", kind)?;
    for (name, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *name)?;
        } else {
            rustix::mount::fsconfig_set_string(context.as_fd(), *name, *value)?;
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = u32::try_from(attributes).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attributes),
    )?)
}

/// Layers for an overlay: the names of directories below `layers_dir`, the uppermost first.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// Where the layers are. The caller's working directory becomes it: names stay short, and the kernel's
    /// limit of a page of options is not met before 100 layers.
    pub layers_dir: &'a Path,
    /// Names there, the uppermost first.
    pub lower: &'a [String],
    /// The writable layer, and the work directory on the same file system; none makes it read-only.
    pub upper: Option<(&'a Path, &'a Path)>,
}

/// Mounts an overlay at `target`. Changes the caller's working directory.
///
/// # Errors
/// When a path has a character that separates options, or the kernel refuses.
pub fn overlay(overlay: &Overlay<'_>, target: &Path) -> io::Result<()> {
    let mut options = format!("lowerdir={}", overlay.lower.join(":"));
    if let Some((upper, work)) = overlay.upper {
        for path in [upper, work] {
            if path.to_string_lossy().contains([',', ':', '\\']) {
                let text = format!("path {} cannot be a part of an overlay", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
    }
    rustix::process::chdir(overlay.layers_dir)?;
    let options = std::ffi::CString::new(options)?;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("overlay", target, "overlay", flags, Some(options.as_c_str()))?;
    Ok(())
}

/// Mounts a file system by type at a path.
///
/// # Errors
/// When the kernel refuses.
pub fn plain(kind: &str, target: &Path, options: Option<&CStr>) -> io::Result<()> {
    let flags = rustix::mount::MountFlags::empty();
    Ok(rustix::mount::mount(kind, target, kind, flags, options)?)
}

/// Makes `root` the root and forgets the old one. `root` must be a mount. The working directory becomes `/`.
///
/// # Errors
/// When `root` or its parent mount is shared, or the kernel refuses.
pub fn pivot_into(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(c".", c".")?;
    // The old root lies over the new one now, and the working directory is in it.
    rustix::mount::mount_change(
        c".",
        rustix::mount::MountPropagationFlags::DOWNSTREAM
            | rustix::mount::MountPropagationFlags::REC,
    )?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")?;
    Ok(())
}

/// Unmounts all of a path, now or when its last user is gone. Not mounted is fine.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
