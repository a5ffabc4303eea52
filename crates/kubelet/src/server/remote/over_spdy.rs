//! Streams of a command over SPDY/3.1: one SPDY stream each, opened by the client and named by its header `streamType`.
//!
//! Clients older than Kubernetes 1.31 speak nothing else, and many newer libraries prefer it. Protocols: `v4.channel.k8s.io`
//! (the error stream ends with a `Status`), `v3` (sizes of terminals), `v2`, and none named, as Kubernetes 1.0 did (upstream:
//! `createHttpStreamStreams`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::{BoxedRead, BoxedWrite, CriError, Resize, StreamSession, Streams};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::routes::{Body, full};
use super::super::spdy::{Frame, Reader, Writer};
use super::{FRAME_BYTES, FRAMES, LINGER, Opening, resized, status_of, told, write_input};

/// The protocols, in upstream's order.
const PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// What the protocol is called in the header that both sides send.
const VERSION_HEADER: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What a server speaks, where a client speaks nothing of it.
const ACCEPTED_HEADER: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// How long a client may take to open the streams that it asked for (upstream: `DefaultStreamCreationTimeout`).
const OPEN: Duration = Duration::from_secs(30);
/// The longest size of a terminal, in bytes of JSON.
const MAX_SIZE_BYTES: usize = 1 << 10;

/// Whether a request is for SPDY.
pub(in super::super) fn asked(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, wanted: &str| {
        let mut all = headers.get_all(name).iter();
        all.any(|it| it.to_str().is_ok_and(|it| it.to_ascii_lowercase().contains(wanted)))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "spdy/3.1")
}

/// The protocol that both speak; nothing where the client names none.
pub(super) fn protocol(headers: &HeaderMap) -> Result<&'static str, Box<Response<Body>>> {
    let offered = headers.get_all(VERSION_HEADER);
    let offered = offered.iter().filter_map(|it| it.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|it| it.split(',')).map(str::trim).collect();
    if offered.is_empty() {
        return Ok("");
    }
    let known = |it: &&str| PROTOCOLS.into_iter().find(|ours| ours == it);
    offered.iter().find_map(known).ok_or_else(|| {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]\n",
            offered.join(" "),
            PROTOCOLS.join(" ")
        );
        let mut response = Response::new(full(text));
        *response.status_mut() = StatusCode::FORBIDDEN;
        for protocol in PROTOCOLS {
            response.headers_mut().append(ACCEPTED_HEADER, HeaderValue::from_static(protocol));
        }
        Box::new(response)
    })
}

/// What a client asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) streams: Streams,
    pub(super) tty: bool,
    pub(super) protocol: &'static str,
    pub(super) opening: Opening,
}

impl Wanted {
    fn sizes(&self) -> bool {
        self.tty && PROTOCOLS[..2].contains(&self.protocol)
    }

    /// How many streams the client opens: those of the command, one for errors, one for sizes of its terminal.
    fn count(&self) -> usize {
        let Streams { stdin, stdout, stderr } = self.streams;
        1 + [stdin, stdout, stderr, self.sizes()].into_iter().filter(|it| *it).count()
    }
}

/// Switches protocols, and carries the streams from then on.
pub(super) fn upgrade(
    mut request: Request<Incoming>,
    wanted: Wanted,
    session: StreamSession,
) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => carry(TokioIo::new(io), wanted, session).await,
            Err(error) => tracing::debug!(%error, "a client went away before its streams began"),
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    if !wanted.protocol.is_empty() {
        headers.insert(VERSION_HEADER, HeaderValue::from_static(wanted.protocol));
    }
    response
}

/// Carries the streams until the command has ended and all it wrote is sent.
async fn carry<I: AsyncRead + AsyncWrite>(io: I, wanted: Wanted, session: StreamSession) {
    let (from, to) = tokio::io::split(io);
    let (out, frames) = mpsc::channel(FRAMES);
    let (opened, all_open) = oneshot::channel();
    let StreamSession { stdin, stdout, stderr, resize, exit } = session;
    let opening = Opened {
        wanted,
        out: out.clone(),
        left: wanted.count(),
        stdin: (stdin, None),
        outputs: [
            Output { name: "stdout", awaited: wanted.streams.stdout, from: stdout },
            Output { name: "stderr", awaited: wanted.streams.stderr, from: stderr },
        ],
        resize,
        sizes: (None, Vec::new()),
        error: None,
        pumps: Vec::new(),
        done: Some(opened),
    };
    let incoming = read(from, opening);
    let outgoing = write(to, frames);
    let finish = async move {
        match tokio::time::timeout(OPEN, all_open).await {
            Ok(Ok((error, pumps))) => {
                let code = exit.await;
                for pump in pumps {
                    // A pump ends with its stream.
                    let _ = pump.await;
                }
                tell(&out, error, wanted, &code).await;
            }
            Ok(Err(_)) | Err(_) => {
                tracing::debug!("a client did not open the streams that it asked for");
            }
        }
        // Where nobody writes any more it is the end already.
        let _ = out.send(Vec::new()).await;
    };
    tokio::pin!(incoming);
    let work = async { tokio::join!(finish, outgoing) };
    tokio::pin!(work);
    tokio::select! {
        // It is the client that closes, as it does with upstream: its input may still wait for a key.
        ((), to) = &mut work => {
            let _ = tokio::time::timeout(LINGER, &mut incoming).await;
            drop(to);
        }
        // The client hung up: dropping the streams ends an attach and hangs up an exec.
        () = &mut incoming => {
            let _ = tokio::time::timeout(Duration::from_millis(100), work).await;
        }
    }
}

/// Says how the command ended on the stream of errors, and ends that.
async fn tell(
    out: &mpsc::Sender<Vec<u8>>,
    error: u32,
    wanted: Wanted,
    code: &Result<i32, CriError>,
) {
    let told = told(&status_of(code, wanted.opening), wanted.protocol);
    // A client that is gone misses nothing.
    if !told.is_empty() {
        let _ = out.send(Writer::data(error, &told, false)).await;
    }
    let _ = out.send(Writer::data(error, &[], true)).await;
}

/// What a command writes.
struct Output {
    name: &'static str,
    /// The client is still to open a stream for it.
    awaited: bool,
    /// Nothing where the command did not start.
    from: Option<BoxedRead>,
}

/// What the client has opened so far.
struct Opened {
    wanted: Wanted,
    out: mpsc::Sender<Vec<u8>>,
    /// Streams that are still to come.
    left: usize,
    stdin: (Option<BoxedWrite>, Option<u32>),
    outputs: [Output; 2],
    resize: Arc<dyn Resize>,
    /// The stream of sizes, and what has come of the next one.
    sizes: (Option<u32>, Vec<u8>),
    error: Option<u32>,
    pumps: Vec<JoinHandle<()>>,
    done: Option<oneshot::Sender<(u32, Vec<JoinHandle<()>>)>>,
}

async fn read<I: AsyncRead>(mut from: ReadHalf<I>, mut opened: Opened) {
    let (mut reader, mut writer) = (Reader::new(), Writer::new());
    while let Some(frame) = reader.receive(&mut from).await {
        opened.take(frame, &mut writer).await;
    }
}

/// Gives back the writing side: whoever drops it ends the connection.
async fn write<I: AsyncWrite>(
    mut to: WriteHalf<I>,
    mut frames: mpsc::Receiver<Vec<u8>>,
) -> WriteHalf<I> {
    // An empty frame is the end: the reading side, which has a sender too, goes on for a while.
    while let Some(frame) = frames.recv().await.filter(|it| !it.is_empty()) {
        if to.write_all(&frame).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    to
}

impl Opened {
    async fn take(&mut self, frame: Frame, writer: &mut Writer) {
        match frame {
            Frame::Open { stream, headers, fin } => {
                let _ = self.out.send(writer.reply(stream)).await;
                let kind = headers.iter().find(|it| it.0 == "streamtype").map(|it| it.1.as_str());
                self.open(stream, kind.unwrap_or_default());
                if fin {
                    self.ended(stream);
                }
            }
            Frame::Data { stream, data, fin } => {
                self.data(stream, &data).await;
                if fin {
                    self.ended(stream);
                }
            }
            Frame::Reset { stream } => self.ended(stream),
            Frame::Ping { id } => {
                let _ = self.out.send(Writer::ping(id)).await;
            }
            Frame::GoAway | Frame::Other => {}
        }
    }

    fn open(&mut self, stream: u32, kind: &str) {
        match kind {
            "error" if self.error.is_none() => self.error = Some(stream),
            "stdin" if self.wanted.streams.stdin && self.stdin.1.is_none() => {
                self.stdin.1 = Some(stream);
            }
            "resize" if self.wanted.sizes() && self.sizes.0.is_none() => {
                self.sizes.0 = Some(stream);
            }
            kind => {
                let output = self.outputs.iter_mut().find(|it| it.name == kind && it.awaited);
                let Some(output) = output else {
                    tracing::debug!(kind, "a client opened a stream that it did not ask for");
                    return;
                };
                output.awaited = false;
                let pump = pump(stream, output.from.take(), self.out.clone());
                self.pumps.push(tokio::spawn(pump));
            }
        }
        self.left -= 1;
        if self.left == 0
            && let (Some(done), Some(error)) = (self.done.take(), self.error)
        {
            // Nobody waits any more where the client took too long.
            let _ = done.send((error, std::mem::take(&mut self.pumps)));
        }
    }

    async fn data(&mut self, stream: u32, data: &[u8]) {
        if self.stdin.1 == Some(stream) {
            write_input(&mut self.stdin.0, data).await;
        } else if self.sizes.0 == Some(stream) {
            self.sizes.1.extend_from_slice(data);
            // Sizes are flat objects, one after the other.
            while let Some(end) = self.sizes.1.iter().position(|it| *it == b'}') {
                let size: Vec<u8> = self.sizes.1.drain(..=end).collect();
                resized(&size, self.resize.as_ref()).await;
            }
            if self.sizes.1.len() > MAX_SIZE_BYTES {
                self.sizes.1.clear();
            }
        }
    }

    /// Half-close: no more input.
    fn ended(&mut self, stream: u32) {
        if self.stdin.1 == Some(stream) {
            self.stdin.0 = None;
        }
    }
}

async fn pump(stream: u32, output: Option<BoxedRead>, out: mpsc::Sender<Vec<u8>>) {
    if let Some(mut output) = output {
        let mut buffer = vec![0; FRAME_BYTES];
        while let Ok(read @ 1..) = output.read(&mut buffer).await {
            if out.send(Writer::data(stream, &buffer[..read], false)).await.is_err() {
                return;
            }
        }
    }
    // A client that is gone misses nothing.
    let _ = out.send(Writer::data(stream, &[], true)).await;
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use cri::TerminalSize;
    use std::sync::Mutex;

    use super::super::super::spdy::Client;
    use super::*;

    /// Remembers the sizes it is given.
    #[derive(Default)]
    struct Terminal(Mutex<Vec<(u16, u16)>>);

    #[async_trait]
    impl Resize for Terminal {
        async fn resize(&self, size: TerminalSize) -> Result<(), CriError> {
            self.0.lock().unwrap().push((size.width, size.height));
            Ok(())
        }
    }

    fn wanted(tty: bool, protocol: &'static str) -> Wanted {
        let streams = Streams { stdin: true, stdout: true, stderr: !tty };
        Wanted { streams, tty, protocol, opening: Opening::Exec }
    }

    /// All that a server wrote to each stream, and which of them it ended.
    fn told(bytes: &[u8]) -> Vec<(u32, String, bool)> {
        let mut reader = Reader::new();
        reader.feed(bytes);
        let mut all: Vec<(u32, String, bool)> = Vec::new();
        while let Some(frame) = reader.next().unwrap() {
            let Frame::Data { stream, data, fin } = frame else { continue };
            if !all.iter().any(|it| it.0 == stream) {
                all.push((stream, String::new(), false));
            }
            let entry = all.iter_mut().find(|it| it.0 == stream).unwrap();
            entry.1 += &String::from_utf8_lossy(&data);
            entry.2 |= fin;
        }
        all.sort();
        all
    }

    /// A command that copies its input to its output and ends so; what the client is told.
    async fn played(frames: &[u8], wanted: Wanted, code: Result<i32, CriError>) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (stdin, input) = tokio::io::duplex(1 << 20);
        let (ended, end) = oneshot::channel();
        let (mut output, stdout) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let mut input = input;
            let _ = tokio::io::copy(&mut input, &mut output).await;
            drop(output);
            let _ = ended.send(());
        });
        let session = StreamSession {
            stdin: Some(Box::new(stdin)),
            stdout: Some(Box::new(stdout)),
            stderr: None,
            resize: Arc::new(Terminal::default()),
            exit: Box::pin(async move {
                let _ = end.await;
                code
            }),
        };
        client.write_all(frames).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), carry(server, wanted, session))
            .await
            .expect("it ends");
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn each_stream_carries_its_part_and_errors_end_with_a_status() {
        let success = r#"{"metadata":{},"status":"Success"}"#;
        for (protocol, code, last) in [
            ("v4.channel.k8s.io", Ok(0), success),
            ("v3.channel.k8s.io", Ok(0), ""),
            ("", Ok(3), "command terminated with non-zero exit code: exit status 3"),
        ] {
            let mut client = Client::new();
            let mut frames = Vec::new();
            for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
                frames.extend(client.open(stream, &[("streamType", kind)]));
            }
            frames.extend(Writer::data(3, b"hello ", false));
            frames.extend(Writer::data(3, b"there", true));
            let told = told(&played(&frames, wanted(false, protocol), code).await);
            let end = |stream, text: &str| (stream, text.to_owned(), true);
            assert_eq!(told, [end(1, last), end(5, "hello there"), end(7, "")], "{protocol}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sizes_come_in_pieces_and_a_client_that_opens_too_little_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let terminal = Arc::new(Terminal::default());
        let session = StreamSession {
            stdin: None,
            stdout: None,
            stderr: None,
            resize: Arc::clone(&terminal) as Arc<dyn Resize>,
            exit: Box::pin(std::future::pending()),
        };
        let mut spdy = Client::new();
        let mut frames = spdy.open(1, &[("streamType", "error")]);
        frames.extend(spdy.open(3, &[("streamType", "resize")]));
        frames.extend(spdy.open(5, &[("streamType", "resize")]));
        frames.extend(Writer::data(3, b"{\"Width\":80,\"Hei", false));
        frames.extend(Writer::data(3, b"ght\":24}\n{\"Width\":9,\"Height\":7}\n", false));
        frames.extend(Writer::data(5, b"{\"Width\":1,\"Height\":1}", false));
        client.write_all(&frames).await.unwrap();
        let carried = carry(server, wanted(true, "v4.channel.k8s.io"), session);
        tokio::time::timeout(2 * OPEN, carried).await.expect("it is given up");
        assert_eq!(*terminal.0.lock().unwrap(), [(80, 24), (9, 7)]);
    }

    #[test]
    fn the_first_protocol_of_the_client_that_is_spoken_here_is_taken() {
        let taken = |offered: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for it in offered {
                headers.append(VERSION_HEADER, HeaderValue::from_static(it));
            }
            protocol(&headers).map_err(|it| it.status().as_u16())
        };
        assert_eq!(taken(&[]), Ok(""));
        assert_eq!(taken(&["v5.channel.k8s.io", "v3.channel.k8s.io"]), Ok("v3.channel.k8s.io"));
        assert_eq!(taken(&["v2.channel.k8s.io, v4.channel.k8s.io"]), Ok("v2.channel.k8s.io"));
        assert_eq!(taken(&["v5.channel.k8s.io"]), Err(403));
    }
}
