//! Requests under a controller's own service account, by tokens that the API server is asked for
//! (`--use-service-account-credentials`). In the server's process there is no need of them.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::value;
use async_trait::async_trait;
use bytes::Bytes;
use client::transport::{ResponseStream, Transport, TransportError};
use client::{Client, ClientError, Resource};
use component_base::Clock;
use component_base::metrics::RestClient;
use http::{Request, Response, StatusCode};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::NAMESPACE;
use crate::http::{Access, HttpTransport};

/// How long a token is asked for, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// The part of a token's life after which another is asked for.
const RENEW_AFTER: f64 = 0.8;

/// A transport by the tokens of an account.
#[derive(Debug)]
pub(super) struct AccountTransport {
    /// Who asks for tokens.
    pub(super) manager: Client,
    pub(super) server: String,
    pub(super) authority: String,
    pub(super) account: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) calls: RestClient,
    /// The token's transport, and when it is to be replaced.
    pub(super) current: Mutex<Option<(Arc<HttpTransport>, Instant)>>,
}

impl AccountTransport {
    async fn transport(&self) -> Result<Arc<HttpTransport>, TransportError> {
        let mut current = self.current.lock().await;
        let now = self.clock.monotonic();
        if let Some((transport, until)) = current.as_ref()
            && *until > now
        {
            return Ok(Arc::clone(transport));
        }
        let why = |error: &dyn std::fmt::Display| {
            let account = &self.account;
            TransportError::NotSent(format!("no token of {NAMESPACE}/{account}: {error}"))
        };
        let (token, life) = self.token().await.map_err(|error| why(&error))?;
        let access = Access::by_token(&self.server, &self.authority, &token);
        let transport = HttpTransport::new(&access).map_err(|error| why(&error))?;
        let transport = Arc::new(transport.counted(self.calls.clone()));
        *current = Some((Arc::clone(&transport), now + life.mul_f64(RENEW_AFTER)));
        Ok(transport)
    }

    /// A token, and how long it is good; the account is made where there is none.
    async fn token(&self) -> Result<(String, Duration), ClientError> {
        let accounts = Resource::built_in("", "serviceaccounts");
        let question = value!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS}
        });
        let ask = || {
            let manager = &self.manager;
            manager.create_subresource(&accounts, NAMESPACE, &self.account, "token", &question)
        };
        let answer = match ask().await {
            Err(error) if error.is_not_found() => {
                let account = value!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": (self.account.as_str()), "namespace": NAMESPACE}
                });
                match self.manager.create(&accounts, NAMESPACE, &account).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => ask().await?,
                }
            }
            answer => answer?,
        };
        let until = answer.str_at(&["status", "expirationTimestamp"]);
        let life =
            until.parse::<jiff::Timestamp>().ok().map(|it| it.duration_since(self.clock.now()));
        let life = life.and_then(|it| Duration::try_from(it).ok()).unwrap_or_default();
        Ok((answer.str_at(&["status", "token"]).to_owned(), life))
    }
}

#[async_trait]
impl Transport for AccountTransport {
    async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseStream>, TransportError> {
        let response = self.transport().await?.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // The account was made anew, or the key is another one: the next request has a new token.
            *self.current.lock().await = None;
        }
        Ok(response)
    }
}
