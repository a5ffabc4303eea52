//! Exec, attach, port-forward: the agent talks to processes directly, through descriptors that shims hand over.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cri::{
    AttachRequest, BoxedRead, BoxedWrite, Code, CriError, Duplex, ExecRequest, ExecSyncResponse,
    StreamSession, Streams,
};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::shim_client::ShimClient;
use super::state::{Container, Started};
use super::terminal::{Resizer, Terminal};
use super::{Inner, unknown};
use crate::launch::ExecSpec;
use crate::shim::protocol::Op;

/// The most output of a short command that is kept, of each stream.
const MAX_SYNC_OUTPUT: usize = 16 << 20;
/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;
/// What stands before a reason why a command did not start: users know it so.
const EXEC_FAILED: &str =
    "OCI runtime exec failed: exec failed: unable to start container process: ";

/// A started command.
struct Launched {
    shim: Arc<ShimClient>,
    name: u64,
    exit: oneshot::Receiver<i32>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Inner {
    fn running(&self, id: &str) -> Result<(Arc<Container>, Started, Arc<ShimClient>), CriError> {
        let container = self.container(id)?;
        let started = container.running().ok_or_else(|| {
            // The words of other runtimes.
            let state = match container.phase.lock().state() {
                cri::ContainerState::Created => "CONTAINER_CREATED",
                cri::ContainerState::Running => "CONTAINER_RUNNING",
                cri::ContainerState::Exited => "CONTAINER_EXITED",
                cri::ContainerState::Unknown => "CONTAINER_UNKNOWN",
            };
            CriError::unknown(format!("container is in {state} state"))
        })?;
        let shim = self.sandbox(&container.sandbox_id())?.shim.lock().clone();
        let shim = shim.ok_or_else(|| CriError::unknown("the shim is gone"))?;
        Ok((container, started, shim))
    }

    async fn launch(
        &self,
        id: &str,
        cmd: &[String],
        tty: bool,
        streams: Streams,
    ) -> Result<Launched, CriError> {
        let (_, started, shim) = self.running(id)?;
        let spec = ExecSpec { args: cmd.to_vec(), tty, identity: started.identity };
        let (name, exit) = shim.new_exec();
        let op = Op::Exec { container: id.to_owned(), exec: name, spec };
        let what = "exec";
        let (input, output) = (|| -> io::Result<_> {
            Ok((
                Ends::input(streams.stdin)?,
                [Ends::output(streams.stdout)?, Ends::output(streams.stderr)?],
            ))
        })()
        .map_err(|e| unknown(what, &e))?;
        let [out, err] = output;
        let theirs = [&input.theirs, &out.theirs, &err.theirs];
        let asked = shim.ask(op, if tty { &[] } else { &theirs }).await;
        let (_, descriptors) = match asked {
            Ok(answer) => answer,
            Err(error) => {
                shim.forget_exec(name);
                return Err(CriError::new(
                    error.code,
                    format!(
                        "failed to start exec \"{name:064x}\": {EXEC_FAILED}{}: unknown",
                        error.message
                    ),
                ));
            }
        };
        let terminal = descriptors.into_iter().next();
        if tty {
            let copy = |wanted: bool| -> Result<Option<OwnedFd>, CriError> {
                let terminal = terminal.as_ref().filter(|_| wanted);
                terminal.map(OwnedFd::try_clone).transpose().map_err(|e| unknown(what, &e))
            };
            let (stdin, stdout) = (copy(streams.stdin)?, copy(streams.stdout)?);
            return Ok(Launched { shim, name, exit, stdin, stdout, stderr: None, terminal });
        }
        let (stdin, stdout, stderr) = (input.ours, out.ours, err.ours);
        Ok(Launched { shim, name, exit, stdin, stdout, stderr, terminal: None })
    }

    pub(super) async fn exec_streams(
        &self,
        request: &ExecRequest,
    ) -> Result<StreamSession, CriError> {
        let ExecRequest { container_id, cmd, tty, streams } = request;
        let streams = Streams { stderr: streams.stderr && !tty, ..*streams };
        // What cannot be entered is refused; a command that does not start is an end of its streams.
        self.running(container_id)?;
        let launched = match self.launch(container_id, cmd, *tty, streams).await {
            Ok(it) => it,
            Err(error) => return Ok(unstarted(&error)),
        };
        let what = |e: io::Error| unknown("exec", &e);
        let exit = launched.exit;
        Ok(StreamSession {
            stdin: launched.stdin.map(|fd| writer(fd, *tty)).transpose().map_err(what)?,
            stdout: launched.stdout.map(|fd| reader(fd, *tty)).transpose().map_err(what)?,
            stderr: launched.stderr.map(|fd| reader(fd, false)).transpose().map_err(what)?,
            resize: Arc::new(Resizer(launched.terminal)),
            exit: Box::pin(async move { exit.await.map_err(|_| shim_lost()) }),
        })
    }

    pub(super) async fn exec_short(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse, CriError> {
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        let launched = self.launch(id, cmd, false, streams).await.map_err(|e| {
            CriError::new(e.code, format!("failed to exec in container: {}", e.message))
        })?;
        let what = |e: io::Error| unknown("exec", &e);
        let mut out = Collected::new(launched.stdout).map_err(what)?;
        let mut err = Collected::new(launched.stderr).map_err(what)?;
        let mut exit = launched.exit;
        let work = async {
            // Until it ended, or closed its output and then ended.
            let read = std::pin::pin!(futures::future::join(out.fill(), err.fill()));
            match futures::future::select(&mut exit, read).await {
                futures::future::Either::Left((code, _)) => code,
                futures::future::Either::Right(_) => (&mut exit).await,
            }
        };
        let done = if timeout.is_zero() {
            work.await
        } else {
            match tokio::time::timeout(timeout, work).await {
                Ok(done) => done,
                Err(_) => {
                    // What it started may live on; it is gone itself.
                    let _ = launched.shim.ask(Op::KillExec { exec: launched.name }, &[]).await;
                    return Err(CriError::new(
                        Code::DeadlineExceeded,
                        format!(
                            "failed to exec in container: timeout {timeout:?} exceeded: context deadline exceeded"
                        ),
                    ));
                }
            }
        };
        let exit_code = done.map_err(|_| shim_lost())?;
        // What it wrote before it ended is in the pipes; what somebody else holds open is not waited for.
        out.drain();
        err.drain();
        Ok(ExecSyncResponse { stdout: out.bytes, stderr: err.bytes, exit_code })
    }

    pub(super) async fn attach_streams(
        &self,
        request: &AttachRequest,
    ) -> Result<StreamSession, CriError> {
        let AttachRequest { container_id, tty, streams } = request;
        let (container, _, shim) = self.running(container_id)?;
        let what = |e: io::Error| unknown("attach", &e);
        let stderr = streams.stderr && !tty;
        let out = streams.stdout.then(|| Ends::output(true)).transpose().map_err(what)?;
        let err = stderr.then(|| Ends::output(true)).transpose().map_err(what)?;
        let theirs: Vec<&OwnedFd> = out.iter().chain(&err).map(|ends| &ends.theirs).collect();
        let op = Op::Attach {
            container: container_id.clone(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr,
        };
        let (_, descriptors) = shim.ask(op, &theirs).await?;
        let input = descriptors.into_iter().next();
        let terminal = if *tty {
            input.as_ref().map(OwnedFd::try_clone).transpose().map_err(what)?
        } else {
            None
        };
        let ours = |ends: Option<Ends>| ends.and_then(|e| e.ours).map(|fd| reader(fd, false));
        let stdin = input.filter(|_| streams.stdin).map(|fd| writer(fd, *tty));
        let stdin = stdin.transpose().map_err(what)?.map(|inner| {
            let (sender, receiver) = oneshot::channel::<()>();
            let container = container_id.clone();
            tokio::spawn(async move {
                // Either way the writer is done.
                let _ = receiver.await;
                let _ = shim.ask(Op::Detach { container }, &[]).await;
            });
            Box::new(AttachedInput { inner: Some(inner), ended: Some(sender) }) as BoxedWrite
        });
        Ok(StreamSession {
            stdin,
            stdout: ours(out).transpose().map_err(what)?,
            stderr: ours(err).transpose().map_err(what)?,
            resize: Arc::new(Resizer(terminal)),
            exit: Box::pin(async move {
                container.ended().await;
                container.exit_code().ok_or_else(shim_lost)
            }),
        })
    }

    pub(super) async fn forward(
        &self,
        sandbox: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, CriError> {
        let sandbox = self.sandbox(sandbox)?;
        let shim = sandbox.shim.lock().clone();
        let shim =
            shim.ok_or_else(|| CriError::unknown(format!("sandbox {} is not ready", sandbox.id)))?;
        let mut failures = Vec::new();
        for (v6, address) in [(false, "127.0.0.1"), (true, "::1")] {
            let address = std::net::SocketAddr::new(
                address.parse().map_err(|e| unknown("port-forward", &e))?,
                port,
            );
            match connect(&shim, v6, address).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => {
                    let family = if v6 { "tcp6" } else { "tcp4" };
                    failures.push(format!("dial {family} {address}: {}", error.message));
                }
            }
        }
        Err(CriError::unknown(format!(
            "failed to connect to localhost:{port} inside namespace of sandbox {:?}: {}",
            sandbox.id,
            failures.join("; ")
        )))
    }
}

/// The streams of a command that did not start.
fn unstarted(error: &CriError) -> StreamSession {
    let message = format!("failed to exec in container: {}", error.message);
    StreamSession {
        stdin: None,
        stdout: None,
        stderr: None,
        resize: Arc::new(Resizer(None)),
        exit: Box::pin(std::future::ready(Err(CriError::new(error.code, message)))),
    }
}

fn shim_lost() -> CriError {
    CriError::new(Code::Unavailable, "the shim is gone")
}

async fn connect(
    shim: &ShimClient,
    v6: bool,
    address: std::net::SocketAddr,
) -> Result<tokio::net::TcpStream, CriError> {
    let (_, descriptors) = shim.ask(Op::Socket { v6 }, &[]).await?;
    let fd = descriptors.into_iter().next().ok_or_else(shim_lost)?;
    // A socket belongs to the network it was made in, wherever it is used.
    let socket = tokio::net::TcpSocket::from_std_stream(std::net::TcpStream::from(fd));
    socket
        .connect(address)
        .await
        .map_err(|e| CriError::unknown(format!("connect: {}", crate::launch::program::os_text(&e))))
}

/// The two ends of a pipe, or of nothing.
struct Ends {
    ours: Option<OwnedFd>,
    theirs: OwnedFd,
}

impl Ends {
    fn input(wanted: bool) -> io::Result<Self> {
        if !wanted {
            return Self::nothing();
        }
        let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self { ours: Some(ours), theirs })
    }

    fn output(wanted: bool) -> io::Result<Self> {
        if !wanted {
            return Self::nothing();
        }
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self { ours: Some(ours), theirs })
    }

    fn nothing() -> io::Result<Self> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self { ours: None, theirs: null.into() })
    }
}

fn reader(fd: OwnedFd, tty: bool) -> io::Result<BoxedRead> {
    if tty {
        Ok(Box::new(Terminal::new(fd)?))
    } else {
        Ok(Box::new(pipe::Receiver::from_owned_fd(fd)?))
    }
}

fn writer(fd: OwnedFd, tty: bool) -> io::Result<BoxedWrite> {
    if tty {
        Ok(Box::new(Terminal::new(fd)?))
    } else {
        Ok(Box::new(Input(Some(pipe::Sender::from_owned_fd(fd)?))))
    }
}

/// A pipe whose shutdown closes it: the reader sees the end.
struct Input(Option<pipe::Sender>);

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// The input of an attach: when it ends, the shim is told.
struct AttachedInput {
    inner: Option<BoxedWrite>,
    ended: Option<oneshot::Sender<()>>,
}

impl AsyncWrite for AttachedInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner = None;
        self.ended = None;
        Poll::Ready(Ok(()))
    }
}

/// The output of a short command.
struct Collected {
    from: Option<pipe::Receiver>,
    bytes: Vec<u8>,
}

impl Collected {
    fn new(from: Option<OwnedFd>) -> io::Result<Self> {
        let from = from.map(pipe::Receiver::from_owned_fd).transpose()?;
        Ok(Self { from, bytes: Vec::new() })
    }

    /// Reads to the end. May be dropped at any time: what was read is kept.
    async fn fill(&mut self) {
        let Some(from) = &mut self.from else { return };
        let mut chunk = vec![0; CHUNK_BYTES];
        // An output that breaks has ended.
        while let Ok(n @ 1..) = from.read(&mut chunk).await {
            keep(&mut self.bytes, &chunk[..n]);
        }
        self.from = None;
    }

    /// Reads what is there, of the kernel: what the reactor has not seen yet counts too.
    fn drain(&mut self) {
        let fd = self.from.take().map(pipe::Receiver::into_nonblocking_fd);
        let Some(Ok(fd)) = fd else { return };
        let mut chunk = vec![0; CHUNK_BYTES];
        // Somebody who goes on writing is not listened to for ever.
        for _ in 0..MAX_SYNC_OUTPUT / CHUNK_BYTES {
            match rustix::io::read(&fd, &mut chunk) {
                Ok(n @ 1..) => keep(&mut self.bytes, &chunk[..n]),
                _ => return,
            }
        }
    }
}

fn keep(bytes: &mut Vec<u8>, more: &[u8]) {
    let room = MAX_SYNC_OUTPUT - bytes.len();
    bytes.extend_from_slice(&more[..more.len().min(room)]);
}
