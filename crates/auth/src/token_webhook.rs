//! Tokens that a webhook knows. Upstream: `plugin/pkg/authenticator/token/webhook`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Object, Value};
use async_trait::async_trait;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;
use webhook::Client;

use crate::metrics::Metrics;
use crate::remembered::Remembered;
use crate::{
    Asker, AuthenticationError, Authenticator, Credentials, Reviewed, UserInfo, remote, user,
};

/// How long the webhook is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many tokens are remembered (upstream's limit).
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(32 << 10).expect("because it is not 0");
/// How long an answer is remembered that was none: upstream asks again at once.
const FAILURE_TTL: Duration = Duration::ZERO;

/// The versions of reviews.
pub const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Users whose tokens a webhook knows.
#[derive(Debug)]
pub struct TokenWebhook {
    client: Client,
    version: String,
    /// How long an answer counts.
    ttl: Duration,
    /// The audiences of this server, which are meant where the webhook knows none.
    audiences: Vec<String>,
    known: Remembered<Vec<u8>, Option<Reviewed>>,
    metrics: Metrics,
}

impl TokenWebhook {
    /// Asks `client` by reviews of this version.
    ///
    /// # Errors
    /// A version that is not known.
    pub fn new(
        client: Client,
        version: &str,
        ttl: Duration,
        audiences: Vec<String>,
    ) -> Result<Self, String> {
        if !VERSIONS.contains(&version) {
            return Err(format!(
                "unsupported authentication webhook version {version:?}, supported versions are \"v1\", \"v1beta1\""
            ));
        }
        let known = Remembered::new(MAX_REMEMBERED);
        let metrics = Metrics::default();
        Ok(Self { client, version: version.to_owned(), ttl, audiences, known, metrics })
    }

    /// The same, which counts here.
    #[must_use]
    pub fn counted(self, metrics: Metrics) -> Self {
        self.client.count_in(metrics.calls());
        Self { metrics, ..self }
    }

    async fn find(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let (key, began) = (key_of(token, wanted), Instant::now());
        if let Some(known) = self.known.get(&key) {
            self.metrics.cached_token(true, began.elapsed());
            return Ok(known);
        }
        let found = {
            let _fetching = self.metrics.fetching();
            self.reviewed(token, wanted).await
        };
        self.metrics.fetched_token(found.is_ok());
        self.metrics.cached_token(false, began.elapsed());
        let found = found?;
        let ttl = if found.is_some() { self.ttl } else { FAILURE_TTL };
        self.known.keep(key, found.clone(), ttl);
        Ok(found)
    }

    /// What the webhook says of a token.
    async fn reviewed(
        &self,
        token: &str,
        wanted: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let answer = remote::review(&self.client, &self.question(token, wanted), TIMEOUT).await;
        let answer = answer.map_err(|error| {
            tracing::error!(%error, "failed to make webhook authenticator request");
            AuthenticationError(error.message().to_owned())
        })?;
        self.read(&answer["status"], wanted)
    }

    fn question(&self, token: &str, audiences: &[String]) -> Value {
        let mut spec = Object::new();
        spec.insert("token", token);
        if !audiences.is_empty() {
            spec.insert("audiences", audiences.iter().map(String::as_str).collect::<Value>());
        }
        let mut review = Object::new();
        review.insert("kind", "TokenReview");
        review.insert("apiVersion", format!("authentication.k8s.io/{}", self.version));
        review.insert("metadata", Object::new());
        review.insert("spec", spec);
        review.insert("status", apimachinery::value!({"user": {}}));
        Value::Object(review)
    }

    fn read(
        &self,
        status: &Value,
        wanted: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let told = status.items_at(&["audiences"]).iter().filter_map(Value::as_str);
        let told: Vec<String> = told.map(str::to_owned).collect();
        let got = if told.is_empty() { &self.audiences } else { &told };
        let common: Vec<String> = wanted.iter().filter(|it| got.contains(it)).cloned().collect();
        if !wanted.is_empty() && common.is_empty() {
            return Ok(None);
        }
        if !status.bool_at(&["authenticated"]) {
            return match status.str_at(&["error"]) {
                "" => Ok(None),
                why => Err(AuthenticationError(why.to_owned())),
            };
        }
        let mut user = UserInfo::of_review(&status["user"]);
        user::complete(&mut user);
        Ok(Some(Reviewed { user, audiences: common }))
    }
}

/// What stands for a token: a hash, so that tokens are not kept.
fn key_of(token: &str, audiences: &[String]) -> Vec<u8> {
    let mut text = token.to_owned();
    for audience in audiences {
        text.push('\0');
        text.push_str(audience);
    }
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

#[async_trait]
impl Authenticator for TokenWebhook {
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        credentials.bearer_token().is_none().then_some(Ok(None))
    }

    async fn ask(&self, credentials: &Credentials<'_>) -> Asker {
        let Some(token) = credentials.bearer_token() else { return Ok(None) };
        Ok(self.find(token, &[]).await?.map(|it| Arc::new(it.user)))
    }

    async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        self.find(token, audiences).await
    }
}
