//! What really runs, whatever the API says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compact_str::CompactString;
use parking_lot::Mutex;

use crate::ledger::Ledger;

/// A process that runs now: all containers of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) node: CompactString,
    pub(crate) namespace: CompactString,
    pub(crate) name: CompactString,
    /// Whether it has an identity that no other may have at the same time.
    pub(crate) is_ordinal: bool,
    /// The disks that it has.
    pub(crate) disks: Vec<String>,
}

/// A disk on a node: both by name.
type Attached = (CompactString, CompactString);

/// Everything that runs, on all nodes, by the uids of pods.
#[derive(Debug)]
pub(crate) struct Reality {
    ledger: Arc<Ledger>,
    running: Mutex<BTreeMap<CompactString, Running>>,
    attached: Mutex<BTreeSet<Attached>>,
}

impl Reality {
    /// Nothing runs.
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Arc<Self> {
        let (running, attached) = (Mutex::default(), Mutex::default());
        Arc::new(Self { ledger: Arc::clone(ledger), running, attached })
    }

    /// A process begins.
    pub(crate) fn begins(&self, uid: &str, process: Running) {
        let mut running = self.running.lock();
        let twin = running.iter().find(|(other, it)| {
            it.is_ordinal
                && other.as_str() != uid
                && (&it.namespace, &it.name) == (&process.namespace, &process.name)
        });
        if let (true, Some((other, twin))) = (process.is_ordinal, twin) {
            self.ledger.violation(
                "never two running processes for one ordinal of a StatefulSet",
                format!(
                    "{}/{} runs on {} as {uid} while it runs on {} as {other}",
                    process.namespace, process.name, process.node, twin.node
                ),
            );
        }
        let attached = self.attached.lock();
        for disk in &process.disks {
            if !attached.contains(&(disk.as_str().into(), process.node.clone())) {
                let (namespace, name, node) = (&process.namespace, &process.name, &process.node);
                self.ledger.violation(
                    "a process runs where its disks are",
                    format!("{namespace}/{name} begins on {node}, which does not have {disk}"),
                );
            }
        }
        running.insert(uid.into(), process);
    }

    /// A disk is attached to a node.
    pub(crate) fn attaches(&self, disk: &str, node: &str) {
        let mut attached = self.attached.lock();
        let other = attached.iter().find(|it| it.0 == disk && it.1 != node);
        if let Some((_, other)) = other {
            self.ledger.violation(
                "a disk is attached to one node at a time",
                format!("{disk} is attached to {node} while {other} has it"),
            );
        }
        attached.insert((disk.into(), node.into()));
    }

    /// A disk is taken from a node.
    pub(crate) fn detaches(&self, disk: &str, node: &str) {
        let running = self.running.lock();
        let user =
            running.values().find(|it| it.node == node && it.disks.iter().any(|it| it == disk));
        if let Some(user) = user {
            self.ledger.violation(
                "no disk is taken from a process that runs",
                format!(
                    "{disk} is taken from {node}, where {}/{} has it",
                    user.namespace, user.name
                ),
            );
        }
        drop(running);
        self.attached.lock().remove(&(disk.into(), node.into()));
    }

    /// A process is over.
    pub(crate) fn ends(&self, uid: &str) {
        self.running.lock().remove(uid);
    }

    /// The uids of what runs.
    pub(crate) fn uids(&self) -> Vec<CompactString> {
        self.running.lock().keys().cloned().collect()
    }
}
