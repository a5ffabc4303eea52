//! Calls webhooks: HTTPS to a URL or a service, with the authorities that a configuration names, within a time, in
//! upstream's words when it fails. Upstream: `k8s.io/apiserver/pkg/util/webhook`.
//!
//! Knows nothing of what is sent: reviews are their callers' business. One [`Client`] serves one client configuration
//! and keeps its connections.

mod config;
mod connection;
mod credentials;
mod error;
mod kubeconfig;
mod review;
mod tls;

use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::{Value, head, json};
use bytes::Bytes;
use component_base::metrics::RestClient;
use component_base::metrics::rest_client::Request;

use config::Destination;
use connection::{Answered, Connections};
pub use credentials::Credentials;
pub use error::{CallError, CertificateFault, certificate_fault, handshake};
use kubeconfig::Authorization;
pub use kubeconfig::Kubeconfig;
pub use review::Asking;
use spans::{Kind, Part};
use tokio::time::Instant;

pub use tls::{trusting, with_authorities};

/// How many bytes an answer may have. The objects of a request have 3 MiB at most, a patch is written in base64.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Finds where a service is reached.
pub trait Resolver: Send + Sync + Debug {
    /// `address:port` of the service's port.
    ///
    /// # Errors
    /// Why there is none, in upstream's words.
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String>;

    /// Where calls are counted, if anywhere.
    fn calls(&self) -> Option<&RestClient> {
        None
    }
}

/// A client of one webhook.
#[derive(Debug)]
pub struct Client {
    /// Where it is, and the configuration of TLS; or why there is no such client.
    parts: Result<Parts, String>,
    /// Without it there are no services.
    resolver: Option<Arc<dyn Resolver>>,
    /// Where calls are counted, where the resolver does not say so.
    calls: OnceLock<RestClient>,
}

#[derive(Debug)]
struct Parts {
    destination: Destination,
    connections: Connections,
    /// Tells who calls, for each call anew.
    authorization: Authorization,
}

/// The answer of a call that was a success.
#[derive(Debug)]
pub struct Posted(Answered);

impl Posted {
    /// The object that it is.
    ///
    /// # Errors
    /// It is none, in the words of upstream's client (`rest.Result.Into`).
    pub fn object(&self) -> Result<Value, String> {
        let Answered { code, body, media, .. } = &self.0;
        if body.is_empty() {
            // Upstream takes an answer that does not say its type for what it asked for.
            let media = if media.is_empty() { "application/json" } else { media };
            return Err(format!(
                "0-length response with status code: {code} and content type: {media}"
            ));
        }
        let value = json::parse(body).map_err(|error| head::unread(&error.to_string()))?;
        head::object(value)
    }
}

/// One call.
#[derive(Debug)]
pub struct Call<'c> {
    /// What is posted, as JSON.
    pub body: Bytes,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Whether the webhook is told the time in its URL.
    pub tells_timeout: bool,
    /// What the client calls itself.
    pub user_agent: &'c str,
}

impl Client {
    /// The client of a `clientConfig`. What is wrong with that is told when it is called.
    #[must_use]
    pub fn new(config: &Value, resolver: Arc<dyn Resolver>) -> Self {
        Self::with_credentials(config, resolver, None)
    }

    /// The same, which says who calls as credentials have it for where the webhook is.
    #[must_use]
    pub fn with_credentials(
        config: &Value,
        resolver: Arc<dyn Resolver>,
        credentials: Option<&Credentials>,
    ) -> Self {
        let parts = Destination::of(config).and_then(|destination| {
            let bundle = config.str_at(&["caBundle"]);
            let (tls, authorization) = match credentials {
                Some(credentials) => credentials.of(&destination, bundle)?,
                None => (tls::config(bundle, None)?, Authorization::None),
            };
            let connections = Connections::new(Some(tls));
            Ok(Parts { destination, connections, authorization })
        });
        Self { parts, resolver: Some(resolver), calls: OnceLock::new() }
    }

    /// Reads a document, of at most [`MAX_ANSWER_BYTES`].
    ///
    /// # Errors
    /// When there is no answer in time, or it is no success.
    pub async fn get(&self, timeout: Duration, user_agent: &str) -> Result<Document, CallError> {
        let parts = self.parts.as_ref().map_err(|why| CallError::Client(why.clone()))?;
        let url = parts.destination.url(None);
        let failed = |why: String| CallError::Call(format!("Get \"{url}\": {why}"));
        let got = self.exchange(parts, &url, None, user_agent);
        let answered = match tokio::time::timeout(timeout, got).await {
            Err(_) => return Err(failed("context deadline exceeded".into())),
            Ok(Err(why)) => return Err(failed(why)),
            Ok(Ok(answered)) => answered,
        };
        let Answered { code, body, max_age_seconds, .. } = answered;
        if code == 200 {
            return Ok(Document { body, max_age_seconds });
        }
        let shown = String::from_utf8_lossy(&body[..body.len().min(error::SHOWN_BYTES)]);
        Err(CallError::Refused { code, message: format!("{code}: {shown}") })
    }

    /// The client of the server that a kubeconfig names, with its credentials.
    #[must_use]
    pub fn of_kubeconfig(config: Kubeconfig) -> Self {
        let Kubeconfig { destination, tls, authorization } = config;
        let parts = Parts { destination, connections: Connections::new(tls), authorization };
        Self { parts: Ok(parts), resolver: None, calls: OnceLock::new() }
    }

    /// The client that a kubeconfig's current context describes.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, String> {
        Kubeconfig::read(path).map(Self::of_kubeconfig)
    }

    /// A client of one URL, with authorities in PEM; the machine's where there are none.
    ///
    /// # Errors
    /// What is wrong with URL or authorities.
    pub fn of_url(url: &str, authorities: &[u8]) -> Result<Self, String> {
        let destination = Destination::of_url(url, None)?;
        let connections = Connections::new(Some(tls::with_authorities(authorities)?));
        let authorization = Authorization::None;
        let parts = Parts { destination, connections, authorization };
        Ok(Self { parts: Ok(parts), resolver: None, calls: OnceLock::new() })
    }

    /// Counts calls there from now on.
    pub fn count_in(&self, calls: RestClient) {
        let _ = self.calls.set(calls);
    }

    /// Posts to the webhook; its answer comes back.
    ///
    /// # Errors
    /// When there is no answer in time, or it is no success.
    pub async fn post(&self, call: Call<'_>) -> Result<Posted, CallError> {
        let parts = self.parts.as_ref().map_err(|why| CallError::Client(why.clone()))?;
        let url = parts.destination.url(call.tells_timeout.then_some(call.timeout));
        let failed = |why: String| CallError::Call(format!("Post \"{url}\": {why}"));
        let (began, posted) =
            (Instant::now(), self.exchange(parts, &url, Some(&call.body), call.user_agent));
        let posted = tokio::time::timeout(call.timeout, posted).await;
        let answered = posted.as_ref().ok().and_then(|it| it.as_ref().ok());
        self.count(parts, &call.body, answered, began.elapsed());
        match posted {
            Err(_) => Err(failed("context deadline exceeded".into())),
            Ok(Err(why)) => Err(failed(why)),
            Ok(Ok(answered)) if (200..=206).contains(&answered.code) => Ok(Posted(answered)),
            Ok(Ok(answered)) => Err(error::refused(answered.code, &answered.body)),
        }
    }

    /// Counts a call that is over.
    fn count(&self, parts: &Parts, body: &Bytes, answered: Option<&Answered>, took: Duration) {
        let known = self.resolver.as_ref().and_then(|it| it.calls());
        let Some(calls) = self.calls.get().or(known) else { return };
        let host = parts.destination.host();
        let request = Request { host: &host, method: "POST" };
        calls.sent(request, body.len());
        calls.ended(request, answered.map(|it| it.code));
        calls.took(request, took);
        if let Some(answered) = answered {
            calls.received(request, answered.body.len());
        }
    }

    async fn exchange(
        &self,
        parts: &Parts,
        url: &str,
        body: Option<&Bytes>,
        user_agent: &str,
    ) -> Result<Answered, String> {
        let address = match (&parts.destination, &self.resolver) {
            (Destination::Url { host, .. }, _) => host.clone(),
            (Destination::Service { namespace, name, port, .. }, Some(resolver)) => {
                resolver.resolve(namespace, name, *port)?
            }
            (Destination::Service { .. }, None) => {
                return Err("services are not known here".into());
            }
        };
        let authorization = parts.authorization.header()?;
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut part = spans::begin(format!("HTTP {method}"), Kind::Client)
            .map(|it| it.with("http.request.method", method).with("url.full", url.to_owned()));
        let traceparent = part.as_ref().map(Part::traceparent);
        let request = connection::Request {
            address: &address,
            server_name: parts.destination.server_name(),
            url,
            user_agent,
            body,
            authorization: authorization.as_ref(),
            traceparent: traceparent.as_deref(),
        };
        let answered = spans::run(&mut part, Box::pin(parts.connections.send(&request))).await;
        if let (Some(part), Ok(answered)) = (&mut part, &answered) {
            part.tell("http.response.status_code", answered.code);
        }
        answered
    }
}

/// A document that was read.
#[derive(Debug)]
pub struct Document {
    /// What is in it.
    pub body: Bytes,
    /// How long it may be kept, in seconds, where it says so.
    pub max_age_seconds: Option<u64>,
}

#[cfg(test)]
mod tests;
