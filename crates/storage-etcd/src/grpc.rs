//! gRPC over one HTTP/2 connection: single calls, and streams of messages both ways. Knows nothing of etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use spans::{Kind, Part};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// The largest message that is read, in bytes: more than a page of the largest values.
const MAX_MESSAGE_BYTES: usize = 1 << 30;
/// What a server may send ahead in one stream, and over all of them.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What waits to be sent at most, over all streams: some of the largest values.
const MAX_SEND_BUFFER_BYTES: usize = 64 << 20;
/// How often a connection is asked whether it lives, and how long it may think.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the handshake of HTTP/2 may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Before each message: whether it is compressed, and its length.
const FRAME_HEADER_BYTES: usize = 5;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The server never saw it.
    NotSent(String),
    /// The connection broke, or the answer is none: the server may have carried it out.
    Broken(String),
    /// The server says no.
    Status { code: u32, message: String },
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(why) | Self::Broken(why) => f.write_str(why),
            Self::Status { message, .. } => f.write_str(message),
        }
    }
}

fn broken(error: impl std::fmt::Display) -> CallError {
    CallError::Broken(error.to_string())
}

/// The part of a request that a call is: `etcdserverpb.KV/Txn`.
fn followed(method: &str) -> Option<Part> {
    let part = spans::begin(method.trim_start_matches('/').to_owned(), Kind::Client)?;
    let (service, method) = method.trim_start_matches('/').split_once('/').unwrap_or_default();
    let part = part.with("rpc.system", "grpc").with("rpc.service", service.to_owned());
    Some(part.with("rpc.method", method.to_owned()))
}

/// A connection. Ends with its last clone, and when the other side is gone.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    authority: String,
    /// How many streams are open.
    streams: Arc<AtomicUsize>,
}

impl Connection {
    /// Begins HTTP/2 on a stream.
    pub(crate) async fn open(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        authority: &str,
    ) -> Result<Self, String> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(MAX_SEND_BUFFER_BYTES);
        let shaken = timeout(HANDSHAKE_TIMEOUT, builder.handshake(io)).await;
        let shaken = shaken.map_err(|_| "no HTTP/2 handshake in time".to_owned())?;
        let (sender, mut connection) = shaken.map_err(|error| error.to_string())?;
        let pings = connection.ping_pong();
        let streams = Arc::new(AtomicUsize::new(0));
        let open = Arc::clone(&streams);
        tokio::spawn(async move {
            tokio::select! {
                // Its errors reach those who wait for answers.
                _ = connection => {}
                () = keep_alive(pings, || open.load(Ordering::Relaxed) == 0) => {}
            }
        });
        Ok(Self { sender, authority: authority.to_owned(), streams })
    }

    /// One message there, one back.
    pub(crate) async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, CallError> {
        let mut part = followed(method);
        let parent = part.as_ref().and_then(|it| HeaderValue::from_str(&it.traceparent()).ok());
        let mut metadata = HeaderMap::new();
        metadata.extend(parent.map(|it| (HeaderName::from_static(spans::TRACEPARENT), it)));
        spans::run(&mut part, Box::pin(self.asked(method, metadata, message))).await
    }

    async fn asked(
        &self,
        method: &str,
        metadata: HeaderMap,
        message: &[u8],
    ) -> Result<Bytes, CallError> {
        let mut stream = self.begin(method, metadata).await?;
        stream.send(message, true)?;
        let answer = stream.next().await?;
        let Some(answer) = answer else { return Err(broken("the answer has no message")) };
        // Until the end: where its status is.
        match stream.next().await? {
            None => Ok(answer),
            Some(_) => Err(broken("the answer has two messages")),
        }
    }

    /// A stream of messages.
    pub(crate) async fn begin(
        &self,
        method: &str,
        metadata: HeaderMap,
    ) -> Result<Stream, CallError> {
        let ready = self.sender.clone().ready().await;
        let mut sender = ready.map_err(|error| CallError::NotSent(error.to_string()))?;
        let mut request = Request::post(format!("http://{}{method}", self.authority))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, "kube-apiserver")
            .body(())
            .map_err(|error| CallError::NotSent(error.to_string()))?;
        request.headers_mut().extend(metadata);
        let (response, sending) = sender
            .send_request(request, false)
            .map_err(|error| CallError::NotSent(error.to_string()))?;
        let open = Open::new(&self.streams);
        let receiving = Receiving::Head(response);
        Ok(Stream { sending, receiving, buffer: BytesMut::new(), _open: open })
    }
}

/// Counts a stream while it is open.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Resolves when the other side does not answer any more. While nothing is open nothing is asked: etcd ends connections that
/// do so.
async fn keep_alive(pings: Option<PingPong>, is_idle: impl Fn() -> bool) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(KEEPALIVE_EVERY).await;
        if is_idle() {
            continue;
        }
        let pong = timeout(KEEPALIVE_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

/// A call that goes on: messages both ways.
#[derive(Debug)]
pub(crate) struct Stream {
    sending: SendStream<Bytes>,
    receiving: Receiving,
    buffer: BytesMut,
    _open: Open,
}

#[derive(Debug)]
enum Receiving {
    Head(h2::client::ResponseFuture),
    Body(RecvStream, HeaderMap),
    Ended,
}

impl Stream {
    /// Sends a message, the last one where `is_last`.
    pub(crate) fn send(&mut self, message: &[u8], is_last: bool) -> Result<(), CallError> {
        let mut framed = BytesMut::with_capacity(message.len() + FRAME_HEADER_BYTES);
        let length = u32::try_from(message.len()).map_err(broken)?;
        framed.extend_from_slice(&[0]);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(message);
        self.sending.send_data(framed.freeze(), is_last).map_err(broken)
    }

    /// The next message; none where the server ended the stream in order. May be dropped before it has come.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(message) = unframed(&mut self.buffer)? {
                return Ok(Some(message));
            }
            match &mut self.receiving {
                Receiving::Head(response) => {
                    let response = response.await.map_err(broken)?;
                    let (parts, body) = response.into_parts();
                    if !parts.status.is_success() {
                        let status = parts.status;
                        return Err(broken(format!("unexpected HTTP status code {status}")));
                    }
                    self.receiving = Receiving::Body(body, parts.headers);
                }
                Receiving::Body(body, headers) => match body.data().await {
                    Some(piece) => {
                        let piece = piece.map_err(broken)?;
                        body.flow_control().release_capacity(piece.len()).map_err(broken)?;
                        self.buffer.extend_from_slice(&piece);
                    }
                    None => {
                        let trailers = body.trailers().await.map_err(broken)?;
                        // A failure may come without a message, as headers alone.
                        let ended = status(trailers.as_ref().unwrap_or(headers));
                        self.receiving = Receiving::Ended;
                        return ended.map(|()| None);
                    }
                },
                Receiving::Ended => return Ok(None),
            }
        }
    }
}

fn unframed(buffer: &mut BytesMut) -> Result<Option<Bytes>, CallError> {
    let Some((head, _)) = buffer.split_at_checked(FRAME_HEADER_BYTES) else { return Ok(None) };
    if head[0] != 0 {
        return Err(broken("the answer is compressed"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(broken(format!("the answer has more than {MAX_MESSAGE_BYTES} bytes")));
    }
    if buffer.len() < FRAME_HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(FRAME_HEADER_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let Ok(code) = text("grpc-status").parse() else {
        return Err(broken("the answer has no status"));
    };
    if code == 0 {
        return Ok(());
    }
    let message = percent_encoding::percent_decode_str(text("grpc-message")).decode_utf8_lossy();
    Err(CallError::Status { code, message: message.into_owned() })
}
