//! Passing a request on to another HTTP server, and its answer back: bytes as they come, upgrades included.
//!
//! Knows nothing of who is behind the address.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::attended::LASTING;
use crate::body::{Body, BodyError};
use crate::connections::Place;
use crate::exchange::{Exchange, RequestBody};

/// How long a server may take to accept a connection, and then for its keys.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a client is listened to that nobody listens to any more.
const LINGER: Duration = Duration::from_secs(5);
/// The most that is carried at once where a stream has a pace.
const PACED_BYTES_MAX: usize = 8 << 10;
/// Headers that belong to one connection and are not passed on (`Upgrade` where protocols are not switched is another).
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
];
/// What of a request is for this server alone. Its length is what its body says, which may have been read already.
const FOR_THIS_SERVER: &[&str] = &["host", "authorization", "content-length"];

/// The addresses that a request has come from.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The body of a request on its way.
pub(crate) type Passed = UnsyncBoxBody<Bytes, BodyError>;

/// Bytes at hand as a body on its way.
pub(crate) fn full(bytes: Bytes) -> Passed {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is passed on as it comes.
pub(crate) fn streamed(body: RequestBody) -> Passed {
    match body {
        RequestBody::Bytes(bytes) => full(bytes),
        RequestBody::Incoming(incoming) => incoming.boxed_unsync(),
    }
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Onward {
    pub(crate) address: SocketAddr,
    /// How to speak TLS, and to whom.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The path there, and the query.
    pub(crate) path: String,
}

/// Passes the request on.
///
/// # Errors
/// Nobody answers there; in the words of Go's dialer, where it has any.
pub(crate) async fn forward(
    exchange: &mut Exchange,
    to: &Onward,
    method: Method,
    body: Passed,
) -> Result<Response<Body>, String> {
    let request = request_to(exchange, to, method, body)?;
    let response = ask(to, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(join(exchange, response));
    }
    let (parts, incoming) = response.into_parts();
    let pieces =
        BodyStream::new(incoming).filter_map(|frame| async move { frame.ok()?.into_data().ok() });
    let mut answer = Response::new(Body::Stream(pieces.boxed()));
    *answer.status_mut() = parts.status;
    // With the length that the other server gives: what breaks off before is no whole answer.
    passed_on(&parts.headers, false)
        .for_each(|(name, value)| _ = answer.headers_mut().append(name.clone(), value.clone()));
    Ok(answer)
}

/// Sends a request on a connection of its own.
///
/// # Errors
/// Nobody answers there; in the words of Go's dialer, where it has any.
pub(crate) async fn ask(
    to: &Onward,
    request: Request<Passed>,
) -> Result<Response<hyper::body::Incoming>, String> {
    let tcp = tokio::time::timeout(CONNECT, TcpStream::connect(to.address)).await;
    let tcp = tcp.map_err(|_| dialing(to.address, "i/o timeout"))?;
    let tcp = tcp.map_err(|error| {
        dialing(to.address, &format!("connect: {}", without_number(&error.to_string())))
    })?;
    // Keystrokes must not wait for each other.
    let _ = tcp.set_nodelay(true);
    match &to.tls {
        None => send(tcp, request).await,
        Some((config, name)) => {
            let tls = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp);
            let tls = tokio::time::timeout(CONNECT, tls).await;
            let tls = tls.map_err(|_| "TLS handshake timeout".to_owned())?;
            let named = name.to_str();
            send(tls.map_err(|error| webhook::handshake(&named, &error))?, request).await
        }
    }
}

fn dialing(address: SocketAddr, why: &str) -> String {
    format!("dial tcp {address}: {why}")
}

/// `Connection refused (os error 111)` as Go says it.
fn without_number(error: &str) -> String {
    let text = error.split(" (os error").next().unwrap_or(error);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

async fn send<S>(
    stream: S,
    request: Request<Passed>,
) -> Result<Response<hyper::body::Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|error| error.to_string())
}

fn request_to(
    exchange: &Exchange,
    to: &Onward,
    method: Method,
    body: Passed,
) -> Result<Request<Passed>, String> {
    let uri: Uri = to.path.parse().map_err(|error| format!("path {}: {error}", to.path))?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    let switches = exchange.parts.headers.contains_key(UPGRADE);
    for (name, value) in passed_on(&exchange.parts.headers, switches) {
        let own = FOR_THIS_SERVER.contains(&name.as_str());
        if !own && !name.as_str().starts_with("impersonate-") {
            headers.append(name.clone(), value.clone());
        }
    }
    let host = HeaderValue::from_str(&to.address.to_string());
    headers.insert(HOST, host.map_err(|error| error.to_string())?);
    if switches {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    tell_client(exchange, headers);
    Ok(request)
}

/// Says where the request comes from, after what those say who passed it on before.
fn tell_client(exchange: &Exchange, headers: &mut HeaderMap) {
    let Some(address) = exchange.peer.address else { return };
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|it| it.to_str().ok());
    let mut all: Vec<String> = before.map(str::to_owned).collect();
    all.push(address.to_string());
    if let Ok(told) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(FORWARDED_FOR, told);
    }
}

/// The headers that are not of one connection alone: by their nature, or because `Connection` names them. Where protocols are
/// to be switched upstream passes on what it names.
fn passed_on(
    headers: &HeaderMap,
    switches: bool,
) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let named = headers.get_all(CONNECTION).iter().filter_map(|it| it.to_str().ok());
    let named = named.flat_map(|it| it.split(',')).map(|it| it.trim().to_ascii_lowercase());
    let named: Vec<String> = if switches { Vec::new() } else { named.collect() };
    headers.iter().filter(move |(name, _)| {
        let hop = HOP_BY_HOP.contains(&name.as_str()) || (!switches && **name == UPGRADE);
        !hop && !named.iter().any(|it| it == name.as_str())
    })
}

/// Both ends have switched protocols: from here on bytes go to and fro.
fn join(exchange: &mut Exchange, response: Response<hyper::body::Incoming>) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in response.headers() {
        if name.as_str().starts_with("sec-websocket")
            || *name == UPGRADE
            || *name == HeaderName::from_static("x-stream-protocol-version")
        {
            answer.headers_mut().append(name.clone(), value.clone());
        }
    }
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let client = exchange.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let over_when_this_is = (exchange.audit.clone(), exchange.lasting.take());
    let place = exchange.parts.extensions.remove::<Arc<Place>>();
    let running = place.as_ref().map(|it| it.requests().begin());
    if let Some(running) = &running {
        running.lasts();
    }
    let pace = exchange.bytes_per_second;
    tokio::spawn(async move {
        let _over_when_this_is = (over_when_this_is, running, place);
        let Some(client) = client else { return };
        let (Ok(client), Ok(other)) = tokio::join!(client, hyper::upgrade::on(response)) else {
            return;
        };
        carry(TokioIo::new(client), TokioIo::new(other), pace).await;
    });
    answer
}

/// Carries bytes to and fro until the other server has said all. A client that is still sending then is listened to for a
/// while: a connection that is closed with unread bytes is reset, and what was on its way to the client is lost.
async fn carry<C, O>(client: C, other: O, pace: Option<NonZeroU64>)
where
    C: AsyncRead + AsyncWrite,
    O: AsyncRead + AsyncWrite,
{
    let heard = AtomicBool::new(false);
    let (from_client, mut to_client) = tokio::io::split(client);
    let (from_other, mut to_other) = tokio::io::split(other);
    let mut from_client = Heard::new(from_client, &heard, pace);
    let mut from_other = Heard::new(from_other, &heard, pace);
    // How either direction ends does not matter any more.
    let down = async {
        let _ = tokio::io::copy(&mut from_other, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    let up = async {
        if tokio::io::copy(&mut from_client, &mut to_other).await.is_ok() {
            let _ = to_other.shutdown().await;
        } else {
            let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
        }
    };
    let (mut down, mut up) = (std::pin::pin!(down), std::pin::pin!(up));
    tokio::select! {
        () = &mut down => drop(tokio::time::timeout(LINGER, up).await),
        () = &mut up => tokio::select! {
            () = &mut down => {}
            () = silence(&heard) => {}
        },
        () = silence(&heard) => {}
    }
}

/// Ends when neither side has said anything for as long as streams may be silent.
async fn silence(heard: &AtomicBool) {
    const PARTS: u32 = 8;
    let mut silent = 0;
    while silent < PARTS {
        tokio::time::sleep(LASTING / PARTS).await;
        silent = if heard.swap(false, Ordering::Relaxed) { 0 } else { silent + 1 };
    }
}

/// A side of a stream that notes whether it says anything, and says no more than it may in its time.
struct Heard<'h, R> {
    stream: R,
    heard: &'h AtomicBool,
    /// Bytes a second.
    pace: Option<NonZeroU64>,
    /// The time that what was said may take.
    rest: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<'h, R> Heard<'h, R> {
    fn new(stream: R, heard: &'h AtomicBool, pace: Option<NonZeroU64>) -> Self {
        Self { stream, heard, pace, rest: None }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<'_, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if let Some(rest) = &mut this.rest {
            std::task::ready!(rest.as_mut().poll(cx));
            this.rest = None;
        }
        let Some(pace) = this.pace else {
            let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
            if read.is_ready() {
                this.heard.store(true, Ordering::Relaxed);
            }
            return read;
        };
        let most = usize::try_from(pace.get()).unwrap_or(usize::MAX).min(PACED_BYTES_MAX);
        let mut some = vec![0; most.min(buffer.remaining())];
        let mut part = ReadBuf::new(&mut some);
        let read = Pin::new(&mut this.stream).poll_read(cx, &mut part);
        let said = part.filled();
        if !said.is_empty() {
            let nanos = u128::from(pace.get());
            let nanos = (said.len() as u128).saturating_mul(1_000_000_000) / nanos;
            let rest = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            this.rest = Some(Box::pin(tokio::time::sleep(rest)));
            buffer.put_slice(said);
        }
        if read.is_ready() {
            this.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, passed_on, without_number};

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "X-Hop, keep-alive"),
            ("connection", "upgrade"),
            ("x-hop", "1"),
            ("upgrade", "spdy/3.1"),
            ("content-length", "3"),
            ("te", "trailers"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let left = |switches| -> Vec<&str> {
            passed_on(&headers, switches).map(|(name, _)| name.as_str()).collect()
        };
        assert_eq!(left(false), ["content-length"]);
        assert_eq!(left(true), ["x-hop", "upgrade", "content-length"]);
    }

    #[test]
    fn errors_of_the_kernel_are_told_as_go_does() {
        for (text, expected) in [
            ("Connection refused (os error 111)", "connection refused"),
            ("No route to host (os error 113)", "no route to host"),
            ("", ""),
        ] {
            assert_eq!(without_number(text), expected);
        }
    }

    #[tokio::test]
    async fn the_last_words_reach_a_client_that_is_still_sending() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (client, ours) = tokio::io::duplex(64);
        let (theirs, mut other) = tokio::io::duplex(64);
        let carrying = tokio::spawn(super::carry(ours, theirs, None));
        let (mut read, mut write) = tokio::io::split(client);
        let sending = tokio::spawn(async move { while write.write_all(&[0; 64]).await.is_ok() {} });
        other.write_all(b"bye").await.unwrap();
        drop(other);
        let mut text = Vec::new();
        read.read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"bye");
        sending.abort();
        let _ = sending.await;
        drop(read);
        carrying.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_with_a_pace_keeps_to_it() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut client, ours) = tokio::io::duplex(1 << 20);
        let (theirs, mut other) = tokio::io::duplex(1 << 20);
        let begun = tokio::time::Instant::now();
        let pace = std::num::NonZeroU64::new(1000);
        let carrying = tokio::spawn(super::carry(ours, theirs, pace));
        client.write_all(&[7; 5000]).await.unwrap();
        let mut all = [0; 5000];
        other.read_exact(&mut all).await.unwrap();
        let took = begun.elapsed();
        assert!(all.iter().all(|it| *it == 7), "what is carried is what was said");
        // What is said first does not wait.
        assert!((4..=5).contains(&took.as_secs()), "{took:?}");
        drop((client, other));
        carrying.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_on_which_nobody_says_anything_is_not_kept_for_ever() {
        use tokio::io::AsyncWriteExt as _;
        let (mut client, ours) = tokio::io::duplex(64);
        let (theirs, _other) = tokio::io::duplex(64);
        let begun = tokio::time::Instant::now();
        let talking = async {
            tokio::time::sleep(super::LASTING * 2 / 3).await;
            client.write_all(b"x").await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = super::carry(ours, theirs, None) => {}
            () = talking => {}
        }
        let took = begun.elapsed();
        assert!(took > super::LASTING && took <= super::LASTING * 2, "{took:?}");
    }
}
