//! The agent's zygote: started when it is first needed, and again when it is gone.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;

use sys::cgroup::Hierarchies;
use tokio::sync::Mutex;

use super::channel::Channel;
use crate::shim::{Birth, wire};
use crate::zygote::Order;

/// How to start a zygote: a program whose `main` calls [`crate::zygote::main`].
#[derive(Debug, Clone)]
pub struct ZygoteCommand {
    /// The binary, usually the agent's own.
    pub program: PathBuf,
    /// Its arguments, such as `zygote`.
    pub arguments: Vec<OsString>,
}

#[derive(Debug)]
pub(super) struct ZygoteClient {
    command: ZygoteCommand,
    hierarchies: Hierarchies,
    cgroup: String,
    channel: Mutex<Option<Channel>>,
}

impl ZygoteClient {
    pub(super) fn new(command: ZygoteCommand, hierarchies: Hierarchies, cgroup: String) -> Self {
        Self { command, hierarchies, cgroup, channel: Mutex::new(None) }
    }

    /// Forks a shim and waits until it is ready.
    pub(super) async fn fork(&self, birth: Birth) -> io::Result<()> {
        let (ours, theirs) = wire::pair()?;
        let order = Order::Fork(birth);
        {
            let mut channel = self.channel.lock().await;
            let sent = match &*channel {
                Some(channel) => channel.send(&order, &[&theirs]).await.is_ok(),
                None => false,
            };
            if !sent {
                let started = self.start().await?;
                started.send(&order, &[&theirs]).await?;
                *channel = Some(started);
            }
        }
        drop(theirs);
        let incoming = Channel::new(ours)?.receive().await?;
        if incoming.bytes.is_empty() {
            return Err(io::Error::other("the shim ended before it was ready"));
        }
        match incoming.decode::<Option<String>>()? {
            None => Ok(()),
            Some(error) => Err(io::Error::other(error)),
        }
    }

    /// Starts it ahead of the first pod.
    pub(super) async fn warm_up(&self) -> io::Result<()> {
        let mut channel = self.channel.lock().await;
        if channel.is_none() {
            *channel = Some(self.start().await?);
        }
        Ok(())
    }

    async fn start(&self) -> io::Result<Channel> {
        let (ours, theirs): (OwnedFd, OwnedFd) = wire::pair()?;
        let mut child = tokio::process::Command::new(&self.command.program)
            .args(&self.command.arguments)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        // It ends when the other end is closed; somebody has to take it then.
        tokio::spawn(async move { child.wait().await });
        let channel = Channel::new(ours)?;
        let order =
            Order::Join { hierarchies: self.hierarchies.clone(), path: self.cgroup.clone() };
        channel.send(&order, &[]).await?;
        let incoming = channel.receive().await?;
        if incoming.bytes.is_empty() {
            return Err(io::Error::other("the zygote ended at its start"));
        }
        match incoming.decode::<Option<String>>()? {
            None => Ok(channel),
            Some(error) => Err(io::Error::other(format!("the zygote: {error}"))),
        }
    }
}
