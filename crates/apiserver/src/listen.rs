//! Sockets: TLS, HTTP/1.1 and HTTP/2, and an end that lets requests finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use component_base::ShutdownSignal;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::{Peer, RequestBody, Server};

/// How many connections there may be at once. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the headers of a request may take to arrive.
const HEADERS: Duration = Duration::from_secs(30);
/// How long requests may go on after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// The longest headers of a request, and the longest URL, in bytes: beyond it 431.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// Streams of one HTTP/2 connection (upstream: 100). A client that holds many watches on one connection still gets its
/// writes through; what a stream may buffer is bounded by its window.
const MAX_STREAMS: u32 = 1_000;

/// Accepts connections until `stop`, then lets requests finish for a bounded time.
///
/// # Errors
/// When the socket cannot accept any more.
pub async fn listen(
    server: Arc<Server>,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    stop: ShutdownSignal,
) -> std::io::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
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
        let (server, acceptor, watcher) =
            (Arc::clone(&server), acceptor.clone(), tracker.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(server, acceptor, stream, watcher).await {
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
    acceptor: TlsAcceptor,
    stream: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    // Small answers must not wait for more data.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = handshake
        .map_err(|_| "the handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates: Arc<[Vec<u8>]> = certificates.iter().map(|it| it.to_vec()).collect();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let server = Arc::clone(&server);
        let peer = Peer { certificates: Arc::clone(&certificates), user: None };
        async move {
            Ok::<_, std::convert::Infallible>(
                server.serve(request.map(RequestBody::Incoming), peer).await,
            )
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
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

/// An address to listen on, with the errors people meet explained.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        std::io::Error::new(error.kind(), format!("could not listen on {address}: {error}"))
    })
}
