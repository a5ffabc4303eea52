//! Finding again what ran before the agent was restarted.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Inner;
use super::containers::stored_or_unseen;
use super::state::{
    CONTAINER_RECORD, Container, ContainerRecord, Phase, SANDBOX_RECORD, STARTED_FILE, Sandbox,
    SandboxRecord, Started, load,
};
use crate::spec::{EXIT_FILE, ExitRecord};

impl Inner {
    /// Reads the records, then asks every shim what runs. Containers first, so that no exit that a shim tells in
    /// between is lost.
    pub(super) async fn recover(self: &Arc<Self>) {
        for container in self.recorded_containers() {
            let id = container.record.lock().id.clone();
            self.containers.lock().insert(id, Arc::new(container));
        }
        for sandbox in self.recorded_sandboxes() {
            let sandbox = Arc::new(sandbox);
            self.sandboxes.lock().insert(sandbox.id.clone(), Arc::clone(&sandbox));
            if let Err(error) = self.connect(&sandbox).await {
                let ready = sandbox.record.lock().ready;
                if ready {
                    tracing::info!(sandbox = sandbox.id, %error, "a sandbox has no shim any more");
                }
            }
        }
        self.settle();
    }

    /// What was started and is not claimed by a shim is over.
    fn settle(&self) {
        let containers: Vec<Arc<Container>> = self.containers.lock().values().cloned().collect();
        for container in containers {
            let started: Option<Started> = load(&container.dir.join(STARTED_FILE));
            // Before the condition: a guard in it would be held in its block too.
            let unclaimed = matches!(*container.phase.lock(), Phase::Created);
            if let Some(started) = started.filter(|_| unclaimed) {
                self.kill_orphans(&container);
                let exit = stored_or_unseen(&container, self.now());
                *container.phase.lock() = Phase::Exited { started: Some(started), exit };
            }
        }
    }

    fn recorded_containers(&self) -> Vec<Container> {
        records(&self.root_dir.join("containers"), |dir| {
            let record: ContainerRecord = load(&dir.join(CONTAINER_RECORD))?;
            let exit: Option<ExitRecord> = load(&dir.join(EXIT_FILE));
            let phase = match exit {
                Some(exit) => Phase::Exited { started: load(&dir.join(STARTED_FILE)), exit },
                None => Phase::Created,
            };
            Some(Container::new(dir.to_owned(), record, phase))
        })
    }

    fn recorded_sandboxes(&self) -> Vec<Sandbox> {
        records(&self.root_dir.join("sandboxes"), |dir| {
            let record: SandboxRecord = load(&dir.join(SANDBOX_RECORD))?;
            Some(Sandbox {
                id: record.id.clone(),
                dir: dir.to_owned(),
                run_dir: self.state_dir.join(&record.id),
                record: Mutex::new(record),
                shim: Mutex::new(None),
                turn: tokio::sync::Mutex::new(()),
            })
        })
    }
}

/// The readable records below `dir`. What has none was begun and never answered: nobody knows of it, and it is
/// removed.
fn records<T>(dir: &Path, read: impl Fn(&Path) -> Option<T>) -> Vec<T> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.filter_map(Result::ok).map(|e| e.path()) {
        match read(&path) {
            Some(record) => found.push(record),
            None => {
                if let Err(error) = sys::fs::remove_tree(&path) {
                    tracing::warn!(%error, path = %path.display(), "could not remove leftovers");
                }
            }
        }
    }
    found
}
