//! HTTP/2 as only an attacker speaks it: frames written by hand.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use apimachinery::{json, value};

use super::front::{Front, metric, read_all};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `ENHANCE_YOUR_CALM`.
const CALM: u8 = 11;
/// `:method: GET`, `:scheme: https`, `:path: /`, by their places in HPACK's static table.
const GET_ROOT: [u8; 3] = [0x82, 0x87, 0x84];
/// `:method: POST` instead.
const POST_ROOT: [u8; 3] = [0x83, 0x87, 0x84];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The same where every stream, and the connection, has a window of `size`.
pub(super) fn opening_with_window(size: u32) -> Vec<u8> {
    let window = [&4_u16.to_be_bytes()[..], &size.to_be_bytes()].concat();
    let settings = frame(SETTINGS, 0, 0, &window);
    [PREFACE, &settings, &frame(WINDOW_UPDATE, 0, 0, &size.to_be_bytes())].concat()
}

/// A request by somebody with a token.
pub(super) fn get(stream: u32, path: &str, token: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    let fields = [
        vec![0x82, 0x87, 0x04],
        text(path),
        vec![0x00],
        text("authorization"),
        text(&format!("Bearer {token}")),
    ]
    .concat();
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)
}

/// The frames in what was read: kind and payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let Some(payload) = rest.get(..length) else { break };
        found.push((*kind, payload.to_vec()));
        bytes = &rest[length..];
    }
    found
}

/// What the server answers until it hangs up; the client says it is done once everything is written.
async fn exchange(front: &Front, pieces: impl Iterator<Item = Vec<u8>>) -> Vec<(u8, Vec<u8>)> {
    let stream = front.connect("h2", None).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        for piece in pieces {
            if writer.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let ((), read) = tokio::join!(write, read_all(&mut reader));
    frames(&read)
}

/// Error codes of the streams that were reset.
fn resets(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    frames.iter().filter(|(kind, _)| *kind == RST_STREAM).map(|(_, payload)| payload[3]).collect()
}

fn goaway(frames: &[(u8, Vec<u8>)]) -> Option<u8> {
    let last = frames.iter().rfind(|(kind, payload)| *kind == GOAWAY && payload[7] != 0);
    last.map(|(_, payload)| payload[7])
}

#[tokio::test]
async fn abuse_of_http2_ends_the_connection_and_nothing_else() {
    let mut front = Front::start().await;

    // Streams that are taken back at once, without end.
    let reset = |number: u32| {
        let stream = 2 * number + 1;
        let mut both = frame(HEADERS, END_HEADERS | END_STREAM, stream, &GET_ROOT);
        both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        both
    };
    let flood = (0..200).map(|part| (part * 500..part * 500 + 500).flat_map(reset).collect());
    let answer = exchange(&front, std::iter::once(opening()).chain(flood)).await;
    let ping = answer.iter().filter(|(kind, _)| *kind == HEADERS).count();
    assert!(ping < 100_000, "every request was served");
    assert!(goaway(&answer).is_none_or(|code| code == CALM), "{:?}", goaway(&answer));
    let resets_total = "apiserver_connections_ended_total{reason=\"resets\"}";
    assert_eq!(metric(&front.cluster, resets_total).await, 1.0);
    front.is_unharmed("a flood of resets").await;

    // More streams at a time than were agreed.
    let open = |number: u32| frame(HEADERS, END_HEADERS, 2 * number + 1, &POST_ROOT);
    let streams = (0..1_500).map(open);
    let answer = exchange(&front, std::iter::once(opening()).chain(streams)).await;
    let refused = resets(&answer).into_iter().filter(|code| *code == 7).count();
    assert!(refused > 0 || goaway(&answer).is_some(), "{answer:?}");
    front.is_unharmed("too many streams").await;

    // Headers without end.
    let begin = frame(HEADERS, 0, 1, &GET_ROOT);
    let mut field = vec![0x00, 1, b'x', 0x7f, 0x81, 0x7e];
    field.resize(16_000, b'a');
    let more = std::iter::repeat_with(move || frame(CONTINUATION, 0, 1, &field)).take(4000);
    let pieces = [opening(), begin].into_iter().chain(more);
    let answer = exchange(&front, pieces).await;
    assert!(goaway(&answer).is_some(), "{:?}", answer.len());
    front.is_unharmed("headers without end").await;

    // Frames that cannot be.
    for (what, piece) in [
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &GET_ROOT)),
        ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("an overflowing window", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a ping of three bytes", frame(PING, 0, 0, &[0; 3])),
        ("a frame beyond the size", frame(HEADERS, END_HEADERS, 1, &[0x82; 60_000])),
        ("a stream of the server's", frame(HEADERS, END_HEADERS | END_STREAM, 2, &GET_ROOT)),
        (
            "an index that HPACK does not have",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0x7f]),
        ),
    ] {
        let answer = exchange(&front, [opening(), piece].into_iter()).await;
        assert!(goaway(&answer).is_some(), "{what}: {answer:?}");
    }
    front.is_unharmed("broken frames").await;
}

#[tokio::test]
async fn the_answer_to_head_has_no_body() {
    const DATA: u8 = 0;
    let front = Front::start().await;
    // `:method: HEAD` and `:path: /readyz` as literals.
    let fields = [b"\x02\x04HEAD".as_slice(), &[0x87], b"\x04\x07/readyz".as_slice()].concat();
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields);
    let mut stream = front.connect("h2", None).await.unwrap();
    stream.write_all(&[opening(), head].concat()).await.unwrap();
    let mut read = Vec::new();
    for (until, further) in [(HEADERS, frame(PING, 0, 0, &[0; 8])), (PING, Vec::new())] {
        while !frames(&read).iter().any(|(kind, _)| *kind == until) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{:?}", frames(&read));
        }
        stream.write_all(&further).await.unwrap();
    }
    let answer = frames(&read);
    assert!(!answer.iter().any(|(kind, _)| *kind == DATA), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_does_not_reset_the_stream() {
    const DATA: u8 = 0;
    let front = Front::start().await;
    let mut stream = front.connect("h2", None).await.unwrap();
    let headers = frame(HEADERS, END_HEADERS, 1, &POST_ROOT);
    stream.write_all(&[opening(), headers].concat()).await.unwrap();
    let mut read = Vec::new();
    let is = |wanted: u8| move |(kind, _): &(u8, Vec<u8>)| *kind == wanted;
    // Who may not be here is told so whatever the body says.
    while !frames(&read).iter().any(is(DATA)) {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{:?}", frames(&read));
    }
    let body = frame(DATA, END_STREAM, 1, b"{}");
    let ping = frame(PING, 0, 0, &[0; 8]);
    stream.write_all(&[body, ping].concat()).await.unwrap();
    while !frames(&read).iter().any(is(PING)) {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{:?}", frames(&read));
    }
    assert_eq!(resets(&frames(&read)), [0_u8; 0]);
}

/// Watches that share a window which is too small for one event of each: no client may get so many tiny frames that it
/// takes them for an attack, as the one used here does.
#[tokio::test]
async fn many_watches_share_a_small_window() {
    const WATCHES: usize = 300;
    const PATH: &str = "/api/v1/namespaces/default/configmaps";
    let front = Front::start().await;
    let stream = front.connect("h2", None).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let uri = format!("https://localhost{PATH}?watch=1");
        let request = http::Request::get(uri).header("authorization", "Bearer admin-token");
        requests = requests.ready().await.unwrap();
        let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        watches.push(response.into_body());
    }
    let map = value!({"metadata": {"name": "m"}, "data": {"k": ("x".repeat(1000))}});
    front.cluster.done(&format!("POST {PATH}"), Some(&map)).await;
    // All at once: who waits for one of them keeps the window from the others.
    futures::future::join_all(watches.into_iter().map(|mut watch| async move {
        let mut event = Vec::new();
        while !event.ends_with(b"\n") {
            let piece = watch.data().await.unwrap().unwrap();
            watch.flow_control().release_capacity(piece.len()).unwrap();
            event.extend_from_slice(&piece);
        }
        let event = json::parse(&event).unwrap();
        assert_eq!(event.str_at(&["object", "metadata", "name"]), "m");
    }))
    .await;
    drop(requests);
    connection.await.unwrap().unwrap();
}

/// Requests that are taken back once they are being carried out: no queue is full of them, and the work is for nothing.
#[tokio::test]
async fn who_takes_back_all_requests_is_sent_away() {
    let mut front = Front::start().await;
    let stream = front.connect("h2", None).await.unwrap();
    let (mut requests, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    let mut taken_back = 0;
    for _ in 0..5_000 {
        // A create whose body does not come.
        let request = http::Request::post("https://localhost/api/v1/namespaces/default/configmaps")
            .header("authorization", "Bearer admin-token")
            .header("content-type", "application/json");
        let Ok(ready) = requests.ready().await else { break };
        requests = ready;
        let request = request.body(()).unwrap();
        let Ok((response, mut body)) = requests.send_request(request, false) else { break };
        // By the time of the answer to a ping the server has begun: what it has not yet accepted is limited otherwise.
        if pings.ping(h2::Ping::opaque()).await.is_err() {
            break;
        }
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        taken_back += 1;
    }
    assert!((200..5_000).contains(&taken_back), "{taken_back} were taken back");
    let end = connection.await.unwrap().unwrap_err();
    assert_eq!(end.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    let resets = "apiserver_connections_ended_total{reason=\"resets\"}";
    assert_eq!(metric(&front.cluster, resets).await, 1.0);
    front.is_unharmed("requests that are taken back").await;
}
