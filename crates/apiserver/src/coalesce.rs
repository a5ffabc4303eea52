//! A connection whose small writes become few large ones.
//!
//! HTTP/2 writes and flushes each frame by itself; behind TLS each would be a record and a system call of its own. Here
//! small writes are kept until they fill a record, large ones go to TLS as they are, in whole records; a flush does
//! nothing, and the connection's task calls [`Coalesced::poll_written`] when it has nothing else to do.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listen::Socket;

/// The plain text of a record of TLS at most, in bytes (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;
/// How much TLS is given before the system takes it, in bytes; one write's more is possible.
const MAX_SEALED: usize = 4 * RECORD;

/// A connection; clones are the same one. Only its own task uses it, so the lock is never waited for.
#[derive(Debug, Clone)]
pub(crate) struct Coalesced(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: Socket,
    /// Less than a record.
    kept: Vec<u8>,
    /// How many bytes TLS was given since the system took all of it.
    sealed: usize,
}

impl Coalesced {
    pub(crate) fn new(mut stream: Socket) -> Self {
        // The limit is `MAX_SEALED`: what is written is taken whole.
        stream.get_mut().1.set_buffer_limit(None);
        Self(Arc::new(Mutex::new(Inner { stream, kept: Vec::new(), sealed: 0 })))
    }

    /// Writes what is kept; ready when all of it is with the system.
    pub(crate) fn poll_written(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        inner.seal(&[], 0)?;
        inner.poll_sealed(cx)
    }

    /// Waits until everything that was written is with the system.
    pub(crate) async fn written(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_written(cx)).await
    }
}

impl Inner {
    /// Hands what is sealed to the system.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.sealed = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes bytes: whole records go to TLS, what is left is kept. How many it took.
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let all = self.kept.len() + offered;
        let whole = (all - all % RECORD).min(MAX_SEALED);
        if whole == 0 {
            self.keep(slices, 0, offered);
            return Ok(offered);
        }
        let first = whole - self.kept.len();
        self.seal(slices, first)?;
        let rest = (offered - first).min(RECORD - 1);
        self.keep(slices, first, rest);
        Ok(first + rest)
    }

    /// Gives TLS what is kept and the first `count` bytes of these, which are not copied before. Idle connections hold no
    /// buffer.
    fn seal(&mut self, slices: &[IoSlice<'_>], count: usize) -> io::Result<()> {
        let mut left = count;
        let given = slices.iter().map(|slice| {
            let part = &slice[..slice.len().min(left)];
            left -= part.len();
            part
        });
        let kept = std::mem::take(&mut self.kept);
        let parts = std::iter::once(&kept[..]).chain(given).filter(|it| !it.is_empty());
        let mut parts: SmallVec<[IoSlice<'_>; 4]> = parts.map(IoSlice::new).collect();
        let mut parts = &mut parts[..];
        self.sealed += kept.len() + count;
        let mut writer = self.stream.get_mut().1.writer();
        while !parts.is_empty() {
            match writer.write_vectored(parts)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => IoSlice::advance_slices(&mut parts, taken),
            }
        }
        Ok(())
    }

    /// Keeps `count` bytes of these, after the first `skipped`.
    fn keep(&mut self, slices: &[IoSlice<'_>], mut skipped: usize, mut count: usize) {
        for slice in slices {
            let from = skipped.min(slice.len());
            let part = &slice[from..];
            let part = &part[..part.len().min(count)];
            self.kept.extend_from_slice(part);
            skipped -= from;
            count -= part.len();
        }
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
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.sealed >= MAX_SEALED {
            ready!(inner.poll_sealed(cx))?;
        }
        Poll::Ready(inner.take(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        inner.seal(&[], 0)?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;
    use tokio_rustls::{TlsAcceptor, TlsConnector, client};

    use super::*;
    use crate::attended::Attended;
    use crate::idle::Requests;

    /// Both ends of a connection.
    async fn pair() -> (Coalesced, client::TlsStream<TcpStream>) {
        let identity = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(identity.cert.der().clone()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let requests = Arc::new(Requests::new(Instant::now()));
        let attended = Attended::new(accepted, requests, Duration::from_secs(30));
        let name = ServerName::try_from("localhost").unwrap();
        let (acceptor, connector) =
            (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
        let (server, client) =
            tokio::join!(acceptor.accept(attended), connector.connect(name, stream));
        (Coalesced::new(server.unwrap()), client.unwrap())
    }

    #[tokio::test]
    async fn what_is_written_arrives_in_order_in_whatever_pieces() {
        let (mut server, mut client) = pair().await;
        let all: Vec<u8> = (0..3_000_000_u32).map(|it| (it % 251) as u8).collect();
        // Sizes around a record's and around what is sealed at most, in one slice and in two.
        let pieces = [1, 9, RECORD - 1, RECORD, RECORD + 9, 300, MAX_SEALED, 5 * RECORD + 7, 17];
        let expected = all.clone();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.map(|_| got)
        });
        let mut rest = &all[..];
        for (nth, size) in pieces.iter().cycle().enumerate() {
            let piece = &rest[..rest.len().min(*size)];
            let (head, tail) = piece.split_at(piece.len().min(nth % 13));
            let taken =
                server.write_vectored(&[IoSlice::new(head), IoSlice::new(tail)]).await.unwrap();
            rest = &rest[taken..];
            assert!(server.0.lock().kept.len() < RECORD);
            if nth % 7 == 0 {
                server.written().await.unwrap();
                assert!(server.0.lock().kept.is_empty());
            }
            if rest.is_empty() {
                break;
            }
        }
        server.shutdown().await.unwrap();
        assert!(reader.await.unwrap().unwrap() == expected, "other bytes came");
    }
}
