//! What the process says of itself: the log on standard error.

use std::io::IsTerminal as _;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

/// Flags of the log.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "log")]
#[command(next_help_heading = "Log")]
pub(crate) struct Options {
    /// How much is logged: 0 warnings, 2 what happens, 4 details, 6 everything
    #[arg(short, long = "v", default_value_t = 2, value_name = "LEVEL")]
    verbosity: u8,
    /// The form of the log
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

impl Options {
    /// Starts the log, which begins with these warnings; once in a process.
    pub(crate) fn start(&self, warnings: &[String]) -> Result<()> {
        let ours = match self.verbosity {
            0 | 1 => "warn",
            2 | 3 => "info",
            4 | 5 => "debug",
            _ => "trace",
        };
        let others = if self.verbosity >= 6 { "debug" } else { "warn" };
        let members = [
            "kubelith",
            "admission",
            "apiserver",
            "auth",
            "client",
            "controller",
            "controllers",
            "dns",
            "kubelet",
            "network",
            "proxy",
            "runtime",
            "scheduler",
            "storage",
            "storage_embedded",
        ];
        let mut filter = others.to_owned();
        for member in members {
            filter.push_str(&format!(",{member}={ours}"));
        }
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new(filter)?)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        match self.log_format {
            Format::Text => log.init(),
            Format::Json => log.json().init(),
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(())
    }
}
