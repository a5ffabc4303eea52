//! What the store costs: writes, starts, memory. `cargo bench -p storage-embedded` prints one table.
//!
//! `cargo bench -p storage-embedded -- DIR` measures on the disk of another directory, and `--writes` or
//! `--restart` only one half.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use storage::{At, Expect, Key, RangeReq, Rev, Store};
use storage_embedded::{EmbeddedStore, Options};
use tokio::time::Instant;

const VALUE_BYTES: usize = 1024;
/// As many watches as an API server has resources.
const WATCHES: usize = 80;
/// How many of them are written to: under load a cluster creates pods, events and little else.
const WRITTEN: usize = 4;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let dir = args.iter().find(|arg| !arg.starts_with("--"));
    let base = dir.map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    if !has("--restart") {
        let head = ("1 KB values", "writes/s", "p50 us", "p99 us", "CPU us");
        println!("{:44} {:>12} {:>10} {:>10} {:>10}", head.0, head.1, head.2, head.3, head.4);
        for (writers, writes) in [(1, 5_000), (16, 200_000), (64, 400_000), (256, 400_000)] {
            for pattern in [Pattern::Create, Pattern::Update] {
                runtime.block_on(measure_writes(&base, writers, writes, pattern));
            }
        }
    }
    if !has("--writes") {
        let head = ("restart", "objects", "ms", "CPU ms", "bytes each");
        println!("{:44} {:>12} {:>10} {:>10} {:>10}", head.0, head.1, head.2, head.3, head.4);
        for objects in [10_000, 150_000] {
            runtime.block_on(measure_restart(&base, objects));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pattern {
    Create,
    Update,
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(&Options::new(dir, Arc::new(|reason| panic!("{reason}")))).unwrap()
}

fn key(writer: usize, n: usize) -> Key {
    let resource = writer % WRITTEN;
    Key::from(format!("/registry/resource{resource:02}/namespace-{writer}/object-{n:08}"))
}

async fn measure_writes(base: &Path, writers: usize, writes: usize, pattern: Pattern) {
    let dir = tempfile::tempdir_in(base).unwrap();
    let store = Arc::new(open(dir.path()));
    let watches: Vec<_> =
        (0..WATCHES).map(|n| tokio::spawn(watch(Arc::clone(&store), n))).collect();
    let each = writes / writers;
    let cpu = cpu_time();
    let begun = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(each);
            for n in 0..each {
                let (n, expect) = match pattern {
                    Pattern::Create => (n, Expect::Absent),
                    Pattern::Update => (n % 100, Expect::Any),
                };
                let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
                let sent = Instant::now();
                store.put(key(writer, n), value, expect, None).await.unwrap();
                latencies.push(sent.elapsed());
            }
            latencies
        })
    });
    let mut latencies: Vec<Duration> = Vec::with_capacity(writes);
    for task in join_all(tasks).await {
        latencies.extend(task.unwrap());
    }
    let took = begun.elapsed();
    let cpu = cpu_time() - cpu;
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_micros();
    let count = latencies.len() as u128;
    println!(
        "{:44} {:>12} {:>10} {:>10} {:>10}",
        format!("{pattern:?}, {writers} writers, {WATCHES} watches"),
        count * 1_000_000 / took.as_micros(),
        percentile(50),
        percentile(99),
        format!("{:.2}", cpu.as_secs_f64() * 1e6 / latencies.len() as f64),
    );
    watches.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn watch(store: Arc<EmbeddedStore>, resource: usize) {
    let mut watch = store.watch(Key::from(format!("/registry/resource{resource:02}/")), Rev(1));
    while let Some(Ok(batch)) = watch.next().await {
        drop(batch);
    }
}

async fn measure_restart(base: &Path, objects: usize) {
    let dir = tempfile::tempdir_in(base).unwrap();
    let fill = Arc::new(open(dir.path()));
    let writers = 64;
    let tasks = (0..writers).map(|writer| {
        let store = Arc::clone(&fill);
        tokio::spawn(async move {
            for n in (writer..objects).step_by(writers) {
                // 1 to 4 KB.
                let value = Bytes::from(vec![b'v'; 1024 + (n * 7919) % 3072]);
                store.put(key(writer, n), value, Expect::Absent, None).await.unwrap();
            }
        })
    });
    join_all(tasks).await;
    drop(fill);
    let disk: u64 =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    let before = resident_bytes();
    let (begun, cpu) = (Instant::now(), thread_cpu_time());
    let store = open(dir.path());
    let (took, cpu) = (begun.elapsed(), thread_cpu_time() - cpu);
    let used = resident_bytes().saturating_sub(before);
    let request =
        RangeReq { prefix: Key::from(""), after: None, limit: 0, keys_only: false, at: At::Latest };
    let page = store.range(request).await.unwrap();
    assert_eq!(page.kvs.len(), objects);
    let live: usize = page.kvs.iter().map(|kv| kv.key.as_bytes().len() + kv.value.len()).sum();
    println!(
        "{:44} {:>12} {:>10} {:>10} {:>10}",
        format!("{} MB live, {} MB on disk, {} MB RSS", live >> 20, disk >> 20, used >> 20),
        objects,
        format!("{:.1}", took.as_secs_f64() * 1e3),
        format!("{:.1}", cpu.as_secs_f64() * 1e3),
        used.saturating_sub(live) / objects,
    );
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Time on a processor of this thread.
fn thread_cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
