//! What pods keep on the node's disk, and what they may: writable layers, logs, `emptyDir` volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cri::ContainerStatsFilter;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::{Used, evict};
use crate::manager::Manager;
use crate::pod::observed::marks;
use crate::resources;
use crate::shared::Shared;
use crate::spec;
use crate::volumes;

const RESOURCE: &str = "ephemeral-storage";
/// Files of a volume that are counted at most.
const MAX_FILES: usize = 1_000_000;

/// What a pod keeps, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Local {
    /// Writable layers and logs of containers.
    pub(super) containers: Used,
    /// `emptyDir` volumes by name, on disk or in memory.
    volumes: BTreeMap<String, i64>,
    /// Those on disk.
    on_disk: i64,
}

impl Local {
    /// All that counts as local storage.
    pub(super) fn whole(&self) -> i64 {
        self.containers.values().sum::<i64>() + self.on_disk
    }
}

/// Ends pods that keep more than they may.
pub(super) async fn check(shared: &Shared, manager: &Manager) {
    for pod in manager.active_pods().iter().filter(|it| is_limited(it)) {
        let used = used(shared, pod).await;
        if let Some(message) = excess(pod, &used) {
            evict(shared, manager, pod, message, Some(1));
        }
    }
}

/// Pods without a limit need not be measured.
fn is_limited(pod: &Pod) -> bool {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    volumes.filter_map(|it| it.empty_dir.as_ref()).any(|it| it.size_limit.is_some())
        || spec::main_containers(pod).iter().any(|it| resources::limits(it).contains_key(RESOURCE))
}

/// Why a pod must go, in upstream's words.
fn excess(pod: &Pod, used: &Local) -> Option<String> {
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|it| it.size_limit.as_ref()) else {
            continue;
        };
        let size = resources::amount(RESOURCE, limit);
        if size > 0 && used.volumes.get(&volume.name).is_some_and(|it| *it > size) {
            let name = &volume.name;
            return Some(format!(
                "Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ",
                limit.0
            ));
        }
    }
    if let Some(limit) = resources::pod_limits(pod).get(RESOURCE).filter(|it| used.whole() > **it) {
        let limit = resources::quantity(RESOURCE, *limit).0;
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    spec::main_containers(pod).iter().find_map(|container| {
        let limits = resources::limits(container);
        let limit = limits.get(RESOURCE)?;
        let used = *used.containers.get(&container.name)?;
        (used > resources::amount(RESOURCE, limit)).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                container.name, limit.0
            )
        })
    })
}

/// Measures a pod.
pub(super) async fn used(shared: &Shared, pod: &Pod) -> Local {
    let label_selector = crate::pod::worker::selector(spec::uid(pod));
    let filter = ContainerStatsFilter { label_selector, ..ContainerStatsFilter::default() };
    let stats = shared.runtime.list_container_stats(&filter).await.unwrap_or_default();
    let mut containers = Used::new();
    let logs = shared.config.pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod));
    for it in stats {
        let Some(name) = it.labels.get(marks::CONTAINER_NAME) else { continue };
        let layer = i64::try_from(it.writable_layer.used_bytes).unwrap_or(i64::MAX);
        containers.insert(name.clone(), layer + log_bytes(&logs.join(name)));
    }
    let all = spec::spec(pod).volumes.iter().flatten();
    let places: Vec<(String, bool, PathBuf)> = all
        .filter_map(|it| Some((it.name.clone(), on_disk(it)?, volumes::place(shared, pod, it)?)))
        .collect();
    let measured = shared.blocking.run(move || {
        let sizes = places.into_iter().map(|(name, disk, place)| (name, disk, tree_bytes(&place)));
        sizes.collect::<Vec<_>>()
    });
    let mut local = Local { containers, ..Local::default() };
    for (name, disk, bytes) in measured.await.unwrap_or_default() {
        local.on_disk += if disk { bytes } else { 0 };
        local.volumes.insert(name, bytes);
    }
    local
}

/// Whether an `emptyDir` is on disk; `None` for other volumes.
fn on_disk(volume: &Volume) -> Option<bool> {
    let source = volume.empty_dir.as_ref()?;
    Some(source.medium.as_deref().unwrap_or_default().is_empty())
}

fn log_bytes(dir: &Path) -> i64 {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = names.filter_map(|it| it.metadata().ok()).map(|it| it.len());
    i64::try_from(sizes.sum::<u64>()).unwrap_or(i64::MAX)
}

/// What a tree takes on its disk. Links are not followed; what goes meanwhile counts nothing.
fn tree_bytes(top: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0_u64;
    let mut waiting = vec![top.to_owned()];
    let mut files = 0;
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(it) = entry.path().symlink_metadata() else { continue };
            bytes += it.blocks() * 512;
            files += 1;
            if it.is_dir() && files < MAX_FILES {
                waiting.push(entry.path());
            }
        }
    }
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, used: &Local, expected: Option<&str>) {
        let pod: Pod =
            serde_json::from_str(&format!(r#"{{"metadata":{{}},"spec":{spec}}}"#)).unwrap();
        assert_eq!(excess(&pod, used).as_deref(), expected, "{spec}");
    }

    #[test]
    fn what_is_kept_beyond_a_limit_is_told() {
        let used = Local {
            containers: [("c".to_owned(), 3 << 20)].into(),
            volumes: [("v".to_owned(), 5 << 20)].into(),
            on_disk: 5 << 20,
        };
        check(
            r#"{"containers":[],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"4Mi"}}]}"#,
            &used,
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"4Mi\". "),
        );
        check(
            r#"{"containers":[],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"6Mi"}}]}"#,
            &used,
            None,
        );
        let container = |limit: &str| {
            format!(
                r#"{{"containers":[{{"name":"c","resources":{{"limits":{{"ephemeral-storage":"{limit}"}}}}}}]}}"#
            )
        };
        check(
            &container("7Mi"),
            &used,
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 7Mi. "),
        );
        check(&container("8Mi"), &used, None);
        let small = Local { on_disk: 0, ..used };
        check(&container("4Mi"), &small, None);
        let two = r#"{"containers":[{"name":"c","resources":{"limits":{"ephemeral-storage":"2Mi"}}},
            {"name":"d","resources":{"limits":{"ephemeral-storage":"9Mi"}}}]}"#;
        check(
            two,
            &small,
            Some("Container c exceeded its local ephemeral storage limit \"2Mi\". "),
        );
    }

    #[test]
    fn a_tree_is_measured_without_its_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        let bytes = tree_bytes(dir.path());
        assert!((100_000..150_000).contains(&bytes), "{bytes}");
        assert_eq!(tree_bytes(&dir.path().join("gone")), 0);
    }
}
