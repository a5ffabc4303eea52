//! `cargo xtask test` and `ci`: every check, cheapest first.

#![allow(clippy::print_stdout, reason = "this is a program for people")]
#![allow(clippy::disallowed_types, reason = "the tool itself measures real time")]

use std::time::Instant;

use anyhow::{Context, Result};
use owo_colors::OwoColorize;

use crate::command;
use crate::{Places, broken, clients, corpus, install, replay, simulate, tidy};

/// A check: its name and how it is done.
type Step = (&'static str, fn(&Places) -> Result<()>);

const STEPS: &[Step] = &[
    ("format", |places| command::run("cargo", &["fmt", "--all", "--check"], &places.root)),
    ("tidy", tidy::run),
    ("lints", |places| {
        command::run(
            "cargo",
            &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"],
            &places.root,
        )
    }),
    ("tests", |places| {
        command::run("cargo", &["test", "--quiet", "--workspace", "--no-fail-fast"], &places.root)
    }),
    ("simulation", simulate::run_fixed),
    ("broken manifests", broken::run),
    ("recorded answers", |places| replay::run(places, &replay::Options::default())),
    ("recorded controllers", |places| replay::run(places, &replay::Options::of_controllers())),
    ("recorded kubelet", |places| replay::run(places, &replay::Options::of_node())),
    ("clients through restarts", clients::run_command),
    ("manifest corpus", |places| corpus::run_command(places, &corpus::Options::default())),
];

/// Passes every check, or says which failed.
pub(crate) fn run_steps(places: &Places) -> Result<()> {
    let started = Instant::now();
    for (index, (name, step)) in STEPS.iter().enumerate() {
        println!("{} {name}", format!("[{}/{}]", index + 1, STEPS.len()).bold().cyan());
        let begun = Instant::now();
        step(places).with_context(|| format!("{name} failed"))?;
        println!("      {name}: {} in {:.1} s", "ok".green(), begun.elapsed().as_secs_f64());
    }
    println!("all {} checks passed in {:.0} s", STEPS.len(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Installs what is needed where `install` says so, then passes every check.
pub(crate) fn run(places: &Places, install: bool) -> Result<()> {
    if install {
        println!("{} what the tests need", "[install]".bold().cyan());
        install::all(&places.root)?;
    }
    run_steps(places)
}
