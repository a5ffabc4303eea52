//! The Kubelith binary: flags become `Options`, checked `Options` become a `Config`, and a `Config` runs.

mod kubeconfig;
mod pki;
mod server;

use clap::{Parser, Subcommand};

/// A complete Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "kubelith", version, propagate_version = true)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster: API server, store, scheduler, controllers and a node, in this process.
    Server(Box<server::Options>),
    /// Print the version of Kubelith and of the Kubernetes API it serves.
    Version,
}

#[allow(clippy::print_stdout, reason = "printing is what the command is for")]
fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Server(options) => server::run(*options),
        Command::Version => {
            println!("kubelith {} (Kubernetes v1.37)", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}
