//! Which directories to make and which values to write, as data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::{Hierarchies, Version, below};

/// Controllers that version 2 must hand down to children.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Make the directory, if it is not there.
    MakeDir(PathBuf),
    /// Write the value.
    Write {
        /// To this file.
        path: PathBuf,
        /// This.
        value: String,
        /// It may be missing: a controller that this machine lacks, wanted but not asked for.
        optional: bool,
    },
    /// Copy the file `name` from the parent if it is empty.
    Inherit {
        /// In this directory.
        path: PathBuf,
        /// This file.
        name: &'static str,
    },
    /// Remove the directory and those below, if it is there.
    RemoveDir(PathBuf),
}

/// A rule for devices, written as version 1 has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `a`, `b` or `c`.
    pub kind: char,
    /// `None` is any.
    pub major: Option<u32>,
    /// `None` is any.
    pub minor: Option<u32>,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

impl DeviceRule {
    fn text(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

/// What a group may use. Zero, empty and `None` write nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Relative weight, 2 to 262144.
    pub cpu_shares: u64,
    /// Microseconds a period; negative is no limit.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_period: u64,
    /// Bytes; negative is no limit.
    pub memory: i64,
    /// Memory and swap together, in bytes; negative is no limit.
    pub memory_and_swap: i64,
    /// Processes; negative is no limit.
    pub pids: i64,
    /// Processors.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
    /// Page size (`2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Files of version 2 and what to write to them.
    pub unified: BTreeMap<String, String>,
    /// The OOM killer takes all of the group (version 2).
    pub oom_group: bool,
    /// The devices that may be used; `None` leaves all. Version 2 takes a program for them:
    /// [`super::limit_devices`].
    pub devices: Option<Vec<DeviceRule>>,
}

impl Hierarchies {
    /// Makes the group `path`, its parents, and sets its limits.
    #[must_use]
    pub fn plan_create(&self, path: &str, limits: &Limits) -> Vec<Op> {
        let mut ops = match self.version {
            Version::V1 => self.make_v1(path),
            Version::V2 => self.make_v2(path),
        };
        ops.extend(self.plan_limits(path, limits));
        if let (Version::V1, Some(rules)) = (self.version, &limits.devices)
            && let Some(dir) = self.dir("devices", path)
        {
            ops.push(write(dir.join("devices.deny"), "a"));
            ops.extend(rules.iter().map(|rule| write(dir.join("devices.allow"), rule.text())));
        }
        ops
    }

    /// Changes the limits of the group `path`.
    #[must_use]
    pub fn plan_limits(&self, path: &str, limits: &Limits) -> Vec<Op> {
        match self.version {
            Version::V1 => self.limits_v1(path, limits),
            Version::V2 => {
                self.v2.as_ref().map_or_else(Vec::new, |top| limits_v2(top, path, limits))
            }
        }
    }

    /// Removes the group `path` and those below.
    #[must_use]
    pub fn plan_remove(&self, path: &str) -> Vec<Op> {
        self.dirs(path).into_iter().map(Op::RemoveDir).collect()
    }

    fn make_v1(&self, path: &str) -> Vec<Op> {
        let cpuset = self.v1.get("cpuset").cloned();
        let mut ops = Vec::new();
        for top in self.dirs("") {
            for dir in steps(&top, path) {
                ops.push(Op::MakeDir(dir.clone()));
                if cpuset.as_ref().is_some_and(|set| dir.starts_with(set)) {
                    ops.push(Op::Inherit { path: dir.clone(), name: "cpuset.cpus" });
                    ops.push(Op::Inherit { path: dir, name: "cpuset.mems" });
                }
            }
        }
        ops
    }

    fn make_v2(&self, path: &str) -> Vec<Op> {
        let Some(top) = &self.v2 else { return Vec::new() };
        let mut parent = top.clone();
        let mut ops = Vec::new();
        for dir in steps(top, path) {
            for controller in V2_CONTROLLERS {
                let path = parent.join("cgroup.subtree_control");
                ops.push(Op::Write { path, value: format!("+{controller}"), optional: true });
            }
            ops.push(Op::MakeDir(dir.clone()));
            parent = dir;
        }
        ops
    }

    fn limits_v1(&self, path: &str, limits: &Limits) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut put = |controller: &str, file: &str, value: String| {
            let top = self.v1.get(controller).map_or_else(
                // Not mounted: named as it usually is, so that the failure says what is missing.
                || PathBuf::from("/sys/fs/cgroup").join(controller),
                Clone::clone,
            );
            ops.push(write(below(&top, path).join(file), value));
        };
        if limits.cpu_shares != 0 {
            put("cpu", "cpu.shares", limits.cpu_shares.to_string());
        }
        if limits.cpu_period != 0 {
            put("cpu", "cpu.cfs_period_us", limits.cpu_period.to_string());
        }
        if limits.cpu_quota != 0 {
            put("cpu", "cpu.cfs_quota_us", limits.cpu_quota.to_string());
        }
        if limits.memory != 0 {
            put("memory", "memory.limit_in_bytes", limits.memory.to_string());
        }
        if limits.memory_and_swap != 0 {
            put("memory", "memory.memsw.limit_in_bytes", limits.memory_and_swap.to_string());
        }
        if limits.pids != 0 {
            put("pids", "pids.max", maximum(limits.pids));
        }
        if !limits.cpuset_cpus.is_empty() {
            put("cpuset", "cpuset.cpus", limits.cpuset_cpus.clone());
        }
        if !limits.cpuset_mems.is_empty() {
            put("cpuset", "cpuset.mems", limits.cpuset_mems.clone());
        }
        for (size, bytes) in &limits.hugepages {
            put("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), bytes.to_string());
        }
        ops
    }
}

fn limits_v2(top: &Path, path: &str, limits: &Limits) -> Vec<Op> {
    let dir = below(top, path);
    let mut ops = Vec::new();
    let mut put = |file: &str, value: String| ops.push(write(dir.join(file), value));
    if limits.cpu_shares != 0 {
        put("cpu.weight", weight_of_shares(limits.cpu_shares).to_string());
    }
    if limits.cpu_quota != 0 || limits.cpu_period != 0 {
        let quota = if limits.cpu_quota > 0 { limits.cpu_quota.to_string() } else { "max".into() };
        let period = if limits.cpu_period == 0 { 100_000 } else { limits.cpu_period };
        put("cpu.max", format!("{quota} {period}"));
    }
    if limits.memory != 0 {
        put("memory.max", maximum(limits.memory));
    }
    if limits.memory_and_swap != 0 {
        let swap = limits.memory_and_swap.saturating_sub(limits.memory.max(0));
        put(
            "memory.swap.max",
            if limits.memory_and_swap < 0 { "max".into() } else { swap.to_string() },
        );
    }
    if limits.oom_group {
        put("memory.oom.group", "1".into());
    }
    if limits.pids != 0 {
        put("pids.max", maximum(limits.pids));
    }
    if !limits.cpuset_cpus.is_empty() {
        put("cpuset.cpus", limits.cpuset_cpus.clone());
    }
    if !limits.cpuset_mems.is_empty() {
        put("cpuset.mems", limits.cpuset_mems.clone());
    }
    for (size, bytes) in &limits.hugepages {
        put(&format!("hugetlb.{size}.max"), bytes.to_string());
    }
    for (file, value) in &limits.unified {
        put(file, value.clone());
    }
    ops
}

fn write(path: PathBuf, value: impl Into<String>) -> Op {
    Op::Write { path, value: value.into(), optional: false }
}

fn maximum(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

/// The directories from `top` (not itself) down to `path`.
fn steps(top: &Path, path: &str) -> Vec<PathBuf> {
    let mut dir = top.to_owned();
    path.split('/')
        .filter(|part| !part.is_empty() && *part != "." && *part != "..")
        .map(|part| {
            dir.push(part);
            dir.clone()
        })
        .collect()
}

/// Shares of version 1 as a weight of version 2: the curve through (2, 1), (1024, 100), (262144, 10000) that
/// OCI runtimes agreed on.
#[must_use]
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let shares = u32::try_from(shares).unwrap_or(u32::MAX);
            let log = f64::from(shares).log2();
            let weight = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
            // No cast from float to integer: the weight is between 1 and 10000, so a search finds it.
            (1..=10_000_u32).find(|w| f64::from(*w) >= weight).unwrap_or(10_000).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "\
25 30 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
";

    fn text(ops: &[Op]) -> String {
        let line = |op: &Op| match op {
            Op::MakeDir(path) => format!("mkdir {}", path.display()),
            Op::Write { path, value, optional } => {
                format!("{}{} = {value}", path.display(), if *optional { "?" } else { "" })
            }
            Op::Inherit { path, name } => format!("inherit {}/{name}", path.display()),
            Op::RemoveDir(path) => format!("rmdir {}", path.display()),
        };
        ops.iter().map(line).collect::<Vec<_>>().join("\n").replace("/sys/fs/cgroup", "")
    }

    fn limits() -> Limits {
        Limits {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory: 64 << 20,
            memory_and_swap: 64 << 20,
            pids: -1,
            hugepages: vec![("2MB".into(), 0)],
            ..Limits::default()
        }
    }

    #[test]
    fn a_hybrid_machine_counts_as_version_1_and_cpu_comes_last() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        assert_eq!(found.version, Version::V1);
        let dirs: Vec<_> = found.dirs("/a").iter().map(|d| d.display().to_string()).collect();
        assert_eq!(
            dirs,
            ["cpuset", "memory", "systemd", "cpu,cpuacct"]
                .map(|name| format!("/sys/fs/cgroup/{name}/a"))
        );
    }

    #[test]
    fn version_1_makes_the_group_in_every_hierarchy() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        let rule = DeviceRule { kind: 'c', major: Some(1), minor: None, access: "rwm".into() };
        let limits = Limits { devices: Some(vec![rule]), ..limits() };
        assert_eq!(
            text(&found.plan_create("/a/b", &limits)),
            "\
mkdir /cpuset/a
inherit /cpuset/a/cpuset.cpus
inherit /cpuset/a/cpuset.mems
mkdir /cpuset/a/b
inherit /cpuset/a/b/cpuset.cpus
inherit /cpuset/a/b/cpuset.mems
mkdir /memory/a
mkdir /memory/a/b
mkdir /systemd/a
mkdir /systemd/a/b
mkdir /cpu,cpuacct/a
mkdir /cpu,cpuacct/a/b
/cpu,cpuacct/a/b/cpu.shares = 1024
/cpu,cpuacct/a/b/cpu.cfs_period_us = 100000
/cpu,cpuacct/a/b/cpu.cfs_quota_us = 50000
/memory/a/b/memory.limit_in_bytes = 67108864
/memory/a/b/memory.memsw.limit_in_bytes = 67108864
/pids/a/b/pids.max = max
/hugetlb/a/b/hugetlb.2MB.limit_in_bytes = 0"
        );
    }

    #[test]
    fn version_2_hands_controllers_down_and_translates() {
        let found = Hierarchies::parse(UNIFIED).unwrap();
        assert_eq!(found.version, Version::V2);
        let limits = Limits { oom_group: true, ..limits() };
        let planned = text(&found.plan_create("a", &limits));
        let rest = planned.split_once("mkdir /a\n").unwrap();
        assert_eq!(rest.0.lines().count(), V2_CONTROLLERS.len());
        assert!(rest.0.starts_with("/cgroup.subtree_control? = +cpu\n"), "{}", rest.0);
        assert_eq!(
            rest.1,
            "\
/a/cpu.weight = 100
/a/cpu.max = 50000 100000
/a/memory.max = 67108864
/a/memory.swap.max = 0
/a/memory.oom.group = 1
/a/pids.max = max
/a/hugetlb.2MB.max = 0"
        );
        assert_eq!(text(&found.plan_remove("a")), "rmdir /a");
    }

    #[test]
    fn weights_follow_the_agreed_curve() {
        for (shares, weight) in [(0, 0), (2, 1), (102, 17), (1024, 100), (262_144, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
