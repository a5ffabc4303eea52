//! The data directory: private, and one process' at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

const LOCK: &str = "lock";

/// Holds a data directory until it is dropped.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "its lock is what matters")] File);

/// Takes a data directory, made where it is missing.
///
/// # Errors
/// When another process has it, or it cannot be made.
pub(crate) fn hold(path: &Path) -> Result<Held> {
    let shown = path.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("could not make the data directory {shown}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("could not make the data directory {shown} private"))?;
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
}
