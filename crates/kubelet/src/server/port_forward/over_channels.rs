//! Ports of pods over the channels of one WebSocket: two for each port that the request names, one for its bytes and one for
//! what goes wrong. Libraries without SPDY speak it.
//!
//! Upstream: `k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go`.

use std::sync::Arc;

use bytes::Bytes;
use cri::Duplex;
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use websocket::{Codec, Message, WebSocketStream};

use super::super::Context;
use super::super::query::Query;
use super::super::routes::Refusal;
use super::{CHUNK_BYTES, QUEUE};

/// The protocols; the first is that of clients that name none.
pub(super) const PROTOCOLS: [&str; 3] = ["", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// The parameter that names the ports, divided by commas.
const PORT: &str = "port";
/// As many as channels can be told apart for.
const MAX_PORTS: usize = 127;

/// The ports that a request names.
///
/// # Errors
/// Where it names none, or what is none.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let refuse = |text: String| Err((StatusCode::BAD_REQUEST, text + "\n"));
    let given = query.all(PORT);
    if given.is_empty() {
        return refuse(format!("query parameter {PORT:?} is required"));
    }
    let mut ports = Vec::new();
    for text in &given {
        if text.is_empty() {
            return refuse(format!("query parameter {PORT:?} cannot be empty"));
        }
        for port in text.split(',') {
            match port.parse::<u16>() {
                Ok(0) => return refuse(format!("port {text:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(_) => return refuse(format!("unable to parse {text:?} as a port")),
            }
        }
    }
    if ports.len() > MAX_PORTS {
        return refuse(format!("at most {MAX_PORTS} ports can be forwarded at once"));
    }
    Ok(ports)
}

/// Forwards the ports until all of them are done with, or the client is.
pub(super) async fn serve<I: AsyncRead + AsyncWrite + Unpin>(
    (context, sandbox): (Arc<Context>, String),
    socket: WebSocketStream<I>,
    codec: Codec,
    ports: Vec<u16>,
) {
    let (mut sink, mut source) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let mut inputs = Vec::with_capacity(ports.len());
    let mut running = tokio::task::JoinSet::new();
    for (channel, port) in (0..).step_by(2).zip(ports) {
        let (input, pieces) = mpsc::channel(QUEUE);
        inputs.push(Some(input));
        let forwarded = Forwarded { codec, channel, port, out: out.clone() };
        running.spawn(forwarded.run(Arc::clone(&context), sandbox.clone(), pieces));
    }
    drop(out);
    let incoming = async {
        while let Some(Ok(message)) = source.next().await {
            if message.is_close() {
                break;
            }
            let Some((channel, data)) = codec.read(message) else { continue };
            // The odd ones are for what goes wrong: nothing is read there.
            let input = inputs.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
            let Some(input) = input else { continue };
            if let Some(to) = input.as_ref()
                && to.send(data).await.is_err()
            {
                *input = None;
            }
        }
    };
    let outgoing = async {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // A client that is gone needs no goodbye.
        let _ = sink.send(websocket::goodbye()).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = incoming => {}
        () = outgoing => {}
    }
    running.abort_all();
}

/// A port and its channels: this one for bytes, the next for what goes wrong.
struct Forwarded {
    codec: Codec,
    channel: u8,
    port: u16,
    out: mpsc::Sender<Message>,
}

impl Forwarded {
    async fn run(self, context: Arc<Context>, sandbox: String, pieces: mpsc::Receiver<Bytes>) {
        // First the port, so that a client knows which channels are whose.
        for channel in [self.channel, self.channel + 1] {
            if self.out.send(self.codec.on(channel, &self.port.to_le_bytes())).await.is_err() {
                return;
            }
        }
        let result = match context.shared.runtime.port_forward(&sandbox, self.port).await {
            Ok(io) => self.copy(io, pieces).await.map_err(|it| it.to_string()),
            Err(error) => Err(error.message),
        };
        if let Err(why) = result {
            let text = super::failure(self.port, &sandbox, &why);
            // A client that is gone misses nothing.
            let _ = self.out.send(self.codec.on(self.channel + 1, text.as_bytes())).await;
        }
    }

    async fn copy(
        &self,
        io: Box<dyn Duplex>,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> std::io::Result<()> {
        let (mut from, mut to) = tokio::io::split(io);
        let up = async {
            while let Some(piece) = pieces.recv().await {
                to.write_all(&piece).await?;
            }
            to.shutdown().await
        };
        let down = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                let read = from.read(&mut buffer).await?;
                let message = self.codec.on(self.channel, &buffer[..read]);
                if read == 0 || self.out.send(message).await.is_err() {
                    return std::io::Result::Ok(());
                }
            }
        };
        super::until_the_ports_end(up, down).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_by_the_request() {
        let given = |query: &str| ports(&Query::parse(query)).map_err(|(_, text)| text);
        assert_eq!(given("port=80,8080&port=443"), Ok(vec![80, 8080, 443]));
        for (query, expected) in [
            ("", "query parameter \"port\" is required\n"),
            ("port=", "query parameter \"port\" cannot be empty\n"),
            ("port=80,x", "unable to parse \"80,x\" as a port\n"),
            ("port=70000", "unable to parse \"70000\" as a port\n"),
            ("port=0", "port \"0\" must be > 0\n"),
        ] {
            assert_eq!(given(query), Err(expected.to_owned()), "{query}");
        }
        let many = format!("port={}", vec!["1"; 128].join(","));
        assert!(given(&many).is_err());
    }
}
