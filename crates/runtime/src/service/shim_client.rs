//! A connection to the shim of a pod.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cri::CriError;
use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::sync::{mpsc, oneshot};

use super::channel::Channel;
use crate::shim::protocol::{Message, Op, PROTOCOL_VERSION, Reply, Request};
use crate::spec::{ExitRecord, SOCKET_FILE};

/// How long a shim may take to answer. A start waits for mounts, so it is long.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

type Answer = (Reply, Vec<OwnedFd>);

/// What a shim tells without being asked.
#[derive(Debug)]
pub(super) enum Notice {
    Exited {
        container: String,
        exit: ExitRecord,
    },
    Oom {
        container: String,
    },
    /// The connection ended.
    Gone,
}

/// A connection.
#[derive(Debug)]
pub(super) struct ShimClient {
    channel: Arc<Channel>,
    next: AtomicU64,
    waiting: Arc<Mutex<Waiting>>,
    /// The shim.
    pub(super) pid: i32,
}

#[derive(Debug, Default)]
struct Waiting {
    replies: BTreeMap<u64, oneshot::Sender<Answer>>,
    execs: BTreeMap<u64, oneshot::Sender<i32>>,
    gone: bool,
}

impl ShimClient {
    /// Connects to the shim whose socket is in `directory`; the reply to `hello` comes along.
    pub(super) async fn connect(
        directory: &Path,
        notices: mpsc::Sender<Notice>,
    ) -> io::Result<(Self, Reply)> {
        let channel = Arc::new(Channel::new(connect(directory)?)?);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        tokio::spawn(listen(Arc::clone(&channel), Arc::clone(&waiting), notices));
        let mut client = Self { channel, next: AtomicU64::new(1), waiting, pid: 0 };
        let hello = Op::Hello { version: PROTOCOL_VERSION };
        let (reply, _) = client.ask(hello, &[]).await.map_err(io::Error::other)?;
        client.pid = reply.pid;
        Ok((client, reply))
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self, op: Op, descriptors: &[&OwnedFd]) -> Result<Answer, CriError> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.gone {
                return Err(gone());
            }
            waiting.replies.insert(seq, sender);
        }
        if let Err(error) = self.channel.send(&Request { seq, op }, descriptors).await {
            self.waiting.lock().replies.remove(&seq);
            return Err(CriError::unknown(format!("ask the shim: {error}")));
        }
        let answer = tokio::time::timeout(REPLY_TIMEOUT, receiver).await;
        self.waiting.lock().replies.remove(&seq);
        match answer {
            Ok(Ok((reply, fds))) => match reply.error {
                None => Ok((reply, fds)),
                Some(error) => Err(CriError::unknown(error)),
            },
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(CriError::deadline("the shim did not answer")),
        }
    }

    /// A name for an exec, and where its exit code comes.
    pub(super) fn new_exec(&self) -> (u64, oneshot::Receiver<i32>) {
        let name = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().execs.insert(name, sender);
        (name, receiver)
    }

    /// An exec that did not start.
    pub(super) fn forget_exec(&self, name: u64) {
        self.waiting.lock().execs.remove(&name);
    }
}

fn gone() -> CriError {
    CriError::new(cri::Code::Unavailable, "the shim is gone")
}

/// Through the directory's descriptor: whole paths may be longer than an address can be.
fn connect(directory: &Path) -> io::Result<OwnedFd> {
    let dir = std::fs::File::open(directory)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd());
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

async fn listen(
    channel: Arc<Channel>,
    waiting: Arc<Mutex<Waiting>>,
    notices: mpsc::Sender<Notice>,
) {
    loop {
        let incoming = match channel.receive().await {
            Ok(incoming) if !incoming.bytes.is_empty() => incoming,
            _ => break,
        };
        // A newer shim may say what is not known here.
        let Ok(message) = incoming.decode::<Message>() else { continue };
        match message {
            Message::Reply(reply) => {
                let sender = waiting.lock().replies.remove(&reply.seq);
                if let Some(sender) = sender {
                    // Whoever asked may have given up.
                    let _ = sender.send((*reply, incoming.descriptors));
                }
            }
            Message::ExecExited { exec, code } => {
                let sender = waiting.lock().execs.remove(&exec);
                if let Some(sender) = sender {
                    let _ = sender.send(code);
                }
            }
            Message::Exited { container, exit } => {
                let _ = notices.send(Notice::Exited { container, exit }).await;
            }
            Message::Oom { container } => {
                let _ = notices.send(Notice::Oom { container }).await;
            }
        }
    }
    {
        let mut waiting = waiting.lock();
        waiting.gone = true;
        waiting.replies.clear();
        waiting.execs.clear();
    }
    let _ = notices.send(Notice::Gone).await;
}
