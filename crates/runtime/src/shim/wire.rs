//! Messages over a local socket that keeps their boundaries (`SOCK_SEQPACKET`): JSON, with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message: below the kernel's default send buffer, above any command line in use.
pub(crate) const MAX_MESSAGE_BYTES: usize = 192 << 10;
/// The most descriptors in a message.
pub(crate) const MAX_DESCRIPTORS: usize = 4;

/// Two connected ends, closed at `execve`.
///
/// # Errors
/// When there are too many descriptors.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a message, without waiting on a socket that does not wait.
///
/// # Errors
/// When the other end is gone, its queue is full, or the message is too long.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[&OwnedFd],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE_BYTES || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message is too long"));
    }
    let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A message as it came.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// The text; empty at the end of the connection.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Incoming {
    /// The message in the text.
    ///
    /// # Errors
    /// When it is another one.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> io::Result<T> {
        Ok(serde_json::from_slice(&self.bytes)?)
    }
}

/// Takes a message, waiting for it unless the socket does not wait.
///
/// # Errors
/// When nothing is there on a socket that does not wait (`WouldBlock`), or the connection broke.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Incoming> {
    // Zeroed by the kernel when it is touched: only the pages that a message fills cost memory.
    let mut bytes = vec![0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(Incoming::default()),
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    bytes.truncate(got.bytes);
    bytes.shrink_to_fit();
    Ok(Incoming { bytes, descriptors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (a, b) = pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&a, &"one", &[&write]).unwrap();
        send(&a, &"two", &[]).unwrap();
        drop(write);
        let first = receive(&b).unwrap();
        assert_eq!(first.decode::<String>().unwrap(), "one");
        rustix::io::write(&first.descriptors[0], b"x").unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0; 4]).unwrap(), 1);
        assert_eq!(receive(&b).unwrap().decode::<String>().unwrap(), "two");
        drop(a);
        assert!(receive(&b).unwrap().bytes.is_empty());
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let (a, _b) = pair().unwrap();
        let error = send(&a, &"x".repeat(MAX_MESSAGE_BYTES), &[]).unwrap_err();
        assert_eq!(error.to_string(), "message is too long");
    }
}
