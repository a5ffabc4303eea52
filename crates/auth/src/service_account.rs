//! Tokens of service accounts: what is in them, who makes them, and whether they are still good.
//!
//! A token is bound to its account by uid, and may be bound to a pod, a secret or a node: it dies with them.

mod authenticator;
mod external;

use std::sync::Arc;

use apimachinery::{Object, Value, value};
use jiff::Timestamp;

use crate::jwt::{JwtError, SigningKey, VerifyingKey};
use crate::user::SERVICE_ACCOUNT_PREFIX;

pub use authenticator::ServiceAccountTokens;
pub use external::ExternalSigner;

/// Who says it made a token from a secret, before tokens were requested.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// The member of the claims that tells what a token is bound to.
const PRIVATE: &str = "kubernetes.io";

/// The label of a Secret that tells on which day its token was last used.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label of a Secret whose token is good no more, because nobody used it.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// A token in a Secret that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyUse {
    /// The Secret's namespace.
    pub namespace: String,
    /// Its name.
    pub secret: String,
    /// Its uid.
    pub uid: String,
    /// The day, `2026-01-02`.
    pub day: String,
}

/// Writes down that tokens in Secrets are used.
pub trait LegacyUses: Send + Sync + std::fmt::Debug {
    /// Takes note, and does not wait until it is written.
    fn note(&self, used: LegacyUse);
}

/// Something a token names: by name, and by uid where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its uid; empty where it is not known.
    pub uid: String,
}

/// What a token is for.
#[derive(Debug, Clone, Default)]
pub struct TokenSpec<'s> {
    /// The account's namespace.
    pub namespace: &'s str,
    /// The account.
    pub account: Option<Named>,
    /// The pod it dies with.
    pub pod: Option<Named>,
    /// The secret it dies with.
    pub secret: Option<Named>,
    /// The pod's node, or the node it dies with.
    pub node: Option<Named>,
    /// Whom it is shown to.
    pub audiences: Vec<String>,
    /// Seconds it lives.
    pub expiration_seconds: i64,
    /// Seconds after which its use is warned of; 0 for never.
    pub warn_after_seconds: i64,
    /// What tells it from others.
    pub id: String,
}

/// Who makes tokens.
#[derive(Debug)]
pub struct TokenIssuer {
    signer: Signer,
    issuer: String,
    /// Who made tokens before, which are good still.
    former: Vec<String>,
    audiences: Vec<String>,
    /// How long a token may live, in seconds, if that is limited.
    max_seconds: Option<i64>,
    /// Whether tokens live longer of those who do not know that they expire.
    extends: bool,
    /// Where its keys are, where not at this server.
    keys_url: Option<String>,
}

/// Who has the key.
#[derive(Debug)]
enum Signer {
    Own {
        key: Box<SigningKey>,
        /// What tokens are checked with: this key's, and those of keys that were used before.
        verifying: Arc<Vec<VerifyingKey>>,
    },
    External(Arc<ExternalSigner>),
}

impl TokenIssuer {
    /// Signs with `key` as `issuer`. Tokens made by any of `verifying` are good too (keys that were used before).
    /// `audiences` are the API server's own; the issuer where none are given.
    #[must_use]
    pub fn new(
        key: SigningKey,
        mut verifying: Vec<VerifyingKey>,
        issuer: &str,
        audiences: Vec<String>,
    ) -> Self {
        if !verifying.contains(key.public()) {
            verifying.insert(0, key.public().clone());
        }
        let verifying = Arc::new(verifying);
        Self::of(Signer::Own { key: Box::new(key), verifying }, issuer, audiences)
    }

    /// Has somebody else sign as `issuer`; no token lives longer than they allow.
    #[must_use]
    pub fn external(signer: Arc<ExternalSigner>, issuer: &str, audiences: Vec<String>) -> Self {
        let max_seconds = Some(signer.max_seconds());
        Self { max_seconds, ..Self::of(Signer::External(signer), issuer, audiences) }
    }

    fn of(signer: Signer, issuer: &str, mut audiences: Vec<String>) -> Self {
        if audiences.is_empty() {
            audiences.push(issuer.into());
        }
        Self {
            signer,
            issuer: issuer.into(),
            former: Vec::new(),
            audiences,
            max_seconds: None,
            extends: true,
            keys_url: None,
        }
    }

    /// The same where tokens that these made are good too. Without audiences of its own the server's are all of these.
    #[must_use]
    pub fn with_former(mut self, issuers: &[String]) -> Self {
        if self.audiences == [self.issuer.clone()] {
            self.audiences.extend_from_slice(issuers);
        }
        self.former = issuers.to_vec();
        self
    }

    /// The same where no token lives longer than so many seconds, or those of who does not know that they expire do not
    /// live longer than they ask for.
    #[must_use]
    pub fn with_limits(self, max_seconds: Option<i64>, extends: bool) -> Self {
        Self { max_seconds, extends, ..self }
    }

    /// Others than this server tell of its keys, where a place is given.
    pub fn set_keys_url(&mut self, url: Option<String>) {
        self.keys_url = url;
    }

    /// How long a token may live, in seconds, if that is limited.
    #[must_use]
    pub fn max_seconds(&self) -> Option<i64> {
        self.max_seconds
    }

    /// Whether tokens live longer of those who do not know that they expire.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.extends
    }

    /// Whether tokens of this issuer are its own, or were.
    #[must_use]
    pub fn is_known(&self, issuer: &str) -> bool {
        issuer == self.issuer || self.former.iter().any(|it| it == issuer)
    }

    /// All names it signs or has signed as.
    #[must_use]
    pub fn issuers(&self) -> Vec<String> {
        std::iter::once(&self.issuer).chain(&self.former).cloned().collect()
    }

    /// The audiences of the API server.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The name it signs as.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys that a token is checked with which names this one.
    pub async fn verifying(&self, id: &str) -> Arc<Vec<VerifyingKey>> {
        match &self.signer {
            Signer::Own { verifying, .. } => Arc::clone(verifying),
            Signer::External(signer) => signer.keys_with(id).await,
        }
    }

    /// The keys that others are told of.
    fn told(&self) -> Vec<VerifyingKey> {
        match &self.signer {
            Signer::Own { verifying, .. } => verifying.to_vec(),
            Signer::External(signer) => {
                let keys = signer.keys();
                keys.iter().filter(|it| signer.is_told(it.id())).cloned().collect()
            }
        }
    }

    /// A signed token.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub async fn issue(&self, spec: &TokenSpec<'_>, now: Timestamp) -> Result<String, String> {
        let claims = claims(&self.issuer, spec, now.as_second());
        match &self.signer {
            Signer::Own { key, .. } => key.sign(&claims).map_err(|error| error.to_string()),
            Signer::External(signer) => signer.sign(&claims).await,
        }
    }

    /// The token of a secret of type `kubernetes.io/service-account-token`: it never expires.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue_legacy(
        &self,
        namespace: &str,
        account: &Named,
        secret: &str,
    ) -> Result<String, JwtError> {
        let mut claims = Object::new();
        claims.insert("iss", LEGACY_ISSUER);
        claims.insert("sub", subject(namespace, &account.name));
        claims.insert("kubernetes.io/serviceaccount/namespace", namespace);
        claims.insert("kubernetes.io/serviceaccount/secret.name", secret);
        claims.insert("kubernetes.io/serviceaccount/service-account.name", account.name.as_str());
        claims.insert("kubernetes.io/serviceaccount/service-account.uid", account.uid.as_str());
        match &self.signer {
            Signer::Own { key, .. } => key.sign(&Value::Object(claims)),
            // Upstream asks no signer for tokens that never end either.
            Signer::External(_) => Err(JwtError::Signing),
        }
    }

    /// The document at `/.well-known/openid-configuration`. `keys_url` is where this server tells of its keys.
    #[must_use]
    pub fn discovery(&self, keys_url: &str) -> Value {
        let keys_url = self.keys_url.as_deref().unwrap_or(keys_url);
        let mut algorithms: Vec<&str> =
            self.told().iter().map(|it| it.algorithm().name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        let algorithms: Value = algorithms.into_iter().collect();
        value!({"issuer": (self.issuer.as_str()), "jwks_uri": keys_url,
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms})
    }

    /// The document at `/openid/v1/jwks`.
    #[must_use]
    pub fn key_set(&self) -> Value {
        let keys: Value = self.told().iter().map(VerifyingKey::to_jwk).collect();
        value!({"keys": keys})
    }
}

fn subject(namespace: &str, account: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{account}")
}

fn claims(issuer: &str, spec: &TokenSpec<'_>, now: i64) -> Value {
    let mut private = Object::new();
    private.insert("namespace", spec.namespace);
    let bound = [
        ("serviceaccount", &spec.account),
        ("pod", &spec.pod),
        ("secret", &spec.secret),
        ("node", &spec.node),
    ];
    for (member, named) in bound {
        let Some(named) = named else { continue };
        let mut reference = Object::new();
        reference.insert("name", named.name.as_str());
        if !named.uid.is_empty() {
            reference.insert("uid", named.uid.as_str());
        }
        private.insert(member, reference);
    }
    if spec.warn_after_seconds > 0 {
        private.insert("warnafter", now.saturating_add(spec.warn_after_seconds));
    }
    let account = spec.account.as_ref().map_or("", |it| it.name.as_str());
    let audiences: Value = spec.audiences.iter().map(String::as_str).collect();
    let expires = now.saturating_add(spec.expiration_seconds);
    value!({"iss": issuer, "sub": (subject(spec.namespace, account)), "aud": audiences,
        "exp": expires, "nbf": now, "iat": now, "jti": (spec.id.as_str()), "kubernetes.io": private})
}

#[cfg(test)]
mod tests;
