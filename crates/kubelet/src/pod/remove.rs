//! Removing what the runtime keeps of a pod's past: dead containers with their logs, and replaced sandboxes.

use std::path::Path;

use cri::ContainerStatus;

use crate::shared::Shared;

/// Removes a dead container with all files of its log.
pub(crate) async fn container(shared: &Shared, container: &ContainerStatus) {
    let id = &container.container.id;
    if let Err(error) = shared.runtime.remove_container(id).await {
        tracing::warn!(container = id, %error, "could not remove a dead container");
        return;
    }
    shared.messages.lock().remove(id);
    if let Err(error) = log_files(Path::new(&container.log_path)) {
        tracing::warn!(container = id, %error, "could not remove the log of a dead container");
    }
}

/// Removes a sandbox that nothing is in.
pub(crate) async fn sandbox(shared: &Shared, id: &str) {
    if let Err(error) = shared.runtime.remove_pod_sandbox(id).await {
        tracing::warn!(sandbox = id, %error, "could not remove a sandbox");
    }
}

/// Removes a log and what it was rotated to: `0.log`, `0.log.TIME`, `0.log.TIME.gz`.
fn log_files(log: &Path) -> std::io::Result<()> {
    for path in crate::log_rotation::files_of(log)? {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_with_all_its_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260102-030405", "0.log.20260102-030405.gz", "10.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        log_files(&dir.path().join("0.log")).unwrap();
        let left: Vec<_> =
            dir.path().read_dir().unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["10.log"]);
        log_files(&dir.path().join("gone/0.log")).unwrap();
    }
}
