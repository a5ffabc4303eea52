//! The agent's end of a message socket, without blocking.

use std::io;
use std::os::fd::OwnedFd;

use serde::Serialize;
use tokio::io::unix::AsyncFd;

use crate::shim::wire::{self, Incoming};

/// A message socket.
#[derive(Debug)]
pub(super) struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: the descriptor is owned by what is registered, and is not replaced or handed out.
        Ok(Self(unsafe { AsyncFd::register(socket)? }))
    }

    pub(super) async fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[&OwnedFd],
    ) -> io::Result<()> {
        loop {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|fd| wire::send(fd.get_ref(), message, descriptors)) {
                Ok(done) => return done,
                Err(_would_block) => {}
            }
        }
    }

    /// The next message; empty at the end.
    pub(super) async fn receive(&self) -> io::Result<Incoming> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|fd| wire::receive(fd.get_ref())) {
                Ok(done) => return done,
                Err(_would_block) => {}
            }
        }
    }
}
