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
    let wanted = resolve(volume, wanted)?;
    // Whatever changes from here on, the kernel keeps to the volume.
    let root = sys::fs::Root::open(volume)?;
    let source = match root.locate(&wanted) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            use std::os::unix::fs::PermissionsExt;
            let made = root.make_dirs(&wanted, mode.permissions().mode() & 0o7777)?;
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

/// A path of a volume without its links, read as they lead on the node. What is not there yet has none.
///
/// # Errors
/// When a link leads out of the volume, or nowhere.
fn resolve(volume: &Path, wanted: &Path) -> io::Result<PathBuf> {
    let volume = volume.canonicalize()?;
    let mut there = volume.clone();
    let mut rest = wanted.components();
    loop {
        let before = rest.clone();
        let Some(name) = rest.next() else { break };
        let next = there.join(name);
        match next.symlink_metadata() {
            Ok(_) => there = next.canonicalize()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rest = before;
                break;
            }
            Err(error) => return Err(error),
        }
        if !there.starts_with(&volume) {
            let text = format!("subpath {there:?} not within volume path {volume:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    let inside = there.strip_prefix(&volume).map_err(io::Error::other)?;
    // Joined with nothing a path would end in a slash, and name no file.
    Ok(inside.components().chain(rest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_stays_within_its_volume_or_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let volume = temporary.path().canonicalize().unwrap().join("volume");
        fs::create_dir_all(volume.join("real/deep")).unwrap();
        let own = volume.join("real").display().to_string();
        for (name, target) in [
            ("root", "/"),
            ("up", "../../../../../.."),
            ("parent", ".."),
            ("itself", "."),
            ("near", "real"),
            ("full", own.as_str()),
            ("dangling", "nowhere"),
            ("loop", "loop"),
        ] {
            symlink(target, volume.join(name)).unwrap();
        }
        let check = |wanted: &str, expected: Option<&str>| {
            let found = resolve(&volume, Path::new(wanted));
            // As text: paths are equal with and without a slash at their end.
            let text = found.as_deref().ok().and_then(Path::to_str);
            assert_eq!(text, expected, "{wanted}: {found:?}");
        };
        check("real/deep", Some("real/deep"));
        check("new/dir", Some("new/dir"));
        check("near/new", Some("real/new"));
        check("full/deep", Some("real/deep"));
        check("itself/real", Some("real"));
        for refused in ["root", "root/etc", "up", "parent", "parent/new", "dangling", "loop/x"] {
            check(refused, None);
        }
    }

    /// Whatever a volume's owner puts into it, what is bound is inside of it.
    #[test]
    fn nothing_outside_of_a_volume_is_bound() {
        let temporary = tempfile::tempdir().unwrap();
        let (volume, outside) = (temporary.path().join("volume"), temporary.path().join("outside"));
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), "untouched").unwrap();
        let up = format!("../../../../../../../..{}", outside.display());
        for (name, target) in [
            ("absolute", outside.to_string_lossy().into_owned()),
            ("relative", "../outside".to_owned()),
            ("far", up),
            ("proc", "/proc/self/root".to_owned()),
            ("loop", "loop".to_owned()),
            ("chain", "relative".to_owned()),
        ] {
            symlink(target, volume.join(name)).unwrap();
        }
        for sub_path in ["..", "../outside", "real/../../outside", "/etc", "real/../.."] {
            let error = bind(&volume, sub_path, &temporary.path().join("place")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{sub_path}: {error}");
        }
        for sub_path in [
            "absolute",
            "relative",
            "far",
            "proc",
            "loop",
            "chain",
            "absolute/secret",
            "chain/new/dir",
        ] {
            let place = temporary.path().join("place").join(sub_path);
            let bound = bind(&volume, sub_path, &place);
            let leaked = fs::read_to_string(place.join("secret")).is_ok()
                || fs::read_to_string(&place).is_ok_and(|text| text == "untouched")
                || place.join("etc/hostname").exists();
            sys::mount::detach(&place).unwrap();
            assert!(!leaked, "{sub_path} leads out: {bound:?}");
            let names = fs::read_dir(&outside).unwrap().count();
            assert_eq!(names, 1, "{sub_path} made something outside");
        }
        bind(&temporary.path().join("outside/secret"), "x", &temporary.path().join("p"))
            .unwrap_err();
    }
}
