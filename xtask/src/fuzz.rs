//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, one after the other, each for the same time (`docs/fuzzing.md`).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program for people")]

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{Places, command};

/// Flags of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 1, value_name = "N")]
    minutes: u64,
    /// Which targets; all without
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Runs the targets. One that finds something ends at its find, and the others run all the same.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    let folder = places.root.join("fuzz");
    let all = targets(&folder)?;
    if let Some(unknown) = options.targets.iter().find(|it| !all.contains(it)) {
        bail!("there is no fuzz target {unknown}: one of {}", all.join(" "));
    }
    let chosen = if options.targets.is_empty() { &all } else { &options.targets };
    let seconds = (options.minutes * 60).to_string();
    // The script stands in its own folder.
    let reference = std::path::absolute(&places.reference)?.display().to_string();
    let mut found = Vec::new();
    for target in chosen {
        println!("== {target}");
        let environment = format!("REFERENCE={reference}");
        let arguments = [&environment, "./run", target, &seconds];
        if let Err(error) = command::run("env", &arguments, &folder) {
            eprintln!("{error:#}");
            found.push(target.as_str());
        }
    }
    if !found.is_empty() {
        bail!("found something, or could not run: {}; see fuzz/artifacts", found.join(" "));
    }
    Ok(())
}

/// The targets there are, sorted.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.join("fuzz_targets");
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("could not read {}", folder.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        targets.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    targets.sort();
    Ok(targets)
}
