//! What a call may fail with.

use apimachinery::Value;

use crate::transport::TransportError;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a status.
    #[error("{}", .0.message)]
    Api(Box<ApiStatus>),
    /// No answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An answer that cannot be read.
    #[error("could not read the server's answer: {0}")]
    Decode(String),
    /// A request that cannot be written.
    #[error("could not write the request: {0}")]
    Encode(String),
}

/// A `Status` as a client sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApiStatus {
    /// The HTTP status code.
    pub code: u16,
    /// `NotFound`, `Conflict`, ...
    pub reason: String,
    /// For people.
    pub message: String,
    /// The whole of it.
    pub status: Value,
}

impl ApiStatus {
    /// The status that a watch ends with.
    #[must_use]
    pub fn of_value(status: Value) -> Self {
        let code = status.i64_at(&["code"]).and_then(|code| u16::try_from(code).ok());
        Self {
            code: code.unwrap_or(500),
            reason: status.str_at(&["reason"]).to_owned(),
            message: status.str_at(&["message"]).to_owned(),
            status,
        }
    }
}

impl ClientError {
    pub(crate) fn of_status(code: u16, body: &[u8]) -> Self {
        let status = apimachinery::json::parse(body).unwrap_or_default();
        let message = match status.str_at(&["message"]) {
            "" => format!(
                "the server answered {code}: {}",
                String::from_utf8_lossy(&body[..body.len().min(200)])
            ),
            text => text.to_owned(),
        };
        let reason = status.str_at(&["reason"]).to_owned();
        Self::Api(Box::new(ApiStatus { code, reason, message, status }))
    }

    /// Whether the request may have been carried out: there was no answer that says so or denies it.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Transport(error) => !matches!(error, TransportError::NotSent(_)),
            Self::Decode(_) => true,
            Self::Api(_) | Self::Encode(_) => false,
        }
    }

    fn api(&self) -> Option<&ApiStatus> {
        match self {
            Self::Api(status) => Some(status),
            Self::Transport(_) | Self::Decode(_) | Self::Encode(_) => None,
        }
    }

    /// The HTTP status code, where the server answered.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.api().map(|status| status.code)
    }

    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(|it| it.reason == "NotFound")
    }

    /// Whether the name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(|it| it.reason == "AlreadyExists")
    }

    /// Whether somebody else was faster.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(|it| it.reason == "Conflict")
    }

    /// Whether the version asked for is not kept any more.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.api().is_some_and(|it| it.code == 410 || it.reason == "Expired" || it.reason == "Gone")
    }

    /// Whether the object is not valid.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.api().is_some_and(|it| it.reason == "Invalid")
    }

    /// Whether the client may not.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.api().is_some_and(|it| it.reason == "Forbidden")
    }

    /// Whether a write may have happened although the call failed.
    #[must_use]
    pub fn is_unknown_outcome(&self) -> bool {
        match self {
            Self::Transport(TransportError::NotSent(_)) | Self::Encode(_) => false,
            Self::Transport(TransportError::NoAnswer(_) | TransportError::Body(_))
            | Self::Decode(_) => true,
            Self::Api(status) => status.code >= 500 && status.code != 503,
        }
    }

    /// Whether a namespace is being deleted, so that nothing can be created in it.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        self.api().is_some_and(|it| {
            it.status
                .items_at(&["details", "causes"])
                .iter()
                .any(|cause| cause.str_at(&["reason"]) == "NamespaceTerminating")
        })
    }
}
