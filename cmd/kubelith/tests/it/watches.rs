//! Ten thousand watches of one resource, on a few connections: each is told of a change, and all of them take little.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;

use crate::budget::{Api, memory};
use crate::kube_apiserver::{Part, Pki, free_port};

const CONNECTIONS: usize = 10;
const EACH: usize = 1_000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// What a watch may take, in bytes; twice as much as it does.
const MAX_BYTES: u64 = 24 << 10;

/// As many watches as one connection may have.
async fn watches(api: &Api, version: &str) -> Vec<RecvStream> {
    let stream = api.connect("h2").await.unwrap();
    // A client that has room: which of its streams is told first is up to the server.
    let mut builder = h2::client::Builder::new();
    let handshake = builder.initial_connection_window_size(64 << 20).handshake(stream);
    let (requests, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut requests: SendRequest<Bytes> = requests;
    let mut begun = Vec::new();
    for _ in 0..EACH {
        let uri = format!("https://127.0.0.1{MAPS}?watch=1&resourceVersion={version}");
        requests = requests.ready().await.unwrap();
        let request = http::Request::get(uri).body(()).unwrap();
        begun.push(requests.send_request(request, true).unwrap().0);
    }
    let mut watches = Vec::new();
    for response in begun {
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        watches.push(response.into_body());
    }
    watches
}

/// Waits until each is told of an object.
async fn told(watches: &mut [RecvStream], name: &str) {
    let wanted = format!("\"name\":\"{name}\"");
    for watch in watches {
        let mut text = String::new();
        while !text.contains(&wanted) {
            let piece = watch.data().await.expect("the watch goes on").unwrap();
            watch.flow_control().release_capacity(piece.len()).unwrap();
            text.push_str(&String::from_utf8_lossy(&piece));
        }
    }
}

#[test]
fn ten_thousand_watches_take_little_and_are_told() {
    let (pki, port) = (Pki::make(), free_port());
    let mut arguments = vec!["kube-apiserver".to_owned()];
    arguments.extend(pki.flags(port));
    arguments.extend(["--data-dir".to_owned(), pki.path("data")]);
    let server = Part::start(&arguments, "API server");
    let process = server.0.id();
    let resident = || memory(process, "VmRSS:");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let api = Api::of(&pki, "admin", port);
        let body = |name: &str| format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
        let version = api.made(MAPS, body("first")).await;
        let (before, begun) = (resident(), Instant::now());
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            all.extend(watches(&api, &version).await);
        }
        let (with, took) = (resident(), begun.elapsed());
        let begun = Instant::now();
        assert_eq!(api.post(MAPS, body("second")).await, 201);
        let write = begun.elapsed();
        told(&mut all, "second").await;
        let (after, told) = (resident(), begun.elapsed());
        let each = with.saturating_sub(before) / all.len() as u64;
        println!(
            "{} watches: {before} bytes before, {with} with them ({each} each, made in {took:?}), \
             {after} after an event that all were told within {told:?}, written in {write:?}",
            all.len()
        );
        assert!(each <= MAX_BYTES, "{each} bytes each");
        // Whoever writes does not wait for those who watch.
        assert!(write < Duration::from_secs(5), "{write:?}");
    });
}
