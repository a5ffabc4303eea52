//! Who asks (authentication) and whether they may (authorization).
//!
//! Knows requests only by their headers and their attributes; objects it needs (roles, bindings, tokens' owners)
//! come through ports that the server implements.

pub mod privileged;
pub mod request;
pub mod static_token;
pub mod user;

use apimachinery::Status;

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
pub trait Authenticator: Send + Sync + std::fmt::Debug {
    /// Who asks; `None` where these credentials are not of this way's sort.
    ///
    /// # Errors
    /// Where they are, and are not good.
    fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError>;
}

/// Credentials that are not good. Clients only ever see 401; this is for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// They may.
    Allow,
    /// They may not, whatever others say.
    Deny(String),
    /// Not known here; the reason is shown if nobody allows.
    NoOpinion(String),
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
