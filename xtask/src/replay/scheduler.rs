//! Recorded decisions of upstream's scheduler, played by the test that plays them: `crates/scheduler/tests/it/replay.rs`.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::Places;
use crate::command::program;

/// The test, and where it finds the file.
const TEST: &str = "replay::recorded_decisions_are_repeated";
const FILE: &str = "KUBELITH_SCHEDULER_DECISIONS";
/// The last line that it prints of its own ends so.
const RIGHT: &str = " right";
/// Of a hundred decisions so many are to be right.
const SHARE: u64 = 98;

/// Plays a file of decisions, and ends with how many of how many are right.
///
/// # Errors
/// When the file cannot be played, or too few are right.
pub(super) fn run(places: &Places, file: &Path) -> Result<()> {
    let file = std::path::absolute(file)?;
    let arguments = [
        "test",
        "--quiet",
        "-p",
        "scheduler",
        "--test",
        "it",
        TEST,
        "--",
        "--exact",
        "--nocapture",
    ];
    let output = program("cargo", &arguments, &places.root)
        .env(FILE, &file)
        .stderr(Stdio::inherit())
        .output()
        .context("could not start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut told = text.lines().filter(|it| !it.is_empty() && !it.starts_with("running "));
    for line in told.by_ref() {
        println!("{line}");
        if let Some((right, all)) = line.strip_suffix(RIGHT).and_then(|it| it.split_once('/')) {
            let (right, all): (u64, u64) = (right.parse()?, all.parse()?);
            if right * 100 < all * SHARE {
                bail!("fewer than {SHARE} of a hundred decisions are right");
            }
            return Ok(());
        }
    }
    bail!("{} could not be played: {}", file.display(), output.status);
}
