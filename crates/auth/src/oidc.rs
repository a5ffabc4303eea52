//! Users by the tokens of issuers elsewhere: OpenID Connect, and what else signs JSON Web Tokens. Upstream:
//! `plugin/pkg/authenticator/token/oidc`.
//!
//! Keys are fetched in the background, see [`keys`]; a token is judged without waiting, unless it names a key that is not
//! known yet.

mod claims;
mod keys;

use std::sync::Arc;

use apimachinery::Value;
use async_trait::async_trait;
use component_base::{Clock, ShutdownSignal};

use crate::config::authentication::Jwt;
use crate::jwt::{Algorithm, Unverified};
use crate::metrics::Metrics;
use crate::{Asker, AuthenticationError, Authenticator, Credentials, Reviewed, UserInfo};
use keys::Keys;

/// How far clocks may be apart, in seconds, for tokens that begin later (go-oidc's leeway).
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 60;

/// Users by the tokens of one issuer.
#[derive(Debug)]
pub struct IssuerTokens {
    jwt: Jwt,
    algorithms: Vec<Algorithm>,
    keys: Arc<Keys>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// What issuers' tokens need besides their configuration.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where is counted.
    pub metrics: Metrics,
    /// Ends the fetching of keys.
    pub stop: ShutdownSignal,
}

impl IssuerTokens {
    /// The tokens of an issuer, signed by one of these algorithms. Its keys are fetched from now on, until this is
    /// dropped or the server stops.
    ///
    /// # Errors
    /// What is wrong with the issuer's URL or authorities.
    pub fn start(jwt: Jwt, algorithms: &[Algorithm], parts: &Parts) -> Result<Self, String> {
        let keys = Keys::start(&jwt.issuer, parts)?;
        let (clock, metrics) = (Arc::clone(&parts.clock), parts.metrics.clone());
        Ok(Self { jwt, algorithms: algorithms.to_vec(), keys, clock, metrics })
    }

    /// Who makes the tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.jwt.issuer.url
    }

    /// Waits until the keys have been fetched once.
    pub async fn ready(&self) {
        self.keys.ready().await;
    }

    /// The user of a token; `None` where it is of another issuer.
    async fn find(&self, token: &str) -> Result<Option<UserInfo>, AuthenticationError> {
        let Ok(parsed) = Unverified::parse(token) else { return Ok(None) };
        if coalesced(parsed.issuer()) != self.jwt.issuer.url {
            return Ok(None);
        }
        let began = tokio::time::Instant::now();
        let judged = self.judge(&parsed).await;
        self.metrics.token(&self.jwt.issuer.url, judged.is_ok(), began.elapsed());
        judged.map(Some).map_err(|why| AuthenticationError(format!("oidc: {why}")))
    }

    async fn judge(&self, token: &Unverified<'_>) -> Result<UserInfo, String> {
        if !self.keys.is_ready() {
            return Err("authenticator not initialized".into());
        }
        let told = |why: String| format!("verify token: {why}");
        self.check_claims(token.claims()).map_err(told)?;
        self.check_signature(token).await.map_err(told)?;
        claims::user(&self.jwt, token.claims())
    }

    fn check_claims(&self, claims: &Value) -> Result<(), String> {
        let wanted = &self.jwt.issuer.audiences;
        let told: Vec<&str> = match &claims["aud"] {
            Value::String(one) => vec![one],
            other => {
                other.as_array().unwrap_or_default().iter().filter_map(Value::as_str).collect()
            }
        };
        if !told.iter().any(|it| wanted.iter().any(|wanted| wanted == it)) {
            return Err(format!("oidc: expected audience in {wanted:?} got {told:?}"));
        }
        let now = self.clock.now();
        let seconds = |member| claims::whole_seconds(&claims[member]);
        let expires = seconds("exp").unwrap_or_default();
        if expires <= now.as_second() {
            let at = jiff::Timestamp::from_second(expires).unwrap_or_default();
            return Err(format!("oidc: token is expired (Token Expiry: {at})"));
        }
        match seconds("nbf") {
            Some(begins) if now.as_second() + NOT_BEFORE_LEEWAY_SECONDS < begins => {
                let at = jiff::Timestamp::from_second(begins).unwrap_or_default();
                Err(format!("oidc: current time {now} before the nbf (not before) time: {at}"))
            }
            _ => Ok(()),
        }
    }

    async fn check_signature(&self, token: &Unverified<'_>) -> Result<(), String> {
        let is_allowed = Algorithm::of(token.algorithm())
            .is_some_and(|algorithm| self.algorithms.contains(&algorithm));
        if !is_allowed {
            let names: Vec<&str> = self.algorithms.iter().map(|it| it.name()).collect();
            return Err(format!(
                "oidc: id token signed with unsupported algorithm, expected {names:?} got {:?}",
                token.algorithm()
            ));
        }
        let known = self.keys.known();
        if token.is_signed_by_any(&known, &self.algorithms) {
            return Ok(());
        }
        // The issuer may have a new key.
        let fetched = self.keys.refreshed(&known).await;
        match fetched {
            Ok(keys) if token.is_signed_by_any(&keys, &self.algorithms) => Ok(()),
            Ok(_) => Err("failed to verify signature: failed to verify id token signature".into()),
            Err(why) => Err(format!("failed to verify signature: fetching keys {why}")),
        }
    }
}

/// An issuer that has two names.
fn coalesced(issuer: &str) -> &str {
    if issuer == "accounts.google.com" { "https://accounts.google.com" } else { issuer }
}

#[async_trait]
impl Authenticator for IssuerTokens {
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        credentials.bearer_token().is_none().then_some(Ok(None))
    }

    async fn ask(&self, credentials: &Credentials<'_>) -> Asker {
        let Some(token) = credentials.bearer_token() else { return Ok(None) };
        Ok(self.find(token).await?.map(Arc::new))
    }

    async fn review(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let user = self.find(token).await?;
        Ok(user.map(|user| Reviewed { user, audiences: Vec::new() }))
    }
}
