//! A socket whose client has to read: one that takes nothing for too long is given up.
//!
//! HTTP/2 asks its clients whether they are there, but one may answer without looking at what it was sent; HTTP/1.1 asks
//! nobody. Go's server bounds that by the handler's time, which is up to the answer here (`outgoing.rs`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::connections::End;
use crate::idle::Requests;

/// How long a client may take nothing while a stream is open that lasts as long as it likes: somebody may have stopped the
/// output of a container (upstream: `streamingConnectionIdleTimeout` of nodes).
pub(crate) const LASTING: Duration = Duration::from_secs(4 * 3600);

/// The socket of a connection.
#[derive(Debug)]
pub(crate) struct Attended<S> {
    stream: S,
    requests: Arc<Requests>,
    /// How long a client may take nothing.
    patience: Duration,
    /// Since when the client takes nothing, and a timer.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Attended<S> {
    pub(crate) fn new(stream: S, requests: Arc<Requests>, patience: Duration) -> Self {
        Self { stream, requests, patience, stalled: None }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What becomes of a write: one that does not go on for too long is an error.
    fn attend<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stalled.is_some() {
                self.stalled = None;
            }
            return written;
        }
        let patience = if self.requests.is_lasting() { LASTING } else { self.patience };
        let (since, timer) = self
            .stalled
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(patience))));
        while timer.as_mut().poll(cx).is_ready() {
            let until = *since + patience;
            if until <= Instant::now() {
                self.requests.ends(End::Unread);
                let why = "the client does not read what it is sent";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attended<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.attend(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.attend(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn filled(lasting: bool) -> (Duration, Option<End>) {
        let (ours, _theirs) = tokio::io::duplex(64);
        let requests = Arc::new(Requests::new(Instant::now()));
        let running = requests.begin();
        if lasting {
            running.lasts();
        }
        let mut socket = Attended::new(ours, Arc::clone(&requests), PATIENCE);
        let begun = Instant::now();
        let error = socket.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        (begun.elapsed(), requests.why())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        assert_eq!(filled(false).await, (PATIENCE, Some(End::Unread)));
        assert_eq!(filled(true).await, (LASTING, Some(End::Unread)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let requests = Arc::new(Requests::new(Instant::now()));
        let mut socket = Attended::new(ours, Arc::clone(&requests), PATIENCE);
        let reading = tokio::spawn(async move {
            for _ in 0..100 {
                tokio::time::sleep(PATIENCE / 2).await;
                theirs.read_u8().await.unwrap();
            }
            theirs
        });
        socket.write_all(&[0; 164]).await.unwrap();
        assert_eq!(requests.why(), None);
        drop(reading.await.unwrap());
    }
}
