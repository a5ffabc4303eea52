//! The manifest corpus on a real cluster: the binary, kubectl, containers, in network namespaces of its own.
//!
//! One document or one use of kubectl is one test, a function in `documents`. Tests run side by side, each in a
//! namespace of its own; those that change the node run alone, at the end. `cargo xtask corpus` starts this.

#![allow(clippy::print_stdout, reason = "this is a program for people")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it waits for real processes and has no engine"
)]

mod case;
mod cluster;
mod documents;
mod kubectl;
mod lab;
mod process;
mod recorded;
mod runner;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// Runs the manifest corpus.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The binary under test
    #[arg(long, value_name = "FILE")]
    kubelith: PathBuf,
    /// The real kubectl
    #[arg(long, value_name = "FILE")]
    kubectl: PathBuf,
    /// Where older kubectls and Helm are
    #[arg(long, value_name = "DIR")]
    clients: PathBuf,
    /// The manifests
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// What the registry of images serves
    #[arg(long, value_name = "DIR")]
    registry_root: PathBuf,
    /// The program in the test images
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// Only tests whose name contains this (repeatable)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// How many run at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    jobs: usize,
    #[command(flatten)]
    recorded: recorded::Options,
    /// Leave the cluster standing until a line is read, and say how to reach it
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all tests passed.
fn run(options: &Options) -> Result<bool> {
    let chosen = runner::choose(documents::all(), &options.only)?;
    let lab = lab::Lab::build().context("could not build the network of the tests")?;
    let started = cluster::Cluster::start(options, &lab).context("could not start the cluster");
    let passed = match &started {
        Err(_) => false,
        Ok(_) if options.recorded.are_given() => {
            recorded::play(&options.recorded, &lab, options.jobs)?;
            true
        }
        Ok(cluster) => runner::run(cluster, &chosen, options.jobs),
    };
    if options.hold {
        lab.tell_how_to_reach(&options.kubectl);
        std::io::stdin().read_line(&mut String::new())?;
    }
    if !passed {
        lab.keep_logs()?;
    }
    started.map(|_| passed)
}
