//! Requests as the administrator. An answer that is lost is told apart from one that has come; the next request may succeed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use component_base::tls::{Trust, client};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::{PATIENCE, PAUSE};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(15);

/// Asks one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    token: String,
}

impl Client {
    pub(crate) fn new(url: &str, token: &str, authority: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority) {
            roots.add(certificate?)?;
        }
        let tls = client(Trust::Authorities(roots))?.with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let http = Http::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, url: url.to_owned(), token: token.to_owned() })
    }

    /// The code and the object of an answer.
    ///
    /// # Errors
    /// Where none has come: whether the request was carried out is not known.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        self.send((method, "application/json"), path, body).await
    }

    /// A merge patch.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub(crate) async fn merge(&self, path: &str, change: &Value) -> Result<(u16, Value)> {
        let patch = (Method::PATCH, "application/merge-patch+json");
        self.send(patch, path, Some(change)).await
    }

    async fn send(
        &self,
        (method, media): (Method, &str),
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", media)
            .body(Full::new(Bytes::from(body)))?;
        let asked = async {
            let response = self.http.request(request).await?;
            let code = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
        };
        let (code, answer) = timeout(ANSWER, asked).await??;
        ensure!(code < 500 && code != 429, "{code}: {answer}");
        Ok((code, answer))
    }

    /// An answer that is no object, of this server or, by the same authority, of another part.
    pub(crate) async fn text(&self, url: &str) -> Result<String> {
        let request = Request::get(url)
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::default())?;
        let asked = async {
            let response = self.http.request(request).await?;
            let code = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            ensure!(code.is_success(), "{url}: {code}: {body}");
            Ok(body)
        };
        timeout(ANSWER, asked).await?
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Value)> {
        self.ask(Method::GET, path, None).await
    }

    /// Creates what no restart interrupts.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let (code, answer) = self.ask(Method::POST, path, Some(object)).await?;
        ensure!(code == 201, "{path}: {answer}");
        Ok(answer)
    }

    /// Reads until what is read is as it should be, however often the server is away meanwhile.
    pub(crate) async fn until(
        &self,
        what: &str,
        path: &str,
        is_so: impl Fn(u16, &Value) -> bool,
    ) -> Result<(u16, Value)> {
        let begun = Instant::now();
        loop {
            let read = self.get(path).await;
            match read {
                Ok((code, object)) if is_so(code, &object) => return Ok((code, object)),
                _ if begun.elapsed() < PATIENCE => sleep(PAUSE).await,
                last => bail!("waited {PATIENCE:?} until {what}; {path} said {last:?}"),
            }
        }
    }
}
