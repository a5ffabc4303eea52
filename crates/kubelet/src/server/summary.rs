//! `/stats/summary`: what the node, its pods and their containers use, in upstream's form.

use std::collections::BTreeMap;

use apimachinery::{Value, time, value};
use cri::{ContainerFilter, ContainerState, ContainerStats, CpuUsage, MemoryUsage};
use cri::{NetworkInterfaceUsage, PodSandboxStats};
use parking_lot::Mutex;

use super::Context;
use super::reports;
use super::routes::Refusal;
use crate::log_rotation;
use crate::node::{Disk, disk_of, processes};
use crate::pod::observed::time_of;

/// The longest time between two looks of which a rate is told, in nanoseconds.
const RATE_OVER_NS: i64 = 10 * 60 * 1_000_000_000;
/// Rates are of the containers that run, and of some that did.
const MAX_RATES: usize = 10_000;

/// Processor time when it was last looked at: a rate is between two looks.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<BTreeMap<String, CpuUsage>>);

impl Rates {
    /// Billionths of a processor since the last look; none at the first.
    fn look(&self, whose: &str, now: &CpuUsage) -> Option<i64> {
        let mut known = self.0.lock();
        if known.len() >= MAX_RATES {
            known.clear();
        }
        let before = known.insert(whose.to_owned(), now.clone())?;
        let (time, used) = (
            now.timestamp - before.timestamp,
            now.usage_core_nano_seconds.checked_sub(before.usage_core_nano_seconds)?,
        );
        if !(1..RATE_OVER_NS).contains(&time) {
            return None;
        }
        i64::try_from(i128::from(used) * 1_000_000_000 / i128::from(time)).ok()
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn at(nanoseconds: i64) -> String {
    time::format_time(time_of(nanoseconds)).to_string()
}

fn cpu(rates: &Rates, whose: &str, it: &CpuUsage) -> Value {
    let mut cpu = value!({"time": (at(it.timestamp).as_str()), "usageCoreNanoSeconds": (number(it.usage_core_nano_seconds))});
    if let Some(rate) = rates.look(whose, it) {
        cpu.set_at(&["usageNanoCores"], rate);
    }
    cpu
}

fn memory(it: &MemoryUsage, limit: Option<u64>) -> Value {
    let mut memory = value!({
        "time": (at(it.timestamp).as_str()), "usageBytes": (number(it.usage_bytes)),
        "workingSetBytes": (number(it.working_set_bytes)), "rssBytes": (number(it.rss_bytes)),
        "pageFaults": (number(it.page_faults)), "majorPageFaults": (number(it.major_page_faults))
    });
    let left = limit.map(|it_is| it_is.saturating_sub(it.working_set_bytes));
    if let Some(left) = left.or(Some(it.available_bytes).filter(|it| *it > 0)) {
        memory.set_at(&["availableBytes"], number(left));
    }
    memory
}

/// A file system, and how much of it is somebody's.
fn fs(disk: &Disk, now: &str, used: Option<(i64, Option<i64>)>) -> Value {
    let (bytes, inodes) =
        used.unwrap_or((disk.bytes - disk.free, Some(disk.inodes - disk.inodes_free)));
    let mut fs = value!({
        "time": now, "availableBytes": (disk.available), "capacityBytes": (disk.bytes), "usedBytes": bytes,
        "inodesFree": (disk.inodes_free), "inodes": (disk.inodes)
    });
    if let Some(inodes) = inodes {
        fs.set_at(&["inodesUsed"], inodes);
    }
    fs
}

fn network(interfaces: &[NetworkInterfaceUsage], now: &str) -> Option<Value> {
    let one = |it: &NetworkInterfaceUsage| {
        value!({
            "name": (it.name.as_str()), "rxBytes": (number(it.rx_bytes)), "rxErrors": (number(it.rx_errors)),
            "txBytes": (number(it.tx_bytes)), "txErrors": (number(it.tx_errors))
        })
    };
    let mut network = one(interfaces.first()?);
    network.set_at(&["time"], now);
    network.set_at(&["interfaces"], Value::Array(interfaces.iter().map(one).collect()));
    Some(network)
}

/// What of the node each part is told with.
struct Facts<'a> {
    rates: &'a Rates,
    now: String,
    disk: Disk,
    /// When containers were started and where they log, by id.
    containers: BTreeMap<String, (i64, String)>,
}

impl Facts<'_> {
    fn container(&self, it: &ContainerStats) -> Value {
        let rootfs =
            (number(it.writable_layer.used_bytes), Some(number(it.writable_layer.inodes_used)));
        let known = self.containers.get(&it.id).cloned().unwrap_or_default();
        let logs = log_rotation::bytes_of(std::path::Path::new(&known.1));
        value!({
            "name": (it.metadata.name.as_str()), "startTime": (at(known.0).as_str()),
            "cpu": (cpu(self.rates, &it.id, &it.cpu)), "memory": (memory(&it.memory, None)),
            "rootfs": (fs(&self.disk, &self.now, Some(rootfs))), "logs": (fs(&self.disk, &self.now, Some((logs, None))))
        })
    }

    fn pod(&self, it: &PodSandboxStats, started: &str) -> Value {
        let containers: Vec<Value> = it.containers.iter().map(|it| self.container(it)).collect();
        let local: i64 = it.containers.iter().map(|it| number(it.writable_layer.used_bytes)).sum();
        let mut pod = value!({
            "podRef": {"name": (it.metadata.name.as_str()), "namespace": (it.metadata.namespace.as_str()), "uid": (it.metadata.uid.as_str())},
            "startTime": started, "containers": (Value::Array(containers)),
            "cpu": (cpu(self.rates, &it.id, &it.cpu)), "memory": (memory(&it.memory, None)),
            "ephemeral-storage": (fs(&self.disk, &self.now, Some((local, None)))),
            "process_stats": {"process_count": (number(it.process_count))}
        });
        if let Some(network) = network(&it.interfaces, &self.now) {
            pod.set_at(&["network"], network);
        }
        pod
    }
}

/// The summary of the node and its pods.
pub(super) async fn summary(context: &Context) -> Result<Value, Refusal> {
    let shared = &context.shared;
    let stats = reports::stats(context).await?;
    let now = shared.clock.now();
    let facts = Facts {
        rates: &context.rates,
        now: time::format_time(now).to_string(),
        disk: disk_of(&shared.config.data_dir),
        containers: containers(context).await,
    };
    let started = |uid: &str| {
        let objects = context.manager.objects();
        let pod = objects.iter().find(|it| it.uid == uid).map(|it| it.value());
        pod.map(|it| it.str_at(&["status", "startTime"]).to_owned()).unwrap_or_default()
    };
    let pods = stats.iter().map(|it| facts.pod(it, &started(&it.metadata.uid)));
    let pods = Value::Array(pods.collect());
    let root = shared.hierarchies.as_ref().map(|it| it.stats("")).unwrap_or_default();
    let timestamp = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    let node_cpu = CpuUsage { timestamp, usage_core_nano_seconds: root.cpu_nanos };
    let node_memory = MemoryUsage {
        timestamp,
        usage_bytes: root.memory.usage,
        working_set_bytes: root.memory.working_set,
        rss_bytes: root.memory.rss,
        page_faults: root.memory.page_faults,
        major_page_faults: root.memory.major_page_faults,
        available_bytes: 0,
    };
    let whole = u64::try_from(shared.machine.memory_bytes).ok();
    let (most, running) = processes(&shared.config.proc_dir);
    let image_bytes = image_bytes(context).await;
    Ok(value!({
        "node": {
            "nodeName": (shared.config.node_name.as_str()), "startTime": (time::format_time(context.started).as_str()),
            "cpu": (cpu(&context.rates, "", &node_cpu)), "memory": (memory(&node_memory, whole)),
            "fs": (fs(&facts.disk, &facts.now, None)),
            "runtime": {"imageFs": (fs(&facts.disk, &facts.now, Some((image_bytes, None))))},
            "rlimit": {"time": (facts.now.as_str()), "maxpid": most, "curproc": running}
        },
        "pods": pods
    }))
}

async fn containers(context: &Context) -> BTreeMap<String, (i64, String)> {
    let runtime = &context.shared.runtime;
    let filter =
        ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
    let mut all = BTreeMap::new();
    for container in runtime.list_containers(&filter).await.unwrap_or_default() {
        // One that is gone meanwhile is left out.
        if let Ok(status) = runtime.container_status(&container.id).await {
            all.insert(container.id, (status.started_at, status.log_path));
        }
    }
    all
}

async fn image_bytes(context: &Context) -> i64 {
    let usage = context.shared.images.image_fs_info().await.unwrap_or_default();
    usage.image_filesystems.iter().map(|it| number(it.used_bytes)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_between_two_looks() {
        let rates = Rates::default();
        let at = |seconds: i64, used| CpuUsage {
            timestamp: seconds * 1_000_000_000,
            usage_core_nano_seconds: used,
        };
        assert_eq!(rates.look("c", &at(0, 100)), None);
        assert_eq!(rates.look("c", &at(2, 1_000_000_100)), Some(500_000_000));
        assert_eq!(rates.look("c", &at(2, 1_000_000_100)), None, "no time has passed");
        assert_eq!(rates.look("c", &at(3, 5)), None, "it began anew");
        assert_eq!(rates.look("c", &at(3000, 50)), None, "too long ago");
    }

    #[test]
    fn memory_is_left_below_a_limit_only() {
        let of = |available_bytes, limit| {
            let usage =
                MemoryUsage { working_set_bytes: 30, available_bytes, ..MemoryUsage::default() };
            memory(&usage, limit).i64_at(&["availableBytes"])
        };
        assert_eq!(of(0, None), None);
        assert_eq!(of(70, None), Some(70));
        assert_eq!(of(0, Some(100)), Some(70));
    }
}
