//! Watches and logs over WebSockets, for clients that cannot read an answer piece by piece, such as browsers and libraries
//! that keep to how they once had to.
//!
//! Upstream: `handlers.WatchServer.HandleWS` and `wsstream.Reader`.

use std::sync::Arc;

use apimachinery::Status;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt};
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use websocket::{Codec, Message};

use crate::body::Body;
use crate::connections::Place;
use crate::exchange::Exchange;
use crate::respond;

/// The protocols in which logs are sent; the first is that of clients that name none.
const LOG_PROTOCOLS: [&str; 3] = ["", "binary.k8s.io", "base64.binary.k8s.io"];
/// A client has nothing to say but that it goes.
const MESSAGE_BYTES: usize = 4 << 10;

/// How pieces of an answer become messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Each line is one.
    Lines,
    /// Each has its length before it, in four bytes.
    Lengths,
    /// What comes, as it comes.
    Bytes(Codec),
}

impl Framing {
    fn messages(self, mut piece: Bytes) -> Vec<Message> {
        let mut messages = Vec::new();
        while !piece.is_empty() {
            let message = match self {
                Self::Bytes(codec) => codec.alone(std::mem::take(&mut piece)),
                Self::Lines => {
                    let end = memchr::memchr(b'\n', &piece).map_or(piece.len(), |it| it + 1);
                    match String::from_utf8(piece.split_to(end).into()) {
                        Ok(line) => Message::Text(line.into()),
                        Err(other) => Message::Binary(other.into_bytes().into()),
                    }
                }
                Self::Lengths => {
                    let length = piece.first_chunk().map_or(0, |it| u32::from_be_bytes(*it));
                    let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(4);
                    let frame = piece.split_to(end.min(piece.len()));
                    Message::Binary(frame.slice(4.min(frame.len())..))
                }
            };
            messages.push(message);
        }
        messages
    }
}

/// Sends an answer over a WebSocket where the client asks for that, and it is a watch or a log.
///
/// # Errors
/// Where the events are asked for in an encoding whose frames nothing tells apart.
pub(crate) fn carry(
    exchange: &mut Exchange,
    answer: Response<Body>,
) -> Result<Response<Body>, Status> {
    let is_log = exchange.info.subresource == "log";
    let is_wanted = (is_log || exchange.info.verb == "watch")
        && exchange.peer.user.is_none()
        && websocket::is_asked(&exchange.parts.headers);
    if !is_wanted || answer.status() != StatusCode::OK {
        return Ok(answer);
    }
    let headers = &exchange.parts.headers;
    let agreed = match is_log {
        true => log_protocol(headers),
        false => watch_protocol(headers),
    };
    let agreed = websocket::check(&exchange.parts.method, headers).and(agreed);
    let protocol = match agreed {
        Ok(protocol) => protocol.to_owned(),
        Err(refusal) => return Ok(respond::text(refusal.status.as_u16(), refusal.text)),
    };
    let media = answer.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let framing = match media.unwrap_or_default() {
        _ if is_log => Framing::Bytes(Codec::of(&protocol)),
        media if media.contains("protobuf") => Framing::Lengths,
        media if media.contains("cbor") => {
            return Err(crate::negotiate::no_stream(exchange.cbor));
        }
        _ => Framing::Lines,
    };
    let pieces = match answer.into_body() {
        Body::Stream(pieces) => pieces,
        Body::Full(bytes) => futures::stream::iter(bytes).boxed(),
    };
    let switching = websocket::switching(headers, &protocol, Body::empty());
    start(exchange, (framing, is_log), pieces);
    Ok(switching)
}

/// Logs: one of the protocols that there are.
fn log_protocol(headers: &HeaderMap) -> Result<&str, websocket::Refusal> {
    websocket::choose(headers, &LOG_PROTOCOLS)
}

/// Watches: a page says where it is from, and whatever it calls its protocol will do if that is one only.
fn watch_protocol(headers: &HeaderMap) -> Result<&str, websocket::Refusal> {
    let refused = |status| Err(websocket::Refusal { status, text: "" });
    if !headers.get(ORIGIN).is_some_and(|it| !it.is_empty() && it != "null") {
        return refused(StatusCode::FORBIDDEN);
    }
    let mut offered = websocket::offered(headers);
    match (offered.next(), offered.next()) {
        (only, None) => Ok(only.unwrap_or_default()),
        _ => refused(StatusCode::BAD_REQUEST),
    }
}

/// Sends the pieces as soon as the connection has become a WebSocket.
fn start(
    exchange: &mut Exchange,
    (framing, is_log): (Framing, bool),
    pieces: BoxStream<'static, Bytes>,
) {
    let client = exchange.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let place = exchange.parts.extensions.remove::<Arc<Place>>();
    let running = place.as_ref().map(|it| it.requests().begin());
    if let Some(running) = running.as_ref().filter(|_| is_log) {
        running.lasts();
    }
    let audit = exchange.audit.clone();
    tokio::spawn(async move {
        let _over_when_this_is = (audit, running, place);
        let Some(client) = client else { return };
        match client.await {
            Ok(io) => send(TokioIo::new(io), (framing, is_log), pieces).await,
            Err(error) => tracing::debug!(%error, "a client went away before its WebSocket began"),
        }
    });
}

/// Sends the pieces until they or the client end.
async fn send<I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    io: I,
    (framing, is_log): (Framing, bool),
    mut pieces: BoxStream<'static, Bytes>,
) {
    let (mut sink, mut source) = websocket::accept(io, MESSAGE_BYTES).await.split();
    let heard = async {
        while let Some(Ok(message)) = source.next().await {
            if message.is_close() {
                return;
            }
        }
    };
    let told = async {
        if let (true, Framing::Bytes(codec)) = (is_log, framing) {
            // So that a client sees that it has begun, whenever there is something to tell.
            sink.send(codec.alone(Bytes::new())).await?;
        }
        while let Some(piece) = pieces.next().await {
            for message in framing.messages(piece) {
                sink.feed(message).await?;
            }
            sink.flush().await?;
        }
        sink.send(websocket::goodbye()).await?;
        sink.close().await
    };
    tokio::select! {
        () = heard => {}
        // A client that is gone misses nothing.
        _ = told => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_messages() {
        let messages = |framing: Framing, piece: &'static [u8]| -> Vec<Vec<u8>> {
            let all = framing.messages(Bytes::from_static(piece));
            all.into_iter().map(|it| it.into_data().to_vec()).collect()
        };
        assert_eq!(messages(Framing::Lines, b"{}\n[]\n"), [b"{}\n", b"[]\n"]);
        assert_eq!(messages(Framing::Lengths, b"\0\0\0\x02ab\0\0\0\x01c"), [&b"ab"[..], b"c"]);
        assert_eq!(messages(Framing::Lengths, b"\0\0\xff\xffa"), [b"a"]);
        assert_eq!(messages(Framing::Lengths, b"\0\0"), [b""]);
        assert_eq!(messages(Framing::Bytes(Codec::Base64), b"\n"), [b"Cg=="]);
        assert_eq!(messages(Framing::Lines, b""), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_watch_is_for_pages_that_say_where_they_are_from() {
        let chosen = |given: &[(http::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.append(name, http::HeaderValue::from_static(value));
            }
            watch_protocol(&headers).map(str::to_owned).map_err(|it| it.status.as_u16())
        };
        let protocol = http::header::SEC_WEBSOCKET_PROTOCOL;
        let origin = (ORIGIN, "https://example.com");
        assert_eq!(chosen(&[]), Err(403));
        assert_eq!(chosen(&[(ORIGIN, "null")]), Err(403));
        assert_eq!(chosen(std::slice::from_ref(&origin)), Ok(String::new()));
        assert_eq!(chosen(&[origin.clone(), (protocol.clone(), "a")]), Ok("a".into()));
        assert_eq!(chosen(&[origin, (protocol, "a, b")]), Err(400));
    }
}
