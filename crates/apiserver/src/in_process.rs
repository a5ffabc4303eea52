//! The transport of clients in the same process: the same filters and handlers, without a socket.

use std::sync::Arc;

use async_trait::async_trait;
use auth::UserInfo;
use bytes::Bytes;
use client::transport::{ResponseStream, Transport, TransportError, WantsObjects};
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::BodyStream;

use crate::{Body, Peer, RequestBody, Server};

/// A client's way into a server of the same process, as one user.
#[derive(Debug, Clone)]
pub struct InProcess {
    server: Arc<Server>,
    user: Arc<UserInfo>,
}

impl InProcess {
    /// Requests go to `server` as `user`, who needs no credentials but every right.
    #[must_use]
    pub fn new(server: Arc<Server>, user: UserInfo) -> Self {
        Self { server, user: Arc::new(user) }
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseStream>, TransportError> {
        let mut request = request.map(RequestBody::Bytes);
        request.extensions_mut().insert(WantsObjects);
        let peer = Peer { user: Some(Arc::clone(&self.user)), ..Peer::default() };
        let response = self.server.serve(request, peer).await;
        Ok(response.map(stream_of))
    }
}

fn stream_of(body: Body) -> ResponseStream {
    match body {
        Body::Full(bytes) => futures::stream::iter(bytes.map(Ok)).boxed(),
        Body::Stream(_) => BodyStream::new(body)
            .filter_map(|frame| async move {
                match frame {
                    Ok(frame) => frame.into_data().ok().map(Ok),
                    Err(error) => Some(Err(TransportError::Body(error.to_string()))),
                }
            })
            .boxed(),
    }
}
