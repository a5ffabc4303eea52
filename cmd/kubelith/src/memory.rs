//! The allocator, memory given back to the system (`docs/adr/0011-jemalloc.md`), and how much of it a server may have.

use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result};
use apimachinery::quantity::Quantity;
use apiserver::MemoryBudget;
use apiserver::memory::LOOK_EVERY_MS;
use sys::cgroup::Hierarchies;
use tikv_jemalloc_ctl::{Access as _, AsName as _, Mib};

/// Writes take a third less time than with the system's allocator, which locks where many threads free what others took.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The least budget, in bytes: an empty server has as much.
const LEAST_BYTES: u64 = 64 << 20;
/// The part of a control group's limit that is a server's budget where nobody says, in hundredths: buffers of the kernel and
/// files in memory count there too.
const GROUP_PERCENT: u64 = 80;
/// How long the allocator keeps what is free where there is a budget, in milliseconds (its own: 10 s).
const KEPT_MS: isize = 1_000;
/// How many looks apart it is made to give back all of it while the server is short of memory.
const GIVE_BACK_EVERY: u64 = 5;

/// How much memory a server may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Budget {
    /// As much as there is.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}

impl std::str::FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let quantity = Quantity::parse(text).map_err(|error| error.to_string())?;
        match u64::try_from(quantity.value()) {
            Ok(0) => Ok(Self::Unlimited),
            Ok(bytes) if bytes >= LEAST_BYTES => Ok(Self::Bytes(bytes)),
            _ => Err("it is 64Mi at least, or 0 for none".into()),
        }
    }
}

impl Budget {
    /// The budget that was asked for, or what follows from the limit of the process' control group.
    pub(crate) fn or_of_group(asked: Option<Self>) -> Option<u64> {
        match asked {
            Some(Self::Unlimited) => None,
            Some(Self::Bytes(bytes)) => Some(bytes),
            None => of_group(group_limit()?),
        }
    }
}

fn of_group(limit: u64) -> Option<u64> {
    Some(limit / 100 * GROUP_PERCENT).filter(|it| *it >= LEAST_BYTES)
}

/// The least limit of the groups that this process is in, in bytes.
fn group_limit() -> Option<u64> {
    let hierarchies = Hierarchies::detect().ok()?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group_of(&groups)?;
    // Where only a part of the hierarchy is mounted, the longer paths are not there, and the last one is.
    let above = std::path::Path::new(path).ancestors();
    above.filter_map(|it| hierarchies.stats(it.to_str()?).memory.limit).min()
}

/// The group that a process has its memory in: of `/proc/PID/cgroup`.
fn group_of(groups: &str) -> Option<&str> {
    let lines = groups.lines().filter_map(|line| {
        let (_, line) = line.split_once(':')?;
        line.split_once(':')
    });
    let mut lines: Vec<(&str, &str)> = lines.collect();
    // Version 2 names no controllers.
    lines.retain(|(names, _)| names.is_empty() || names.split(',').any(|it| it == "memory"));
    lines.sort_by_key(|(names, _)| names.is_empty());
    lines.first().map(|(_, path)| *path)
}

/// Lets a thread of the allocator give back what is free, so that a server at rest is as small as what it holds.
///
/// For processes that live long and have threads anyway; never before a fork.
pub(crate) fn give_back() {
    // Without it memory goes back a little later, with the next allocations.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "the allocator has no thread of its own");
    }
}

/// Tells a budget how much memory the process has, as long as anybody has the budget. A thread of its own: the others may all be
/// at work for longer than that should take.
///
/// # Errors
/// When it cannot be known how much there is, or there is no thread.
pub(crate) fn watch_over(budget: &Arc<MemoryBudget>) -> Result<()> {
    budget.saw(resident().context("could not read how much memory the process has")?);
    tracing::info!(bytes = budget.limit(), "work beyond the memory budget is refused");
    keep(KEPT_MS);
    let budget = Arc::downgrade(budget);
    let thread = std::thread::Builder::new().name("memory-budget".into());
    thread.spawn(move || look(&budget)).context("could not start a thread")?;
    Ok(())
}

fn look(budget: &Weak<MemoryBudget>) {
    let mut looks = 0_u64;
    while let Some(budget) = budget.upgrade() {
        if let Ok(resident) = resident() {
            budget.saw(resident);
        }
        looks += 1;
        if budget.is_pressed() && looks.is_multiple_of(GIVE_BACK_EVERY) {
            keep(0);
            keep(KEPT_MS);
        }
        drop(budget);
        std::thread::park_timeout(Duration::from_millis(LOOK_EVERY_MS));
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).context("it has no second number")?;
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}

/// Says how long the allocator keeps what is free; what it has kept for longer goes back at once.
fn keep(millis: isize) {
    let set = || {
        b"arenas.dirty_decay_ms\0".name().write(millis)?;
        let mut arena: Mib<[usize; 3]> = b"arena.0.dirty_decay_ms\0".name().mib()?;
        for number in 0..tikv_jemalloc_ctl::arenas::narenas::read()? {
            arena[1] = number as usize;
            // Those that were never used have nothing to be told.
            let _ = arena.write(millis);
        }
        Ok::<_, tikv_jemalloc_ctl::Error>(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "the allocator does not give back what is free");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_quantity() {
        for (text, expected) in [
            ("512Mi", Ok(Budget::Bytes(512 << 20))),
            ("1G", Ok(Budget::Bytes(1_000_000_000))),
            ("0", Ok(Budget::Unlimited)),
            ("1Mi", Err("it is 64Mi at least, or 0 for none".to_owned())),
            ("-1Gi", Err("it is 64Mi at least, or 0 for none".to_owned())),
        ] {
            assert_eq!(text.parse::<Budget>(), expected, "{text}");
        }
        assert!("much".parse::<Budget>().is_err());
        assert_eq!(Budget::or_of_group(Some(Budget::Unlimited)), None);
        assert_eq!(of_group(1_000 << 20), Some(800 << 20));
        assert_eq!(of_group(70 << 20), None, "an empty server has more");
    }

    #[test]
    fn the_group_is_that_of_memory() {
        let first = "9:name=systemd:/a\n4:cpu,memory:/b/c\n0::/d\n";
        assert_eq!(group_of(first), Some("/b/c"));
        assert_eq!(group_of("0::/d/e\n"), Some("/d/e"));
        assert_eq!(group_of(""), None);
    }

    #[test]
    fn what_the_process_has_is_known_and_what_is_free_is_given_back() {
        let kept = vec![1_u8; 64 << 20];
        let before = resident().unwrap();
        assert!(before > 64 << 20);
        drop(kept);
        keep(0);
        assert!(resident().unwrap() < before - (32 << 20));
    }
}
