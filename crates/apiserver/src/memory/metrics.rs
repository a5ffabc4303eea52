//! What is told of the budget in `/metrics`.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::{Kind, MemoryBudget};

/// The budget, what is there of it, and what was refused for it; nothing where there is none.
pub(crate) fn text(budget: Option<&MemoryBudget>, out: &mut String) {
    let Some(budget) = budget else { return };
    let now = [
        ("limit_bytes", "The memory budget", budget.limit),
        (
            "resident_bytes",
            "Resident memory when it was last looked at",
            budget.resident.load(Ordering::Relaxed),
        ),
        (
            "charged_bytes",
            "What requests in flight may yet take",
            budget.charged.load(Ordering::Relaxed),
        ),
        (
            "held_bytes",
            "Bodies of requests, and parts of answers that are not sent yet",
            budget.held.load(Ordering::Relaxed),
        ),
        (
            "pressed",
            "Whether requests are refused for want of memory",
            u64::from(budget.is_pressed()),
        ),
    ];
    for (name, help, value) in now {
        let name = format!("apiserver_memory_{name}");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    let name = "apiserver_memory_refused_requests_total";
    let _ =
        writeln!(out, "# HELP {name} Requests refused for want of memory\n# TYPE {name} counter");
    for kind in Kind::ALL {
        let count = budget.refused[kind as usize].load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}{{kind=\"{}\"}} {count}", kind.name());
    }
}
