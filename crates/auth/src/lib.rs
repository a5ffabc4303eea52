//! Who asks (authentication) and whether they may (authorization).
//!
//! Knows requests only by their headers and their attributes; objects it needs (roles, bindings, tokens' owners)
//! come through ports that the server implements.

pub mod abac;
pub mod always;
pub mod anonymous;
pub mod bootstrap_token;
pub mod config;
pub mod configured;
mod expressions;
#[cfg(any(test, feature = "testing"))]
pub mod fixed;
pub mod front_proxy;
pub mod jwt;
pub mod metrics;
pub mod node;
pub mod objects;
pub mod oidc;
pub mod privileged;
pub mod rbac;
pub mod remembered;
mod remote;
pub mod request;
pub mod selectors;
pub mod service_account;
pub mod static_token;
pub mod token_webhook;
pub mod union;
pub mod user;
pub mod webhook_authorizer;
pub mod x509;

use std::sync::Arc;

use apimachinery::Status;
use async_trait::async_trait;
use futures::future::BoxFuture;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

pub use objects::Objects;
pub use request::Attributes;
pub use user::UserInfo;
pub use x509::Shown;

/// What authentication may look at.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'r> {
    /// The request's headers.
    pub headers: &'r http::HeaderMap,
    /// The client's certificate chain by the authority of clients.
    pub certificates: &'r Shown,
    /// The same by the authority of front proxies.
    pub proxy_certificates: &'r Shown,
    /// What whoever shows them is to be warned of.
    pub warnings: &'r Warnings,
}

/// Warnings that come up while it is found out who asks.
#[derive(Debug, Default)]
pub struct Warnings(parking_lot::Mutex<Vec<&'static str>>);

impl Warnings {
    /// Adds one.
    pub fn add(&self, warning: &'static str) {
        self.0.lock().push(warning);
    }

    /// All of them.
    #[must_use]
    pub fn into_all(self) -> Vec<&'static str> {
        self.0.into_inner()
    }
}

impl Credentials<'_> {
    /// The token of `Authorization: Bearer`.
    #[must_use]
    pub fn bearer_token(&self) -> Option<&str> {
        bearer_token(self.headers)
    }
}

/// The token of `Authorization: Bearer`. Other ways to say who one is are not known, and count as none.
#[must_use]
pub fn bearer_token(headers: &http::HeaderMap) -> Option<&str> {
    std::str::from_utf8(bearer_bytes(headers)?).ok()
}

/// What stands for a token where tokens are not kept, or not compared: how long looking one up takes tells nothing of it.
fn token_hash(token: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    out
}

/// Whether there is such a token, even if it is no text: then it is no good, and not absent.
#[must_use]
pub fn presents_token(headers: &http::HeaderMap) -> bool {
    bearer_bytes(headers).is_some()
}

/// Whether a token is set apart by more than one space: it counts as absent, and that is worth a warning.
#[must_use]
pub fn has_space_before_token(headers: &http::HeaderMap) -> bool {
    let header = headers.get(http::header::AUTHORIZATION).map(|it| it.as_bytes().trim_ascii());
    let mut words = header.unwrap_or_default().splitn(3, |byte| *byte == b' ');
    let is_bearer = words.next().is_some_and(|it| it.eq_ignore_ascii_case(b"bearer"));
    is_bearer && words.next() == Some(b"") && words.next().is_some()
}

fn bearer_bytes(headers: &http::HeaderMap) -> Option<&[u8]> {
    let header = headers.get(http::header::AUTHORIZATION)?.as_bytes().trim_ascii();
    let mut words = header.split(|byte| *byte == b' ');
    let scheme = words.next()?;
    let token = words.next()?;
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// Who asks; `None` where the credentials are not of a way's sort, an error where they are and are not good.
pub type Asker = Result<Option<Arc<UserInfo>>, AuthenticationError>;

/// A way to tell who asks.
#[async_trait]
pub trait Authenticator: Send + Sync + std::fmt::Debug {
    /// Who asks, where that is known without waiting. `None` where something has to be read or somebody asked, see
    /// [`Authenticator::ask`].
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker>;

    /// What [`Authenticator::look`] did not know.
    ///
    /// # Errors
    /// Where the credentials are of this way's sort, and are not good.
    async fn ask(&self, _credentials: &Credentials<'_>) -> Asker {
        Ok(None)
    }

    /// Who asks, however that is told.
    ///
    /// # Errors
    /// Where the credentials are of this way's sort, and are not good.
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Asker {
        match self.look(credentials) {
            Some(known) => known,
            None => self.ask(credentials).await,
        }
    }

    /// Whose a token is, and for which of the wanted audiences it is good (`TokenReview`); `None` where it is not of
    /// this way's sort, as where it takes none. `audiences` empty means the API server's own.
    ///
    /// # Errors
    /// Where it is, and is not good.
    async fn review(
        &self,
        _token: &str,
        _audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        Ok(None)
    }
}

/// The text of a header, whatever letters it has: one that is not understood must not count as absent,
/// which would let a request pass as the impersonator's own.
#[must_use]
pub fn text_of(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// Who it stands for.
    pub user: UserInfo,
    /// Those of the wanted audiences that it is for; empty where its way knows no audiences.
    pub audiences: Vec<String>,
}

/// Credentials that are not good. Clients only ever see 401; this is for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// They may, and why; the reason is empty where it needs none.
    Allow(String),
    /// They may not, whatever others say.
    Deny(String),
    /// Not known here; the reason is shown if nobody allows.
    NoOpinion(String),
    /// It could not be told, and why: no refusal, but a failure of the server, unless somebody else allows.
    Failed {
        /// What went wrong.
        why: String,
        /// Nobody else is asked.
        denies: bool,
    },
}

impl Decision {
    /// Whether they may.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The reason, whatever was decided.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::Deny(reason) | Self::NoOpinion(reason) => reason,
            Self::Failed { why, .. } => why,
        }
    }
}

/// A way to tell whether somebody may do something.
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// Whether the request may go on, where that is known without waiting. `None` where somebody else has to be asked,
    /// see [`Authorizer::ask`].
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision>;

    /// The decision that [`Authorizer::decide`] did not know.
    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> BoxFuture<'a, Decision> {
        let known = self.decide(attributes);
        // Who has nobody to ask always knows.
        Box::pin(async move { known.unwrap_or_else(|| Decision::NoOpinion(String::new())) })
    }

    /// The rules that hold for a user in a namespace, for `SelfSubjectRulesReview`: resource rules, other rules, and
    /// whether the list may be incomplete.
    ///
    /// # Errors
    /// Where they cannot be told.
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Rules, Status>;
}

impl dyn Authorizer + '_ {
    /// Whether the request may go on; waits where that is not known at once.
    pub async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        match self.decide(attributes) {
            Some(decision) => decision,
            None => self.ask(attributes).await,
        }
    }
}

/// What a user may do in a namespace.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `ResourceRule` objects.
    pub resource: Vec<apimachinery::Value>,
    /// `NonResourceRule` objects.
    pub non_resource: Vec<apimachinery::Value>,
    /// Whether there may be more.
    pub incomplete: bool,
    /// Why they may be incomplete.
    pub evaluation_error: String,
}
