//! Calls webhooks: HTTPS to a URL or a service, with the authorities that a configuration names, within a time, in
//! upstream's words when it fails. Upstream: `k8s.io/apiserver/pkg/util/webhook`.
//!
//! Knows nothing of what is sent: reviews are their callers' business. One [`Client`] serves one client configuration
//! and keeps its connections.

mod config;
mod connection;
mod error;
mod kubeconfig;
mod tls;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use bytes::Bytes;

use config::Destination;
use connection::Connections;
pub use error::{CallError, handshake};
use kubeconfig::Authorization;
pub use kubeconfig::Kubeconfig;
pub use tls::trusting;

/// How many bytes an answer may have. The objects of a request have 3 MiB at most, a patch is written in base64.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Finds where a service is reached.
pub trait Resolver: Send + Sync + Debug {
    /// `address:port` of the service's port.
    ///
    /// # Errors
    /// Why there is none, in upstream's words.
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String>;
}

/// A client of one webhook.
#[derive(Debug)]
pub struct Client {
    /// Where it is, and the configuration of TLS; or why there is no such client.
    parts: Result<Parts, String>,
    resolver: Arc<dyn Resolver>,
}

#[derive(Debug)]
struct Parts {
    destination: Destination,
    connections: Connections,
    /// Tells who calls, for each call anew.
    authorization: Authorization,
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
        let parts = Destination::of(config).and_then(|destination| {
            let tls = tls::config(config.str_at(&["caBundle"]))?;
            let connections = Connections::new(Some(tls));
            Ok(Parts { destination, connections, authorization: Authorization::None })
        });
        Self { parts, resolver }
    }

    /// The client of the server that a kubeconfig names, with its credentials.
    #[must_use]
    pub fn of_kubeconfig(config: Kubeconfig) -> Self {
        let Kubeconfig { destination, tls, authorization } = config;
        let parts = Parts { destination, connections: Connections::new(tls), authorization };
        Self { parts: Ok(parts), resolver: Arc::new(NoServices) }
    }

    /// Posts to the webhook; the body of its answer comes back.
    ///
    /// # Errors
    /// When there is no answer in time, or it is no success.
    pub async fn post(&self, call: Call<'_>) -> Result<Bytes, CallError> {
        let parts = self.parts.as_ref().map_err(|why| CallError::Client(why.clone()))?;
        let url = parts.destination.url(call.tells_timeout.then_some(call.timeout));
        let failed = |why: String| CallError::Call(format!("Post \"{url}\": {why}"));
        let posted = self.exchange(parts, &url, &call);
        match tokio::time::timeout(call.timeout, posted).await {
            Err(_) => Err(failed("context deadline exceeded".into())),
            Ok(Err(why)) => Err(failed(why)),
            Ok(Ok((code, body))) if (200..=206).contains(&code) => Ok(body),
            Ok(Ok((code, body))) => Err(error::refused(code, &body)),
        }
    }

    async fn exchange(
        &self,
        parts: &Parts,
        url: &str,
        call: &Call<'_>,
    ) -> Result<(u16, Bytes), String> {
        let address = match &parts.destination {
            Destination::Url { host, .. } => host.clone(),
            Destination::Service { namespace, name, port, .. } => {
                self.resolver.resolve(namespace, name, *port)?
            }
        };
        let authorization = parts.authorization.header()?;
        let request = connection::Request {
            authorization: authorization.as_ref(),
            address: &address,
            server_name: parts.destination.server_name(),
            url,
            user_agent: call.user_agent,
            body: &call.body,
        };
        parts.connections.post(&request).await
    }
}

/// For clients of a URL.
#[derive(Debug)]
struct NoServices;

impl Resolver for NoServices {
    fn resolve(&self, namespace: &str, name: &str, _port: u16) -> Result<String, String> {
        Err(format!("service {namespace}/{name} cannot be called by a kubeconfig"))
    }
}

#[cfg(test)]
mod tests;
