//! The project's own tools. `cargo xtask --help` lists them.

mod codegen;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Options {
    /// The tables and recordings the project is tested against.
    #[arg(long, global = true, default_value = "../shared/reference")]
    reference: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the generated files anew from the tables of facts.
    Codegen,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the project")?;
    let reference = root.join(&options.reference);
    match options.command {
        Command::Codegen => codegen::run(root, &reference),
    }
}
