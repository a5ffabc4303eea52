//! Sockets: TLS, HTTP/1.1 and HTTP/2, and an end that lets requests finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component_base::ShutdownSignal;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::body::Incoming;
use crate::client_certificates::Tls;
use crate::{Body, RequestBody, Server};

/// How many connections there may be at once. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the headers of a request may take to arrive.
const HEADERS: Duration = Duration::from_secs(30);
/// How long requests may go on after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// The longest headers of a request, in bytes: beyond it 431 (upstream: `DefaultMaxHeaderBytes`). URLs end at 64 KiB.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// How many headers a request may have: each group that is impersonated is one. Upstream counts bytes only.
const MAX_HEADERS: usize = 1000;
/// Streams of one HTTP/2 connection (upstream: 100). A client that holds many watches on one connection still gets its
/// writes through; what a stream may buffer is bounded by its window.
const MAX_STREAMS: u32 = 1_000;

/// How requests begin that come without TLS.
const PLAIN_HTTP: [&[u8]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// What they are answered with.
const NOT_TLS: &str =
    "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Accepts connections until `stop`, then lets requests finish for a bounded time.
///
/// # Errors
/// When the socket cannot accept any more.
pub async fn listen(
    server: Arc<Server>,
    listener: TcpListener,
    tls: Tls,
    stop: ShutdownSignal,
) -> std::io::Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tracker = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.map_err(std::io::Error::other)?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.requested() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: those in use will come back.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, tls, watcher) = (Arc::clone(&server), tls.clone(), tracker.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(server, tls, stream, watcher).await {
                tracing::debug!(%address, error, "a connection ended early");
            }
        });
    }
    drop(listener);
    // Watches end by themselves when the server stops.
    let _ = tokio::time::timeout(GRACE, tracker.shutdown()).await;
    Ok(())
}

/// Serves one connection.
async fn connection(
    server: Arc<Server>,
    tls: Tls,
    stream: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    // Small answers must not wait for more data.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, handshake(&tls, stream)).await;
    let stream = handshake
        .map_err(|_| "the handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let peer = tls.peer(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let request = request.map(Incoming::new);
        let server = Arc::clone(&server);
        let peer = peer.clone();
        async move {
            let answer = match refused(&request) {
                Some(refusal) => refusal,
                None => server.serve(request.map(RequestBody::Incoming), peer).await,
            };
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES + 8192);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Duration::from_secs(30));
    let serving =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    watcher.watch(serving).await.map_err(|error| error.to_string())
}

/// Agrees on keys; tells a client that speaks without any that it should not, as Go's server does.
async fn handshake(tls: &Tls, mut stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let mut first = [0; 5];
    let seen = stream.peek(&mut first).await?;
    if PLAIN_HTTP.contains(&&first[..seen]) {
        stream.write_all(NOT_TLS.as_bytes()).await?;
        stream.shutdown().await?;
        return Err(std::io::Error::other("the client does not speak TLS"));
    }
    TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream).await
}

/// What Go's HTTP server refuses before anybody sees the request, in its words.
fn refused(request: &Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some(plain(code, "431 Request Header Fields Too Large"));
    }
    if request.version() == Version::HTTP_11 && !headers.contains_key(HOST) {
        let text = "400 Bad Request: missing required Host header";
        return Some(plain(StatusCode::BAD_REQUEST, text));
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
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        std::io::Error::new(error.kind(), format!("could not listen on {address}: {error}"))
    })
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
