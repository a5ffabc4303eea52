//! HTTP/2: one task a connection, one a request.
//!
//! hyper has a server for it, which asks for a byte of the connection's window before it sends. Where many streams share
//! a window that is used up, each of them sends that one byte, and clients end a connection that sends them so
//! many tiny frames ("too_many_data_frames"): a thousand watches on a few connections did not live. Here a stream
//! hands over what it has, and is given the window in turn for all of it (`docs/adr/0010-http2.md`).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use component_base::ShutdownSignal;
use futures::StreamExt;
use futures::stream::BoxStream;
use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, header};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::body::Incoming;
use crate::client_certificates::Judged;
use crate::coalesce::Coalesced;
use crate::idle::{Requests, Running};
use crate::listen::{self, HANDSHAKE, HEADERS, MAX_HEADER_BYTES};
use crate::{Body, Peer, Server};

/// How much of a request's body may be on its way, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// How much of all bodies of a connection may be.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How much of an answer is kept for a client that reads slowly, in bytes; beyond it no more is made.
const MAX_SEND_BUFFER: usize = 400 << 10;
/// How long a connection may be without a request (upstream: `IdleTimeout`).
const IDLE: Duration = Duration::from_secs(90);
/// How often a client is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

type Connection = h2::server::Connection<Coalesced, Bytes>;

/// Serves one connection until the client ends it, or the server stops and every request is answered.
///
/// # Errors
/// When the client breaks the protocol, or is gone.
pub(crate) async fn serve(
    server: Arc<Server>,
    stream: TlsStream<TcpStream>,
    peer: Judged,
    stop: ShutdownSignal,
) -> Result<(), String> {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(server.operating.http2_max_streams)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(MAX_SEND_BUFFER);
    let stream = Coalesced::new(stream);
    let opening = async {
        let opened = builder.handshake::<_, Bytes>(stream.clone()).await;
        let connection = opened.map_err(|error| error.to_string())?;
        stream.written().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(connection)
    };
    let mut connection = tokio::time::timeout(HANDSHAKE, opening)
        .await
        .map_err(|_| "the client did not begin to speak HTTP/2".to_owned())??;
    let mut silence = std::pin::pin!(silence(connection.ping_pong()));
    let mut stopped = std::pin::pin!(stop.requested());
    let requests = Arc::new(Requests::default());
    let mut idle = std::pin::pin!(requests.silence(HEADERS, IDLE));
    let mut last = std::pin::pin!(requests.last());
    let (mut stopping, mut ending) = (false, false);
    loop {
        tokio::select! {
            accepted = poll_fn(|cx| next_request(&mut connection, &stream, cx)) => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted?;
                let (server, peer, running) = (Arc::clone(&server), peer.now(), requests.begin());
                tokio::spawn(async move {
                    exchange(server, peer, request, respond, &running).await;
                    drop(running);
                });
            }
            () = &mut idle, if !ending => {
                if requests.never() {
                    return Err("no request came".into());
                }
                ending = true;
                connection.graceful_shutdown();
            }
            () = &mut stopped, if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
            }
            // Requests that are on their way are answered; the client makes another connection for the next.
            () = &mut last, if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
            }
            () = &mut silence => return Err("the client does not answer pings any more".into()),
        }
    }
}

type Accepted = Result<(Request<RecvStream>, SendResponse<Bytes>), String>;

/// The next request. Where there is none, everything that was made for the client until now is written, at once.
fn next_request(
    connection: &mut Connection,
    stream: &Coalesced,
    cx: &mut Context<'_>,
) -> Poll<Option<Accepted>> {
    let next = connection
        .poll_accept(cx)
        .map(|next| next.map(|accepted| accepted.map_err(|error| error.to_string())));
    if matches!(next, Poll::Ready(Some(Ok(_)))) {
        return next;
    }
    match (stream.poll_written(cx), next) {
        (Poll::Ready(Err(error)), _) => Poll::Ready(Some(Err(error.to_string()))),
        // The last of it is waited for: whoever gets the end drops the connection.
        (Poll::Pending, _) => Poll::Pending,
        (Poll::Ready(Ok(())), next) => next,
    }
}

/// Resolves when a ping is not answered in time.
async fn silence(ping_pong: Option<PingPong>) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match tokio::time::timeout(PING_TIMEOUT, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection's own task sees the error too, and says more of it.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Answers one request. A client that takes its request back ends the work on it.
async fn exchange(
    server: Arc<Server>,
    peer: Peer,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    running: &Running,
) {
    let head = request.method() == Method::HEAD;
    let request = request.map(Incoming::http2);
    let answer = tokio::select! {
        biased;
        answer = listen::answer(&server, request, peer) => answer,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let (mut parts, body) = answer.into_parts();
    // What HTTP/1.1 says in a header is a frame here. Some connections end by chance, so that their clients spread again.
    let closes = parts.headers.remove(header::CONNECTION).is_some_and(|it| it == "close");
    if closes || ends_by_chance(&server) {
        running.is_last();
    }
    add_date(&server, &mut parts.headers);
    let length = http_body::Body::size_hint(&body).exact();
    if let Some(length) = length {
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let ends = head || length == Some(0);
    let sent = respond.send_response(Response::from_parts(parts, ()), ends);
    let (Ok(mut stream), false) = (sent, ends) else { return };
    // What fails from here on fails because the client is gone.
    let _gone = match body {
        Body::Full(bytes) => stream.send_data(bytes.unwrap_or_default(), true),
        Body::Stream(pieces) => send_pieces(pieces, &mut stream).await,
    };
}

/// Whether a connection is to be made anew after this request.
fn ends_by_chance(server: &Server) -> bool {
    let chance = server.operating.goaway_chance;
    chance > 0.0 && server.random.fraction() < chance
}

fn add_date(server: &Server, headers: &mut HeaderMap) {
    let date = httpdate::fmt_http_date(server.clock.now().into());
    if let Ok(date) = HeaderValue::try_from(date) {
        headers.insert(DATE, date);
    }
}

/// Sends pieces as they come; the next is asked for when the client has room for it.
async fn send_pieces(
    mut pieces: BoxStream<'static, Bytes>,
    stream: &mut SendStream<Bytes>,
) -> Result<(), h2::Error> {
    loop {
        let piece = tokio::select! {
            biased;
            piece = pieces.next() => piece,
            reset = poll_fn(|cx| stream.poll_reset(cx)) => return reset.map(|_| ()),
        };
        let Some(piece) = piece else { return stream.send_data(Bytes::new(), true) };
        if piece.is_empty() {
            continue;
        }
        stream.send_data(piece, false)?;
        if !has_room(stream).await? {
            return Ok(());
        }
    }
}

/// Waits until the windows have room beyond what was handed over; says whether the client still listens.
async fn has_room(stream: &mut SendStream<Bytes>) -> Result<bool, h2::Error> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(more) => more?,
            None => return Ok(false),
        };
    }
    // Whoever holds a part of the window while it has nothing to send keeps it from others.
    stream.reserve_capacity(0);
    Ok(true)
}
