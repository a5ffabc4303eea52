//! Metrics as Prometheus reads them: the text form, and what is told of every process.
//!
//! There is no global registry: each component registers what it counts with the one it is given.

mod histogram;
pub mod rest_client;
mod summary;

pub use histogram::Histogram;
pub use rest_client::RestClient;
pub use summary::Summary;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

/// The media type of the text form.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many ticks of the kernel's process times make a second. The same on all of Linux's architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// Upstream's counters whose names do not say that they are.
const PLAIN_COUNTERS: [&str; 5] = [
    "authenticated_user_requests",
    "authentication_attempts",
    "attach_detach_controller_attachdetach_controller_forced_detaches",
    "endpoint_slice_controller_changes",
    "endpoint_slice_controller_syncs",
];
/// The one that ends in `_count` and says so nevertheless.
const COUNTED: &str = "aggregator_discovery_aggregation_count";

/// What a registry holds, in the text form 0.0.4, which differs from OpenMetrics in how counters are named.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut open = String::new();
    if encode_registry(&mut open, registry).is_err() {
        // A string takes what it is given.
        open.clear();
    }
    let mut out = String::with_capacity(open.len() + 64);
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        // The type follows the help of the same metric.
        let kind = if line.starts_with("# HELP ") { lines.peek().copied() } else { Some(line) };
        let counter = line.starts_with("# ")
            && kind.is_some_and(|it| it.starts_with("# TYPE ") && it.ends_with(" counter"));
        match line.splitn(4, ' ').collect::<Vec<_>>().as_slice() {
            ["#", what, name, rest]
                if counter
                    && !name.ends_with("_total")
                    && (!name.ends_with("_count") || *name == COUNTED)
                    && !PLAIN_COUNTERS.contains(name) =>
            {
                out.push_str(&format!("# {what} {name}_total {rest}"));
            }
            // Some of upstream's counters are called so.
            _ if !line.starts_with('#')
                && line.contains("_count_total")
                && !line.starts_with(COUNTED) =>
            {
                out.push_str(&line.replacen("_count_total", "_count", 1));
            }
            _ => match PLAIN_COUNTERS.iter().find(|it| line.starts_with(**it)) {
                Some(name) => out.push_str(&line.replacen(&format!("{name}_total"), name, 1)),
                None => out.push_str(line),
            },
        }
        out.push('\n');
    }
    out
}

/// What the kernel says of this process, in upstream's names. What cannot be read is left out.
#[must_use]
pub fn process() -> String {
    let mut out = String::new();
    let mut sample = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |place: usize| stat_field(&stat, place).map(|it| it / TICKS_PER_SECOND);
    let cpu = ticks(14).zip(ticks(15)).map(|(user, system)| user + system);
    sample("process_cpu_seconds_total", "counter", "Processor time spent, in seconds.", cpu);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| status_kilobytes(&status, name).map(|it| it * 1024.0);
    let resident = bytes("VmRSS:");
    sample("process_resident_memory_bytes", "gauge", "Memory in use, in bytes.", resident);
    let size = bytes("VmSize:");
    sample("process_virtual_memory_bytes", "gauge", "Address space in use, in bytes.", size);
    #[allow(clippy::cast_precision_loss, reason = "a process has few files")]
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|it| it.count() as f64);
    sample("process_open_fds", "gauge", "Open file descriptors.", open);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    sample("process_max_fds", "gauge", "File descriptors allowed.", max_files(&limits));
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|it| it.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let start = boot.zip(ticks(22)).map(|(boot, since)| boot + since);
    let help = "When the process began, in seconds since the epoch.";
    sample("process_start_time_seconds", "gauge", help, start);
    out
}

/// A field of `/proc/self/stat` by its number in the manual. The second one, in parentheses, may hold blanks.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn status_kilobytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn max_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn counters_are_named_as_the_text_form_names_them() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("requests", "How many", counter.clone());
        registry.register("depth", "How deep", Gauge::<i64>::default());
        registry.register("authentication_attempts", "Tries", Counter::<u64>::default());
        for name in ["fail_open_count", COUNTED] {
            registry.register(name, "Fails", Counter::<u64>::default());
        }
        counter.inc_by(3);
        assert_eq!(
            text(&registry),
            "# HELP requests_total How many.\n# TYPE requests_total counter\nrequests_total 3\n\
             # HELP depth How deep.\n# TYPE depth gauge\ndepth 0\n\
             # HELP authentication_attempts Tries.\n# TYPE authentication_attempts counter\n\
             authentication_attempts 0\n\
             # HELP fail_open_count Fails.\n# TYPE fail_open_count counter\nfail_open_count 0\n\
             # HELP aggregator_discovery_aggregation_count_total Fails.\n\
             # TYPE aggregator_discovery_aggregation_count_total counter\n\
             aggregator_discovery_aggregation_count_total 0\n"
        );
    }

    #[test]
    fn the_kernel_is_understood() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 4200 0 0";
        assert_eq!(stat_field(stat, 14), Some(250.0));
        assert_eq!(stat_field(stat, 22), Some(4200.0));
        assert_eq!(stat_field("", 14), None);
        assert_eq!(status_kilobytes("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12.0));
        assert_eq!(max_files("Max open files            1024    4096    files\n"), Some(1024.0));
        assert!(process().contains("\nprocess_resident_memory_bytes "));
    }
}
