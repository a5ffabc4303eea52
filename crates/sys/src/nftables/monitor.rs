//! Told of what others change: the kernel tells everybody who listens of every transaction.

use super::batch::DELTABLE;
use crate::netlink::{NetlinkError, Netns, Protocol, Socket, wire};

/// The kernel's multicast group for changes of nf_tables (`NFNLGRP_NFTABLES`).
const GROUP: u32 = 7;

/// Sees tables go, whoever deletes them.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Listens in `namespace`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel refuses.
    pub fn open(namespace: &Netns) -> Result<Self, NetlinkError> {
        let socket = Socket::open(Protocol::Netfilter, namespace)?;
        socket.join(GROUP)?;
        Ok(Self { socket })
    }

    /// Waits until a table may have been deleted: also where the kernel had more to tell than there was room for. Blocks.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub fn wait(&mut self) -> Result<(), NetlinkError> {
        loop {
            match self.socket.receive(true, "read changes of nf_tables") {
                Ok(Some(bytes)) => {
                    if wire::messages(bytes).any(|message| message.kind == DELTABLE) {
                        return Ok(());
                    }
                }
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
