//! Commands in containers and their streams, over the WebSocket protocols `channel.k8s.io` (with `v4` and `v5`, and in base64
//! for clients that have no bytes), and over SPDY (`over_spdy`).

mod over_spdy;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use bytes::Bytes;
use cri::{
    AttachRequest, BoxedRead, BoxedWrite, CriError, ExecRequest, StreamSession, Streams,
    TerminalSize,
};
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use websocket::{Codec, Message, WebSocketStream};

use super::Context;
use super::channels::{self, ERROR, MESSAGE_BYTES, STDERR, STDOUT, Said};
use super::query::Query;
use super::routes::{Body, Refusal, full, running};
use crate::spec;

/// The protocol in which a client can say that there is no more input.
const V5: &str = "v5.channel.k8s.io";
/// The protocols; the first is that of clients that name none.
const PROTOCOLS: [&str; 6] = [
    "",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    V5,
];
/// What a frame carries at most.
const FRAME_BYTES: usize = 32 << 10;
/// How long a client that is still sending is listened to after its command has ended: a connection that is closed with
/// unread bytes is reset, and what was on its way to the client is lost.
const LINGER: Duration = Duration::from_secs(5);
/// Frames that wait for a slow reader.
const FRAMES: usize = 16;

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

/// What streams are opened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// A command that is run for them.
    Exec,
    /// What the container runs already.
    Attach,
}

/// Opens streams into a container.
pub(super) async fn open(
    context: &Arc<Context>,
    (pod, container): (&Pod, &str),
    query: &Query,
    opening: Opening,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let tty = match opening {
        Opening::Exec => query.flag("tty"),
        Opening::Attach => {
            spec::find_container(pod, container).and_then(|it| it.1.tty).unwrap_or_default()
        }
    };
    let streams = streams(query, tty)?;
    let container_id = running(context, pod, container).await?;
    let spdy = over_spdy::asked(request.headers());
    let protocol = if spdy {
        match over_spdy::protocol(request.headers()) {
            Ok(protocol) => protocol,
            Err(response) => return Ok(*response),
        }
    } else {
        protocol(request.method(), request.headers())?
    };
    let runtime = &context.shared.runtime;
    let session = match opening {
        Opening::Exec => {
            let cmd = query.all("command");
            runtime.exec(&ExecRequest { container_id, cmd, tty, streams }).await
        }
        Opening::Attach => runtime.attach(&AttachRequest { container_id, tty, streams }).await,
    };
    let session = session.map_err(|it| failed(&it))?;
    if spdy {
        let wanted = over_spdy::Wanted { streams, tty, protocol, opening };
        return Ok(over_spdy::upgrade(request, wanted, session));
    }
    Ok(upgrade(request, protocol, session, opening))
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

/// The protocol of the streams, or why there are none, in the words of the WebSocket server that upstream uses.
fn protocol(method: &Method, headers: &HeaderMap) -> Result<&'static str, Refusal> {
    check_upgrade(method, headers)?;
    if websocket::offered(headers).any(|it| it == V5) {
        return Ok(V5);
    }
    websocket::choose(headers, &PROTOCOLS).map_err(refused)
}

/// A refusal of the handshake, as the server's own.
pub(super) fn refused(refusal: websocket::Refusal) -> Refusal {
    (refusal.status, refusal.text.to_owned())
}

/// A request that is one for a WebSocket, of the version that there is.
pub(super) fn check_upgrade(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let has = |name: HeaderName, wanted: &str| {
        let all = headers.get_all(name);
        all.iter().any(|it| it.to_str().is_ok_and(|it| it.to_lowercase().contains(wanted)))
    };
    if !has(CONNECTION, "upgrade") {
        return Err((StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n".into()));
    }
    if !has(UPGRADE, "websocket") {
        let text =
            "this node streams over WebSocket and SPDY/3.1: ask for an upgrade to one of them\n";
        return Err((StatusCode::BAD_REQUEST, text.into()));
    }
    websocket::check(method, headers).map_err(refused)
}

fn upgrade(
    mut request: Request<Incoming>,
    protocol: &'static str,
    session: StreamSession,
    opening: Opening,
) -> Response<Body> {
    let response = websocket::switching(request.headers(), protocol, full(Bytes::new()));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => {
                let socket = websocket::accept(TokioIo::new(io), MESSAGE_BYTES).await;
                carry(socket, protocol, session, opening).await;
            }
            Err(error) => tracing::debug!(%error, "a client went away before its streams began"),
        }
    });
    response
}

/// Carries the streams until the command has ended and all it wrote is sent.
async fn carry<I: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<I>,
    protocol: &str,
    session: StreamSession,
    opening: Opening,
) {
    let StreamSession { stdin, stdout, stderr, resize, exit } = session;
    let (mut sink, mut source) = socket.split();
    let (sender, mut frames) = mpsc::channel::<Message>(FRAMES);
    let codec = Codec::of(protocol);
    let pumps = [(STDOUT, stdout), (STDERR, stderr)]
        .map(|(channel, stream)| tokio::spawn(pump((codec, channel), stream, sender.clone())));
    let incoming = async move {
        let mut stdin = stdin;
        while let Some(Ok(message)) = source.next().await {
            if message.is_close() {
                break;
            }
            let Some((channel, data)) = codec.read(message) else { continue };
            match channels::said(channel, &data) {
                Said::Input(data) => write_input(&mut stdin, data).await,
                Said::Resize { width, height } => {
                    set_size(TerminalSize { width, height }, resize.as_ref()).await;
                }
                // Half-close.
                Said::EndOfInput => stdin = None,
                Said::Other => {}
            }
        }
    };
    let outgoing = async move {
        while let Some(frame) = frames.recv().await {
            if sink.send(frame).await.is_err() {
                return;
            }
        }
        // A client that is gone needs no goodbye.
        let _ = sink.send(websocket::goodbye()).await;
        let _ = sink.close().await;
    };
    let finish = async move {
        let code = exit.await;
        for pump in pumps {
            // A pump ends with its stream.
            let _ = pump.await;
        }
        let told = told(&status_of(&code, opening), protocol);
        if !told.is_empty() {
            let _ = sender.send(codec.on(ERROR, &told)).await;
        }
        drop(sender);
    };
    tokio::pin!(incoming);
    let work = async { tokio::join!(finish, outgoing) };
    tokio::pin!(work);
    tokio::select! {
        _ = &mut work => {
            let _ = tokio::time::timeout(LINGER, &mut incoming).await;
        }
        // The client hung up: dropping the streams ends an attach and hangs up an exec.
        () = &mut incoming => {
            let _ = tokio::time::timeout(Duration::from_millis(100), work).await;
        }
    }
}

async fn pump(
    (codec, channel): (Codec, u8),
    stream: Option<BoxedRead>,
    sender: mpsc::Sender<Message>,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; FRAME_BYTES];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 || sender.send(codec.on(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

/// What a status comes to on the channel of errors: all of it from version 4 on, before it what went wrong.
fn told(status: &Value, protocol: &str) -> Vec<u8> {
    if protocol.starts_with("v4.") || protocol.starts_with("v5.") {
        return apimachinery::json::to_vec(status);
    }
    match status.str_at(&["status"]) {
        "Success" => Vec::new(),
        _ => status.str_at(&["message"]).as_bytes().to_vec(),
    }
}

/// Gives a command input, as long as it takes any.
async fn write_input(stdin: &mut Option<BoxedWrite>, data: &[u8]) {
    let gone = match stdin {
        Some(it) => it.write_all(data).await.is_err() || it.flush().await.is_err(),
        None => false,
    };
    if gone {
        *stdin = None;
    }
}

/// Changes the size of a terminal to what a client says; what is no size is passed over.
async fn resized(size: &[u8], resize: &dyn cri::Resize) {
    if let Some(Said::Resize { width, height }) = channels::resize(size) {
        set_size(TerminalSize { width, height }, resize).await;
    }
}

async fn set_size(size: TerminalSize, resize: &dyn cri::Resize) {
    if let Err(error) = resize.resize(size).await {
        tracing::debug!(%error, "could not change the size of a terminal");
    }
}

/// What the error channel says at the end.
fn status_of(code: &Result<i32, CriError>, opening: Opening) -> Value {
    match code {
        Ok(0) => value!({"metadata": {}, "status": "Success"}),
        Ok(code) => value!({
            "metadata": {}, "status": "Failure",
            "message": (format!("command terminated with non-zero exit code: exit status {code}")),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": (code.to_string())}]}
        }),
        Err(error) => {
            let what = match opening {
                Opening::Exec => "error executing command in container",
                Opening::Attach => "error attaching to container",
            };
            let why = format!("{what}: {}", error.message);
            value!({
                "metadata": {}, "status": "Failure",
                "message": (format!("Internal error occurred: {why}")),
                "reason": "InternalError", "details": {"causes": [{"message": why}]}, "code": 500
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::super::channels::STDIN;
    use super::*;

    #[test]
    fn what_is_no_websocket_is_refused_in_upstreams_words() {
        let check = |method: Method, headers: &[(&'static str, &str)], code: u16, text: &str| {
            let mut all = HeaderMap::new();
            for (name, value) in headers {
                all.append(*name, value.parse().unwrap());
            }
            let answer = match protocol(&method, &all) {
                Ok(protocol) => (101, protocol.to_owned()),
                Err((code, text)) => (code.as_u16(), text),
            };
            assert_eq!(answer, (code, text.to_owned()), "{method} {headers:?}");
        };
        let (get, post) = (Method::GET, Method::POST);
        let connection = ("connection", "keep-alive, Upgrade");
        let upgrade = ("upgrade", "websocket");
        let key = ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
        let version = ("sec-websocket-version", "13");
        let offer = |it| ("sec-websocket-protocol", it);
        let v5 = offer("v5.channel.k8s.io");
        check(get.clone(), &[], 500, "Upgrade request required\n");
        check(get.clone(), &[upgrade, key, version, v5], 500, "Upgrade request required\n");
        let other =
            "this node streams over WebSocket and SPDY/3.1: ask for an upgrade to one of them\n";
        check(get.clone(), &[connection, ("upgrade", "SPDY/2")], 400, other);
        check(post, &[connection, upgrade, key, version, v5], 405, "bad method");
        let no_key = "mismatch challenge/response";
        check(get.clone(), &[connection, upgrade, version, v5], 400, no_key);
        check(get.clone(), &[connection, upgrade, ("sec-websocket-key", "")], 400, no_key);
        let no_version = "missing or bad WebSocket Version";
        check(get.clone(), &[connection, upgrade, key, v5], 400, no_version);
        let eight = ("sec-websocket-version", "8");
        check(get.clone(), &[connection, upgrade, key, eight], 400, no_version);
        check(get.clone(), &[connection, upgrade, key, version], 101, "");
        check(get.clone(), &[connection, upgrade, key, version, offer("nope, x")], 403, "");
        let both = offer("v4.channel.k8s.io, v5.channel.k8s.io");
        check(get.clone(), &[connection, upgrade, key, version, both], 101, "v5.channel.k8s.io");
        let several = [connection, upgrade, key, version, offer("x"), offer("v4.channel.k8s.io")];
        check(get, &several, 101, "v4.channel.k8s.io");
    }

    /// Sizes are not looked at here.
    struct NoTerminal;

    #[async_trait]
    impl cri::Resize for NoTerminal {
        async fn resize(&self, _: TerminalSize) -> Result<(), CriError> {
            Ok(())
        }
    }

    /// What reaches a command's input of what a client sends, and what the client is sent until the end.
    async fn sent(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64 << 20);
        let (stdin, mut input) = tokio::io::duplex(64 << 20);
        client.write_all(bytes).await.unwrap();
        let session = StreamSession {
            stdin: Some(Box::new(stdin)),
            stdout: None,
            stderr: None,
            resize: Arc::new(NoTerminal),
            // The command never ends: only the client can.
            exit: Box::pin(std::future::pending()),
        };
        let carried =
            carry(websocket::accept(server, MESSAGE_BYTES).await, V5, session, Opening::Exec);
        tokio::time::timeout(Duration::from_secs(60), carried).await.expect("it goes on and on");
        let (mut given, mut answered) = (Vec::new(), Vec::new());
        input.read_to_end(&mut given).await.unwrap();
        client.read_to_end(&mut answered).await.unwrap();
        (given, answered)
    }

    /// A client has its streams by the time a command turns out not to be there: only they can tell.
    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_start_is_told_over_the_error_channel() {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let why = "failed to exec in container: exec: \"x\": executable file not found in $PATH";
        let session = StreamSession {
            stdin: None,
            stdout: None,
            stderr: None,
            resize: Arc::new(NoTerminal),
            exit: Box::pin(std::future::ready(Err(CriError::unknown(why)))),
        };
        let carried =
            carry(websocket::accept(server, MESSAGE_BYTES).await, V5, session, Opening::Exec);
        tokio::time::timeout(Duration::from_secs(60), carried).await.expect("it ends");
        let mut answered = Vec::new();
        client.read_to_end(&mut answered).await.unwrap();
        let text = String::from_utf8_lossy(&answered);
        let begin = text.find('{').expect("a status");
        let end = text.rfind('}').expect("a status") + 1;
        let status = apimachinery::json::parse(&text.as_bytes()[begin..end]).unwrap();
        let told = format!("error executing command in container: {why}");
        assert_eq!(status.str_at(&["message"]), format!("Internal error occurred: {told}"));
        assert_eq!(status.str_at(&["reason"]), "InternalError");
        assert_eq!(status.items_at(&["details", "causes"])[0].str_at(&["message"]), told);
    }

    /// A frame as clients send it, under a mask that changes nothing.
    fn masked(first: u8, content: &[u8]) -> Vec<u8> {
        let length = u64::try_from(content.len()).unwrap().to_be_bytes();
        [&[first, 0x80 | 127], length.as_slice(), &[0; 4], content].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn broken_frames_end_the_streams_and_nothing_else() {
        let good = masked(0x82, b"\0abc");
        for (what, frames) in [
            ("without a mask", vec![0x82, 4, STDIN, b'x', b'y', b'z']),
            ("an unknown opcode", masked(0x83, b"\0x")),
            ("reserved bits", masked(0xf2, b"\0x")),
            ("a continuation of nothing", masked(0x80, b"\0x")),
            ("a long ping", masked(0x89, &[0; 200])),
            ("a ping in pieces", masked(0x09, b"x")),
            ("text that is no UTF-8", masked(0x81, b"\xff\xfe")),
            ("a close of one byte", masked(0x88, b"x")),
            ("a message beyond the limit", masked(0x82, &vec![0; MESSAGE_BYTES + 1])),
            (
                "a length beyond memory",
                [[0x82, 0xff, 0x7f].as_slice(), &[255; 7], &[0; 4]].concat(),
            ),
            ("a message that grows without end", {
                let piece = masked(0x00, &vec![0; 1 << 20]);
                [masked(0x02, b"\0"), piece.repeat(5)].concat()
            }),
        ] {
            let (given, answered) = sent(&[good.as_slice(), &frames].concat()).await;
            assert_eq!(given, b"abc", "{what}");
            assert!(answered.len() < 200, "{what}: {} bytes", answered.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn channels_that_are_not_there_are_passed_over() {
        let frames = [
            masked(0x82, b""),
            masked(0x82, b"\x07x"),
            masked(0x82, b"\x04{"),
            masked(0x82, b"\x04{\"Width\":-1,\"Height\":99999999999}"),
            masked(0x82, b"\xff"),
            masked(0x82, b"\xff\x01"),
            masked(0x82, b"\0in"),
            masked(0x82, b"\xff\0"),
            masked(0x82, b"\0more"),
            masked(0x88, b""),
        ];
        assert_eq!(sent(&frames.concat()).await.0, b"in");
    }
}
