//! What the machine is, read once; and how full it is, read when asked.

use std::fs;
use std::path::Path;

use crate::config::Config;
use crate::resources::Amounts;

/// The machine under a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) swap_bytes: i64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) disk_bytes: i64,
    /// Whether the kernel has AppArmor.
    pub(crate) has_apparmor: bool,
    /// Whether the kernel has SELinux; without it, options for it mean nothing, here as upstream.
    pub(crate) has_selinux: bool,
    /// Reserved large pages: bytes in all, by resource.
    pub(crate) hugepages: Amounts,
}

/// How full a machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) memory_available: i64,
    pub(crate) disk_bytes: i64,
    pub(crate) disk_available: i64,
}

impl Machine {
    /// Reads it.
    ///
    /// # Errors
    /// When the kernel's files cannot be read.
    pub(crate) fn read(config: &Config) -> std::io::Result<Self> {
        let info = fs::read_to_string(config.proc_dir.join("meminfo"))?;
        let cpus = fs::read_to_string(config.proc_dir.join("cpuinfo"))?;
        let cpus = cpus.lines().filter(|it| it.starts_with("processor")).count().max(1);
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let boot_id = config.proc_dir.join("sys/kernel/random/boot_id");
        Ok(Self {
            cpus: i64::try_from(cpus).unwrap_or(1),
            memory_bytes: field(&info, "MemTotal"),
            swap_bytes: field(&info, "SwapTotal"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: os_image(&text("/etc/os-release")),
            machine_id: text("/etc/machine-id"),
            system_uuid: [text("/sys/class/dmi/id/product_uuid"), text("/etc/machine-id")]
                .into_iter()
                .find(|it| !it.is_empty())
                .unwrap_or_default(),
            boot_id: fs::read_to_string(boot_id).unwrap_or_default().trim().to_owned(),
            disk_bytes: disk_of(&config.data_dir).bytes,
            has_apparmor: text("/sys/module/apparmor/parameters/enabled") == "Y",
            has_selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
        })
    }

    /// All there is.
    pub(crate) fn capacity(&self, config: &Config) -> Amounts {
        let mut all: Amounts = [
            ("cpu", self.cpus * 1000),
            ("memory", self.memory_bytes),
            ("ephemeral-storage", self.disk_bytes),
            ("pods", i64::from(config.max_pods)),
        ]
        .map(|(name, amount)| (name.to_owned(), amount))
        .into();
        all.extend(self.hugepages.clone());
        all
    }

    /// What pods may have of it.
    pub(crate) fn allocatable(&self, config: &Config) -> Amounts {
        let mut all = self.capacity(config);
        let mut take = |name: &str, amount: i64| {
            if let Some(have) = all.get_mut(name) {
                *have = (*have - amount).max(0);
            }
        };
        take("memory", config.eviction_memory_bytes + self.hugepages.values().sum::<i64>());
        take("ephemeral-storage", self.disk_bytes / 100 * i64::from(config.eviction_disk_percent));
        for (name, amount) in &config.reserved {
            take(name, *amount);
        }
        all
    }
}

/// The sizes of pages that the kernel offers, in `hugepages-SIZEkB`.
fn hugepages(dir: &Path) -> Amounts {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok()?;
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        let bytes = kib.checked_mul(1024)?;
        let size = crate::resources::quantity("memory", bytes).0;
        Some((format!("hugepages-{size}"), count.trim().parse::<i64>().ok()?.checked_mul(bytes)?))
    });
    sizes.collect()
}

/// How full the machine is now.
///
/// # Errors
/// When the kernel's files cannot be read.
pub(super) fn usage(config: &Config) -> std::io::Result<Usage> {
    let info = fs::read_to_string(config.proc_dir.join("meminfo"))?;
    let disk = disk_of(&config.data_dir);
    let memory_available = field(&info, "MemAvailable");
    Ok(Usage { memory_available, disk_bytes: disk.bytes, disk_available: disk.available })
}

fn field(meminfo: &str, name: &str) -> i64 {
    let line = meminfo.lines().find(|it| it.split(':').next() == Some(name));
    let number =
        line.and_then(|it| it.split_whitespace().nth(1)).and_then(|it| it.parse::<i64>().ok());
    number.unwrap_or_default() * 1024
}

fn os_image(release: &str) -> String {
    let line = release.lines().find_map(|it| it.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |it| it.trim_matches('"').to_owned())
}

/// A file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) bytes: i64,
    /// Free, though a part of it may be the system's only.
    pub(crate) free: i64,
    /// Free for everybody.
    pub(crate) available: i64,
    pub(crate) inodes: i64,
    pub(crate) inodes_free: i64,
}

/// The file system that `dir` is on; an empty one if nobody knows.
pub(crate) fn disk_of(dir: &Path) -> Disk {
    let Ok(it) = rustix::fs::statvfs(dir) else { return Disk::default() };
    let number = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
    let bytes = |blocks: u64| number(blocks.saturating_mul(it.f_frsize));
    Disk {
        bytes: bytes(it.f_blocks),
        free: bytes(it.f_bfree),
        available: bytes(it.f_bavail),
        inodes: number(it.f_files),
        inodes_free: number(it.f_ffree),
    }
}

/// How many processes and threads the machine may have, and how many it has.
pub(crate) fn processes(proc_dir: &Path) -> (i64, i64) {
    let read = |path: &str| fs::read_to_string(proc_dir.join(path)).unwrap_or_default();
    let most = read("sys/kernel/pid_max").trim().parse().unwrap_or_default();
    // `0.20 0.18 0.12 1/80 11206`: running and all of them.
    let load = read("loadavg");
    let all = load.split_whitespace().nth(3).and_then(|it| it.split_once('/'));
    (most, all.and_then(|it| it.1.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pages_are_counted_by_size() {
        let dir = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-2048kB", "3"), ("hugepages-1048576kB", "0"), ("x", "1")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("nr_hugepages"), format!("{count}\n")).unwrap();
        }
        let expected =
            [("hugepages-1Gi".to_owned(), 0), ("hugepages-2Mi".to_owned(), 6 << 20)].into();
        assert_eq!(hugepages(dir.path()), expected);
    }

    #[test]
    fn the_kernels_files_are_understood() {
        let info = "MemTotal:       24684304 kB\nMemAvailable:   100 kB\n";
        assert_eq!(field(info, "MemTotal"), 24_684_304 * 1024);
        assert_eq!(field(info, "MemAvailable"), 102_400);
        assert_eq!(field(info, "SwapTotal"), 0);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }
}
