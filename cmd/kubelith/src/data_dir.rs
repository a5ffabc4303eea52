//! The data directory: private, and one process' at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

const LOCK: &str = "lock";
/// What may be in a directory that was none of ours before: archives of images, keys that servers on one etcd share, and what every
/// disk has.
const THERE_BEFORE: [&str; 3] = ["images", "pki", "lost+found"];

/// Holds a data directory until it is dropped.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "its lock is what matters")] File);

/// A directory by the one name that it has, however it is written: absolute, without links, `.` and `..`. What a node keeps
/// elsewhere is found by the name of its data directory.
///
/// # Errors
/// An empty name, and `..` in what does not exist.
pub(crate) fn place(text: &str) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(text).map_err(|error| error.to_string())?;
    let real = absolute.ancestors().find_map(|known| {
        let rest = absolute.strip_prefix(known).ok()?;
        Some((known.canonicalize().ok()?, rest))
    });
    let (real, rest) = real.ok_or("not even / can be read")?;
    if rest.components().any(|it| it == Component::ParentDir) {
        return Err(format!("{} does not exist, and has .. in it", absolute.display()));
    }
    // Joining nothing would leave a slash at the end.
    Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
}

/// Takes a data directory, made where it is missing.
///
/// # Errors
/// When another process has it, or it cannot be made.
pub(crate) fn hold(path: &Path) -> Result<Held> {
    let shown = path.display();
    has_nothing_else(path)?;
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        format!("could not make the data directory {shown}; --data-dir gives another")
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).with_context(|| {
        format!(
            "could not make the data directory {shown} private: it has to be writable and yours, or \
             give another by --data-dir"
        )
    })?;
    let opening = || format!("could not lock the data directory {shown}");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .with_context(opening)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder).with_context(opening)?;
        bail!(
            "the data directory {shown} is in use by another kubelith (process {}); end that one or \
             give another --data-dir",
            holder.trim()
        );
    }
    file.set_len(0).with_context(opening)?;
    writeln!(file, "{}", std::process::id()).with_context(opening)?;
    Ok(Held(file))
}

/// A directory becomes private, and an uninstall takes everything in it: it must not be somebody else's.
fn has_nothing_else(path: &Path) -> Result<()> {
    let shown = path.display();
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("could not read the data directory {shown}"));
        }
    };
    if path.join(LOCK).exists() {
        return Ok(());
    }
    for entry in entries {
        let name = entry.with_context(|| format!("could not read {shown}"))?.file_name();
        if !THERE_BEFORE.iter().any(|it| name == *it) {
            bail!(
                "the data directory {shown} has other things in it ({}); give one that is empty or \
                 not there yet by --data-dir",
                name.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let dir = std::env::temp_dir().join(format!("kubelith-hold-{}", std::process::id()));
        let first = hold(&dir).unwrap();
        let error = hold(&dir).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        hold(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_left_as_it_is() {
        let dir = std::env::temp_dir().join(format!("kubelith-strange-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("images")).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.join("diary"), "mine").unwrap();
        let error = hold(&dir).unwrap_err().to_string();
        assert!(error.contains("has other things in it (diary)"), "{error}");
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o755);
        std::fs::remove_file(dir.join("diary")).unwrap();
        drop(hold(&dir).unwrap());
        // Now it is ours, whatever else is put there.
        std::fs::write(dir.join("diary"), "mine").unwrap();
        drop(hold(&dir).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
