//! Bodies of requests and answers, the same for sockets and for clients in the process.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

use crate::memory::Charge;

/// How much of a body that nobody read is taken off the wire after all, in bytes (Go's HTTP server: the same).
const MAX_UNREAD_BYTES: usize = 256 << 10;
/// How long that may take.
const MAX_UNREAD_TIME: Duration = Duration::from_secs(5);

/// What goes wrong while a body is read.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: bytes at hand, or a stream of them.
pub enum Body {
    /// All of it.
    Full(Option<Bytes>),
    /// Pieces as they come.
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    /// Nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::Full(None)
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(bytes) => write!(f, "Full({:?})", bytes.as_ref().map(Bytes::len)),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// The body of a request from a socket.
///
/// An answer may be known before the body was read. Dropping the rest would reset the stream, and a client that is still
/// sending takes that for an error and never looks at its answer; so what is left is read and thrown away, within limits.
#[derive(Debug)]
pub struct Incoming {
    source: Option<Source>,
    /// What it is charged to, where it is.
    charge: Option<Arc<Charge>>,
}

#[derive(Debug)]
enum Source {
    Http1(hyper::body::Incoming),
    Http2 {
        stream: h2::RecvStream,
        /// How many bytes are still to come, where the client said so: h2 holds it to that.
        rest: Option<u64>,
    },
}

impl Incoming {
    pub(crate) fn http1(body: hyper::body::Incoming) -> Self {
        Self { source: Some(Source::Http1(body)), charge: None }
    }

    /// `length` is what the client says of it.
    pub(crate) fn http2(stream: h2::RecvStream, length: Option<u64>) -> Self {
        Self { source: Some(Source::Http2 { stream, rest: length }), charge: None }
    }

    /// Has its bytes charged by whoever reads all of it.
    pub(crate) fn charged(mut self, charge: Arc<Charge>) -> Self {
        self.charge = Some(charge);
        self
    }

    pub(crate) fn take_charge(&mut self) -> Option<Arc<Charge>> {
        self.charge.take()
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().source {
            Some(source) => Pin::new(source).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.source.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl http_body::Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => {
                Pin::new(body).poll_frame(cx).map(|next| next.map(|frame| Ok(frame?)))
            }
            Self::Http2 { stream, rest } => stream.poll_data(cx).map(|next| {
                next.map(|data| {
                    let data = data?;
                    // Read is as good as done with: the client may send as much again.
                    stream.flow_control().release_capacity(data.len())?;
                    *rest = rest.map(|it| it.saturating_sub(data.len() as u64));
                    Ok(Frame::data(data))
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2 { stream, .. } => stream.is_end_stream(),
        }
    }

    /// What its client says of it.
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2 { rest, .. } => rest.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let Some(rest) = self.source.take().filter(|body| !http_body::Body::is_end_stream(body))
        else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(MAX_UNREAD_TIME, async move {
            let mut rest = Limited::new(rest, MAX_UNREAD_BYTES);
            while let Some(Ok(_)) = rest.frame().await {}
        }));
    }
}
