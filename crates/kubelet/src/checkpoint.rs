//! Which pods the node let in, kept over restarts: what was let in once is not refused later.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::resources::Amounts;

/// The form of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Records {
    version: u32,
    /// By uid: what was given.
    pods: BTreeMap<String, Amounts>,
}

const VERSION: u32 = 1;

/// The pods that were let in.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    records: Mutex<Records>,
}

impl Checkpoint {
    /// Reads what an earlier process wrote. A file that cannot be read counts as none, and is told in the log.
    pub(crate) fn open(path: PathBuf) -> Self {
        let records = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "the record of admitted pods is broken: starting anew");
                Records::default()
            }),
            Err(_) => Records::default(),
        };
        Self { path, records: Mutex::new(Records { version: VERSION, ..records }) }
    }

    pub(crate) fn has(&self, uid: &str) -> bool {
        self.records.lock().pods.contains_key(uid)
    }

    /// Notes a pod, before anything of it is made.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn add(&self, uid: &str, requests: Amounts) -> io::Result<()> {
        let mut records = self.records.lock();
        records.pods.insert(uid.to_owned(), requests);
        self.write(&records)
    }

    /// Forgets a pod.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        let mut records = self.records.lock();
        if records.pods.remove(uid).is_none() {
            return Ok(());
        }
        self.write(&records)
    }

    fn write(&self, records: &Records) -> io::Result<()> {
        sys::fs::write_atomic(&self.path, &serde_json::to_vec(records)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_in_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admitted.json");
        let first = Checkpoint::open(path.clone());
        first.add("a", Amounts::new()).unwrap();
        first.add("b", Amounts::new()).unwrap();
        first.remove("b").unwrap();
        let second = Checkpoint::open(path.clone());
        assert!(second.has("a") && !second.has("b"));
        std::fs::write(&path, "{").unwrap();
        assert!(!Checkpoint::open(path).has("a"));
    }
}
