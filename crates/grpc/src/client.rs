//! A client of one server: on a Unix socket, as upstream's plugins are, or on a port without TLS, as its collectors are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, header};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The largest answer, in bytes (gRPC's own limit).
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `Unavailable`
    pub code: &'static str,
    /// What the server says.
    pub message: String,
}

impl std::error::Error for Status {}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code, self.message)
    }
}

const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

fn unavailable(message: impl std::fmt::Display) -> Status {
    Status { code: "Unavailable", message: message.to_string() }
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix {}", path.display()),
            Self::Tcp(address) => write!(f, "tcp {address}"),
        }
    }
}

/// A server's client. Its connection is opened when it is needed.
#[derive(Debug)]
pub struct Client {
    place: Place,
    timeout: Duration,
    connection: Mutex<Option<SendRequest<Bytes>>>,
}

impl Client {
    /// Calls this server, and waits for an answer so long.
    #[must_use]
    pub fn new(place: Place, timeout: Duration) -> Self {
        Self { place, timeout, connection: Mutex::new(None) }
    }

    /// Calls a method: `/package.Service/Method`.
    ///
    /// # Errors
    /// The server does not answer in time, or refuses.
    pub async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, Status> {
        match tokio::time::timeout(self.timeout, self.exchange(method, message)).await {
            Ok(answer) => answer,
            Err(_) => {
                // What hangs once may hang again.
                self.connection.lock().take();
                Err(Status {
                    code: "DeadlineExceeded",
                    message: "context deadline exceeded".into(),
                })
            }
        }
    }

    async fn exchange(&self, method: &str, message: &[u8]) -> Result<Bytes, Status> {
        let sender = match self.kept().await {
            Some(sender) => sender,
            None => self.open().await?,
        };
        let answer = send(sender, method, message, self.timeout).await;
        if answer.as_ref().is_err_and(|it| it.code == "Unavailable") {
            self.connection.lock().take();
        }
        answer
    }

    /// The open connection, where it can still be used.
    async fn kept(&self) -> Option<SendRequest<Bytes>> {
        let kept = self.connection.lock().clone()?;
        kept.ready().await.ok()
    }

    async fn open(&self) -> Result<SendRequest<Bytes>, Status> {
        let dialing = |error: &dyn std::fmt::Display| {
            unavailable(format!(
                "connection error: desc = \"transport: error while dialing: dial {}: {error}\"",
                self.place
            ))
        };
        let sender = match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| dialing(&error))?;
                speak(stream).await
            }
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| dialing(&error))?;
                speak(stream).await
            }
        };
        let sender = sender.map_err(|error| dialing(&error))?;
        *self.connection.lock() = Some(sender.clone());
        Ok(sender)
    }
}

/// Begins to speak HTTP/2.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Bytes>, h2::Error> {
    let (sender, connection) = h2::client::handshake(stream).await?;
    // Ends with the last sender, or when the other side closes.
    tokio::spawn(connection);
    sender.ready().await
}

async fn send(
    mut sender: SendRequest<Bytes>,
    method: &str,
    message: &[u8],
    timeout: Duration,
) -> Result<Bytes, Status> {
    let request = Request::post(format!("http://localhost{method}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-apiserver")
        .header("grpc-timeout", format!("{}m", timeout.as_millis()))
        .body(())
        .map_err(unavailable)?;
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    let length = u32::try_from(message.len()).map_err(unavailable)?;
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    let (response, mut stream) = sender.send_request(request, false).map_err(unavailable)?;
    stream.send_data(framed.freeze(), true).map_err(unavailable)?;
    let (parts, mut body) = response.await.map_err(unavailable)?.into_parts();
    if !parts.status.is_success() {
        return Err(unavailable(format!("unexpected HTTP status code {}", parts.status)));
    }
    let mut answer = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(unavailable)?;
        body.flow_control().release_capacity(piece.len()).map_err(unavailable)?;
        if answer.len() + piece.len() > MAX_ANSWER_BYTES + 5 {
            let message = format!("the answer has more than {MAX_ANSWER_BYTES} bytes");
            return Err(Status { code: "ResourceExhausted", message });
        }
        answer.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.map_err(unavailable)?;
    // A failure may come without a message, as headers alone.
    good(trailers.as_ref().unwrap_or(&parts.headers))?;
    unframed(answer.freeze())
}

fn good(headers: &HeaderMap) -> Result<(), Status> {
    let text = |name| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let code = text("grpc-status");
    if code == "0" {
        return Ok(());
    }
    let message = percent_encoding::percent_decode_str(text("grpc-message")).decode_utf8_lossy();
    let known = code.parse().ok().and_then(|it: usize| CODES.get(it).copied());
    Err(Status { code: known.unwrap_or("Unknown"), message: message.into_owned() })
}

fn unframed(mut answer: Bytes) -> Result<Bytes, Status> {
    let broken = || Status { code: "Internal", message: "the answer is no message".into() };
    if answer.len() < 5 || answer[0] != 0 {
        return Err(broken());
    }
    answer.advance(1);
    let length = answer.get_u32();
    if u64::from(length) != answer.len() as u64 {
        return Err(broken());
    }
    Ok(answer)
}
