//! The Kubelith binary: flags become `Options`, checked `Options` become a `Config`, and a `Config` runs.

mod access;
mod agent;
mod at_rest;
mod audit_log;
mod control;
mod control_plane;
mod controller_manager;
mod data_dir;
mod datastore;
mod elections;
mod etcd;
mod explain;
mod files;
mod flags;
mod gates;
mod http;
mod image;
mod join;
mod kube_apiserver;
mod kubeconfig;
mod leading;
mod log;
mod memory;
mod metrics_adapter;
mod node;
mod operating;
mod pki;
mod presenting;
mod reach;
mod renew;
mod scheduler;
mod server;
mod serving;
mod sni;
mod startup;
mod tls;
mod uninstall;
mod upstream;
mod what_if;
mod why;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

/// The version of the API that is served, and of this program.
const VERSION: &str = concat!("v1.37.1+kubelith", env!("CARGO_PKG_VERSION"));

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
    /// Run a node: its agent, container runtime and pod network.
    Agent(Box<agent::Options>),
    /// Run an API server alone, in place of upstream's; also by this name as that of the program.
    #[command(name = "kube-apiserver", args_override_self = true)]
    ApiServer(Box<kube_apiserver::Options>),
    /// Run a scheduler alone, for an API server elsewhere; also by this name as that of the program.
    #[command(name = "kube-scheduler", args_override_self = true)]
    Scheduler(Box<scheduler::Options>),
    /// Run the controllers alone, for an API server elsewhere; also by this name as that of the program.
    #[command(name = "kube-controller-manager", args_override_self = true)]
    ControllerManager(Box<controller_manager::Options>),
    /// Import, list and remove the node's images.
    Image(image::Options),
    /// Copy all objects into one file, and put them back.
    Datastore(datastore::Options),
    /// Say why an object is as it is: a pod that waits, a namespace that stays, a rollout that does not move
    Why(why::Options),
    /// Say what would happen if nodes were drained or lost, or a manifest applied
    WhatIf(what_if::Options),
    /// Print the administrator's kubeconfig of the server on this machine.
    Kubeconfig {
        /// The server's data directory
        #[arg(long, default_value = node::options::DATA_DIR, value_name = "DIR", value_parser = crate::data_dir::place)]
        data_dir: std::path::PathBuf,
    },
    /// Take back everything from this machine: containers, networks, mounts and data.
    Uninstall(uninstall::Options),
    /// Print the version of Kubelith and of the Kubernetes API it serves.
    Version,
}

#[allow(clippy::print_stderr, reason = "complaining is what standard error is for")]
fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "printing is what the command is for")]
fn run() -> anyhow::Result<()> {
    // The zygote is started by the agent and has no other thread: not a command for people.
    if std::env::args_os().nth(1).is_some_and(|it| it == node::ZYGOTE) {
        return Ok(runtime::zygote::main(std::env::args_os())?);
    }
    let arguments = std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect();
    let arguments = flags::by_name(arguments);
    let alone = arguments.get(1).and_then(|it| upstream::TABLES.iter().find(|t| t.program == it));
    let mut given = upstream::Given::of(alone.unwrap_or(&upstream::TABLES[0]));
    let (arguments, told) = if alone.is_some() {
        if !given.read(&arguments[2..])? {
            println!("Kubernetes {VERSION}");
            return Ok(());
        }
        let own = arguments[..2].iter().cloned().chain(given.arguments());
        (own.collect(), given.warnings()?)
    } else {
        flags::expand(arguments, &Options::command())?
    };
    match Options::parse_from(arguments).command {
        Command::ApiServer(options) => kube_apiserver::run(*options, (&given, &told)),
        Command::Server(options) => server::run(*options, &told),
        Command::Agent(options) => agent::run(*options, &told),
        Command::Scheduler(options) => scheduler::run(*options, (&given, &told)),
        Command::ControllerManager(options) => controller_manager::run(*options, (&given, &told)),
        Command::Image(options) => image::run(&options),
        Command::Datastore(options) => datastore::run(&options),
        Command::Why(options) => why::run(&options),
        Command::WhatIf(options) => what_if::run(&options),
        Command::Kubeconfig { data_dir } => {
            let path = data_dir.join("kubeconfig");
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("could not read {}: has a server run there?", path.display())
            })?;
            print!("{text}");
            Ok(())
        }
        Command::Uninstall(options) => uninstall::run(&options),
        Command::Version => {
            println!("kubelith {} (Kubernetes v1.37)", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_fit_together() {
        super::Options::command().debug_assert();
    }
}
