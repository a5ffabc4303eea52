//! Commands in containers and their streams, over the WebSocket protocols `v4.channel.k8s.io` and `v5.channel.k8s.io`.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use bytes::Bytes;
use cri::{
    AttachRequest, BoxedRead, BoxedWrite, CriError, ExecRequest, StreamSession, Streams,
    TerminalSize,
};
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::Context;
use super::query::Query;
use super::routes::{Body, Refusal, full, running};
use crate::spec;

/// The protocols, the best first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// What a frame carries at most.
const FRAME_BYTES: usize = 32 << 10;
/// Frames that wait for a slow reader.
const FRAMES: usize = 16;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

fn failed(error: &CriError) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_rpc())
}

fn streams(query: &Query, tty: bool) -> Result<Streams, Refusal> {
    let has = |names: [&str; 2]| names.iter().any(|it| query.flag(it));
    let streams = Streams {
        stdin: has(["input", "stdin"]),
        stdout: has(["output", "stdout"]),
        stderr: has(["error", "stderr"]) && !tty,
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err((StatusCode::BAD_REQUEST, text.into()));
    }
    Ok(streams)
}

/// Runs a command with streams.
pub(super) async fn exec(
    context: &Arc<Context>,
    pod: &Pod,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let tty = query.flag("tty");
    let wanted = ExecRequest {
        container_id: running(context, pod, container).await?,
        cmd: query.all("command"),
        tty,
        streams: streams(query, tty)?,
    };
    let protocol = protocol(&request)?;
    let session = context.shared.runtime.exec(&wanted).await.map_err(|it| failed(&it))?;
    Ok(upgrade(request, protocol, session))
}

/// Joins the streams of a container.
pub(super) async fn attach(
    context: &Arc<Context>,
    pod: &Pod,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let tty = spec::find_container(pod, container).and_then(|it| it.1.tty).unwrap_or_default();
    let wanted = AttachRequest {
        container_id: running(context, pod, container).await?,
        tty,
        streams: streams(query, tty)?,
    };
    let protocol = protocol(&request)?;
    let session = context.shared.runtime.attach(&wanted).await.map_err(|it| failed(&it))?;
    Ok(upgrade(request, protocol, session))
}

/// Runs a command to its end; what it wrote.
pub(super) async fn run(
    context: &Arc<Context>,
    pod: &Pod,
    container: &str,
    query: &Query,
) -> Result<Vec<u8>, Refusal> {
    let id = running(context, pod, container).await?;
    let command: Vec<String> =
        query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let ended = context.shared.runtime.exec_sync(&id, &command, Duration::ZERO).await;
    let mut ended = ended.map_err(|it| failed(&it))?;
    ended.stdout.append(&mut ended.stderr);
    Ok(ended.stdout)
}

fn protocol(request: &Request<Incoming>) -> Result<&'static str, Refusal> {
    let is_websocket = request
        .headers()
        .get(http::header::UPGRADE)
        .is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket || !request.headers().contains_key(http::header::SEC_WEBSOCKET_KEY) {
        let text = "this node streams over WebSocket only: ask for an upgrade to websocket";
        return Err((StatusCode::BAD_REQUEST, text.into()));
    }
    let offered = request.headers().get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offered
        .iter()
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(','))
        .map(str::trim)
        .collect();
    PROTOCOLS
        .into_iter()
        .find(|it| offered.contains(it))
        .ok_or_else(|| (StatusCode::FORBIDDEN, format!("unable to negotiate protocol: client supports {offered:?}, server accepts {PROTOCOLS:?}")))
}

/// The answer to a WebSocket's key.
pub(super) fn accept_key(request: &Request<Incoming>) -> Option<http::HeaderValue> {
    let key = request.headers().get(http::header::SEC_WEBSOCKET_KEY)?;
    http::HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

fn upgrade(
    mut request: Request<Incoming>,
    protocol: &'static str,
    session: StreamSession,
) -> Response<Body> {
    let key = accept_key(&request);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => {
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
                carry(socket, session).await;
            }
            Err(error) => tracing::debug!(%error, "a client went away before its streams began"),
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    let fixed = http::HeaderValue::from_static;
    headers.insert(http::header::UPGRADE, fixed("websocket"));
    headers.insert(http::header::CONNECTION, fixed("Upgrade"));
    headers.insert(http::header::SEC_WEBSOCKET_PROTOCOL, fixed(protocol));
    if let Some(accept) = key {
        headers.insert(http::header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Carries the streams until the command has ended and all it wrote is sent.
async fn carry(socket: Socket, session: StreamSession) {
    let StreamSession { stdin, stdout, stderr, resize, exit } = session;
    let (mut sink, mut source) = socket.split();
    let (sender, mut frames) = mpsc::channel::<Message>(FRAMES);
    // An empty frame on each channel opens it, as upstream's server does.
    let pumps = [(STDOUT, stdout), (STDERR, stderr)]
        .map(|(channel, stream)| tokio::spawn(pump(channel, stream, sender.clone())));
    let incoming = async move {
        let mut stdin = stdin;
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::from(text.as_bytes().to_vec()),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            take(&data, &mut stdin, resize.as_ref()).await;
        }
    };
    let outgoing = async move {
        while let Some(frame) = frames.recv().await {
            if sink.send(frame).await.is_err() {
                return;
            }
        }
        // A client that is gone needs no goodbye.
        let _ = sink.send(goodbye()).await;
        let _ = sink.close().await;
    };
    let finish = async move {
        let code = exit.await;
        for pump in pumps {
            // A pump ends with its stream.
            let _ = pump.await;
        }
        let status = apimachinery::json::to_vec(&status_of(&code));
        let _ = sender.send(frame(ERROR, &status)).await;
        drop(sender);
    };
    tokio::pin!(incoming);
    let work = async { tokio::join!(finish, outgoing) };
    tokio::pin!(work);
    tokio::select! {
        _ = &mut work => {}
        // The client hung up: dropping the streams ends an attach and hangs up an exec.
        () = &mut incoming => {
            let _ = tokio::time::timeout(Duration::from_millis(100), work).await;
        }
    }
}

/// The end of a stream that went well: clients take any other for a broken connection.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut all = Vec::with_capacity(data.len() + 1);
    all.push(channel);
    all.extend_from_slice(data);
    Message::Binary(all.into())
}

async fn pump(channel: u8, stream: Option<BoxedRead>, sender: mpsc::Sender<Message>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; FRAME_BYTES];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 || sender.send(frame(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

async fn take(data: &[u8], stdin: &mut Option<BoxedWrite>, resize: &dyn cri::Resize) {
    match data.split_first() {
        Some((&STDIN, rest)) => {
            let gone = match stdin {
                Some(it) => it.write_all(rest).await.is_err() || it.flush().await.is_err(),
                None => false,
            };
            if gone {
                *stdin = None;
            }
        }
        Some((&RESIZE, rest)) => {
            let Ok(size) = apimachinery::json::parse(rest) else { return };
            let number = |name: &str| {
                u16::try_from(size.i64_at(&[name]).unwrap_or_default()).unwrap_or_default()
            };
            let size = TerminalSize { width: number("Width"), height: number("Height") };
            if let Err(error) = resize.resize(size).await {
                tracing::debug!(%error, "could not change the size of a terminal");
            }
        }
        // Half-close: no more input.
        Some((&CLOSE, [STDIN])) => *stdin = None,
        _ => {}
    }
}

/// What the error channel says at the end.
fn status_of(code: &Result<i32, CriError>) -> Value {
    match code {
        Ok(0) => value!({"metadata": {}, "status": "Success"}),
        Ok(code) => value!({
            "metadata": {}, "status": "Failure",
            "message": (format!("command terminated with non-zero exit code: exit status {code}")),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": (code.to_string())}]}
        }),
        Err(error) => value!({
            "metadata": {}, "status": "Failure", "message": (error.to_rpc()), "reason": "InternalError",
            "code": 500
        }),
    }
}
