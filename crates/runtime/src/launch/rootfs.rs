//! The file systems of a container: overlay, mounts, devices, masks, and the change of root.
//!
//! Runs in the child that becomes the container, in its new mount namespace. Sources are opened and cloned while
//! the host's mounts are as the host has them; targets are found below the new root only, never twice.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::MountPropagationFlags;
use sys::cgroup::Version;
use sys::fs::Root;
use sys::mount::{self, Attributes};

use crate::spec::{
    CgroupSpec, DeviceNode, LaunchSpec, MountSource, MountSpec, Propagation, RootSpec,
};

/// What went wrong, as a sentence.
pub(super) type Failure = String;

fn say<T>(result: io::Result<T>, what: impl FnOnce() -> String) -> Result<T, Failure> {
    result.map_err(|error| format!("{}: {}", what(), super::program::os_text(&error)))
}

/// Builds everything below the new root. The caller's mount namespace must be new.
///
/// # Errors
/// At the first thing that cannot be made.
pub(super) fn build(spec: &LaunchSpec) -> Result<Root, Failure> {
    let sources = spec.mounts.iter().map(host_source).collect::<Result<Vec<_>, _>>()?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    say(rustix::mount::mount_change("/", slave).map_err(Into::into), || {
        "detach mounts from the host's".into()
    })?;
    let root = overlay(&spec.root)?;
    for (wanted, source) in spec.mounts.iter().zip(sources) {
        mount_one(&root, spec, wanted, source).map_err(|why| {
            format!("error mounting {:?} to rootfs at {:?}: {why}", name(wanted), wanted.target)
        })?;
    }
    devices(&root, &spec.devices)?;
    let cwd = Path::new(&spec.process.cwd);
    say(root.make_dirs(cwd, 0o755), || format!("mkdir {}", cwd.display()))?;
    for path in &spec.masked_paths {
        mask(&root, Path::new(path)).map_err(|why| format!("mask path {path:?}: {why}"))?;
    }
    for path in &spec.readonly_paths {
        let sealed = freeze(&root, Path::new(path));
        say(sealed, || format!("make path {path:?} read-only"))?;
    }
    Ok(root)
}

/// Files that tell a container what it has of the machine, which others tell better than the kernel.
const REPLACEABLE: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
];

/// Makes the built root the process's root.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn enter(root: &Root, readonly: bool) -> Result<(), Failure> {
    if readonly {
        let attributes = Attributes { set: mount::RDONLY, ..Attributes::default() };
        let frozen = mount::set_attributes(root.as_dir(), attributes, false);
        say(frozen, || "make the root read-only".into())?;
    }
    say(mount::pivot_into(root.as_dir()), || "pivot_root".into())
}

fn overlay(root: &RootSpec) -> Result<Root, Failure> {
    let overlay = mount::Overlay {
        layers_dir: &root.layers_dir,
        lower: &root.lower,
        upper: Some((&root.upper, &root.work)),
    };
    say(mount::overlay(&overlay, &root.target), || {
        format!("mount overlay at {}", root.target.display())
    })?;
    say(Root::open(&root.target), || format!("open {}", root.target.display()))
}

fn name(wanted: &MountSpec) -> String {
    match &wanted.source {
        MountSource::New { kind, .. } => kind.clone(),
        MountSource::Bind { path, .. } => path.display().to_string(),
        MountSource::Image { .. } => "image".into(),
        MountSource::Cgroup => "cgroup".into(),
    }
}

/// The detached copy of a bind's source, taken before mounts are cut off from the host's.
fn host_source(wanted: &MountSpec) -> Result<Option<OwnedFd>, Failure> {
    let MountSource::Bind { path, propagation } = &wanted.source else { return Ok(None) };
    let tree = say(host_tree(path), || format!("open mount source {:?}", path.display()))?;
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::FromHost => libc::MS_SLAVE,
        Propagation::Both => libc::MS_SHARED,
    };
    let attributes = Attributes { propagation, ..Attributes::default() };
    say(mount::set_attributes(&tree, attributes, true), || {
        format!("set propagation of {:?}", path.display())
    })?;
    Ok(Some(tree))
}

fn host_tree(path: &Path) -> io::Result<OwnedFd> {
    let source = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::clone_tree(source, true)
}

fn mount_one(
    root: &Root,
    spec: &LaunchSpec,
    wanted: &MountSpec,
    source: Option<OwnedFd>,
) -> Result<(), Failure> {
    let tree = match (&wanted.source, source) {
        (_, Some(tree)) => tree,
        (MountSource::New { kind, options }, None) => {
            let options: Vec<(&str, &str)> =
                options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            say(mount::new_filesystem(kind, &options, 0), || format!("make {kind}"))?
        }
        (MountSource::Image { lower, at, sub_path }, None) => {
            image(&spec.root.layers_dir, lower, at, sub_path)?
        }
        (MountSource::Cgroup, None) => return cgroup(root, &wanted.target, &spec.cgroup),
        (MountSource::Bind { .. }, None) => return Err("its source was not opened".into()),
    };
    let readonly = if wanted.readonly { mount::RDONLY } else { 0 };
    let set = wanted.attributes | readonly;
    if set != 0 {
        let attributes = Attributes { set, ..Attributes::default() };
        let done = mount::set_attributes(&tree, attributes, wanted.recursive_readonly);
        say(done, || "set mount attributes".into())?;
    }
    let is_dir = say(sys::fs::file_type(&tree), || "stat source".into())? == FileType::Directory;
    let place = if is_dir {
        root.make_dirs(&wanted.target, 0o755)
    } else {
        root.make_file(&wanted.target, 0o755)
    };
    let place = say(place, || "make mount point".into())?;
    keep_proc(&tree, &place, &wanted.target)?;
    say(mount::attach(&tree, &place), || "attach".into())
}

/// Nothing may stand in for the kernel's files about processes, whichever link led there: what reads them to protect
/// the container would read what somebody wrote (CVE-2019-16884).
fn keep_proc(tree: &OwnedFd, place: &impl std::os::fd::AsFd, target: &Path) -> Result<(), Failure> {
    let is_proc = |fs: &rustix::fs::StatFs| fs.f_type == rustix::fs::PROC_SUPER_MAGIC;
    let over = say(rustix::fs::fstatfs(place).map_err(Into::into), || "stat mount point".into())?;
    let new = say(rustix::fs::fstatfs(tree).map_err(Into::into), || "stat source".into())?;
    if !is_proc(&over) || is_proc(&new) || REPLACEABLE.iter().any(|it| target == Path::new(it)) {
        return Ok(());
    }
    let why = if target == Path::new("/proc") { "not of type proc" } else { "inside /proc" };
    Err(format!("{:?} cannot be mounted because it is {why}", target.display().to_string()))
}

/// The layers of an image as a read-only tree.
fn image(
    layers_dir: &Path,
    lower: &[String],
    at: &Path,
    sub_path: &Path,
) -> Result<OwnedFd, Failure> {
    let top = if let [only] = lower {
        layers_dir.join(only)
    } else {
        let overlay = mount::Overlay { layers_dir, lower, upper: None };
        say(mount::overlay(&overlay, at), || "mount image".into())?;
        at.to_owned()
    };
    let top = say(Root::open(&top), || "open image".into())?;
    let place = say(top.locate(sub_path), || format!("open {} of image", sub_path.display()))?;
    let tree = say(mount::clone_tree(&place, false), || "clone image".into())?;
    let attributes = Attributes { set: mount::RDONLY, ..Attributes::default() };
    say(mount::set_attributes(&tree, attributes, false), || "seal image".into())?;
    Ok(tree)
}

/// The container's own group at the usual place. In version 1 there is no cgroup namespace, as with other
/// runtimes: each controller's directory is the host's, so it must not be writable.
fn cgroup(root: &Root, target: &Path, spec: &CgroupSpec) -> Result<(), Failure> {
    let plain = mount::NOSUID | mount::NODEV | mount::NOEXEC;
    let sealed = plain | if spec.writable { 0 } else { mount::RDONLY };
    let place = say(root.make_dirs(target, 0o755), || "make mount point".into())?;
    if spec.hierarchies.version == Version::V2 {
        let tree = say(mount::new_filesystem("cgroup2", &[], sealed), || "make cgroup2".into())?;
        return say(mount::attach(tree, place), || "attach".into());
    }
    let tree =
        say(mount::new_filesystem("tmpfs", &[("mode", "755")], plain), || "make tmpfs".into())?;
    say(mount::attach(&tree, &place), || "attach".into())?;
    for (controller, top) in &spec.hierarchies.v1 {
        let file_name = top.file_name().unwrap_or_default();
        let inside = target.join(file_name);
        let own = controller.trim_start_matches("name=");
        if own != file_name {
            // Controllers that share a hierarchy are links to it.
            let link = rustix::fs::symlinkat(file_name, &tree, own);
            say(link.map_err(Into::into), || format!("link {own}"))?;
        }
        if root.locate(&inside).is_ok() {
            continue;
        }
        let source = top.join(spec.path.trim_start_matches('/'));
        let source = say(host_tree(&source), || format!("open {}", source.display()))?;
        let attributes =
            Attributes { set: sealed, propagation: libc::MS_PRIVATE, ..Attributes::default() };
        say(mount::set_attributes(&source, attributes, true), || "seal".into())?;
        let place = say(root.make_dirs(&inside, 0o755), || "make mount point".into())?;
        say(mount::attach(source, place), || "attach".into())?;
    }
    let attributes = Attributes { set: sealed, ..Attributes::default() };
    say(mount::set_attributes(&tree, attributes, false), || "seal".into())
}

const DEV_LINKS: [(&str, &str); 5] = [
    ("dev/ptmx", "pts/ptmx"),
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
];

fn devices(root: &Root, nodes: &[DeviceNode]) -> Result<(), Failure> {
    for node in nodes {
        say(device(root, node), || format!("make device {}", node.path.display()))?;
    }
    for (link, to) in DEV_LINKS {
        let made = root.parent_of(Path::new(link)).and_then(|(dir, name)| {
            match rustix::fs::symlinkat(to, dir, &name) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(error) => Err(error.into()),
            }
        });
        say(made, || format!("link {link}"))?;
    }
    Ok(())
}

fn device(root: &Root, node: &DeviceNode) -> io::Result<()> {
    let (dir, name) = root.parent_of(&node.path)?;
    let kind = if node.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let number = rustix::fs::makedev(node.major, node.minor);
    let mode = Mode::from_raw_mode(node.mode);
    match rustix::fs::mknodat(&dir, &name, kind, mode, number) {
        // Made by an earlier start of the same container, or mounted there by the pod.
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        other => other?,
    }
    rustix::fs::chmodat(&dir, &name, mode, AtFlags::empty())?;
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    Ok(rustix::fs::chownat(&dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn mask(root: &Root, path: &Path) -> Result<(), Failure> {
    let place = match root.locate(path) {
        Err(error) if is_nothing(&error) => return Ok(()),
        other => say(other, || "find".into())?,
    };
    let is_dir = say(sys::fs::file_type(&place), || "stat".into())? == FileType::Directory;
    let cover = if is_dir {
        mount::new_filesystem("tmpfs", &[("ro", "")], mount::RDONLY)
    } else {
        // The host's, which no volume of the pod can replace.
        host_tree(Path::new("/dev/null"))
    };
    let cover = say(cover, || "make cover".into())?;
    say(mount::attach(cover, place), || "cover".into())
}

fn freeze(root: &Root, path: &Path) -> io::Result<()> {
    let place = match root.locate(path) {
        Err(error) if is_nothing(&error) => return Ok(()),
        other => other?,
    };
    let tree = mount::clone_tree(&place, true)?;
    let attributes = Attributes { set: mount::RDONLY, ..Attributes::default() };
    mount::set_attributes(&tree, attributes, false)?;
    mount::attach(tree, place)
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
