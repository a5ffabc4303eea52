//! Streams into running containers: exec, attach, port-forward.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::CriError;

/// What a container writes.
pub type BoxedRead = Box<dyn AsyncRead + Send + Unpin>;
/// What a container reads. Dropping it (or `shutdown`) is the end of its input.
pub type BoxedWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection, for port-forward.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What to run in a container, with which streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container.
    pub container_id: String,
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// Gets a terminal; then there is no `stderr`.
    pub tty: bool,
    /// Which streams are wanted.
    pub streams: Streams,
}

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; not with a terminal.
    pub stderr: bool,
}

/// Which streams of a container's first process are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container.
    pub container_id: String,
    /// As the container was made.
    pub tty: bool,
    /// Which streams are wanted.
    pub streams: Streams,
}

/// Changes the size of a terminal.
#[async_trait]
pub trait Resize: Send + Sync {
    /// Sets it. Without a terminal it does nothing.
    ///
    /// # Errors
    /// When the process is gone.
    async fn resize(&self, size: TerminalSize) -> Result<(), CriError>;
}

/// A running exec or attach. Dropping all of it ends an attach, and hangs up an exec.
pub struct StreamSession {
    /// When it was wanted.
    pub stdin: Option<BoxedWrite>,
    /// When it was wanted.
    pub stdout: Option<BoxedRead>,
    /// When it was wanted and there is no terminal.
    pub stderr: Option<BoxedRead>,
    /// To change the terminal's size.
    pub resize: Arc<dyn Resize>,
    /// The exit code: of the exec, or of the container for attach. All output is in the streams by then.
    pub exit: BoxFuture<'static, Result<i32, CriError>>,
}

impl fmt::Debug for StreamSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSession")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish_non_exhaustive()
    }
}
