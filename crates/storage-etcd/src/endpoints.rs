//! The members of an etcd cluster: connections to them, and calls that move on to the next one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use storage::StorageError;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::OpenError;
use crate::grpc::{CallError, Connection};
use crate::wire::Message;

/// How long a connection may take to be there.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one member may think: etcd itself gives a request up after 7 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a read goes round the members before it fails.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// How many calls are under way at once; others wait.
const MAX_IN_FLIGHT: usize = 512;

/// gRPC's codes.
pub(crate) mod code {
    pub(crate) const INVALID_ARGUMENT: u32 = 3;
    pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
    pub(crate) const NOT_FOUND: u32 = 5;
    pub(crate) const PERMISSION_DENIED: u32 = 7;
    pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(crate) const FAILED_PRECONDITION: u32 = 9;
    pub(crate) const OUT_OF_RANGE: u32 = 11;
    pub(crate) const UNIMPLEMENTED: u32 = 12;
    pub(crate) const UNAVAILABLE: u32 = 14;
    pub(crate) const UNAUTHENTICATED: u32 = 16;
}

/// The files that make connections trusted both ways.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Certificates of the authorities that the members' are signed by.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// The members.
#[derive(Debug)]
pub(crate) struct Endpoints {
    members: Vec<Member>,
    /// Which one is asked first.
    preferred: AtomicUsize,
    in_flight: Semaphore,
}

struct Member {
    url: Url,
    /// `host:port`
    authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Mutex<Option<Connection>>,
    /// One connects, the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.url.as_str())
    }
}

impl Endpoints {
    pub(crate) fn new(urls: &[String], files: &TlsFiles) -> Result<Self, OpenError> {
        if urls.is_empty() {
            return Err(OpenError::Url { url: String::new(), why: "there is none".into() });
        }
        let tls = tls_config(files)?;
        let members = urls.iter().map(|url| Member::new(url, &tls)).collect::<Result<_, _>>()?;
        let (preferred, in_flight) = (AtomicUsize::new(0), Semaphore::new(MAX_IN_FLIGHT));
        Ok(Self { members, preferred, in_flight })
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Asks one member.
    pub(crate) async fn call_one(
        &self,
        index: usize,
        method: &str,
        message: &Message,
    ) -> Result<Bytes, CallError> {
        self.members[index].call(method, message.as_bytes()).await
    }

    /// Asks until a member answers: for what changes nothing.
    pub(crate) async fn read(&self, method: &str, message: &Message) -> Result<Bytes, CallError> {
        let _one = self.in_flight.acquire().await;
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let index = self.preferred.load(Ordering::Relaxed);
            let answer = self.members[index].call(method, message.as_bytes()).await;
            match answer {
                Err(error) if may_help_elsewhere(&error) && begun.elapsed() < READ_TIMEOUT => {
                    self.prefer_other_than(index);
                    tries += 1;
                    if tries % self.members.len() == 0 {
                        sleep(ROUND_PAUSE).await;
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Asks for a change: once a member has seen the request no other does.
    pub(crate) async fn write(&self, method: &str, message: &Message) -> Result<Bytes, CallError> {
        let _one = self.in_flight.acquire().await;
        let mut tries = 0;
        loop {
            let index = self.preferred.load(Ordering::Relaxed);
            let answer = self.members[index].call(method, message.as_bytes()).await;
            tries += 1;
            match answer {
                Err(CallError::NotSent(_)) if tries < 2 * self.members.len() => {
                    self.prefer_other_than(index);
                }
                Err(error) => {
                    if may_help_elsewhere(&error) {
                        self.prefer_other_than(index);
                    }
                    return Err(error);
                }
                answer => return answer,
            }
        }
    }

    /// A connection of its own, to the member of this number (round and round): what one stream does not read must not hold
    /// up others.
    pub(crate) async fn dial(&self, number: usize) -> Result<Connection, CallError> {
        self.members[number % self.members.len()].dial().await
    }

    fn prefer_other_than(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        // Where another call has moved on already, that is good.
        let _ = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Whether another member, or the same one later, may know better.
fn may_help_elsewhere(error: &CallError) -> bool {
    match error {
        CallError::NotSent(_) | CallError::Broken(_) => true,
        CallError::Status { code, .. } => {
            matches!(*code, code::UNAVAILABLE | code::DEADLINE_EXCEEDED)
        }
    }
}

impl Member {
    fn new(url: &str, tls: &Arc<ClientConfig>) -> Result<Self, OpenError> {
        let wrong = |why: String| OpenError::Url { url: url.to_owned(), why };
        let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        let (Some(host), Some(port)) = (parsed.host_str(), parsed.port().or(default_port(&parsed)))
        else {
            return Err(wrong("it must be http://HOST:PORT or https://HOST:PORT".into()));
        };
        let tls = match parsed.scheme() {
            "http" => None,
            "https" => {
                let name = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|error| wrong(error.to_string()))?;
                Some((TlsConnector::from(Arc::clone(tls)), name))
            }
            other => return Err(wrong(format!("{other} is not spoken here, but http and https"))),
        };
        let authority = format!("{host}:{port}");
        let (connection, connecting) = Default::default();
        Ok(Self { url: parsed, authority, tls, connection, connecting })
    }

    async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, CallError> {
        let connection = self.connection().await?;
        let answer = timeout(CALL_TIMEOUT, connection.call(method, message)).await;
        let answer = answer.unwrap_or_else(|_| {
            let seconds = CALL_TIMEOUT.as_secs();
            Err(CallError::Broken(format!("etcd at {} is silent for {seconds} s", self.url)))
        });
        if matches!(answer, Err(CallError::NotSent(_) | CallError::Broken(_))) {
            self.connection.lock().take();
        }
        answer
    }

    async fn connection(&self) -> Result<Connection, CallError> {
        if let Some(kept) = self.connection.lock().clone() {
            return Ok(kept);
        }
        let _one = self.connecting.lock().await;
        if let Some(kept) = self.connection.lock().clone() {
            return Ok(kept);
        }
        let connection = self.dial().await?;
        *self.connection.lock() = Some(connection.clone());
        Ok(connection)
    }

    async fn dial(&self) -> Result<Connection, CallError> {
        let dialed = timeout(DIAL_TIMEOUT, self.connect()).await;
        let dialed = dialed.unwrap_or_else(|_| Err("no connection in time".into()));
        dialed.map_err(|why| CallError::NotSent(format!("etcd at {}: {why}", self.url)))
    }

    async fn connect(&self) -> Result<Connection, String> {
        let tcp = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        match &self.tls {
            None => Connection::open(tcp, &self.authority).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.map_err(|error| error.to_string())?;
                Connection::open(tls, &self.authority).await
            }
        }
    }
}

fn default_port(url: &Url) -> Option<u16> {
    // Upstream's default for an URL without one.
    matches!(url.scheme(), "http" | "https").then_some(2379)
}

fn tls_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, OpenError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &files.ca {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| unusable(file, error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Tls(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let bytes = read(key)?;
            let found = rustls_pemfile::private_key(&mut bytes.as_slice());
            let found = found.map_err(|error| unusable(key, error))?;
            let found = found.ok_or_else(|| unusable(key, "there is no key in it"))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, found)
                .map_err(|error| unusable(certificate, error))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(OpenError::Tls("a certificate and its key come together".into())),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, OpenError> {
    let bytes = read(file)?;
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut bytes.as_slice()).collect();
    let found = found.map_err(|error| unusable(file, error))?;
    if found.is_empty() {
        return Err(unusable(file, "there is no certificate in it"));
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(file).map_err(|error| unusable(file, error))
}

fn unusable(file: &Path, why: impl std::fmt::Display) -> OpenError {
    OpenError::Tls(format!("{}: {why}", file.display()))
}

/// A failure of a call that changes nothing.
pub(crate) fn read_error(error: CallError) -> StorageError {
    match error {
        CallError::NotSent(why) | CallError::Broken(why) => StorageError::Unavailable(why),
        CallError::Status { code, message } if is_refusal(code) => StorageError::Refused(message),
        CallError::Status { message, .. } => StorageError::Unavailable(message),
    }
}

/// A failure of a change: whether it happened is known only where etcd says why it does not carry it out.
pub(crate) fn write_error(error: CallError) -> StorageError {
    match error {
        CallError::NotSent(why) => StorageError::Unavailable(why),
        CallError::Status { code, message } if is_refusal(code) => StorageError::Refused(message),
        CallError::Broken(why) | CallError::Status { message: why, .. } => {
            StorageError::Unknown(why)
        }
    }
}

/// Whether the code says that the request was not carried out, and will not be.
fn is_refusal(code: u32) -> bool {
    matches!(
        code,
        code::INVALID_ARGUMENT
            | code::NOT_FOUND
            | code::PERMISSION_DENIED
            | code::RESOURCE_EXHAUSTED
            | code::FAILED_PRECONDITION
            | code::OUT_OF_RANGE
            | code::UNIMPLEMENTED
            | code::UNAUTHENTICATED
    )
}
