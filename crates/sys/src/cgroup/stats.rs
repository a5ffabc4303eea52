//! What a group uses now.

use std::fs;
use std::path::Path;

use super::layout::{Hierarchies, Version};

/// A limit above this is none: version 1 writes "no limit" as the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 62;

/// Memory of a group, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub usage: u64,
    /// All of it without inactive file cache.
    pub working_set: u64,
    /// Anonymous.
    pub rss: u64,
    /// What it may have.
    pub limit: Option<u64>,
    /// Minor faults.
    pub page_faults: u64,
    /// Major faults.
    pub major_page_faults: u64,
}

/// What a group uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: u64,
}

impl Hierarchies {
    /// What the group `path` uses. A controller that is missing counts as zero.
    #[must_use]
    pub fn stats(&self, path: &str) -> Stats {
        match self.version {
            Version::V1 => self.stats_v1(path),
            Version::V2 => self.dir("", path).map_or_else(Stats::default, |dir| stats_v2(&dir)),
        }
    }

    fn stats_v1(&self, path: &str) -> Stats {
        let get = |controller: &str, file: &str| {
            self.dir(controller, path).map_or_else(String::new, |dir| read(&dir, file))
        };
        let stat = get("memory", "memory.stat");
        let usage = number(&get("memory", "memory.usage_in_bytes"));
        Stats {
            cpu_nanos: number(&get("cpuacct", "cpuacct.usage")),
            memory: Memory {
                usage,
                working_set: usage.saturating_sub(field(&stat, "total_inactive_file")),
                rss: field(&stat, "total_rss"),
                limit: limit(&get("memory", "memory.limit_in_bytes")),
                page_faults: field(&stat, "total_pgfault"),
                major_page_faults: field(&stat, "total_pgmajfault"),
            },
            pids: number(&get("pids", "pids.current")),
        }
    }
}

/// How often the OOM killer struck in the group whose memory controller is at `dir`; `None` when it is gone.
#[must_use]
pub fn oom_kills(dir: &Path) -> Option<u64> {
    ["memory.oom_control", "memory.events"]
        .iter()
        .find_map(|file| fs::read_to_string(dir.join(file)).ok())
        .map(|text| field(&text, "oom_kill"))
}

fn stats_v2(dir: &Path) -> Stats {
    let stat = read(dir, "memory.stat");
    let usage = number(&read(dir, "memory.current"));
    Stats {
        cpu_nanos: field(&read(dir, "cpu.stat"), "usage_usec").saturating_mul(1000),
        memory: Memory {
            usage,
            working_set: usage.saturating_sub(field(&stat, "inactive_file")),
            rss: field(&stat, "anon"),
            limit: limit(&read(dir, "memory.max")),
            page_faults: field(&stat, "pgfault"),
            major_page_faults: field(&stat, "pgmajfault"),
        },
        pids: number(&read(dir, "pids.current")),
    }
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

/// The value of `name value` among the lines.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .map_or(0, |(_, value)| number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_version_2_group_reads_as_stats() {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"),
            ("memory.current", "10485760\n"),
            ("memory.max", "max\n"),
            (
                "memory.stat",
                "anon 4096\nfile 8192\ninactive_file 485760\npgfault 7\npgmajfault 1\n",
            ),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"),
            ("pids.current", "3\n"),
        ] {
            fs::write(dir.path().join(file), content).unwrap();
        }
        let found = Hierarchies {
            version: Version::V2,
            v1: std::collections::BTreeMap::new(),
            v2: Some(dir.path().to_owned()),
        };
        let stats = found.stats("");
        assert_eq!(stats.cpu_nanos, 1_500_000);
        assert_eq!(stats.memory.working_set, 10_000_000);
        assert_eq!((stats.memory.rss, stats.memory.limit, stats.pids), (4096, None, 3));
        assert_eq!(oom_kills(dir.path()), Some(2));
        assert_eq!(oom_kills(&dir.path().join("gone")), None);
    }
}
