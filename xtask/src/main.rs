//! The project's own tools. `cargo xtask --help` lists them.

mod bench;
mod broken;
mod clients;
mod codegen;
mod command;
mod corpus;
mod fuzz;
mod images;
mod install;
mod metrics;
mod replay;
mod simulate;
mod test;
mod tidy;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Kubelith's own tools.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Options {
    /// The tables and recordings the project is tested against
    #[arg(long, global = true, default_value = "../shared/reference", value_name = "DIR")]
    reference: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the tests need, then pass all of them: what CI runs
    Test,
    /// The same, without installing anything
    Ci,
    /// Measure a server in a network of its own, and write docs/benchmarks.md
    Bench(bench::Options),
    /// Check what no compiler checks: arrows between crates, sizes, generated files, lints
    Tidy,
    /// Make the generated files anew from the tables of facts
    Codegen,
    /// Make the images that the documents under test name, and a registry of them
    Images(images::Options),
    /// Apply the manifest corpus to a real cluster with the real kubectl
    Corpus(corpus::Options),
    /// Send the broken manifests, with kubectl and as they are, and compare what is said of them
    Broken,
    /// Take clients in other languages through restarts of the server
    Clients,
    /// Play upstream's recorded answers to a fresh server and compare
    Replay(replay::Options),
    /// Run fuzz targets one after the other
    Fuzz(fuzz::Options),
    /// Run a whole cluster on virtual time under faults, from a seed, and check what must hold
    Sim(simulate::Options),
}

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The project.
    pub(crate) root: PathBuf,
    /// The tables and recordings beside it.
    pub(crate) reference: PathBuf,
    /// Whether everything is built anyway, the tests too. Then programs are built with all of it, since alone they may have
    /// fewer features, and half of the workspace would be built twice.
    pub(crate) whole: bool,
}

impl Places {
    /// Whether the tables and recordings are at hand. Where they are not, what needs them says so and is skipped.
    pub(crate) fn has_reference(&self) -> bool {
        self.reference.join("README.md").exists()
    }

    /// Builds the programs of these packages, not optimised.
    pub(crate) fn build(&self, packages: &[&str]) -> Result<()> {
        let mut arguments = vec!["build", "--quiet"];
        if self.whole {
            arguments.extend(["--workspace", "--bins", "--tests"]);
        } else {
            arguments.extend(packages.iter().flat_map(|it| ["--package", it]));
        }
        command::run("cargo", &arguments, &self.root)
    }

    /// Where cargo puts programs that are not optimised.
    pub(crate) fn built(&self) -> PathBuf {
        #[allow(clippy::disallowed_methods, reason = "cargo's own environment")]
        let target = std::env::var("CARGO_TARGET_DIR").map(PathBuf::from);
        target.map_or_else(|_| self.root.join("target"), |it| self.root.join(it)).join("debug")
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the project")?
        .to_owned();
    let whole = matches!(options.command, Command::Test | Command::Ci);
    let places = Places { reference: root.join(&options.reference), root, whole };
    match options.command {
        Command::Test => test::run(&places, true),
        Command::Ci => test::run(&places, false),
        Command::Bench(options) => bench::run(&places, &options),
        Command::Tidy => tidy::run(&places),
        Command::Codegen => codegen::run(&places.root, &places.reference),
        Command::Images(options) => images::run_command(&places, &options),
        Command::Corpus(options) => corpus::run_command(&places, &options),
        Command::Clients => clients::run_command(&places),
        Command::Broken => broken::run(&places),
        Command::Replay(options) => replay::run(&places, &options),
        Command::Fuzz(options) => fuzz::run(&places, &options),
        Command::Sim(options) => simulate::run(&places, &options),
    }
}
