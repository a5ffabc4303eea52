//! How requests travel.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{Request, Response};
use parking_lot::Mutex;

use crate::watch::WatchEvent;

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

/// In the extensions of a request: a watch may be answered with the server's own objects ([`Objects`]) instead of their
/// text. Transports within the process set it; nothing that comes from a socket has it.
#[derive(Debug, Clone, Copy)]
pub struct WantsObjects;

/// In the extensions of an answer: the events of a watch, whose objects are those of the server's cache.
#[derive(Clone)]
pub struct Objects(Arc<Mutex<Option<BoxStream<'static, WatchEvent>>>>);

impl Objects {
    /// An answer with these events.
    #[must_use]
    pub fn new(events: BoxStream<'static, WatchEvent>) -> Self {
        Self(Arc::new(Mutex::new(Some(events))))
    }

    /// The events, for the first who asks: the client, or a transport that stands before another one.
    #[must_use]
    pub fn take(&self) -> Option<BoxStream<'static, WatchEvent>> {
        self.0.lock().take()
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}
