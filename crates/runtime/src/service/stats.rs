//! What containers and sandboxes use, from their cgroups.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cri::{
    ContainerStats, CpuUsage, CriError, FilesystemUsage, MemoryUsage, NetworkInterfaceUsage,
    PodSandboxStats,
};
use sys::cgroup::Stats;

use super::Inner;
use super::sandboxes::own_cgroup;
use super::state::Container;

/// The most files of a writable layer that are counted.
const MAX_COUNTED: u64 = 1 << 20;

impl Inner {
    pub(super) async fn stats_of(&self, container: &Container) -> Result<ContainerStats, CriError> {
        let record = container.record.lock().clone();
        let (hierarchies, now) = (self.hierarchies.clone(), self.now());
        let upper = container.dir.join("upper");
        self.block(move || {
            let stats = hierarchies.stats(&record.cgroup);
            let (used_bytes, inodes_used) = usage(&upper);
            ContainerStats {
                id: record.id,
                pod_sandbox_id: record.sandbox,
                metadata: record.config.metadata,
                labels: record.config.labels,
                annotations: record.config.annotations,
                cpu: cpu(&stats, now),
                memory: memory(&stats, now),
                process_count: stats.pids,
                writable_layer: FilesystemUsage {
                    timestamp: now,
                    mountpoint: upper.display().to_string(),
                    used_bytes,
                    inodes_used,
                },
            }
        })
        .await
    }

    pub(super) async fn sandbox_stats_of(&self, id: &str) -> Result<PodSandboxStats, CriError> {
        let sandbox = self.sandbox(id)?;
        let record = sandbox.record.lock().clone();
        let mut containers = Vec::new();
        let running: Vec<Arc<Container>> =
            self.containers_of(id).into_iter().filter(|c| c.running().is_some()).collect();
        for container in running {
            containers.push(self.stats_of(&container).await?);
        }
        let shim = sandbox.shim.lock().as_ref().map(|shim| shim.pid);
        // The shim lives in the pod's network.
        let interfaces = match (shim, &record.netns) {
            (Some(pid), Some(_)) => {
                interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
            }
            _ => Vec::new(),
        };
        let parent = &record.config.linux.cgroup_parent;
        let group = if parent.is_empty() { own_cgroup(id) } else { parent.clone() };
        let (stats, now) = (self.hierarchies.stats(&group), self.now());
        Ok(PodSandboxStats {
            id: record.id,
            metadata: record.config.metadata,
            labels: record.config.labels,
            annotations: record.config.annotations,
            cpu: cpu(&stats, now),
            memory: memory(&stats, now),
            interfaces,
            process_count: stats.pids,
            containers,
        })
    }
}

fn cpu(stats: &Stats, timestamp: i64) -> CpuUsage {
    CpuUsage { timestamp, usage_core_nano_seconds: stats.cpu_nanos }
}

fn memory(stats: &Stats, timestamp: i64) -> MemoryUsage {
    let memory = &stats.memory;
    MemoryUsage {
        timestamp,
        working_set_bytes: memory.working_set,
        available_bytes: memory.limit.map_or(0, |limit| limit.saturating_sub(memory.working_set)),
        usage_bytes: memory.usage,
        rss_bytes: memory.rss,
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
    }
}

/// Bytes and inodes of a tree.
pub(super) fn usage(dir: &Path) -> (u64, u64) {
    fn walk(dir: &Path, bytes: &mut u64, inodes: &mut u64) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.filter_map(Result::ok) {
            // Gone in between counts nothing.
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            *bytes += meta.blocks() * 512;
            *inodes += 1;
            if *inodes > MAX_COUNTED {
                return;
            }
            if meta.is_dir() {
                walk(&entry.path(), bytes, inodes);
            }
        }
    }
    let (mut bytes, mut inodes) = (0, 1);
    walk(dir, &mut bytes, &mut inodes);
    (bytes, inodes)
}

/// Of the kernel's table, all but loopback.
fn interfaces(table: &str) -> Vec<NetworkInterfaceUsage> {
    table
        .lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let name = name.trim();
            if name == "lo" {
                return None;
            }
            let numbers: Vec<u64> =
                numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            Some(NetworkInterfaceUsage {
                name: name.to_owned(),
                rx_bytes: *numbers.first()?,
                rx_errors: *numbers.get(2)?,
                tx_bytes: *numbers.get(8)?,
                tx_errors: *numbers.get(10)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_of_interfaces_is_read() {
        let table = "Inter-| Receive | Transmit\n face |bytes packets errs\n\
            lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
            eth0: 100 5 1 0 0 0 0 0 200 7 2 0 0 0 0 0\n";
        let got = interfaces(table);
        assert_eq!(got.len(), 1);
        let eth0 = &got[0];
        assert_eq!(
            (eth0.name.as_str(), eth0.rx_bytes, eth0.rx_errors, eth0.tx_bytes, eth0.tx_errors),
            ("eth0", 100, 1, 200, 2)
        );
    }
}
