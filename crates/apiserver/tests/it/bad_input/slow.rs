//! Clients that take their time: none holds a connection for ever, and all of them together keep nobody out.
//!
//! Time is real until all is prepared, and stands still from then on, except that it is later whenever there is
//! nothing to do.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use apiserver::Operating;
use bytes::Bytes;

use super::front::{Front, answer_of, metric, request};
use crate::cluster::{Cluster, With};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How long anything may take on the test's clock.
const MOST: Duration = Duration::from_secs(600);
/// Connections that say nothing.
const SILENT: usize = 200;

/// Reads until the server hangs up; what was read, and in how many seconds.
async fn end_of(stream: &mut (impl AsyncReadExt + Unpin)) -> (Vec<u8>, u64) {
    let (begun, mut read) = (Instant::now(), Vec::new());
    let ended = tokio::time::timeout(MOST, stream.read_to_end(&mut read)).await;
    assert!(ended.is_ok(), "the server never hung up");
    (read, begun.elapsed().as_secs())
}

/// Writes byte after byte, one in `pause`, until the server has enough; what it answered, and after how many seconds.
async fn drip(
    stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    byte: u8,
    pause: Duration,
) -> (Vec<u8>, u64) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        while writer.write_all(&[byte]).await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = end_of(&mut reader) => ended,
        () = write => unreachable!("it waits for ever"),
    }
}

#[tokio::test]
async fn silence_ends_connections_at_every_stage() {
    let front = Front::start().await;
    let mut plain = front.plain().await;
    let mut half = front.plain().await;
    // The beginning of a handshake.
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let mut http1 = front.connect("http/1.1", None).await.unwrap();
    let mut http2 = front.connect("h2", None).await.unwrap();
    let mut preface = front.connect("h2", None).await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    preface.flush().await.unwrap();
    let mut began = front.connect("http/1.1", None).await.unwrap();
    began.write_all(b"GET /api HTTP/1.1\r\nHost: x\r\nX: ").await.unwrap();
    began.flush().await.unwrap();
    let mut kept = front.connect("http/1.1", None).await.unwrap();
    kept.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    kept.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    tokio::time::pause();
    let ends = tokio::join!(
        end_of(&mut plain),
        end_of(&mut half),
        end_of(&mut http1),
        end_of(&mut http2),
        end_of(&mut preface),
        end_of(&mut began),
        end_of(&mut kept),
    );
    let seconds = [ends.0.1, ends.1.1, ends.2.1, ends.3.1, ends.4.1, ends.5.1, ends.6.1];
    // The handshake, the headers, and after an answer as long as the headers of the next may take.
    let limits = [10, 10, 30, 30, 30, 30, 90];
    for (stage, (took, limit)) in seconds.iter().zip(limits).enumerate() {
        assert!(*took <= limit + 1, "stage {stage} took {took} of {limit} seconds");
    }
    for (reason, expected) in [("handshake-timeout", 3.0), ("no-request", 3.0), ("idle", 1.0)] {
        let name = format!("apiserver_connections_ended_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&front.cluster, &name).await, expected, "{reason}");
    }
    assert_eq!(metric(&front.cluster, "apiserver_tls_handshake_errors_total").await, 2.0);
}

#[tokio::test]
async fn drops_do_not_make_a_request() {
    let mut front = Front::start().await;
    let json = "Content-Type: application/json";
    let mut headers = front.connect("http/1.1", None).await.unwrap();
    headers.write_all(b"GET /api HTTP/1.1\r\nHost: x\r\nX: ").await.unwrap();
    let mut body = front.connect("http/1.1", None).await.unwrap();
    let line = format!("POST {MAPS}");
    body.write_all(&request(&line, &[json, "Content-Length: 1000"], b"")).await.unwrap();
    let mut chunks = front.connect("http/1.1", None).await.unwrap();
    let chunked = request(&line, &[json, "Transfer-Encoding: chunked"], b"");
    // One chunk that is longer than anybody waits for.
    chunks.write_all(&[chunked, b"fffff\r\n".to_vec()].concat()).await.unwrap();
    for stream in [&mut headers, &mut body, &mut chunks] {
        stream.flush().await.unwrap();
    }

    tokio::time::pause();
    let pause = Duration::from_secs(3);
    let (headers, body, chunks) = tokio::join!(
        drip(headers, b'x', pause),
        drip(body, b' ', pause),
        drip(chunks, b' ', pause)
    );
    tokio::time::resume();
    assert!(headers.1 <= 31, "headers were read for {} seconds", headers.1);
    for (read, seconds) in [body, chunks] {
        assert!((59..=70).contains(&seconds), "a body was read for {seconds} seconds");
        let says = "Timeout: request did not complete within the allotted timeout";
        let answer = answer_of(&read);
        assert_eq!((answer.code, answer.says.as_str()), (504, says));
    }
    front.is_unharmed("drops").await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let mut front = Front::start().await;
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let stream = front.plain().await;
        if number % 4 == 0 {
            // Far enough to be taken for a client that is slow.
            let mut stream = stream;
            stream.write_all(&[0x16, 3, 1]).await.unwrap();
            silent.push(stream);
        } else {
            silent.push(stream);
        }
    }
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(front.connect("http/1.1", None).await.unwrap());
    }
    front.is_unharmed("silent connections").await;
    tokio::time::pause();
    for stream in &mut silent {
        assert!(end_of(stream).await.0.is_empty());
    }
    for stream in &mut idle {
        assert!(end_of(stream).await.0.is_empty());
    }
    tokio::time::resume();
    front.is_unharmed("silent connections that were closed").await;
}

/// Where there are as many connections as there may be, those that say nothing make room for those who do.
#[tokio::test]
async fn silent_connections_make_room_for_others() {
    const MOST: usize = 100;
    let operating = Some(Operating { max_connections: MOST, ..Operating::default() });
    let cluster = Cluster::start_changed(With { operating, ..With::default() }).await;
    let mut front = Front::of(cluster).await;
    // A request that goes on is not silent.
    let mut watch = front.connect("http/1.1", None).await.unwrap();
    watch.write_all(&request(&format!("GET {MAPS}?watch=1"), &[], b"")).await.unwrap();
    let mut first = [0; 12];
    watch.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let begun = Instant::now();
    let mut silent = Vec::new();
    for number in 0..4 * MOST {
        let mut stream = front.plain().await;
        if number % 2 == 0 {
            // A handshake that is never finished.
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        silent.push(stream);
        if number % 50 == 0 {
            let answer = front.send(&request("GET /readyz", &[], b"")).await;
            assert_eq!(answer.code, 200, "after {number} connections");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    let replaced = "apiserver_connections_ended_total{reason=\"replaced\"}";
    assert!(metric(&front.cluster, replaced).await >= (3 * MOST) as f64);
    assert!(metric(&front.cluster, "apiserver_connections ").await <= MOST as f64);
    let map = apimachinery::value!({"metadata": {"name": "m"}});
    front.cluster.done(&format!("POST {MAPS}"), Some(&map)).await;
    let mut read = Vec::new();
    while !read.windows(8).any(|it| it == b"\"ADDED\",") {
        assert!(watch.read_buf(&mut read).await.unwrap() > 0, "the watch has ended");
    }
    front.mark().await;
    front.is_unharmed("silent connections").await;
}

/// The same drops on a stream of HTTP/2 as in a body of HTTP/1.1; the connection goes on.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "real time has to pass for real sockets")]
async fn drops_on_a_stream_do_not_make_a_request() {
    let front = Front::start().await;
    let stream = front.connect("h2", None).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let post = || {
        http::Request::post(format!("https://localhost{MAPS}"))
            .header("authorization", "Bearer admin-token")
            .header("content-type", "application/json")
            .body(())
            .unwrap()
    };
    let mut requests = requests.ready().await.unwrap();
    let (response, mut body) = requests.send_request(post(), false).unwrap();
    tokio::time::pause();
    let begun = Instant::now();
    let dripping = async {
        while body.send_data(Bytes::from_static(b" "), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // The clock stands while this runs: what was sent, pings too, comes to the other side.
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(2)))
                .await
                .unwrap();
        }
        std::future::pending::<()>().await;
    };
    let response = tokio::select! {
        response = response => response.unwrap(),
        () = dripping => unreachable!("it waits for ever"),
    };
    tokio::time::resume();
    assert_eq!(response.status(), 504);
    assert!((59..=70).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let mut requests = requests.ready().await.unwrap();
    let (response, mut body) = requests.send_request(post(), false).unwrap();
    body.send_data(Bytes::from_static(br#"{"metadata":{"name":"m"}}"#), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 201);
}
