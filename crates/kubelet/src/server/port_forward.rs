//! Ports of pods for clients: SPDY streams, inside a WebSocket or on the upgraded connection itself, or the channels of a
//! WebSocket (`over_channels`).

mod over_channels;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use websocket::{Codec, Message, WebSocketStream};

use super::Context;
use super::channels::MESSAGE_BYTES;
use super::query::Query;
use super::routes::{Body, Refusal, full};
use super::spdy::{Frame, Reader, Writer};
use crate::spec;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOL: &str = "portforward.k8s.io";
/// What is read at once.
const CHUNK_BYTES: usize = 32 << 10;
/// Frames that wait for a slow client, and pieces that wait for a slow port.
const QUEUE: usize = 32;
/// Streams of one connection.
const MAX_STREAMS: usize = 1_000;

/// Upgrades a request and forwards.
pub(super) async fn forward(
    context: &Arc<Context>,
    pod: &Pod,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let observed = crate::pod::observe::observe(&context.shared, spec::uid(pod)).await;
    let observed = observed.map_err(|it| (StatusCode::INTERNAL_SERVER_ERROR, it.to_rpc()))?;
    let sandbox = observed.ready_sandbox().map(|it| it.sandbox.id.clone());
    let sandbox = sandbox.ok_or_else(|| {
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("sandbox for pod {:?} not found", spec::name(pod)),
        )
    })?;
    let header = |name: &str| {
        request.headers().get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned()
    };
    let context = Arc::clone(context);
    if header("upgrade").to_lowercase() != "spdy/3.1" {
        return over_websocket((context, sandbox), request);
    }
    if !header("connection").to_lowercase().contains("upgrade") {
        return Err((StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n".into()));
    }
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fixed = http::HeaderValue::from_static;
    let headers = response.headers_mut();
    headers.insert(http::header::CONNECTION, fixed("Upgrade"));
    headers.insert(http::header::UPGRADE, fixed("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", fixed(PROTOCOL));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Some(io) = opened(upgraded).await {
            serve(context, sandbox, io).await;
        }
    });
    Ok(response)
}

/// The same where a WebSocket is asked for: SPDY inside it, or a pair of channels for each port.
fn over_websocket(
    (context, sandbox): (Arc<Context>, String),
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let headers = request.headers();
    super::remote::check_upgrade(request.method(), headers)?;
    let tunnel = websocket::offered(headers).any(|it| it == TUNNEL);
    let (protocol, ports) = if tunnel {
        (TUNNEL, Vec::new())
    } else {
        let ports = over_channels::ports(&Query::parse(request.uri().query().unwrap_or_default()))?;
        let chosen = websocket::choose(headers, &over_channels::PROTOCOLS);
        (chosen.map_err(super::remote::refused)?, ports)
    };
    let response = websocket::switching(headers, protocol, full(Bytes::new()));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Some(io) = opened(upgraded).await else { return };
        let socket = websocket::accept(io, MESSAGE_BYTES).await;
        if tunnel {
            let (ours, theirs) = tokio::io::duplex(CHUNK_BYTES);
            tokio::join!(carry(socket, theirs), serve(context, sandbox, ours));
        } else {
            over_channels::serve((context, sandbox), socket, Codec::of(protocol), ports).await;
        }
    });
    Ok(response)
}

/// The connection, once it speaks another protocol.
async fn opened(upgraded: hyper::upgrade::OnUpgrade) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    match upgraded.await {
        Ok(io) => Some(TokioIo::new(io)),
        Err(error) => {
            tracing::debug!(%error, "a client went away before its ports were forwarded");
            None
        }
    }
}

/// What is told of a port that cannot be forwarded.
fn failure(port: u16, sandbox: &str, why: &str) -> String {
    format!("error forwarding port {port} to pod {sandbox}, uid : {why}")
}

/// Both ways of a connection to a port. The port's end is the end; a client that only stops sending still reads.
async fn until_the_ports_end(
    up: impl Future<Output = std::io::Result<()>>,
    down: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    tokio::pin!(up);
    tokio::pin!(down);
    tokio::select! {
        it = &mut down => it,
        it = &mut up => {
            it?;
            down.await
        }
    }
}

/// Bytes between a WebSocket's messages and a pipe.
async fn carry(
    socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    pipe: tokio::io::DuplexStream,
) {
    let (mut sink, mut source) = socket.split();
    let (mut from, mut to) = tokio::io::split(pipe);
    let incoming = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) => {
                    if to.write_all(&data).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => break,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        // The end of the client is the end of the pipe, whatever becomes of it.
        let _ = to.shutdown().await;
    };
    let outgoing = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if sink.send(Message::Binary(buffer[..read].to_vec().into())).await.is_err() {
                return;
            }
        }
        // A client that is gone needs no goodbye.
        let _ = sink.send(websocket::goodbye()).await;
        let _ = sink.close().await;
    };
    tokio::join!(incoming, outgoing);
}

/// A pair of streams for one connection to a port.
#[derive(Debug, Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
    port: Option<u16>,
}

/// The streams of a connection.
struct Streams {
    context: Arc<Context>,
    sandbox: String,
    out: mpsc::Sender<Vec<u8>>,
    /// By request id, until both streams are there.
    waiting: BTreeMap<String, Pair>,
    /// Input of data streams.
    inputs: BTreeMap<u32, mpsc::Sender<Vec<u8>>>,
}

async fn serve<I: AsyncRead + AsyncWrite + Send>(context: Arc<Context>, sandbox: String, io: I) {
    let (mut from, mut to) = tokio::io::split(io);
    let (out, mut frames) = mpsc::channel::<Vec<u8>>(QUEUE);
    let mut streams =
        Streams { context, sandbox, out, waiting: BTreeMap::new(), inputs: BTreeMap::new() };
    let reading = async move {
        let (mut reader, mut writer) = (Reader::new(), Writer::new());
        while let Some(frame) = reader.receive(&mut from).await {
            streams.take(frame, &mut writer).await;
        }
    };
    let writing = async move {
        while let Some(frame) = frames.recv().await {
            if to.write_all(&frame).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        // Nobody reads any more.
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

impl Streams {
    async fn take(&mut self, frame: Frame, writer: &mut Writer) {
        match frame {
            Frame::Open { stream, headers, .. } => {
                let _ = self.out.send(writer.reply(stream)).await;
                self.open(stream, &headers);
            }
            Frame::Data { stream, data, fin } => {
                let gone = match self.inputs.get(&stream) {
                    Some(input) if !data.is_empty() => input.send(data).await.is_err(),
                    Some(_) | None => false,
                };
                if gone || fin {
                    self.inputs.remove(&stream);
                }
            }
            Frame::Reset { stream } => drop(self.inputs.remove(&stream)),
            Frame::Ping { id } => {
                let _ = self.out.send(Writer::ping(id)).await;
            }
            Frame::GoAway | Frame::Other => {}
        }
    }

    fn open(&mut self, stream: u32, headers: &[(String, String)]) {
        let get = |name: &str| headers.iter().find(|it| it.0 == name).map(|it| it.1.as_str());
        let id = get("requestid")
            .map_or_else(|| get("port").unwrap_or_default().to_owned(), str::to_owned);
        self.inputs.retain(|_, it| !it.is_closed());
        if self.waiting.len() + self.inputs.len() > MAX_STREAMS {
            tracing::warn!("a client forwards too many streams: one was left out");
            return;
        }
        let pair = self.waiting.entry(id.clone()).or_default();
        match get("streamtype") {
            Some("error") => pair.error = Some(stream),
            Some("data") => pair.data = Some(stream),
            _ => return,
        }
        pair.port = get("port").and_then(|it| it.parse().ok()).or(pair.port);
        let (Some(error), Some(data)) = (pair.error, pair.data) else { return };
        let port = pair.port.unwrap_or_default();
        self.waiting.remove(&id);
        let (input, pieces) = mpsc::channel(QUEUE);
        self.inputs.insert(data, input);
        let connection = Connection { error, data, port, out: self.out.clone() };
        tokio::spawn(connection.run(Arc::clone(&self.context), self.sandbox.clone(), pieces));
    }
}

/// One connection to a port.
struct Connection {
    error: u32,
    data: u32,
    port: u16,
    out: mpsc::Sender<Vec<u8>>,
}

impl Connection {
    async fn run(self, context: Arc<Context>, sandbox: String, pieces: mpsc::Receiver<Vec<u8>>) {
        let result = match context.shared.runtime.port_forward(&sandbox, self.port).await {
            Ok(io) => self.copy(io, pieces).await.map_err(|it| it.to_string()),
            Err(error) => Err(error.message),
        };
        if let Err(why) = result {
            let text = failure(self.port, &sandbox, &why);
            let _ = self.out.send(Writer::data(self.error, text.as_bytes(), false)).await;
        }
        // A client that is gone misses nothing.
        let _ = self.out.send(Writer::data(self.data, &[], true)).await;
        let _ = self.out.send(Writer::data(self.error, &[], true)).await;
    }

    async fn copy(
        &self,
        io: Box<dyn cri::Duplex>,
        mut pieces: mpsc::Receiver<Vec<u8>>,
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
                let frame = Writer::data(self.data, &buffer[..read], false);
                if read == 0 || self.out.send(frame).await.is_err() {
                    return std::io::Result::Ok(());
                }
            }
        };
        until_the_ports_end(up, down).await
    }
}
