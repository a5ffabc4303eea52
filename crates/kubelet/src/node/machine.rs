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
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            boot_id: fs::read_to_string(boot_id).unwrap_or_default().trim().to_owned(),
            disk_bytes: disk(&config.data_dir).0,
        })
    }

    /// All there is.
    pub(crate) fn capacity(&self, config: &Config) -> Amounts {
        [
            ("cpu", self.cpus * 1000),
            ("memory", self.memory_bytes),
            ("ephemeral-storage", self.disk_bytes),
            ("pods", i64::from(config.max_pods)),
            ("hugepages-1Gi", 0),
            ("hugepages-2Mi", 0),
        ]
        .map(|(name, amount)| (name.to_owned(), amount))
        .into()
    }

    /// What pods may have of it.
    pub(crate) fn allocatable(&self, config: &Config) -> Amounts {
        let mut all = self.capacity(config);
        let mut take = |name: &str, amount: i64| {
            if let Some(have) = all.get_mut(name) {
                *have = (*have - amount).max(0);
            }
        };
        take("memory", config.eviction_memory_bytes);
        take("ephemeral-storage", self.disk_bytes / 100 * i64::from(config.eviction_disk_percent));
        for (name, amount) in &config.reserved {
            take(name, *amount);
        }
        all
    }
}

/// How full the machine is now.
///
/// # Errors
/// When the kernel's files cannot be read.
pub(super) fn usage(config: &Config) -> std::io::Result<Usage> {
    let info = fs::read_to_string(config.proc_dir.join("meminfo"))?;
    let (disk_bytes, disk_available) = disk(&config.data_dir);
    Ok(Usage { memory_available: field(&info, "MemAvailable"), disk_bytes, disk_available })
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

fn disk(dir: &Path) -> (i64, i64) {
    let Ok(it) = rustix::fs::statvfs(dir) else { return (0, 0) };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(it.f_frsize)).unwrap_or(i64::MAX);
    (bytes(it.f_blocks), bytes(it.f_bavail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        let info = "MemTotal:       24684304 kB\nMemAvailable:   100 kB\n";
        assert_eq!(field(info, "MemTotal"), 24_684_304 * 1024);
        assert_eq!(field(info, "MemAvailable"), 102_400);
        assert_eq!(field(info, "SwapTotal"), 0);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }
}
