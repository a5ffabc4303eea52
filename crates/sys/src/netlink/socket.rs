//! A netlink socket: requests out, replies and errors in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with,
};

use super::wire::{self, Message, Writer};
use super::{NetlinkError, Netns};

/// What a socket may hold for the kernel: a whole nf_tables transaction is one datagram.
const SEND_BUFFER: usize = 64 << 20;
const RECEIVE_BUFFER: usize = 8 << 20;
/// The kernel's dumps use datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    Route,
    Netfilter,
}

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What ends a request's replies.
enum End {
    Acknowledged,
    Refused(i32, Option<String>),
}

impl Socket {
    pub(crate) fn open(protocol: Protocol, namespace: &Netns) -> Result<Self, NetlinkError> {
        let failed = |errno| NetlinkError::system("open a netlink socket", errno);
        let fd = namespace.run(|| open(protocol))?.map_err(failed)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Hears what the kernel tells a multicast group.
    pub(crate) fn join(&self, group: u32) -> Result<(), NetlinkError> {
        let joined = set_option(&self.fd, libc::NETLINK_ADD_MEMBERSHIP, group);
        joined.map_err(|errno| NetlinkError::system("join a netlink group", errno))
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    pub(crate) fn send(&self, writer: &Writer, doing: &str) -> Result<(), NetlinkError> {
        let Some(bytes) = writer.bytes() else {
            return Err(NetlinkError::TooLarge { doing: doing.to_owned() });
        };
        match send(&self.fd, bytes, SendFlags::empty()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(NetlinkError::system(doing, errno)),
        }
    }

    /// The next datagram; `None` if there is none and `wait` is not set.
    pub(crate) fn receive(
        &mut self,
        wait: bool,
        doing: &str,
    ) -> Result<Option<&[u8]>, NetlinkError> {
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        loop {
            match recv(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC) {
                Ok((_, length)) if length > DATAGRAM => {
                    return Err(NetlinkError::Malformed { doing: doing.to_owned() });
                }
                Ok((_, length)) => return Ok(Some(&self.buffer[..length])),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(NetlinkError::system(doing, errno)),
            }
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        doing: impl FnOnce() -> String,
        body: impl FnOnce(&mut Writer),
    ) -> Result<(), NetlinkError> {
        let flags = flags | wire::REQUEST | wire::ACK;
        self.exchange(kind, flags, doing, body, |_| {})
    }

    /// Sends one request and gives each message of the answer to `each`.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        doing: impl FnOnce() -> String,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(&Message<'_>),
    ) -> Result<(), NetlinkError> {
        self.exchange(kind, wire::REQUEST | wire::DUMP, doing, body, each)
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        doing: impl FnOnce() -> String,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<(), NetlinkError> {
        let sequence = self.next_sequence();
        let mut writer = Writer::new();
        writer.message(kind, flags, sequence, body);
        // Formatted only when something fails, except that a request this rare may pay for it always.
        let doing = doing();
        self.send(&writer, &doing)?;
        loop {
            let Some(bytes) = self.receive(true, &doing)? else { continue };
            for message in wire::messages(bytes).filter(|m| m.sequence == sequence) {
                match end_of(&message) {
                    Some(End::Acknowledged) => return Ok(()),
                    Some(End::Refused(errno, detail)) => {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(NetlinkError::Refused { doing, detail, source });
                    }
                    None => each(&message),
                }
            }
        }
    }
}

fn open(protocol: Protocol) -> Result<OwnedFd, Errno> {
    let protocol = match protocol {
        Protocol::Route => None,
        Protocol::Netfilter => Some(netlink::NETFILTER),
    };
    let kind = SocketType::RAW;
    let fd = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, protocol)?;
    bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
    // Forcing needs CAP_NET_ADMIN in the first user namespace; without it the usual limit has to do.
    if sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER)?;
    }
    if sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
    }
    // Errors without the request's bytes, and with the kernel's own words.
    set_option(&fd, libc::NETLINK_CAP_ACK, 1)?;
    set_option(&fd, libc::NETLINK_EXT_ACK, 1)?;
    Ok(fd)
}

fn set_option(fd: &OwnedFd, option: i32, value: u32) -> Result<(), Errno> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
    // SAFETY: the descriptor is open, and the pointer is to an integer that lives across the call and has the size given.
    let result = unsafe {
        let value = std::ptr::from_ref(&value).cast();
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, value, size)
    };
    if result == 0 {
        return Ok(());
    }
    let raw = io::Error::last_os_error().raw_os_error();
    Err(raw.map_or(Errno::INVAL, Errno::from_raw_os_error))
}

fn end_of(message: &Message<'_>) -> Option<End> {
    match message.kind {
        wire::DONE => Some(match wire::read_i32(message.body, 0) {
            Some(code) if code < 0 => End::Refused(-code, None),
            _ => End::Acknowledged,
        }),
        wire::ERROR => Some(match error_of(message) {
            Some((errno, detail)) => End::Refused(errno, detail),
            None => End::Acknowledged,
        }),
        _ => None,
    }
}

/// The error in a message of type `ERROR`; `None` where it is an acknowledgement.
pub(crate) fn error_of(message: &Message<'_>) -> Option<(i32, Option<String>)> {
    const EXTENDED: u16 = 0x200;
    const MESSAGE: u16 = 1;
    let code = wire::read_i32(message.body, 0).unwrap_or(-libc::EBADMSG);
    if code == 0 {
        return None;
    }
    // The body holds the code and the header of the refused message; what follows is the kernel's words.
    let extended = message.body.get(4 + wire::HEADER..).unwrap_or_default();
    let detail = (message.flags & EXTENDED != 0)
        .then(|| wire::find(extended, MESSAGE).map(wire::text))
        .flatten();
    Some((-code, detail))
}

/// A socket for links, addresses, routes and neighbours of one network namespace.
#[derive(Debug)]
pub struct Rtnetlink {
    pub(crate) socket: Socket,
}

impl Rtnetlink {
    /// A socket in `namespace`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be opened.
    pub fn open(namespace: &Netns) -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Route, namespace)? })
    }
}
