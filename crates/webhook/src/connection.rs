//! Connections to one webhook: kept while they are idle, opened where none is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT,
};
use http::{HeaderMap, Method, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::{MAX_ANSWER_BYTES, error};

/// How many idle connections are kept.
const MAX_IDLE: usize = 32;
/// How long a connection is kept without being used (upstream: 90 seconds).
const MAX_IDLE_TIME: Duration = Duration::from_secs(90);

/// The connections of a client.
pub(crate) struct Connections {
    /// `None` for plain HTTP.
    tls: Option<Arc<ClientConfig>>,
    idle: Mutex<Vec<Idle>>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connections({} idle)", self.idle.lock().len())
    }
}

struct Idle {
    address: String,
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// What is sent, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'r> {
    pub(crate) address: &'r str,
    pub(crate) server_name: &'r str,
    pub(crate) url: &'r str,
    pub(crate) user_agent: &'r str,
    /// What is posted; nothing, where something is only read.
    pub(crate) body: Option<&'r Bytes>,
    /// Who asks, as a header.
    pub(crate) authorization: Option<&'r HeaderValue>,
    /// Which trace it is of, where that is followed.
    pub(crate) traceparent: Option<&'r str>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) code: u16,
    pub(crate) body: Bytes,
    /// Its content type, as it says.
    pub(crate) media: String,
    /// How long it may be kept, in seconds, where it says so.
    pub(crate) max_age_seconds: Option<u64>,
}

/// Why a request has no answer.
enum Failure {
    /// The connection was closed before anything came back.
    Closed,
    Other(String),
}

impl Connections {
    pub(crate) fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        Self { tls, idle: Mutex::new(Vec::new()) }
    }

    /// Sends a request; its answer comes back.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Answered, String> {
        while let Some(sender) = self.take_idle(request.address) {
            match self.send_on(sender, request).await {
                Ok(answer) => return Ok(answer),
                // The other side gave up a connection that had been idle: that is no answer to this request.
                Err(Failure::Closed) => {}
                Err(Failure::Other(why)) => return Err(why),
            }
        }
        let sender = self.open(request).await?;
        match self.send_on(sender, request).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Closed) => Err("EOF".into()),
            Err(Failure::Other(why)) => Err(why),
        }
    }

    fn take_idle(&self, address: &str) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        idle.retain(|it| it.since.elapsed() < MAX_IDLE_TIME && !it.sender.is_closed());
        // The one used last is the likeliest to be open still.
        let place = idle.iter().rposition(|it| it.address == address)?;
        Some(idle.swap_remove(place).sender)
    }

    async fn open(&self, request: &Request<'_>) -> Result<SendRequest<Full<Bytes>>, String> {
        let address = request.address;
        let host = address.rsplit_once(':').map_or(address, |it| it.0);
        let found = tokio::net::lookup_host(address).await.map_err(|_| error::lookup(host))?;
        let mut failed = error::lookup(host);
        for address in found {
            match TcpStream::connect(address).await {
                Ok(tcp) => return self.secure(tcp, request.server_name).await,
                Err(error) => failed = error::dial(&address.to_string(), &error),
            }
        }
        Err(failed)
    }

    async fn secure(&self, tcp: TcpStream, name: &str) -> Result<SendRequest<Full<Bytes>>, String> {
        // A review is sent in one piece, and somebody waits for the answer.
        let _ = tcp.set_nodelay(true);
        let Some(tls) = &self.tls else { return shake(tcp).await };
        let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(Arc::clone(tls)).connect(server, tcp).await;
        shake(tls.map_err(|error| error::handshake(name, &error))?).await
    }

    async fn send_on(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        request: &Request<'_>,
    ) -> Result<Answered, Failure> {
        let made = head(request).map_err(Failure::Other)?;
        sender.ready().await.map_err(|_| Failure::Closed)?;
        let sent = sender.send_request(made).await;
        let (parts, body) = sent.map_err(|error| failure(&error))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| {
            Failure::Other(if error.is::<LengthLimitError>() {
                format!("the answer has more than {MAX_ANSWER_BYTES} bytes")
            } else {
                "unexpected EOF".to_owned()
            })
        })?;
        self.keep(request.address, sender);
        let media = parts.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        Ok(Answered {
            code: parts.status.as_u16(),
            body: body.to_bytes(),
            media: media.unwrap_or_default().to_owned(),
            max_age_seconds: max_age(&parts.headers),
        })
    }

    fn keep(&self, address: &str, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock();
        if !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { address: address.to_owned(), sender, since: Instant::now() });
        }
    }
}

/// Begins HTTP.
async fn shake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = opened.map_err(|error| error.to_string())?;
    // Ends with the sender, or when the other side closes.
    tokio::spawn(connection);
    Ok(sender)
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_canceled() || error.is_incomplete_message() || error.is_closed() {
        return Failure::Closed;
    }
    if error.is_parse() {
        return Failure::Other(format!("malformed HTTP response: {error}"));
    }
    let source = std::error::Error::source(error);
    let io = source.and_then(|it| it.downcast_ref::<std::io::Error>());
    match io {
        // A connection that dies before it answers.
        Some(_) => Failure::Closed,
        None => Failure::Other(error.to_string()),
    }
}

/// How long an answer may be kept by its `Cache-Control`.
fn max_age(headers: &HeaderMap) -> Option<u64> {
    let control = headers.get(CACHE_CONTROL)?.to_str().ok()?;
    let mut directives = control.split(',').map(str::trim);
    directives.find_map(|it| it.strip_prefix("max-age=")?.parse().ok())
}

fn head(request: &Request<'_>) -> Result<http::Request<Full<Bytes>>, String> {
    let url: Uri = request.url.parse().map_err(|error| format!("{error}"))?;
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let query = url.query().map(|it| format!("?{it}")).unwrap_or_default();
    let path = format!("{}{query}", url.path());
    let mut builder = http::Request::builder()
        .uri(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, request.user_agent);
    if let Some(authorization) = request.authorization {
        builder = builder.header(AUTHORIZATION, authorization.clone());
    }
    if let Some(parent) = request.traceparent {
        builder = builder.header(spans::TRACEPARENT, parent);
    }
    let builder = match request.body {
        Some(_) => builder.method(Method::POST).header(CONTENT_TYPE, "application/json"),
        None => builder.method(Method::GET),
    };
    let body = request.body.cloned().unwrap_or_default();
    builder.body(Full::new(body)).map_err(|error| error.to_string())
}
