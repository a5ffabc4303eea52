//! How a runtime refuses: a gRPC status code and the text a user sees.

use std::fmt;

/// The gRPC status codes that runtimes answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Anything that has no better code. containerd answers it for most failures.
    Unknown,
    /// The request makes no sense, whatever the state.
    InvalidArgument,
    /// It took longer than asked for.
    DeadlineExceeded,
    /// No such sandbox, container or image.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Not in the state that the request needs.
    FailedPrecondition,
    /// The registry or the kernel refused by right.
    PermissionDenied,
    /// A named limit was reached.
    ResourceExhausted,
    /// This runtime does not do that.
    Unimplemented,
    /// The runtime cannot be reached now.
    Unavailable,
    /// The runtime broke one of its own rules.
    Internal,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // gRPC's Go names, which are the names of the variants.
        fmt::Debug::fmt(self, f)
    }
}

/// A refusal. Its `Display` is the description only, which is what container statuses carry;
/// [`CriError::to_rpc`] is the form that events and pull errors show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CriError {
    /// The status code.
    pub code: Code,
    /// The description.
    pub message: String,
}

impl CriError {
    /// A refusal with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Code `Unknown`, the usual one of runtimes.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    /// Code `NotFound`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// Code `InvalidArgument`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Code `FailedPrecondition`.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    /// Code `DeadlineExceeded`.
    pub fn deadline(message: impl Into<String>) -> Self {
        Self::new(Code::DeadlineExceeded, message)
    }

    /// Code `Unimplemented`.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// Whether the thing asked about does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The text a gRPC client in Go prints: `rpc error: code = NotFound desc = ...`.
    #[must_use]
    pub fn to_rpc(&self) -> String {
        format!("rpc error: code = {} desc = {}", self.code, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rpc_form_is_what_go_clients_print() {
        let error = CriError::deadline("timeout 1s exceeded");
        assert_eq!(error.to_rpc(), "rpc error: code = DeadlineExceeded desc = timeout 1s exceeded");
        assert_eq!(error.to_string(), "timeout 1s exceeded");
    }
}
