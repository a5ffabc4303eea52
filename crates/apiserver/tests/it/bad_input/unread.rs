//! Clients that do not read what they ask for: a bounded part of it waits for them, and not for ever.
//!
//! Time is real until all is prepared, and stands still from then on, except that it is later whenever there is
//! nothing to do.

use std::time::Duration;

use apimachinery::value;
use apiserver::{MemoryBudget, Operating};
use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::front::{Front, metric, request};
use super::http2;
use crate::cluster::{Cluster, With};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// As long as a client may leave an answer unread, and a bit.
const PATIENCE: Duration = Duration::from_secs(62);
/// More than sockets take: so many objects of this size.
const OBJECTS: usize = 100;
const SIZE: usize = 200_000;
/// The most that may wait of one answer: a piece beyond what is too much already, and an object beyond that.
const MAX_WAITING: usize = 2 * (64 << 10) + SIZE + 1000;

/// A server with large objects, and enough memory, so that what waits is counted.
async fn front() -> Front {
    let memory = Some(MemoryBudget::new(64 << 30));
    let operating = Some(Operating { memory, ..Operating::default() });
    let cluster = Cluster::start_changed(With { operating, ..With::default() }).await;
    for nth in 0..OBJECTS {
        let map =
            value!({"metadata": {"name": (format!("m{nth}"))}, "data": {"k": ("x".repeat(SIZE))}});
        cluster.done(&format!("POST {MAPS}"), Some(&map)).await;
    }
    Front::of(cluster).await
}

/// A connection of HTTP/2 that has room for everything, while each of its streams has little.
async fn http2(front: &Front) -> SendRequest<Bytes> {
    let stream = front.connect("h2", None).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let builder = builder.initial_connection_window_size(1 << 30).initial_window_size(65_535);
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

async fn get(requests: &mut SendRequest<Bytes>, path: &str) -> RecvStream {
    let uri = format!("https://localhost{path}");
    let request = http::Request::get(uri).header("authorization", "Bearer admin-token");
    *requests = requests.clone().ready().await.unwrap();
    let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.into_body()
}

/// All that comes until the end of an answer; an error where it was broken off.
async fn rest(mut body: RecvStream) -> (usize, Option<h2::Error>) {
    let mut bytes = 0;
    while let Some(piece) = body.data().await {
        match piece {
            Ok(piece) => {
                bytes += piece.len();
                let _ = body.flow_control().release_capacity(piece.len());
            }
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

#[tokio::test]
async fn streams_that_nobody_reads_are_broken_off_and_others_are_not() {
    const WATCHES: usize = 20;
    let mut front = front().await;
    let mut requests = http2(&front).await;
    let list = get(&mut requests, MAPS).await;
    // Each of them its own text: nothing is shared.
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let path = format!("{MAPS}?watch=1&labelSelector=no!%3Done");
        watches.push(get(&mut requests, &path).await);
    }
    // What can be sent is sent, on the same connection too.
    let (bytes, broken) = rest(get(&mut requests, MAPS).await).await;
    assert!(bytes > OBJECTS * SIZE && broken.is_none(), "{bytes} {broken:?}");
    let held = metric(&front.cluster, "apiserver_memory_held_bytes").await;
    assert!(held > 0.0 && held <= ((WATCHES + 1) * MAX_WAITING) as f64, "{held} bytes wait");
    let open = metric(&front.cluster, "apiserver_terminated_watchers_total").await;
    assert!(open == 0.0, "{open} were ended early");

    tokio::time::pause();
    tokio::time::sleep(PATIENCE).await;
    tokio::time::resume();
    for body in watches.into_iter().chain([list]) {
        let (bytes, broken) = rest(body).await;
        let reason = broken.and_then(|it| it.reason());
        assert_eq!(reason, Some(h2::Reason::INTERNAL_ERROR));
        assert!(bytes <= 65_535, "{bytes}");
    }
    let count = metric(&front.cluster, "apiserver_terminated_watchers_total{").await;
    assert_eq!(count, WATCHES as f64);
    for (name, expected) in [
        ("apiserver_responses_cut_total{reason=\"unread\"}", WATCHES),
        ("apiserver_responses_cut_total{reason=\"deadline\"}", 1),
        ("apiserver_request_aborts_total{", 1),
        ("apiserver_memory_held_bytes", 0),
        ("apiserver_connections_ended_total{reason=\"unread\"}", 0),
    ] {
        assert_eq!(metric(&front.cluster, name).await, expected as f64, "{name}");
    }
    // The connection is as good as before.
    assert_eq!(rest(get(&mut requests, "/readyz").await).await.0, 2);
    front.is_unharmed("answers that nobody reads").await;
}

#[tokio::test]
async fn connections_that_nobody_reads_are_given_up() {
    let mut front = front().await;
    let mut unread = Vec::new();
    for path in [MAPS.to_owned(), format!("{MAPS}?watch=1"), format!("{MAPS}?limit=50")] {
        let mut stream = front.connect("http/1.1", None).await.unwrap();
        stream.write_all(&request(&format!("GET {path}"), &[], b"")).await.unwrap();
        unread.push(stream);
    }
    // Streams that are wide open, on a connection of which nothing is read.
    let mut streams = front.connect("h2", None).await.unwrap();
    streams.write_all(&http2::opening_with_window(1 << 30)).await.unwrap();
    for number in 0..20 {
        let get = http2::get(2 * number + 1, &format!("{MAPS}?watch=1"), "admin-token");
        streams.write_all(&get).await.unwrap();
    }
    streams.flush().await.unwrap();
    while metric(&front.cluster, "apiserver_longrunning_requests{").await < 21.0 {
        tokio::task::yield_now().await;
    }
    let held = metric(&front.cluster, "apiserver_memory_held_bytes").await;
    assert!(held <= (23 * MAX_WAITING + OBJECTS * SIZE) as f64, "{held} bytes wait");

    tokio::time::pause();
    tokio::time::sleep(PATIENCE).await;
    tokio::time::resume();
    for mut stream in unread {
        let mut read = Vec::new();
        let _broken = stream.read_to_end(&mut read).await;
        assert!(read.starts_with(b"HTTP/1.1 200"), "{} bytes", read.len());
        assert!(read.len() < OBJECTS * SIZE / 2, "{} bytes", read.len());
    }
    let mut read = Vec::new();
    let _broken = streams.read_to_end(&mut read).await;
    assert!(read.len() < OBJECTS * SIZE / 2, "{} bytes", read.len());
    let ended = "apiserver_connections_ended_total{";
    assert!(metric(&front.cluster, ended).await >= 1.0, "none was given up");
    assert_eq!(metric(&front.cluster, "apiserver_memory_held_bytes").await, 0.0);
    assert_eq!(metric(&front.cluster, "apiserver_connections ").await, 0.0);
    front.is_unharmed("connections that nobody reads").await;
}
