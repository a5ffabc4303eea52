//! A program under test: started once, told to end once; what it was told is in its record.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::history::History;
use crate::{Options, PATIENCE, PAUSE};

/// A program; it is killed when this is dropped.
pub(crate) struct Program {
    pub(crate) name: String,
    process: Child,
    record: PathBuf,
}

/// Where a program keeps its record.
pub(crate) fn record(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.record"))
}

/// A command with what all of them are given.
pub(crate) fn command(program: &Path, options: &Options, directory: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("PYTHONPATH", &options.python_packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KUBECONFIG", directory.join("data/kubeconfig"))
        .env("RECORD", record(directory, name))
        .env("HOME", directory);
    command
}

impl Program {
    pub(crate) fn start(name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let log = File::create(directory.join(format!("{name}.log")))?;
        let record = record(directory, name);
        File::create(&record)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        Ok(Self { name: name.to_owned(), process, record })
    }

    /// What it has written so far; a last line that is not whole is left out.
    fn lines(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.record)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("{}: {line}", self.name))
            })
            .collect()
    }

    /// Waits until it was told of these objects.
    pub(crate) async fn is_told_of(&mut self, objects: &[History]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let lines = self.lines()?;
            if objects.iter().all(|it| lines.iter().any(|line| line["uid"] == *it.uid)) {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("{} has ended by itself: {status}", self.name);
            }
            ensure!(begun.elapsed() < PATIENCE, "{} is not told of {objects:?}", self.name);
            sleep(PAUSE).await;
        }
    }

    /// Tells it to end; its whole record.
    pub(crate) async fn end(&mut self) -> Result<Vec<Value>> {
        let id = self.process.id().with_context(|| format!("{} has ended by itself", self.name))?;
        let id = Pid::from_raw(i32::try_from(id)?).context("no process")?;
        kill_process(id, Signal::TERM)?;
        let ended = timeout(PATIENCE, self.process.wait()).await;
        ended.with_context(|| format!("{} does not end", self.name))??;
        self.lines()
    }
}
