//! What came up, when, and what to type next: a few lines on standard output.

use std::io::IsTerminal as _;
use std::time::Duration;

use owo_colors::OwoColorize as _;
use tokio::time::Instant;

/// Tells how a start goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Startup {
    begun: Instant,
    colours: bool,
}

#[allow(clippy::print_stdout, reason = "telling people is what this is for")]
impl Startup {
    /// Begins to count, and says what starts.
    pub(crate) fn begin(what: &str) -> Self {
        let colours = std::io::stdout().is_terminal();
        let version = concat!("kubelith ", env!("CARGO_PKG_VERSION"), " (Kubernetes v1.37)");
        if colours {
            println!("{} {what}", version.bold());
        } else {
            println!("{version} {what}");
        }
        Self { begun: Instant::now(), colours }
    }

    /// Something is up.
    pub(crate) fn up(&self, what: &str, detail: &str) {
        let seconds = self.elapsed().as_secs_f64();
        if self.colours {
            println!("  {} {:<12} {}", format!("{seconds:6.2} s").green(), what, detail.dimmed());
        } else {
            println!("  {seconds:6.2} s {what:<12} {detail}");
        }
    }

    /// What to type next.
    pub(crate) fn next(&self, line: &str) {
        if self.colours {
            println!("  {}", line.cyan());
        } else {
            println!("  {line}");
        }
    }

    /// How long it has taken.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}
