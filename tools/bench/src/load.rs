//! The load: a few HTTP/2 connections, many requests at once, and how long each took.
//!
//! Knows HTTP and TLS, and nothing of Kubernetes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// How many requests are out at once.
pub(crate) const IN_FLIGHT: usize = 64;
/// How many connections they share.
const CONNECTIONS: usize = 4;

/// One request of a load.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) media_type: &'static str,
    pub(crate) body: Bytes,
}

impl Ask {
    /// A GET.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), media_type: "", body: Bytes::new() }
    }

    /// A request with a JSON body.
    pub(crate) fn json(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method, path: path.into(), media_type: "application/json", body: body.into() }
    }
}

/// Connections to one server.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    connections: Arc<Vec<SendRequest<Full<Bytes>>>>,
    token: Arc<str>,
}

/// What a load took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) p99: Duration,
}

impl Clients {
    /// Connects; handshakes are no part of any figure.
    ///
    /// # Errors
    /// When the server cannot be reached, or is not who `authority` vouches for.
    pub(crate) async fn connect(server: SocketAddr, authority: &str, token: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(server).await.context("could not connect")?;
            stream.set_nodelay(true)?;
            let name = ServerName::from(server.ip());
            let stream = connector.connect(name, stream).await.context("TLS failed")?;
            let (sender, connection) =
                hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .adaptive_window(true)
                    .handshake(TokioIo::new(stream))
                    .await?;
            tokio::spawn(connection);
            connections.push(sender);
        }
        Ok(Self { connections: Arc::new(connections), token: token.into() })
    }

    /// Sends a request; the answer's body is still to be read.
    ///
    /// # Errors
    /// No answer, or one that tells of a failure.
    pub(crate) async fn open(&self, nth: usize, ask: &Ask) -> Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("https://bench{}", ask.path))
            .header("authorization", format!("Bearer {}", self.token));
        if !ask.media_type.is_empty() {
            request = request.header("content-type", ask.media_type);
        }
        let request = request.body(Full::new(ask.body.clone()))?;
        // Servers close connections that are idle for long, as those are that only loads use.
        let open = self.connections.iter().cycle().skip(nth % self.connections.len());
        let open = open.take(self.connections.len()).find(|it| !it.is_closed());
        let mut connection = open.context("the server has closed all connections")?.clone();
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
        bail!("{} {}: {status} {}", ask.method, ask.path, String::from_utf8_lossy(&body))
    }

    /// Sends a request and reads the answer; how many bytes it has.
    ///
    /// # Errors
    /// No answer, or one that tells of a failure.
    pub(crate) async fn send(&self, nth: usize, ask: &Ask) -> Result<usize> {
        let mut body = self.open(nth, ask).await?.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(read)
    }

    /// Sends a request and reads the answer as text.
    ///
    /// # Errors
    /// No answer, or one that tells of a failure.
    pub(crate) async fn read(&self, ask: &Ask) -> Result<String> {
        let body = self.open(0, ask).await?.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends `count` requests, `in_flight` at a time.
    ///
    /// # Errors
    /// The first request that failed: a figure with failures in it is none.
    pub(crate) async fn load(
        &self,
        count: usize,
        in_flight: usize,
        ask: impl Fn(usize) -> Ask + Send + Sync + 'static,
    ) -> Result<Load> {
        let start = Instant::now();
        let mut took = self.send_all(count, in_flight, move |nth| [ask(nth)]).await?;
        let seconds = start.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "counts of requests are small")]
        let per_second = count as f64 / seconds;
        Ok(Load { per_second, p99: percentile(&mut took, 99) })
    }

    /// Sends `count` times a few requests, one of them after the other, `in_flight` at a time.
    ///
    /// # Errors
    /// The first request that failed.
    pub(crate) async fn load_in_order(
        &self,
        count: usize,
        in_flight: usize,
        asks: impl Fn(usize) -> Vec<Ask> + Send + Sync + 'static,
    ) -> Result<()> {
        self.send_all(count, in_flight, asks).await.map(drop)
    }

    /// How long each request took.
    async fn send_all<I>(
        &self,
        count: usize,
        in_flight: usize,
        asks: impl Fn(usize) -> I + Send + Sync + 'static,
    ) -> Result<Vec<Duration>>
    where
        I: IntoIterator<Item = Ask, IntoIter: Send>,
    {
        let (next, asks) = (Arc::new(AtomicUsize::new(0)), Arc::new(asks));
        let workers: Vec<_> = (0..in_flight.min(count))
            .map(|_| {
                let (clients, next, asks) = (self.clone(), Arc::clone(&next), Arc::clone(&asks));
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    loop {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        if nth >= count {
                            return anyhow::Ok(took);
                        }
                        let asks = asks(nth).into_iter();
                        for ask in asks {
                            let begun = Instant::now();
                            clients.send(nth, &ask).await?;
                            took.push(begun.elapsed());
                        }
                    }
                })
            })
            .collect();
        let mut took = Vec::with_capacity(count);
        for worker in workers {
            took.extend(worker.await??);
        }
        Ok(took)
    }
}

/// The value that this part of all values, in percent, does not exceed.
pub(crate) fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort();
    let last = values.len().saturating_sub(1);
    values.get(last * percent / 100).copied().unwrap_or_default()
}
