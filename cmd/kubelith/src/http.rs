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
use component_base::metrics::{RestClient, rest_client};
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
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::time::Instant;

use crate::tls;

/// A kubeconfig's current context.
#[derive(Debug, Default)]
pub(crate) struct Access {
    server: String,
    /// The context's namespace; empty for none.
    namespace: String,
    authority: Vec<u8>,
    /// Whether whoever answers is believed (`insecure-skip-tls-verify`).
    insecure: bool,
    /// The name that the server has to prove (`tls-server-name`); empty for that in its address.
    server_name: String,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The header by which requests say who asks: a token, or a name and a password.
    authorization: Option<String>,
}

impl Access {
    /// Reads a kubeconfig.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path)
            .with_context(|| format!("could not read the kubeconfig {}", path.display()))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).with_context(|| format!("kubeconfig {}", path.display()))
    }

    /// `directory`: where files are that it names by relative paths.
    fn parse(text: &[u8], directory: &Path) -> Result<Self> {
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
        refuse(&cluster, CLUSTER_REFUSED)?;
        refuse(&user, USER_REFUSED)?;
        let certificate = material(&user, "client-certificate", directory)?;
        let key = material(&user, "client-key", directory)?;
        let authority = material(&cluster, "certificate-authority", directory)?;
        let insecure = cluster.bool_at(&["insecure-skip-tls-verify"]);
        if insecure && authority.is_some() {
            bail!("specifying a root certificates file with the insecure flag is not allowed");
        }
        Ok(Self {
            server: cluster.str_at(&["server"]).to_owned(),
            namespace: context.str_at(&["namespace"]).to_owned(),
            authority: authority.unwrap_or_default(),
            insecure,
            server_name: cluster.str_at(&["tls-server-name"]).to_owned(),
            identity: certificate.zip(key),
            authorization: authorization(&user),
        })
    }

    /// By a bearer token.
    pub(crate) fn by_token(server: &str, authority: &str, token: &str) -> Self {
        Self {
            server: server.to_owned(),
            authority: authority.as_bytes().to_vec(),
            authorization: Some(format!("Bearer {token}")),
            ..Self::default()
        }
    }

    /// The authority, in PEM, of a kubeconfig that has one cluster and nothing else.
    pub(crate) fn parse_clusters(text: &[u8]) -> Result<String> {
        let config = apimachinery::yaml::parse(text).map_err(|it| anyhow!("{it}"))?;
        let cluster = config.items_at(&["clusters"]).first().and_then(|it| it.get("cluster"));
        let cluster = cluster.context("there is no cluster in it")?;
        let authority = material(cluster, "certificate-authority", Path::new(""))?;
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

    /// The namespace of the context; empty where it names none.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
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

/// What a cluster may say that is not done here.
const CLUSTER_REFUSED: &[&str] = &["proxy-url"];
/// What a user may say that is not done here.
const USER_REFUSED: &[&str] =
    &["exec", "auth-provider", "tokenFile", "as", "as-uid", "as-groups", "as-user-extra"];

/// Says so where a kubeconfig asks for what is not done, rather than asking the server as somebody else.
fn refuse(of: &Value, members: &[&str]) -> Result<()> {
    let asked = |it: &&&str| {
        of.get(it).is_some_and(|it| !it.is_null() && it.as_str().is_none_or(|it| !it.is_empty()))
    };
    match members.iter().find(asked) {
        Some(member) => bail!("{member} in it cannot be used here"),
        None => Ok(()),
    }
}

/// Upstream prefers a token to a name and a password.
fn authorization(user: &Value) -> Option<String> {
    let text = |member| user.str_at(&[member]);
    if !text("token").is_empty() {
        return Some(format!("Bearer {}", text("token")));
    }
    let both = format!("{}:{}", text("username"), text("password"));
    let encoded = || format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(&both));
    (both.len() > 1).then(encoded)
}

/// A file named in a kubeconfig, or its content there.
fn material(of: &Value, name: &str, directory: &Path) -> Result<Option<Vec<u8>>> {
    let data = of.str_at(&[&format!("{name}-data")]);
    if !data.is_empty() {
        return Ok(Some(base64::prelude::BASE64_STANDARD.decode(data)?));
    }
    match of.str_at(&[name]) {
        "" => Ok(None),
        path => {
            let path = directory.join(path);
            let content = std::fs::read(&path);
            content.map(Some).with_context(|| format!("could not read {}", path.display()))
        }
    }
}

/// Requests to one server under one identity.
#[derive(Debug)]
pub(crate) struct HttpTransport {
    /// Behind a pointer that moves to another certificate.
    client: ArcSwap<HttpsClient>,
    server: String,
    authorization: Option<HeaderValue>,
    /// Where requests are counted, if anywhere.
    calls: Option<RestClient>,
}

/// A request that is counted.
#[derive(Debug)]
struct Counted {
    calls: RestClient,
    host: String,
    method: http::Method,
    /// Nobody knows how long it lasts: it is not told how long it took, and how large its answer is.
    lasts: bool,
    began: Instant,
    received: usize,
}

impl Counted {
    fn of(&self) -> rest_client::Request<'_> {
        rest_client::Request { host: &self.host, method: self.method.as_str() }
    }

    fn receive(&mut self, bytes: usize) {
        self.received += bytes;
    }
}

/// All of an answer has come, or nobody reads it any more.
impl Drop for Counted {
    fn drop(&mut self) {
        if !self.lasts {
            self.calls.took(self.of(), self.began.elapsed());
            self.calls.received(self.of(), self.received);
        }
    }
}

/// Connects for the layer of TLS above it. What is written is sent at once: requests are small, and each waits for its answer.
fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp
}

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// `name`: what the server has to prove; `None` for the name in its address.
fn client_of(tls: rustls::ClientConfig, name: Option<ServerName<'static>>) -> HttpsClient {
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
    let connector = match name {
        None => connector,
        Some(name) => {
            connector.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
        }
    };
    let connector = connector.enable_all_versions().wrap_connector(tcp());
    Client::builder(TokioExecutor::new()).build(connector)
}

impl Access {
    /// How TLS is spoken with these credentials.
    fn tls(&self) -> Result<rustls::ClientConfig> {
        let trust = match self.insecure {
            true => Trust::Anybody,
            false => Trust::Authorities(tls::roots(&self.authority)?),
        };
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

    fn client(&self) -> Result<HttpsClient> {
        let name = Some(self.server_name.clone()).filter(|it| !it.is_empty());
        let name = name.map(ServerName::try_from).transpose();
        Ok(client_of(self.tls()?, name.context("tls-server-name is none")?))
    }
}

impl HttpTransport {
    /// Connects when it is first used.
    pub(crate) fn new(access: &Access) -> Result<Self> {
        if !access.server.starts_with("https://") {
            bail!("the server {:?} is not an https:// address", access.server);
        }
        let said = access.authorization.as_ref().map(HeaderValue::try_from);
        let mut authorization = said.transpose().context("the token cannot be sent")?;
        if let Some(it) = &mut authorization {
            it.set_sensitive(true);
        }
        Ok(Self::with(access.client()?, &access.server, authorization))
    }

    /// Connects with the certificate of `access` from now on; connections that there are go on as they are.
    pub(crate) fn renew(&self, access: &Access) -> Result<()> {
        self.client.store(Arc::new(access.client()?));
        Ok(())
    }

    /// To a server that nothing is known of yet: for reading what proves it, and never with a secret.
    pub(crate) fn unverified(server: &str) -> Result<Self> {
        if !server.starts_with("https://") {
            bail!("the server {server:?} is not an https:// address");
        }
        let tls = component_base::tls::client(Trust::Anybody)?.with_no_client_auth();
        Ok(Self::with(client_of(tls, None), server, None))
    }

    fn with(client: HttpsClient, server: &str, authorization: Option<HeaderValue>) -> Self {
        Self {
            client: ArcSwap::from_pointee(client),
            server: server.trim_end_matches('/').to_owned(),
            authorization,
            calls: None,
        }
    }

    /// The same, whose requests are counted there.
    pub(crate) fn counted(self, calls: RestClient) -> Self {
        Self { calls: Some(calls), ..self }
    }

    /// Begins to count a request.
    fn begin(&self, parts: &http::request::Parts, bytes: usize) -> Option<Counted> {
        let calls = self.calls.clone()?;
        let host = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default();
        let lasts =
            query.split('&').any(|it| matches!(it, "watch=1" | "watch=true" | "follow=true"));
        let (method, began) = (parts.method.clone(), Instant::now());
        let counted = Counted { calls, host, method, lasts, began, received: 0 };
        counted.calls.sent(counted.of(), bytes);
        Some(counted)
    }
}

/// The way to an extender of the scheduler: HTTP/1.1, with TLS where its configuration says so.
#[derive(Debug)]
pub(crate) struct ExtenderPost {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: std::time::Duration,
}

impl ExtenderPost {
    /// # Errors
    /// When its certificates cannot be read.
    pub(crate) fn new(config: &scheduler::config::ExtenderConfig) -> Result<Self> {
        let tls = config.tls.clone().unwrap_or_default();
        let pem = |data: &[u8], file: &str| -> Result<Vec<u8>> {
            match (data, file) {
                ([], "") => Ok(Vec::new()),
                ([], file) => std::fs::read(file).with_context(|| format!("could not read {file}")),
                (data, _) => Ok(data.to_vec()),
            }
        };
        let authority = pem(&tls.ca_data, &tls.ca_file)?;
        // As upstream has it: without an authority whoever answers is taken.
        let trust = match tls.insecure || authority.is_empty() {
            true => Trust::Anybody,
            false => Trust::Authorities(tls::roots(&authority)?),
        };
        let builder = component_base::tls::client(trust)?;
        let (certificate, key) =
            (pem(&tls.cert_data, &tls.cert_file)?, pem(&tls.key_data, &tls.key_file)?);
        let config_of_tls = if certificate.is_empty() {
            builder.with_no_client_auth()
        } else {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
            builder.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_slice(&key)?)?
        };
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config_of_tls)
            .https_or_http();
        let connector = if tls.server_name.is_empty() {
            connector.enable_http1().wrap_connector(tcp())
        } else {
            let name = ServerName::try_from(tls.server_name.clone())?;
            let resolver = hyper_rustls::FixedServerNameResolver::new(name);
            connector.with_server_name_resolver(resolver).enable_http1().wrap_connector(tcp())
        };
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, timeout: config.http_timeout })
    }

    async fn send(&self, url: &str, body: Bytes) -> Result<(u16, Bytes), String> {
        let failed = |error: &dyn std::fmt::Display| format!("Post \"{url}\": {error}");
        let request = Request::post(url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| failed(&error))?;
        let response =
            self.client.request(request).await.map_err(|error| failed(&with_causes(&error)))?;
        let code = response.status().as_u16();
        let limited = http_body_util::Limited::new(
            response.into_body(),
            scheduler::extender::MAX_ANSWER_BYTES,
        );
        let body = http_body_util::BodyExt::collect(limited).await;
        Ok((code, body.map_err(|error| failed(&error))?.to_bytes()))
    }
}

#[async_trait]
impl scheduler::extender::Post for ExtenderPost {
    async fn post(&self, url: &str, body: Bytes) -> Result<(u16, Bytes), String> {
        match tokio::time::timeout(self.timeout, self.send(url, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "Post \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )),
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
        let counted = self.begin(&parts, body.len());
        let request = Request::from_parts(parts, Full::new(body));
        let response = self.client.load_full().request(request).await;
        if let Some(counted) = &counted {
            let code = response.as_ref().ok().map(|it| it.status().as_u16());
            counted.calls.ended(counted.of(), code);
        }
        let response = response.map_err(|error| {
            let text = with_causes(&error);
            if error.is_connect() {
                TransportError::NotSent(text)
            } else {
                TransportError::NoAnswer(text)
            }
        })?;
        Ok(response.map(|body| {
            let pieces = BodyStream::new(body).filter_map(|frame| async move {
                match frame {
                    Ok(frame) => frame.into_data().ok().map(Ok),
                    Err(error) => Some(Err(TransportError::Body(error.to_string()))),
                }
            });
            let Some(mut counted) = counted else { return pieces.boxed() };
            let pieces = pieces.inspect(move |piece| {
                counted.receive(piece.as_ref().map_or(0, Bytes::len));
            });
            pieces.boxed()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers one request after another with this, or never.
    async fn extender(answer: Option<&'static str>) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let Some(answer) = answer else { std::future::pending().await };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    fn way(url: &str) -> ExtenderPost {
        let text = format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
             extenders: [{{urlPrefix: {url}, httpTimeout: 200ms}}]"
        );
        let config = scheduler::Configuration::parse(text.as_bytes()).unwrap();
        ExtenderPost::new(&config.extenders[0]).unwrap()
    }

    #[tokio::test]
    async fn an_extender_that_answers_is_heard_and_one_that_hangs_is_not_waited_for() {
        use scheduler::extender::Post as _;
        let url = extender(Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
        assert_eq!(way(&url).post(&url, Bytes::new()).await.unwrap(), (200, Bytes::from("{}")));
        let url = extender(None).await;
        let error = way(&url).post(&url, Bytes::new()).await.unwrap_err();
        assert!(error.contains("context deadline exceeded"), "{error}");
        let error = way(&url).post("http://127.0.0.1:1/filter", Bytes::new()).await.unwrap_err();
        assert!(error.starts_with("Post \"http://127.0.0.1:1/filter\": "), "{error}");
    }

    fn kubeconfig(cluster: &str, user: &str) -> Result<Access> {
        let text = format!(
            "clusters:\n- name: a\n  cluster: {{server: https://x:1, {cluster}}}\nusers:\n- name: u\n  user: {{{user}}}\n\
             contexts:\n- name: c\n  context: {{cluster: a, user: u}}\ncurrent-context: c\n"
        );
        Access::parse(text.as_bytes(), Path::new("/nowhere"))
    }

    #[test]
    fn a_kubeconfig_says_where_and_who() {
        let access = kubeconfig("certificate-authority-data: Y2E=", "token: t").unwrap();
        assert_eq!(
            (access.server.as_str(), access.authority.as_slice()),
            ("https://x:1", b"ca".as_slice())
        );
        assert_eq!(access.authorization.as_deref(), Some("Bearer t"));
        let access =
            kubeconfig("tls-server-name: other.example", "username: u, password: p").unwrap();
        assert_eq!(access.authorization.as_deref(), Some("Basic dTpw"));
        assert_eq!((access.server_name.as_str(), access.insecure), ("other.example", false));
        access.client().unwrap();
        assert!(Access::parse(b"current-context: none", Path::new("")).is_err());
    }

    #[test]
    fn a_kubeconfig_may_believe_whoever_answers() {
        let access = kubeconfig("insecure-skip-tls-verify: true", "token: t").unwrap();
        assert!(access.insecure);
        access.client().unwrap();
        let both = "insecure-skip-tls-verify: true, certificate-authority-data: Y2E=";
        let error = kubeconfig(both, "token: t").unwrap_err().to_string();
        assert!(error.contains("with the insecure flag is not allowed"), "{error}");
    }

    #[test]
    fn a_kubeconfig_that_asks_for_what_is_not_done_is_refused() {
        for (cluster, user, said) in [
            ("proxy-url: http://p", "token: t", "proxy-url"),
            ("proxy-url: ''", "exec: {command: c}", "exec"),
            ("proxy-url: ''", "tokenFile: /t", "tokenFile"),
            ("proxy-url: ''", "token: t, as: other", "as in it"),
            ("certificate-authority: ca.crt", "token: t", "/nowhere/ca.crt"),
        ] {
            let error = format!("{:#}", kubeconfig(cluster, user).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
