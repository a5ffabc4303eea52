//! Files of a volume that change all at once: a directory named by the time, and links to it.
//!
//! The layout is upstream's, which programs inside containers know: `..data` links to the directory in force, and each
//! visible name links to `..data/name`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// A file to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Its content.
    pub(crate) data: Vec<u8>,
    /// Its permissions.
    pub(crate) mode: u32,
    /// Whose it is, if not the agent's.
    pub(crate) owner: Option<u32>,
}

/// Files by their path below the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// The group of a volume's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: u32,
    /// Members may write.
    pub(crate) writable: bool,
}

/// Makes `dir` hold `payload`; whether anything changed. What is equal already is left alone.
///
/// # Errors
/// When a path leaves the volume, or the disk fails. What was in force stays in force then.
pub(crate) fn write(
    dir: &Path,
    payload: &Payload,
    group: Option<Group>,
    now: Timestamp,
) -> io::Result<bool> {
    payload.keys().try_for_each(|path| check_path(path))?;
    let before = fs::read_link(dir.join(DATA)).ok();
    if let Some(before) = &before
        && holds(&dir.join(before), payload)
    {
        return Ok(false);
    }
    let name = fresh_name(dir, now);
    let target = dir.join(&name);
    fs::create_dir(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&target, path, file)?;
    }
    symlink(&name, dir.join(DATA_NEXT)).or_else(|error| {
        fs::remove_file(dir.join(DATA_NEXT)).map_err(|_| error)?;
        symlink(&name, dir.join(DATA_NEXT))
    })?;
    if let Some(group) = group {
        own(&target, group)?;
        own(&dir.join(DATA_NEXT), group)?;
    }
    fs::rename(dir.join(DATA_NEXT), dir.join(DATA))?;
    link_names(dir, payload, group)?;
    if let Some(before) = before {
        sys::fs::remove_tree(&dir.join(before))?;
    }
    if let Some(group) = group {
        own_one(dir, group)?;
    }
    Ok(true)
}

/// A path that stays inside: relative, without `..`.
fn check_path(path: &str) -> io::Result<()> {
    let good = !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|it| matches!(it, Component::Normal(_)));
    if good {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {path:?}")))
}

fn holds(dir: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    if !collect(dir, Path::new(""), &mut found) || found.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        found.contains(path) && fs::read(dir.join(path)).is_ok_and(|it| it == file.data)
    })
}

fn collect(dir: &Path, below: &Path, found: &mut BTreeSet<String>) -> bool {
    let Ok(entries) = fs::read_dir(dir.join(below)) else { return false };
    entries.flatten().all(|entry| {
        let path = below.join(entry.file_name());
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            return collect(dir, &path, found);
        }
        found.insert(path.to_string_lossy().into_owned())
    })
}

fn fresh_name(dir: &Path, now: Timestamp) -> String {
    let time = jiff::fmt::strtime::format("..%Y_%m_%d_%H_%M_%S", now).unwrap_or_default();
    let mut number = u64::try_from(now.subsec_nanosecond()).unwrap_or_default();
    loop {
        let name = format!("{time}.{number:09}");
        if !dir.join(&name).exists() {
            return name;
        }
        number += 1;
    }
}

fn write_file(target: &Path, path: &str, file: &File) -> io::Result<()> {
    let full = target.join(path);
    if let Some(parent) = full.parent().filter(|it| *it != target) {
        fs::create_dir_all(parent)?;
    }
    fs::write(&full, &file.data)?;
    if let Some(owner) = file.owner {
        std::os::unix::fs::chown(&full, Some(owner), None)?;
    }
    fs::set_permissions(&full, fs::Permissions::from_mode(file.mode & 0o777))
}

/// Each first part of a path is a link; links to what is not there any more go.
fn link_names(dir: &Path, payload: &Payload, group: Option<Group>) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = payload.keys().map(first).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(dir.join(&name))?;
        }
    }
    for name in wanted {
        let link = dir.join(&name);
        if link.symlink_metadata().is_err() {
            symlink(PathBuf::from(DATA).join(&name), &link)?;
            if let Some(group) = group {
                own(&link, group)?;
            }
        }
    }
    Ok(())
}

/// Gives a tree to a group.
pub(crate) fn own(path: &Path, group: Group) -> io::Result<()> {
    own_one(path, group)?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), group)?;
        }
    }
    Ok(())
}

fn own_one(path: &Path, group: Group) -> io::Result<()> {
    std::os::unix::fs::lchown(path, None, Some(group.id))?;
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mut mode = metadata.permissions().mode() | if group.writable { 0o660 } else { 0o440 };
    if metadata.is_dir() {
        mode |= 0o2110;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { data: text.into(), mode: 0o644, owner: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|it| it.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|it| !it.starts_with("..19"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_change_all_at_once_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None, now).unwrap());
        assert_eq!(names(dir.path()), ["..data", "a", "d"]);
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
        assert!(!write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None, now).unwrap());
        assert!(write(dir.path(), &payload(&[("a", "3")]), None, now).unwrap());
        assert_eq!(names(dir.path()), ["..data", "a"]);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "one directory of data is left");
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "/a", "a/../../b", "..a", ""] {
            let result = write(dir.path(), &payload(&[(path, "x")]), None, Timestamp::UNIX_EPOCH);
            assert!(result.is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
