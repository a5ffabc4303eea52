//! The server's side of WebSockets as Kubernetes uses them: the handshake, which protocol is spoken, and how messages carry
//! what is for one of several channels.
//!
//! Upstream: `k8s.io/streaming/pkg/httpstream/wsstream`, on `golang.org/x/net/websocket`, whose words the refusals have.
//! Knows nothing of what the messages say.

pub mod bearer;
mod codec;
mod handshake;

pub use codec::Codec;
pub use handshake::{Refusal, check, choose, is_asked, offered, switching};

use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_tungstenite::WebSocketStream;
pub use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// The server's end of a connection that has become a WebSocket. A client's messages have `most` bytes at most.
pub async fn accept<I: AsyncRead + AsyncWrite + Unpin>(io: I, most: usize) -> WebSocketStream<I> {
    let limits = WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await
}

/// The end of a stream that went well: clients take any other for a broken connection.
#[must_use]
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}
