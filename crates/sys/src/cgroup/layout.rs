//! Which hierarchies there are, read from a mount table.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Which version holds the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

/// The cgroup hierarchies of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies {
    /// Which version holds the controllers.
    pub version: Version,
    /// Version 1: from controller (`name=systemd` too) to where it is mounted. Several may share one place.
    pub v1: BTreeMap<String, PathBuf>,
    /// Where version 2 is mounted; on a hybrid machine it holds no controllers.
    pub v2: Option<PathBuf>,
}

impl Hierarchies {
    /// Those of this machine.
    ///
    /// # Errors
    /// When `/proc` cannot be read or no cgroup is mounted.
    pub fn detect() -> io::Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted")
        })
    }

    /// Those of a mount table (`/proc/PID/mountinfo`); the first mount of each counts.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(at) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if v2.is_none() => v2 = Some(at),
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    for name in options.split(',').filter(|name| is_controller(name)) {
                        v1.entry(name.to_owned()).or_insert_with(|| at.clone());
                    }
                }
                _ => {}
            }
        }
        let version = if v1.keys().any(|name| !name.starts_with("name=")) {
            Version::V1
        } else {
            Version::V2
        };
        (!v1.is_empty() || v2.is_some()).then_some(Self { version, v1, v2 })
    }

    /// The directory of the group `path` for a controller, where that is available.
    #[must_use]
    pub fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let top = match self.version {
            Version::V1 => self.v1.get(controller),
            Version::V2 => self.v2.as_ref(),
        };
        top.map(|top| below(top, path))
    }

    /// The file to write `0` to, in a directory of [`Hierarchies::dirs`], for a process of one thread to join.
    ///
    /// In version 1 this is the list of threads: a thread that moves itself takes no lock of the whole machine,
    /// while a process that is moved waits for every processor to notice, which takes 10 ms and more.
    #[must_use]
    pub fn join_file(&self) -> &'static str {
        match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        }
    }

    /// The directories of the group `path` in every hierarchy that counts, once each, that of `cpu` last: a
    /// process that joins a small cpu group is slow in all that it does afterwards. The second version's
    /// hierarchy of a hybrid machine has no controllers and is left alone.
    #[must_use]
    pub fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let cpu = self.v1.get("cpu");
        let v2 = self.v2.as_ref().filter(|_| self.version == Version::V2);
        let mut tops: Vec<&PathBuf> = Vec::new();
        for top in self.v1.values().filter(|top| Some(*top) != cpu).chain(v2).chain(cpu) {
            if !tops.contains(&top) {
                tops.push(top);
            }
        }
        tops.into_iter().map(|top| below(top, path)).collect()
    }
}

pub(super) fn below(top: &Path, path: &str) -> PathBuf {
    top.join(path.trim_start_matches('/'))
}

/// Mount options that are no controllers stand in the same list.
fn is_controller(option: &str) -> bool {
    const OTHER: [&str; 8] =
        ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "none", "seclabel"];
    !option.is_empty() && !OTHER.contains(&option) && !option.starts_with("release_agent=")
}
