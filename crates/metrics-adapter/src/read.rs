//! Reads of documents over HTTP, bounded in time, size and number; equal reads share one request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, json};
use bytes::Bytes;
use client::Client;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::services;

/// How long a read may take, waiting for its turn included, where nobody says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How many bytes an answer may have, where nobody says otherwise.
pub const MAX_BYTES: usize = 16 << 20;
/// How many requests are made at once.
const MAX_READS: usize = 16;
/// How long an answer is given to equal reads.
const KEEP: Duration = Duration::from_secs(1);
/// How many answers are kept at most; beyond that reads share nothing.
const MAX_KEPT: usize = 1_000;
/// How many bytes a URL may have: a query names all pods that it is about.
const MAX_URL_BYTES: usize = 512 << 10;
/// How much of a refusal is told.
const SHOWN_BYTES: usize = 200;
/// How this client calls itself.
const AGENT: &str = concat!("kubelith-metrics-adapter/", env!("CARGO_PKG_VERSION"));

/// How a place is spoken with.
#[derive(Debug, Clone)]
pub struct Place {
    tls: Arc<ClientConfig>,
    token: Option<PathBuf>,
    patience: Duration,
    max_bytes: usize,
}

impl Place {
    /// A place that proves itself by these authorities in PEM (the machine's, where there are none) and is shown the token
    /// of a file, where one is named.
    ///
    /// # Errors
    /// When there are no certificates in what is given.
    pub fn new(
        authorities: &[u8],
        token: Option<PathBuf>,
        patience: Duration,
        max_bytes: usize,
    ) -> Result<Self, String> {
        let tls = webhook::with_authorities(authorities)?;
        Ok(Self { tls, token, patience, max_bytes })
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let Some(path) = &self.token else { return Ok(None) };
        let failed = |why: String| format!("could not read the token in {}: {why}", path.display());
        let token = tokio::fs::read_to_string(path).await.map_err(|it| failed(it.to_string()))?;
        let header = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let mut header = header.map_err(|_| failed("it cannot be in a header".into()))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

/// What a read has found; a failure's text is for the log.
pub(crate) type Found = Result<Arc<Value>, Arc<str>>;
type Pending = Shared<BoxFuture<'static, Found>>;

/// Reads documents.
pub(crate) struct Reader {
    client: Client,
    turns: Semaphore,
    kept: Mutex<BTreeMap<String, (Instant, Pending)>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({} kept)", self.kept.lock().len())
    }
}

impl Reader {
    /// A reader; `client` tells where services are.
    pub(crate) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, turns: Semaphore::new(MAX_READS), kept: Mutex::default() })
    }

    /// Reads JSON.
    pub(crate) async fn read(self: &Arc<Self>, place: &Place, url: &str) -> Found {
        self.pending(place, url).await
    }

    /// The read that is under way or was answered just now; else a new one.
    fn pending(self: &Arc<Self>, place: &Place, url: &str) -> Pending {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if let Some((_, pending)) = kept.get(url).filter(|(begun, it)| is_fresh(*begun, it, now)) {
            return pending.clone();
        }
        kept.retain(|_, (begun, it)| is_fresh(*begun, it, now));
        let (reader, place, owned) = (Arc::clone(self), place.clone(), url.to_owned());
        let read = async move {
            let answered = tokio::time::timeout(place.patience, reader.document(&place, &owned));
            match answered.await {
                Ok(Ok(document)) => Ok(Arc::new(document)),
                Ok(Err(why)) => Err(Arc::from(why)),
                Err(_) => Err(Arc::from("context deadline exceeded")),
            }
        };
        let pending = read.boxed().shared();
        if kept.len() < MAX_KEPT {
            kept.insert(url.to_owned(), (now, pending.clone()));
        }
        pending
    }

    async fn document(&self, place: &Place, url: &str) -> Result<Value, String> {
        let turn = self.turns.acquire().await;
        let _turn = turn.map_err(|_| "it is never closed".to_owned())?;
        if url.len() > MAX_URL_BYTES {
            return Err(format!("the query is longer than {MAX_URL_BYTES} bytes"));
        }
        let parsed = Url::parse(url).map_err(|error| format!("it is no URL: {error}"))?;
        let (code, body) = self.get(place, &parsed).await?;
        if code != 200 {
            let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
            return Err(format!("{code}: {}", shown.trim()));
        }
        json::parse(&body).map_err(|error| format!("its answer is no JSON: {error}"))
    }

    async fn get(&self, place: &Place, url: &Url) -> Result<(u16, Bytes), String> {
        let host = url.host_str().ok_or("the URL has no host")?;
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        let mut request =
            http::Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
                .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
                .header(ACCEPT, "application/json")
                .header(USER_AGENT, AGENT)
                .body(Empty::new())
                .map_err(|error| error.to_string())?;
        if let Some(header) = place.authorization().await? {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let tcp = self.connect(host, port).await?;
        match url.scheme() {
            "http" => exchange(tcp, request, place.max_bytes).await,
            "https" => {
                let name = ServerName::try_from(host.to_owned()).map_err(|it| it.to_string())?;
                let tls = TlsConnector::from(Arc::clone(&place.tls)).connect(name, tcp).await;
                let tls = tls.map_err(|error| webhook::handshake(host, &error))?;
                exchange(tls, request, place.max_bytes).await
            }
            other => Err(format!("unsupported protocol scheme {other:?}")),
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let connected = match services::service_of(host) {
            Some(service) => {
                let address: SocketAddr = services::endpoint(&self.client, service, port).await?;
                TcpStream::connect(address).await
            }
            // Brackets of IPv6 are of the URL.
            None => TcpStream::connect((host.trim_matches(['[', ']']), port)).await,
        };
        connected.map_err(|error| format!("could not connect to {host}:{port}: {error}"))
    }
}

fn is_fresh(begun: Instant, pending: &Pending, now: Instant) -> bool {
    pending.peek().is_none() || now.duration_since(begun) < KEEP
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Empty<Bytes>>,
    max_bytes: usize,
) -> Result<(u16, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    let talking = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), max_bytes).collect().await;
        let body = body.map_err(|error| format!("could not read its answer: {error}"))?;
        Ok((code, body.to_bytes()))
    };
    // The connection lives as long as its one exchange: who gives up ends it.
    let mut talking = std::pin::pin!(talking);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answered = &mut talking => answered,
        _ = &mut connection => talking.await,
    }
}
