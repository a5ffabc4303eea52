//! Who asks (authentication) and whether they may (authorization).
//!
//! Knows requests only by their headers and their attributes; objects it needs (roles, bindings, tokens' owners)
//! come through ports that the server implements.

pub mod bootstrap_token;
#[cfg(any(test, feature = "testing"))]
pub mod fixed;
pub mod jwt;
pub mod node;
pub mod objects;
pub mod privileged;
pub mod rbac;
pub mod request;
pub mod service_account;
pub mod static_token;
pub mod union;
pub mod user;
pub mod x509;

use apimachinery::Status;
use async_trait::async_trait;

pub use objects::Objects;
pub use request::Attributes;
pub use user::UserInfo;

/// What authentication may look at.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'r> {
    /// The request's headers.
    pub headers: &'r http::HeaderMap,
    /// The client's verified certificate chain, leaf first, in DER; empty without one.
    pub certificates: &'r [Vec<u8>],
}

impl Credentials<'_> {
    /// The token of `Authorization: Bearer`.
    #[must_use]
    pub fn bearer_token(&self) -> Option<&str> {
        let header = self.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.trim().split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }
}

/// A way to tell who asks.
#[async_trait]
pub trait Authenticator: Send + Sync + std::fmt::Debug {
    /// Who asks; `None` where these credentials are not of this way's sort.
    ///
    /// # Errors
    /// Where they are, and are not good.
    async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError>;

    /// Whose a token is, and for which of the wanted audiences it is good (`TokenReview`); `None` where it is not of
    /// this way's sort. `audiences` empty means the API server's own.
    ///
    /// # Errors
    /// Where it is, and is not good.
    async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError>;
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
        }
    }
}

/// A way to tell whether somebody may do something.
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// Whether the request may go on.
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;

    /// The rules that hold for a user in a namespace, for `SelfSubjectRulesReview`: resource rules, other rules, and
    /// whether the list may be incomplete.
    ///
    /// # Errors
    /// Where they cannot be told.
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Rules, Status>;
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
