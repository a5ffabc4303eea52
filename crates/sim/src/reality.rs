//! What really runs, whatever the API says of it.

use std::collections::BTreeMap;
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
}

/// Everything that runs, on all nodes, by the uids of pods.
#[derive(Debug)]
pub(crate) struct Reality {
    ledger: Arc<Ledger>,
    running: Mutex<BTreeMap<CompactString, Running>>,
}

impl Reality {
    /// Nothing runs.
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { ledger: Arc::clone(ledger), running: Mutex::default() })
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
        running.insert(uid.into(), process);
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
