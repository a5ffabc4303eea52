//! A socket that is closed without losing the last answer: it may be given before all of the request was read, and a socket
//! that is closed with something unread is reset, which throws away what the client has not read yet.
//!
//! Go's server waits for half a second then (`rstAvoidanceDelay`). Here what comes meanwhile is read and dropped, so that a
//! client that writes all before it reads gets to its answer as well.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long what a client still sends is dropped before its connection ends.
const LINGER: Duration = Duration::from_millis(500);
/// How many bytes are dropped at a time.
const DROPPED_AT_ONCE: usize = 4096;

/// Whether a connection was given to somebody else, who closes one half of it and goes on reading the other.
#[derive(Debug, Default, Clone)]
pub(crate) struct Upgraded(Arc<AtomicBool>);

impl Upgraded {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The socket of a connection of HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Lingering<S> {
    stream: S,
    upgraded: Upgraded,
    /// Until when what comes is dropped, once everything is written.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub(crate) fn new(stream: S, upgraded: Upgraded) -> Self {
        Self { stream, upgraded, until: None }
    }
}

impl<S: AsyncRead + Unpin> Lingering<S> {
    /// Ready when nothing comes any more, or it has taken too long.
    fn poll_quiet(&mut self, cx: &mut Context<'_>, mut until: Pin<Box<Sleep>>) -> Poll<()> {
        let mut dropped = [0; DROPPED_AT_ONCE];
        loop {
            if until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut dropped);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    self.until = Some(until);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let until = match self.until.take() {
            Some(until) => until,
            None => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
                if self.upgraded.is_set() {
                    return Poll::Ready(Ok(()));
                }
                Box::pin(tokio::time::sleep(LINGER))
            }
        };
        self.poll_quiet(cx, until).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_client_still_sends_is_dropped_until_it_is_done() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut socket = Lingering::new(ours, Upgraded::default());
        socket.write_all(b"401").await.unwrap();
        let client = tokio::spawn(async move {
            theirs.write_all(&[0; 10_000]).await.unwrap();
            let mut answer = [0; 3];
            theirs.read_exact(&mut answer).await.unwrap();
            answer
        });
        let begun = Instant::now();
        socket.shutdown().await.unwrap();
        assert!(begun.elapsed() < LINGER);
        assert_eq!(&client.await.unwrap(), b"401");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_go_is_waited_for_half_a_second() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut socket = Lingering::new(ours, Upgraded::default());
        let begun = Instant::now();
        socket.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_an_upgraded_connection_reads_on() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let upgraded = Upgraded::default();
        let mut socket = Lingering::new(ours, upgraded.clone());
        upgraded.set();
        theirs.write_all(b"more").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut read = [0; 4];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"more");
    }
}
