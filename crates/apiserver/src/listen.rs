//! Sockets: TLS, HTTP/1.1 (HTTP/2 is in `http2.rs`), and an end that lets requests finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component_base::{ShutdownSignal, with_causes};
use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING,
    UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::attended::Attended;
use crate::body::Incoming;
use crate::client_certificates::{Judged, Speaking, Tls};
use crate::connections::{End, Place};
use crate::lingering::{Lingering, Upgraded};
use crate::outgoing::Outgoing;
use crate::{Body, Peer, RequestBody, Server, cors, memory, respond};

/// A connection as it is read and written.
pub(crate) type Socket = TlsStream<Attended<TcpStream>>;

/// How many connections are taken however short memory is: some MiB.
const KEPT_PLACES: usize = 64;
/// How long a handshake may take.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the headers of a request may take to arrive, also where a connection has had requests; on HTTP/2 those of
/// the first (upstream: `ReadHeaderTimeout`).
pub(crate) const HEADERS: Duration = Duration::from_secs(30);
/// How long connections may go on after the last request was answered: to send it, and for what lasts as long as its client
/// likes.
const GRACE: Duration = Duration::from_secs(10);
/// How long a connection may have been silent that stays where the server is short of memory.
const SILENT_WHEN_SHORT: Duration = Duration::from_secs(1);
/// How many connections are ended at a time where the server is short of memory.
const ENDED_AT_ONCE: usize = 256;
/// What is answered while the server ends, to who comes again soon (upstream: `WithRetryAfter`).
const ENDING: &str = "The apiserver is shutting down, please try again later.\n";
/// After how many seconds they may come again.
const RETRY_SECONDS: &str = "5";
/// What is answered to the end: whoever looks after this server asks there.
const ANSWERED_TO_THE_END: [&str; 2] = ["/readyz", "/livez"];
/// The longest headers of a request, in bytes: beyond it 431 (upstream: `DefaultMaxHeaderBytes`). URLs end at 64 KiB.
pub(crate) const MAX_HEADER_BYTES: usize = 1 << 20;
/// How many headers a request may have: each group that is impersonated is one. Upstream counts bytes only.
const MAX_HEADERS: usize = 1000;

/// How requests begin that come without TLS.
const PLAIN_HTTP: [&[u8]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// What they are answered with.
const NOT_TLS: &str =
    "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Accepts connections until the server takes none any more, then lets requests finish for a bounded time.
///
/// # Errors
/// When the socket cannot accept any more.
pub async fn listen(
    server: Arc<Server>,
    listener: TcpListener,
    tls: impl Into<Speaking>,
) -> std::io::Result<()> {
    let tls = tls.into();
    // Where clients are told to come again, connections are taken as long as there is something to be done.
    let stop = match server.operating.shutdown.sends_retry_after {
        true => server.ending.quiet(),
        false => server.ending.draining(),
    };
    let most = server.operating.max_connections;
    let permits = Arc::new(Semaphore::new(most));
    let relief =
        server.operating.memory.as_ref().map(|_| tokio::spawn(relieve(Arc::clone(&server))));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: those in use will come back.
                tracing::warn!(%error, "could not accept a connection");
                server.connections.end_one(End::Replaced, Duration::ZERO);
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let permit = tokio::select! {
            permit = place(&server, &permits) => permit,
            () = stop.requested() => break,
        };
        let Some(permit) = permit else { continue };
        let place = Arc::new(Place::new(server.connections.open(), permit));
        let (server, tls, stop) = (Arc::clone(&server), tls.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = unless_unwanted(server, tls, (stream, place), stop).await {
                tracing::debug!(%address, error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if let Some(relief) = relief {
        relief.abort();
    }
    server.ending.quiet().requested().await;
    // Watches end by themselves when the server stops; a connection gives its permit back when it is done.
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(GRACE, permits.acquire_many(all)).await;
    Ok(())
}

/// A place for one connection more, where one can be had: somebody who says nothing makes room. Where memory is short, a
/// few places are kept all the same: those who look how the server is, and those who free something, have to get in.
async fn place(server: &Server, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let connections = &server.connections;
    if server.operating.memory.as_ref().is_some_and(|it| it.is_full())
        && connections.count() >= KEPT_PLACES
        && !connections.end_one(End::Memory, Duration::ZERO)
    {
        connections.refused(End::Memory);
        return None;
    }
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return Some(permit);
    }
    connections.end_one(End::Replaced, Duration::ZERO);
    Arc::clone(permits).acquire_owned().await.ok()
}

/// Ends connections that say nothing while the server is short of memory.
async fn relieve(server: Arc<Server>) {
    let Some(budget) = &server.operating.memory else { return };
    loop {
        tokio::time::sleep(Duration::from_millis(memory::LOOK_EVERY_MS)).await;
        if !budget.is_full() {
            continue;
        }
        server.connections.end_silent(End::Memory, SILENT_WHEN_SHORT, ENDED_AT_ONCE);
    }
}

/// Serves one connection, unless somebody else needs its place.
async fn unless_unwanted(
    server: Arc<Server>,
    speaking: Speaking,
    (stream, place): (TcpStream, Arc<Place>),
    stop: ShutdownSignal,
) -> Result<(), String> {
    let requests = place.requests();
    let serving = std::pin::pin!(connection(server, speaking, (stream, &place), stop));
    tokio::select! {
        ended = serving => ended,
        () = requests.unwanted() => Err("its place is needed".into()),
    }
}

/// Serves one connection.
async fn connection(
    server: Arc<Server>,
    speaking: Speaking,
    (stream, place): (TcpStream, &Arc<Place>),
    stop: ShutdownSignal,
) -> Result<(), String> {
    let requests = place.requests();
    // Small answers must not wait for more data.
    let _ = stream.set_nodelay(true);
    let attended =
        |stream| Attended::new(stream, Arc::clone(requests), server.operating.request_timeout);
    let tls = speaking.now();
    let handshake = handshake(&tls, stream, attended);
    let stream = match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            server.connections.failed_handshake();
            return Err(error.to_string());
        }
        Err(_) => {
            server.connections.failed_handshake();
            requests.ends(End::Handshake);
            return Err("the handshake took too long".into());
        }
    };
    let (tcp, session) = stream.get_ref();
    let address = tcp.get_ref().peer_addr().ok().map(|it| it.ip().to_canonical());
    let peer = Judged::new(speaking, session.peer_certificates().unwrap_or_default(), address);
    if session.alpn_protocol() == Some(b"h2") {
        return crate::http2::serve(server, stream, (peer, requests), stop).await;
    }
    http1(server, stream, (peer, place), stop).await
}

/// Serves one connection of HTTP/1.1.
async fn http1(
    server: Arc<Server>,
    stream: Socket,
    (peer, place): (Judged, &Arc<Place>),
    stop: ShutdownSignal,
) -> Result<(), String> {
    let requests = place.requests();
    let held = Arc::clone(place);
    let upgraded = Upgraded::default();
    let stream = Lingering::new(stream, upgraded.clone());
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (server, peer) = (Arc::clone(&server), peer.now());
        let running = held.requests().begin();
        let mut request = request.map(Incoming::http1);
        if request.headers().contains_key(UPGRADE) {
            // An upgraded connection keeps it when the rest of this is over.
            upgraded.set();
            request.extensions_mut().insert(Arc::clone(&held));
        }
        async move {
            let answer = answer(&server, request, peer).await;
            let answer = answer.map(|body| body.of_running(running));
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES + 8192)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stop.requested() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    ended.map_err(|error| {
        if error.is_timeout() {
            requests.ends(if requests.never() { End::NoRequest } else { End::Idle });
        }
        with_causes(&error)
    })
}

/// The answer to a request from a socket.
pub(crate) fn answer(
    server: &Arc<Server>,
    request: Request<Incoming>,
    peer: Peer,
) -> impl Future<Output = Response<Outgoing>> + Send {
    let begun = begin(server, request, peer);
    async move {
        let (mut response, origin) = match begun {
            Begun::Refused(refusal) => return Outgoing::of(server, *refusal),
            Begun::Preflight(answer, origin) => (*answer, Some(origin)),
            Begun::Served(answer, origin) => (answer.await, origin.map(|it| *it)),
        };
        if let Some(origin) = origin {
            cors::allow(response.headers_mut(), origin);
        }
        if let Some(directives) = &server.operating.transport_security {
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, directives.clone());
        }
        Outgoing::of(server, response)
    }
}

/// What becomes of a request from a socket. What is rare is elsewhere, so that this is no larger than the rest.
enum Begun<F> {
    Refused(Box<Response<Body>>),
    Preflight(Box<Response<Body>>, HeaderValue),
    Served(F, Option<Box<HeaderValue>>),
}

fn begin<'s>(
    server: &'s Arc<Server>,
    request: Request<Incoming>,
    peer: Peer,
) -> Begun<impl Future<Output = Response<Body>> + Send + use<'s>> {
    if server.ending.is_draining() && is_too_late(server, request.uri().path()) {
        return Begun::Refused(Box::new(come_again()));
    }
    let operating = &server.operating;
    if let Some(refusal) = refused(&request, operating.memory.as_ref()) {
        return Begun::Refused(Box::new(refusal));
    }
    let origin = operating.cors.as_ref().and_then(|it| it.origin(&request)).cloned();
    if let Some(origin) = &origin
        && let Some(answer) = cors::preflight(request.method())
    {
        return Begun::Preflight(Box::new(answer), origin.clone());
    }
    Begun::Served(server.serve(request.map(RequestBody::Incoming), peer), origin.map(Box::new))
}

fn is_too_late(server: &Server, path: &str) -> bool {
    server.operating.shutdown.sends_retry_after
        && !ANSWERED_TO_THE_END.iter().any(|it| path.starts_with(it))
}

/// The server ends: others may take the request, on another connection.
fn come_again() -> Response<Body> {
    let mut response = plain(StatusCode::TOO_MANY_REQUESTS, ENDING);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Agrees on keys; tells a client that speaks without any that it should not, as Go's server does.
async fn handshake(
    tls: &Tls,
    mut stream: TcpStream,
    attended: impl FnOnce(TcpStream) -> Attended<TcpStream>,
) -> std::io::Result<Socket> {
    let mut first = [0; 5];
    let seen = stream.peek(&mut first).await?;
    if PLAIN_HTTP.contains(&&first[..seen]) {
        stream.write_all(NOT_TLS.as_bytes()).await?;
        stream.shutdown().await?;
        return Err(std::io::Error::other("the client does not speak TLS"));
    }
    TlsAcceptor::from(Arc::clone(&tls.config)).accept(attended(stream)).await
}

/// What Go's HTTP server refuses before anybody sees the request, in its words, and what there is no memory for.
fn refused(
    request: &Request<Incoming>,
    memory: Option<&Arc<memory::MemoryBudget>>,
) -> Option<Response<Body>> {
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some(plain(code, "431 Request Header Fields Too Large"));
    }
    if let Err(status) = memory::precheck(memory, bytes as u64) {
        return Some(respond::turned_away(&status));
    }
    if request.version() == Version::HTTP_11 && !headers.contains_key(HOST) {
        let text = "400 Bad Request: missing required Host header";
        return Some(plain(StatusCode::BAD_REQUEST, text));
    }
    let encodings = headers.get_all(TRANSFER_ENCODING).iter();
    if encodings.into_iter().any(|it| !it.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Some(plain(StatusCode::NOT_IMPLEMENTED, "Unsupported transfer encoding"));
    }
    (!is_escaped(request.uri().path())).then(|| plain(StatusCode::BAD_REQUEST, "400 Bad Request"))
}

/// Whether each percent sign of a path is followed by two hexadecimal digits.
fn is_escaped(path: &str) -> bool {
    let hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    path.split('%').skip(1).all(|after| {
        let after = after.as_bytes();
        hex(after.first()) && hex(after.get(1))
    })
}

fn plain(code: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Full(Some(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An address to listen on, with the errors people meet explained.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr, shares_port: bool) -> std::io::Result<TcpListener> {
    let bound = if shares_port { bind_shared(address) } else { TcpListener::bind(address).await };
    bound.map_err(|error| {
        std::io::Error::new(error.kind(), format!("could not listen on {address}: {error}"))
    })
}

/// The same where other processes may listen on the port too: the kernel gives each its part of connections.
fn bind_shared(address: SocketAddr) -> std::io::Result<TcpListener> {
    const WAITING: u32 = 1024;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

#[cfg(test)]
mod tests {
    use super::is_escaped;

    #[test]
    fn escapes_are_two_hexadecimal_digits() {
        for (path, expected) in [
            ("/a", true),
            ("/%2F%ff%00", true),
            ("/%", false),
            ("/a%2", false),
            ("/%zz/%20", false),
            ("/%%20", false),
        ] {
            assert_eq!(is_escaped(path), expected, "{path}");
        }
    }
}
