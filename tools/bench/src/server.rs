//! A server under test: started on a directory of its own, asked for its memory, stopped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::load::{Ask, Clients};

const TOKEN: &str = "bench-token";
/// How long a server may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether it is: what a start takes is known this exactly.
const LOOK: Duration = Duration::from_millis(5);

/// A running server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) clients: Clients,
    /// From its start until `/readyz` said yes.
    pub(crate) ready_after: Duration,
    pub(crate) started: Instant,
    pub(crate) directory: TempDir,
}

/// Where a server keeps its objects.
pub(crate) fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

impl Server {
    /// Starts the server in `directory` and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn start(binary: &Path, directory: TempDir, more: &[String]) -> Result<Self> {
        let tokens = directory.path().join("tokens");
        std::fs::write(&tokens, format!("{TOKEN},bench,1,system:masters\n"))?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let started = Instant::now();
        let child = Command::new(binary)
            .arg("server")
            .arg("--data-dir")
            .arg(data(directory.path()))
            .arg("--token-auth-file")
            .arg(&tokens)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}", binary.display()))?;
        let mut child = Some(child);
        loop {
            if let Some(clients) = ready(directory.path()).await {
                let child = child.take().context("it was started above")?;
                let ready_after = started.elapsed();
                return Ok(Self { child, clients, ready_after, started, directory });
            }
            if started.elapsed() > PATIENCE {
                if let Some(mut child) = child.take() {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                let log = std::fs::read_to_string(directory.path().join("log"))?;
                bail!("the server was not ready within {PATIENCE:?}:\n{log}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops it as an operator would; its directory comes back.
    ///
    /// # Errors
    /// When it cannot be asked to.
    pub(crate) fn stop(mut self) -> Result<TempDir> {
        self.end();
        let empty = tempfile::tempdir()?;
        Ok(std::mem::replace(&mut self.directory, empty))
    }

    fn end(&mut self) {
        let process = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &process]).status();
        let _ = self.child.wait();
    }

    /// A number of `/proc/PID/status`, in megabytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub(crate) fn memory_mb(&self, field: &str) -> Result<f64> {
        memory_mb(self.child.id(), field)
    }

    /// Has `VmHWM` begin anew with what the process has now.
    ///
    /// # Errors
    /// When the process has ended, or somebody else may not ask this of it.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    /// The processor time that the process's threads have used, in seconds.
    ///
    /// The scheduler's nanoseconds, not the clock's ticks: a process that runs for microseconds at a time is seldom there
    /// when the clock ticks. What threads used that have ended is not in it.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut nanoseconds = 0.0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let used = text.split(' ').next().context("a thread has used time")?;
            nanoseconds += used.parse::<f64>()?;
        }
        Ok(nanoseconds / 1e9)
    }

    /// The process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A number of a process' `/proc/PID/status`, in megabytes.
///
/// # Errors
/// When there is no such process.
fn memory_mb(process: u32, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes: f64 =
        line.and_then(|it| it.split_whitespace().next()).context("no such field")?.parse()?;
    Ok(kilobytes / 1024.0)
}

async fn ready(directory: &Path) -> Option<Clients> {
    let authority = std::fs::read_to_string(data(directory).join("pki/ca.crt")).ok()?;
    let address = SocketAddr::from(([127, 0, 0, 1], 6443));
    let clients = Clients::connect(address, &authority, TOKEN).await.ok()?;
    clients.send(0, &Ask::get("/readyz")).await.ok()?;
    Some(clients)
}
