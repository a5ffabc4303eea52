//! A connection whose small writes become few large ones.
//!
//! HTTP/2 writes and flushes each frame by itself; behind TLS each would be a record and a system call of its own. Here
//! a write goes to a buffer, a flush does nothing, and the connection's task calls [`Coalesced::poll_written`] when it has
//! nothing else to do.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listen::Socket;

/// How much is kept before it is written in any case, in bytes.
const MAX_KEPT: usize = 64 << 10;

/// A connection; clones are the same one. Only its own task uses it, so the lock is never waited for.
#[derive(Debug, Clone)]
pub(crate) struct Coalesced(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: Socket,
    kept: BytesMut,
}

impl Coalesced {
    pub(crate) fn new(stream: Socket) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, kept: BytesMut::new() })))
    }

    /// Writes what is kept; ready when all of it is with the system.
    pub(crate) fn poll_written(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_kept(cx))?;
        Pin::new(&mut inner.stream).poll_flush(cx)
    }

    /// Waits until everything that was written is with the system.
    pub(crate) async fn written(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_written(cx)).await
    }
}

impl Inner {
    /// Hands what is kept to TLS.
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(written);
        }
        // Idle connections hold no buffer.
        self.kept = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Makes room for a write.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.len() < MAX_KEPT { Poll::Ready(Ok(())) } else { self.poll_kept(cx) }
    }
}

impl AsyncRead for Coalesced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Coalesced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_room(cx))?;
        inner.kept.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_room(cx))?;
        slices.iter().for_each(|slice| inner.kept.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_kept(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}
