//! Requests that this server makes itself of a server behind it, as a user who may all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use auth::UserInfo;
use auth::user::MASTERS;
use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, ETAG, HOST, HeaderMap, IF_NONE_MATCH};
use http_body_util::{BodyExt, Limited};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::{Aggregator, Remote, pass};
use crate::Server;
use crate::forward::{self, Onward};

/// Who asks.
const USER: &str = "system:kube-aggregator";
/// How long an answer may take (upstream's).
const PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes a document of another server may have.
const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// A document that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub(super) path: &'w str,
    pub(super) accept: &'w str,
    /// What is there already.
    pub(super) etag: &'w str,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn etag(&self) -> String {
        let etag = self.headers.get(ETAG).and_then(|it| it.to_str().ok());
        etag.unwrap_or_default().to_owned()
    }
}

/// The user who asks.
pub(super) fn itself() -> UserInfo {
    UserInfo::new(USER, &[MASTERS])
}

/// Asks over the way that clients' requests take.
pub(super) async fn document(
    server: &Server,
    remote: &Remote,
    wanted: Wanted<'_>,
) -> Result<Answer, String> {
    let tls = remote.tls.clone()?;
    let address = address_of(server, remote).await?;
    exchange(address, tls, wanted).await
}

/// Asks whoever answers: for seeing whether somebody does.
pub(super) async fn anybody(
    tls: &Arc<ClientConfig>,
    address: SocketAddr,
    path: &str,
) -> Result<u16, String> {
    let wanted = Wanted { path, accept: "application/json", etag: "" };
    let to = (Arc::clone(tls), ServerName::from(address.ip()));
    exchange(address, to, wanted).await.map(|it| it.code)
}

impl Aggregator {
    /// One of the endpoints behind the service of a server.
    pub(super) fn endpoint(&self, server: &Server, remote: &Remote) -> Result<String, String> {
        let service = &remote.service;
        let mut all = self.services.endpoints(&service.namespace, &service.name, service.port)?;
        let many = u64::try_from(all.len()).unwrap_or(u64::MAX);
        let nth = usize::try_from(server.random.below(many)).unwrap_or_default();
        Ok(all.swap_remove(nth))
    }
}

/// Its address; that of a service with a name outside of the cluster is looked up.
pub(super) async fn address_of(server: &Server, remote: &Remote) -> Result<SocketAddr, String> {
    let endpoint = server.aggregator.endpoint(server, remote)?;
    if let Ok(address) = endpoint.parse() {
        return Ok(address);
    }
    let host = endpoint.rsplit_once(':').map_or(endpoint.as_str(), |it| it.0);
    let unknown = || format!("dial tcp: lookup {host}: no such host");
    let mut found = tokio::net::lookup_host(&endpoint).await.map_err(|_| unknown())?;
    found.next().ok_or_else(unknown)
}

async fn exchange(
    address: SocketAddr,
    tls: (Arc<ClientConfig>, ServerName<'static>),
    wanted: Wanted<'_>,
) -> Result<Answer, String> {
    let mut request = Request::get(wanted.path)
        .header(HOST, address.to_string())
        .header(ACCEPT, wanted.accept)
        .body(forward::full(Bytes::new()))
        .map_err(|error| error.to_string())?;
    if let Ok(etag) =
        wanted.etag.parse::<http::HeaderValue>().map(|it| (!it.is_empty()).then_some(it))
    {
        etag.into_iter().for_each(|it| drop(request.headers_mut().insert(IF_NONE_MATCH, it)));
    }
    pass::identify(request.headers_mut(), &itself())?;
    let to = Onward { address, tls: Some(tls), path: wanted.path.to_owned() };
    let answered = async {
        let answer = forward::ask(&to, request).await?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_DOCUMENT_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, body })
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| {
        Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into())
    })
}
