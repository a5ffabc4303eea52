//! A client's way to an API server elsewhere: HTTP/2 over TLS, by the credentials of a kubeconfig.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use apimachinery::Value;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use client::transport::{ResponseStream, Transport, TransportError};
use component_base::tls::Trust;
use component_base::with_causes;
use futures::StreamExt;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyStream, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls;

/// A kubeconfig's current context.
#[derive(Debug, Default)]
pub(crate) struct Access {
    server: String,
    authority: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    token: Option<String>,
}

impl Access {
    /// Reads a kubeconfig.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path)
            .with_context(|| format!("could not read the kubeconfig {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("kubeconfig {}", path.display()))
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let config = apimachinery::yaml::parse(text).map_err(|it| anyhow!("{it}"))?;
        let named = |list: &str, name: &str, part: &str| -> Result<Value> {
            let mut items = config.items_at(&[list]).iter();
            let found = items.find(|it| it.str_at(&["name"]) == name);
            let part = found.and_then(|it| it.get(part)).cloned();
            part.ok_or_else(|| anyhow!("there is no {name:?} in {list}"))
        };
        let context = named("contexts", config.str_at(&["current-context"]), "context")?;
        let cluster = named("clusters", context.str_at(&["cluster"]), "cluster")?;
        let user = named("users", context.str_at(&["user"]), "user")?;
        let certificate = material(&user, "client-certificate")?;
        let key = material(&user, "client-key")?;
        Ok(Self {
            server: cluster.str_at(&["server"]).to_owned(),
            authority: material(&cluster, "certificate-authority")?.unwrap_or_default(),
            identity: certificate.zip(key),
            token: Some(user.str_at(&["token"]).to_owned()).filter(|it| !it.is_empty()),
        })
    }

    /// By a bearer token.
    pub(crate) fn by_token(server: &str, authority: &str, token: &str) -> Self {
        Self {
            server: server.to_owned(),
            authority: authority.as_bytes().to_vec(),
            identity: None,
            token: Some(token.to_owned()),
        }
    }

    /// The authority, in PEM, of a kubeconfig that has one cluster and nothing else.
    pub(crate) fn parse_clusters(text: &[u8]) -> Result<String> {
        let config = apimachinery::yaml::parse(text).map_err(|it| anyhow!("{it}"))?;
        let cluster = config.items_at(&["clusters"]).first().and_then(|it| it.get("cluster"));
        let cluster = cluster.context("there is no cluster in it")?;
        let authority = material(cluster, "certificate-authority")?;
        Ok(String::from_utf8(authority.context("it tells no authority")?)?)
    }

    /// The client's own certificate, in PEM; empty without one.
    pub(crate) fn certificate(&self) -> &str {
        let certificate = self.identity.as_ref().map(|it| it.0.as_slice());
        certificate.and_then(|it| std::str::from_utf8(it).ok()).unwrap_or_default()
    }

    /// The server's address.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The authority of the cluster's certificates, in PEM.
    pub(crate) fn authority(&self) -> &str {
        std::str::from_utf8(&self.authority).unwrap_or_default()
    }

    /// The same access to another address of the server.
    pub(crate) fn at(mut self, server: Option<String>) -> Self {
        self.server = server.unwrap_or(self.server);
        self
    }
}

/// A file named in a kubeconfig, or its content there.
fn material(of: &Value, name: &str) -> Result<Option<Vec<u8>>> {
    let data = of.str_at(&[&format!("{name}-data")]);
    if !data.is_empty() {
        return Ok(Some(base64::prelude::BASE64_STANDARD.decode(data)?));
    }
    match of.str_at(&[name]) {
        "" => Ok(None),
        path => Ok(Some(std::fs::read(path).with_context(|| format!("could not read {path}"))?)),
    }
}

/// Requests to one server under one identity.
#[derive(Debug)]
pub(crate) struct HttpTransport {
    /// Behind a pointer that moves to another certificate.
    client: ArcSwap<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    server: String,
    authorization: Option<HeaderValue>,
}

fn client_of(tls: rustls::ClientConfig) -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_all_versions()
        .build();
    Client::builder(TokioExecutor::new()).build(connector)
}

impl Access {
    /// How TLS is spoken with these credentials.
    fn tls(&self) -> Result<rustls::ClientConfig> {
        let trust = Trust::Authorities(tls::roots(&self.authority)?);
        let builder = component_base::tls::client(trust)?;
        Ok(match &self.identity {
            Some((certificate, key)) => {
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(certificate).collect();
                builder.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_slice(key)?)?
            }
            None => builder.with_no_client_auth(),
        })
    }
}

impl HttpTransport {
    /// Connects when it is first used.
    pub(crate) fn new(access: &Access) -> Result<Self> {
        if !access.server.starts_with("https://") {
            bail!("the server {:?} is not an https:// address", access.server);
        }
        let bearer = access.token.as_ref().map(|it| HeaderValue::try_from(format!("Bearer {it}")));
        let mut authorization = bearer.transpose().context("the token cannot be sent")?;
        if let Some(it) = &mut authorization {
            it.set_sensitive(true);
        }
        Ok(Self::with(access.tls()?, &access.server, authorization))
    }

    /// Connects with the certificate of `access` from now on; connections that there are go on as they are.
    pub(crate) fn renew(&self, access: &Access) -> Result<()> {
        self.client.store(Arc::new(client_of(access.tls()?)));
        Ok(())
    }

    /// To a server that nothing is known of yet: for reading what proves it, and never with a secret.
    pub(crate) fn unverified(server: &str) -> Result<Self> {
        if !server.starts_with("https://") {
            bail!("the server {server:?} is not an https:// address");
        }
        let tls = component_base::tls::client(Trust::Anybody)?.with_no_client_auth();
        Ok(Self::with(tls, server, None))
    }

    fn with(tls: rustls::ClientConfig, server: &str, authorization: Option<HeaderValue>) -> Self {
        Self {
            client: ArcSwap::from_pointee(client_of(tls)),
            server: server.trim_end_matches('/').to_owned(),
            authorization,
        }
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseStream>, TransportError> {
        let (mut parts, body) = request.into_parts();
        let uri = format!("{}{}", self.server, parts.uri);
        parts.uri = uri.parse::<Uri>().map_err(|it| TransportError::NotSent(it.to_string()))?;
        if let Some(authorization) = &self.authorization {
            parts.headers.insert(AUTHORIZATION, authorization.clone());
        }
        let request = Request::from_parts(parts, Full::new(body));
        let response = self.client.load_full().request(request).await.map_err(|error| {
            let text = with_causes(&error);
            if error.is_connect() {
                TransportError::NotSent(text)
            } else {
                TransportError::NoAnswer(text)
            }
        })?;
        Ok(response.map(|body| {
            BodyStream::new(body)
                .filter_map(|frame| async move {
                    match frame {
                        Ok(frame) => frame.into_data().ok().map(Ok),
                        Err(error) => Some(Err(TransportError::Body(error.to_string()))),
                    }
                })
                .boxed()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_says_where_and_who() {
        let text = "clusters:\n- name: a\n  cluster: {server: https://x:1, certificate-authority-data: Y2E=}\n\
                    users:\n- name: u\n  user: {token: t}\ncontexts:\n- name: c\n  context: {cluster: a, user: u}\n\
                    current-context: c\n";
        let access = Access::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (access.server.as_str(), access.authority.as_slice()),
            ("https://x:1", b"ca".as_slice())
        );
        assert_eq!(access.token.as_deref(), Some("t"));
        assert!(Access::parse(b"current-context: none").is_err());
    }
}
