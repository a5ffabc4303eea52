//! The server under test: a control plane with the embedded store, which ends and starts again on what it had.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::api::Client;
use crate::{PATIENCE, PAUSE};

/// The administrator's token.
const TOKEN: &str = "clients";

/// How the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By SIGTERM.
    Told,
    /// By SIGKILL.
    Killed,
}

/// A server; it is killed when this is dropped.
pub(crate) struct Server {
    process: Child,
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    flags: Vec<String>,
}

impl Server {
    /// A fresh one, ready to be asked. Everything of it lies in this directory.
    pub(crate) async fn start(
        program: &Path,
        directory: &Path,
        flags: Vec<String>,
    ) -> Result<Self> {
        let port = free_port()?;
        fs::write(directory.join("tokens"), format!("{TOKEN},admin,1,system:masters\n"))?;
        let (program, directory) = (program.to_owned(), directory.to_owned());
        let process = run(&program, &directory, port, &flags)?;
        let server = Self { process, program, directory, port, flags };
        server.ready().await?;
        Ok(server)
    }

    /// Ends it in this way, and starts it again.
    pub(crate) async fn restart(&mut self, end: End) -> Result<()> {
        self.end(end).await?;
        self.process = run(&self.program, &self.directory, self.port, &self.flags)?;
        self.ready().await
    }

    /// Ends it in this way.
    pub(crate) async fn end(&mut self, end: End) -> Result<()> {
        match end {
            End::Killed => self.process.start_kill()?,
            End::Told => {
                let id = self.process.id().context("the server has ended by itself")?;
                let id = Pid::from_raw(i32::try_from(id)?).context("no process")?;
                kill_process(id, Signal::TERM)?;
            }
        }
        let status = timeout(PATIENCE, self.process.wait()).await;
        let status = status.context("the server does not end")??;
        ensure!(end == End::Killed || status.success(), "the server ended with {status}");
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until whoever listens there is ready.
    pub(crate) async fn ready(&self) -> Result<()> {
        let begun = std::time::Instant::now();
        // The authority's certificate is made at the first start.
        loop {
            if let Ok(client) = self.client()
                && client.get("/readyz").await.is_ok_and(|(code, _)| code == 200)
            {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "the server is not ready");
            sleep(PAUSE).await;
        }
    }

    /// Asks it as the administrator.
    pub(crate) fn client(&self) -> Result<Client> {
        let authority = fs::read(self.directory.join("data/pki/ca.crt"))?;
        Client::new(&format!("https://127.0.0.1:{}", self.port), TOKEN, &authority)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("data/kubeconfig")
    }
}

/// Bound to find a free port; who is given it binds it a moment later.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn run(program: &Path, directory: &Path, port: u16, flags: &[String]) -> Result<Child> {
    let log = File::options().create(true).append(true).open(directory.join("server.log"))?;
    Command::new(program)
        .args(["server", "--storage=embedded", "--bind-address=127.0.0.1"])
        .args(["--disable=agent,proxy,dns", &format!("--secure-port={port}")])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--token-auth-file")
        .arg(directory.join("tokens"))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))
}
