//! The recorded kubelet: pods that upstream ran, played to our node by the player that came with the recordings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cluster::{ADMIN_TOKEN, NODES};
use crate::lab::Lab;
use crate::process::finish;

/// What is played, and by what.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "recorded")]
pub(crate) struct Options {
    /// Play these recordings instead of running the tests
    #[arg(long, value_name = "FILE", requires = "player", requires = "recorded_image")]
    recordings: Option<PathBuf>,
    /// The program that plays them
    #[arg(long, value_name = "FILE")]
    player: Option<PathBuf>,
    /// The image that the recorded pods ran
    #[arg(long, value_name = "FILE")]
    recorded_image: Option<PathBuf>,
    /// Only recordings whose names begin so
    #[arg(long, default_value = "", value_name = "PREFIX")]
    recording: String,
    /// Show everything that is wrong of each recording
    #[arg(long)]
    show: bool,
}

impl Options {
    /// Whether recordings are played.
    pub(crate) fn are_given(&self) -> bool {
        self.recordings.is_some()
    }

    /// An image that the node has before anything is pulled.
    pub(crate) fn image(&self) -> Option<&Path> {
        self.recorded_image.as_deref()
    }
}

/// Plays; what the player printed is printed.
pub(crate) fn play(options: &Options, lab: &Lab, jobs: usize) -> Result<()> {
    let scenarios = options.recordings.as_ref().context("there are recordings")?;
    let player = options.player.as_ref().context("there is a player")?;
    let address = lab.machines().first().map_or("", |it| it.address.as_str());
    let mut python = lab.outside(Path::new("python3"));
    python
        .arg(player)
        .arg(format!("--server=https://{address}:6443"))
        .args(["--token", ADMIN_TOKEN, "--check", "--node", NODES[0]])
        .arg(format!("--jobs={jobs}"))
        .arg(format!("--only={}", options.recording))
        .arg("--scenarios")
        .arg(scenarios);
    if options.show {
        python.arg("--show");
    }
    // It exits with failure as long as anything is wrong: what it prints is what counts.
    let output = finish(&mut python)?;
    let printed = String::from_utf8_lossy(&output.stdout);
    print!("{printed}");
    ensure!(
        printed.trim_end().ends_with(" right"),
        "the player did not end: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
