//! Requests and connections of probes and hooks: one each, without reuse, certificates not verified, as upstream's are.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use component_base::tls::{self, Trust};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::hooks::port_of;

/// What of a body is kept.
const MAX_BODY_BYTES: usize = 10 << 10;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// A GET request.
#[derive(Debug, Clone)]
pub(crate) struct GetRequest {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl GetRequest {
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", address(&self.host, self.port), self.path)
    }
}

/// An answer, its body cut.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    location: Option<String>,
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The request of an action.
///
/// # Errors
/// When its port is none.
pub(crate) fn request_of(
    action: &HTTPGetAction,
    pod_ip: Option<&str>,
    container: &Container,
) -> Result<GetRequest, String> {
    let own = action.host.clone().filter(|it| !it.is_empty());
    let path = action.path.clone().unwrap_or_default();
    Ok(GetRequest {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        host: own.unwrap_or_else(|| pod_ip.unwrap_or_default().to_owned()),
        port: port_of(&action.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: action
            .http_headers
            .iter()
            .flatten()
            .map(|it| (it.name.clone(), it.value.clone()))
            .collect(),
    })
}

/// Sends it; the whole takes at most `limit`.
///
/// # Errors
/// In the words of Go's client.
pub(crate) async fn get(request: &GetRequest, limit: Duration) -> Result<Answer, String> {
    let url = request.url();
    let mut request = request.clone();
    let work = async {
        for _ in 0..=MAX_REDIRECTS {
            let answer = once(&request).await?;
            let Some(location) =
                answer.location.as_ref().filter(|_| (300..400).contains(&answer.status))
            else {
                return Ok(answer);
            };
            match location.strip_prefix('/') {
                Some(_) => request.path.clone_from(location),
                // Elsewhere: a redirect counts as success, and is not followed there.
                None => return Ok(answer),
            }
        }
        Err(format!("stopped after {MAX_REDIRECTS} redirects"))
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(|error| format!("Get {url:?}: {error}")),
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn once(request: &GetRequest) -> Result<Answer, String> {
    let stream = TcpStream::connect((request.host.as_str(), request.port))
        .await
        .map_err(|error| dial_error(&request.host, request.port, &error))?;
    if request.tls {
        let name = ServerName::try_from(request.host.clone()).map_err(|it| it.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting()?));
        let stream = connector.connect(name, stream).await.map_err(|it| it.to_string())?;
        return exchange(TokioIo::new(stream), request).await;
    }
    exchange(TokioIo::new(stream), request).await
}

async fn exchange<I>(io: I, request: &GetRequest) -> Result<Answer, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|it| it.to_string())?;
    let driver = tokio::spawn(connection);
    let default_port = if request.tls { 443 } else { 80 };
    let host = if request.port == default_port {
        request.host.clone()
    } else {
        address(&request.host, request.port)
    };
    let mut builder = http::Request::get(&request.path);
    let has = |name: &str| request.headers.iter().any(|it| it.0.eq_ignore_ascii_case(name));
    if !has("host") {
        builder = builder.header("Host", host);
    }
    if !has("user-agent") {
        builder = builder.header("User-Agent", "kube-probe/1.37");
    }
    if !has("accept") {
        builder = builder.header("Accept", "*/*");
    }
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let message = builder.header("Connection", "close").body(Empty::<bytes::Bytes>::new());
    let message = message.map_err(|it| it.to_string())?;
    let response = sender.send_request(message).await.map_err(|it| it.to_string());
    let response = response.inspect_err(|_| driver.abort())?;
    let status = response.status().as_u16();
    let location =
        response.headers().get("location").and_then(|it| it.to_str().ok()).map(str::to_owned);
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MAX_BODY_BYTES {
            break;
        }
    }
    driver.abort();
    Ok(Answer { status, location })
}

/// Connects and hangs up.
///
/// # Errors
/// In the words of Go's dialer.
pub(crate) async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(dial_error(host, port, &error)),
        Err(_) => Err(format!("dial tcp {}: i/o timeout", address(host, port))),
    }
}

fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {}: {why}", address(host, port))
}

/// A probe asks whether somebody answers, not who.
fn trusting() -> Result<rustls::ClientConfig, String> {
    let builder = tls::client(Trust::Anybody).map_err(|it| it.to_string())?;
    Ok(builder.with_no_client_auth())
}
