//! How requests travel.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{Request, Response};

/// A request that got no answer, or half of one.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It was not sent: trying again is safe.
    #[error("could not send the request: {0}")]
    NotSent(String),
    /// It was sent and may have been carried out.
    #[error("no answer to the request: {0}")]
    NoAnswer(String),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Body(String),
}

/// The pieces of an answer as they come.
pub type ResponseStream = BoxStream<'static, Result<Bytes, TransportError>>;

/// Carries requests to an API server, under one identity.
///
/// Paths begin with a slash; the transport knows the server.
#[async_trait]
pub trait Transport: Send + Sync + std::fmt::Debug {
    /// Sends a request; the answer's body comes in pieces.
    ///
    /// # Errors
    /// When there is no answer. An answer with a status of failure is an answer.
    async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseStream>, TransportError>;
}
