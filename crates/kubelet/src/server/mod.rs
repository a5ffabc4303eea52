//! The agent's own server: logs, commands, statistics and health, for the API server and for whoever may ask the node.
//!
//! Every request is authenticated and authorised by the API server's word; bodies are not read at all.

mod access;
mod answers;
mod channels;
mod logs;
mod port_forward;
mod query;
mod remote;
mod reports;
mod routes;
mod spdy;
mod summary;
mod which;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use component_base::ShutdownSignal;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::manager::Manager;
use crate::shared::Shared;

pub(crate) use access::Access;
pub(crate) use summary::Rates;

/// Connections at once.
const MAX_CONNECTIONS: usize = 1_000;
/// For the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// For the headers of a request, the first and each further one.
const HEADERS: Duration = Duration::from_secs(30);

/// What requests are answered from.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) manager: Arc<Manager>,
    pub(crate) access: access::Access,
    pub(crate) rates: summary::Rates,
    /// When the agent was started.
    pub(crate) started: jiff::Timestamp,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    context: Arc<Context>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: ShutdownSignal,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            it = listener.accept() => it,
            () = stop.requested() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection to the node agent");
                // Out of file descriptors: they come back when connections end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!("too many connections to the node agent: one was refused");
            continue;
        };
        let (context, acceptor) = (Arc::clone(&context), acceptor.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(context, acceptor, stream).await {
                tracing::debug!(%error, "a connection to the node agent ended");
            }
        });
    }
}

async fn connection(
    context: Arc<Context>,
    acceptor: TlsAcceptor,
    stream: tokio::net::TcpStream,
) -> io::Result<()> {
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let certificates = stream.get_ref().1.peer_certificates();
    let peer: Option<CertificateDer<'static>> =
        certificates.and_then(|it| it.first()).cloned().map(CertificateDer::into_owned);
    let peer = Arc::new(peer);
    let service = service_fn(move |request| {
        let (context, peer) = (Arc::clone(&context), Arc::clone(&peer));
        async move { routes::answer(context, request, peer.as_ref().as_ref()).await }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}
