//! What came up, when, and what to type next: a few lines on standard output.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use owo_colors::OwoColorize as _;
use tokio::time::Instant;

/// Tells how a start goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Startup {
    begun: Instant,
    colours: bool,
}

/// Tells a line. Whoever does not listen any more misses it.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl Startup {
    /// Begins to count, and says what starts.
    pub(crate) fn begin(what: &str) -> Self {
        let colours = std::io::stdout().is_terminal();
        let version = concat!("kubelith ", env!("CARGO_PKG_VERSION"), " (Kubernetes v1.37)");
        if colours {
            tell(&format!("{} {what}", version.bold()));
        } else {
            tell(&format!("{version} {what}"));
        }
        Self { begun: Instant::now(), colours }
    }

    /// Something is up.
    pub(crate) fn up(&self, what: &str, detail: &str) {
        let seconds = self.elapsed().as_secs_f64();
        if self.colours {
            tell(&format!(
                "  {} {:<12} {}",
                format!("{seconds:6.2} s").green(),
                what,
                detail.dimmed()
            ));
        } else {
            tell(&format!("  {seconds:6.2} s {what:<12} {detail}"));
        }
    }

    /// What to type next.
    pub(crate) fn next(&self, line: &str) {
        if self.colours {
            tell(&format!("  {}", line.cyan()));
        } else {
            tell(&format!("  {line}"));
        }
    }

    /// How long it has taken.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}
