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
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, header};
use tokio::time::Instant;

use crate::body::Incoming;
use crate::client_certificates::Judged;
use crate::coalesce::Coalesced;
use crate::connections::End;
use crate::idle::{Requests, Running};
use crate::listen::{self, HANDSHAKE, HEADERS, MAX_HEADER_BYTES, Socket};
use crate::outgoing::{self, Metered};
use crate::{Peer, Server};

/// How much of a request's body may be on its way, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// How much of all bodies of a connection may be.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The same where there is a memory budget.
const SMALL_WINDOWS: (u32, u32) = (256 << 10, 1 << 20);
/// How long a connection may be without a request (upstream: `IdleTimeout`).
const IDLE: Duration = Duration::from_secs(90);
/// How long a client without a request may take to let go of a connection.
const GOODBYE: Duration = Duration::from_secs(10);
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
    stream: Socket,
    (peer, requests): (Judged, &Arc<Requests>),
    stop: ShutdownSignal,
) -> Result<(), String> {
    let stream = Coalesced::new(stream);
    let mut connection = opened(&server, &stream, requests).await?;
    let mut silence = std::pin::pin!(silence(connection.ping_pong()));
    let mut stopped = std::pin::pin!(stop.requested());
    let mut idle = std::pin::pin!(requests.silence(HEADERS, IDLE));
    let (mut last, mut flooded) =
        (std::pin::pin!(requests.last()), std::pin::pin!(requests.flooded()));
    let mut end = std::pin::pin!(tokio::time::sleep(IDLE));
    let (mut stopping, mut ending, mut flood) = (false, false, false);
    loop {
        tokio::select! {
            accepted = poll_fn(|cx| next_request(&mut connection, (&stream, requests), cx)) => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted?;
                let (server, peer, running) = (Arc::clone(&server), peer.now(), requests.begin());
                tokio::spawn(exchange(server, peer, request, respond, running));
            }
            () = &mut idle, if !ending => {
                if requests.never() {
                    requests.ends(End::NoRequest);
                    return Err("no request came".into());
                }
                ending = true;
                requests.ends(End::Idle);
                connection.graceful_shutdown();
                end.as_mut().reset(Instant::now() + GOODBYE);
            }
            () = &mut end, if ending => {
                if requests.silent_since().is_some() {
                    return Err("the client does not take its last answers".into());
                }
                // One came just before the client was told.
                end.as_mut().reset(Instant::now() + GOODBYE);
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
            () = &mut flooded, if !flood => {
                (stopping, flood) = (true, true);
                requests.ends(End::Resets);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            () = &mut silence => {
                requests.ends(End::Ping);
                return Err("the client does not answer pings any more".into());
            }
        }
    }
}

/// A connection on which the client has begun to speak.
async fn opened(
    server: &Server,
    stream: &Coalesced,
    requests: &Requests,
) -> Result<Connection, String> {
    let builder = builder(server);
    let opening = async {
        let opened = builder.handshake::<_, Bytes>(stream.clone()).await;
        let connection = opened.map_err(|error| error.to_string())?;
        stream.written().await.map_err(|error| error.to_string())?;
        Ok(connection)
    };
    tokio::time::timeout(HANDSHAKE, opening).await.map_err(|_| {
        requests.ends(End::Handshake);
        "the client did not begin to speak HTTP/2".to_owned()
    })?
}

fn builder(server: &Server) -> h2::server::Builder {
    let (stream, connection) = match server.operating.memory {
        Some(_) => SMALL_WINDOWS,
        None => (STREAM_WINDOW, CONNECTION_WINDOW),
    };
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(server.operating.http2_max_streams)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_window_size(stream)
        .initial_connection_window_size(connection);
    builder
}

type Accepted = Result<(Request<RecvStream>, SendResponse<Bytes>), String>;

/// The next request. Where there is none, everything that was made for the client until now is written, at once.
fn next_request(
    connection: &mut Connection,
    (stream, requests): (&Coalesced, &Requests),
    cx: &mut Context<'_>,
) -> Poll<Option<Accepted>> {
    let broken = |error: h2::Error| {
        if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && !error.is_remote() {
            requests.ends(End::Resets);
        }
        error.to_string()
    };
    let next = connection.poll_accept(cx).map(|next| next.map(|it| it.map_err(broken)));
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
    running: Running,
) {
    let head = request.method() == Method::HEAD;
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|it| it.to_str().ok()?.parse().ok());
    let request = request.map(|body| Incoming::http2(body, length));
    let answer = tokio::select! {
        biased;
        answer = listen::answer(&server, request, peer) => answer,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => {
            running.is_taken_back();
            return;
        }
    };
    let (mut parts, body) = answer.into_parts();
    // What HTTP/1.1 says in a header is a frame here. Some connections end by chance, so that their clients spread again.
    let closes = parts.headers.remove(header::CONNECTION).is_some_and(|it| it == "close");
    if closes || ends_by_chance(&server) {
        running.is_last();
    }
    add_date(&server, &mut parts.headers);
    let length = outgoing::length(&body);
    if let Some(length) = length {
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let ends = head || length == Some(0);
    let sent = respond.send_response(Response::from_parts(parts, ()), ends);
    match &sent {
        Ok(_) => running.is_answered(),
        // A body that ends early may be known before the stream's end is.
        Err(_) => running.is_taken_back(),
    }
    let (Ok(mut stream), false) = (sent, ends) else { return };
    match body.into_parts() {
        // What fails from here on fails because the client is gone.
        Ok(bytes) => drop(stream.send_data(bytes, true)),
        Err(pieces) => {
            if pieces.lasts() {
                running.lasts();
            }
            // In a task of its own: this one has the size of all that a request may go through, and a watch lasts.
            tokio::spawn(send_pieces(pieces, stream, running));
        }
    }
}

/// Whether a connection is to be made anew after this request.
fn ends_by_chance(server: &Server) -> bool {
    let chance = server.operating.goaway_chance;
    chance > 0.0 && server.random.fraction() < chance
}

fn add_date(server: &Server, headers: &mut HeaderMap) {
    if let Some(date) = server.dates.header(server.clock.now()) {
        headers.insert(DATE, date);
    }
}

/// Sends pieces as they come. One that is handed over is given the windows in turn, whole; how much may wait for them is up
/// to the pieces, and so is when to give up.
async fn send_pieces(mut pieces: Box<Metered>, mut stream: SendStream<Bytes>, _running: Running) {
    loop {
        let piece = tokio::select! {
            biased;
            piece = pieces.next() => piece,
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
        };
        // What fails here fails because the client is gone.
        let sent = match piece {
            Some(Ok(piece)) if piece.is_empty() => Ok(()),
            Some(Ok(piece)) => stream.send_data(piece, false),
            // As Go's server breaks off an answer.
            Some(Err(_)) => return stream.send_reset(Reason::INTERNAL_ERROR),
            None => return finish(&mut pieces, stream).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Ends an answer of which all is made. What waits for a window that the client keeps closed does not wait for ever.
async fn finish(pieces: &mut Metered, mut stream: SendStream<Bytes>) {
    if stream.send_data(Bytes::new(), true).is_err() {
        return;
    }
    let sent = tokio::select! {
        biased;
        sent = pieces.sent() => sent,
        _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
    };
    if sent.is_err() {
        stream.send_reset(Reason::INTERNAL_ERROR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large what a function begins is.
    fn size<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// It is copied several times before it begins: at ten thousand bytes that took a sixth of the server's time.
    #[test]
    fn the_task_of_a_request_is_small() {
        let bytes = size(exchange);
        assert!(bytes <= 3072, "{bytes} bytes");
    }
}
