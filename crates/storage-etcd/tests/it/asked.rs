//! Newer etcds than Debian's, which tell how far a watch is when they are asked: played by a server that says what one of
//! them says in the cases that matter here. (Debian's 3.4.23 answers the question too, but may do so before it has sent all
//! changes up to the revision it names: that is why it is not asked.)

use std::sync::Mutex;

use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use super::*;

/// A field of a message: a number, or bytes.
fn number(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
    out
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = number(field, value.len() as u64);
    out[0] |= 2;
    out.extend_from_slice(value);
    out
}

fn header(rev: u64) -> Vec<u8> {
    bytes(1, &number(3, rev))
}

/// The creation of a key at a revision.
fn created(key: &str, rev: u64) -> Vec<u8> {
    let kv =
        [bytes(1, key.as_bytes()), number(2, rev), number(3, rev), number(4, 1), bytes(5, b"1")];
    [header(rev), bytes(11, &bytes(2, &kv.concat()))].concat()
}

/// What the played etcd knows.
struct Played {
    rev: Mutex<u64>,
    /// What is sent to watches.
    changes: broadcast::Sender<Vec<u8>>,
    /// How many questions about progress are left unanswered, as where a watch is behind.
    silent: Mutex<usize>,
    /// What watches asked for: the first bytes of their requests.
    watched: Mutex<Vec<Vec<u8>>>,
}

impl Played {
    async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (silent, watched) = Default::default();
        let changes = broadcast::channel(64).0;
        let played = Arc::new(Self { rev: Mutex::new(5), changes, silent, watched });
        let answering = Arc::clone(&played);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let played = Arc::clone(&answering);
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(answer(Arc::clone(&played), request, respond));
                    }
                });
            }
        });
        (played, url)
    }

    fn next_rev(&self) -> u64 {
        let mut rev = self.rev.lock().unwrap();
        *rev += 1;
        *rev
    }

    /// Somebody else's change, which no watch of ours is told.
    fn change_elsewhere(&self) -> Rev {
        Rev(self.next_rev())
    }

    fn create(&self, key: &str) -> Rev {
        let rev = self.next_rev();
        self.changes.send(created(key, rev)).unwrap();
        Rev(rev)
    }
}

async fn answer(
    played: Arc<Played>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let method = request.uri().path().to_owned();
    let mut body = request.into_body();
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    if method.ends_with("/Watch") {
        return watch(played, body, stream).await;
    }
    while body.data().await.is_some() {}
    let rev = *played.rev.lock().unwrap();
    let message = match method.rsplit('/').next().unwrap() {
        "Status" => [header(rev), bytes(2, b"3.5.13")].concat(),
        "Range" => header(rev),
        other => panic!("{other} is not played"),
    };
    send(&mut stream, &message);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers).unwrap();
}

async fn watch(played: Arc<Played>, mut body: RecvStream, mut stream: SendStream<Bytes>) {
    let mut changes = played.changes.subscribe();
    loop {
        tokio::select! {
            asked = body.data() => {
                let Some(Ok(asked)) = asked else { return };
                // After the frame's head: which request it is.
                match asked[5] >> 3 {
                    1 => {
                        played.watched.lock().unwrap().push(asked.to_vec());
                        send(&mut stream, &[header(*played.rev.lock().unwrap()), number(3, 1)].concat());
                    }
                    3 => {
                        let mut silent = played.silent.lock().unwrap();
                        if *silent > 0 {
                            *silent -= 1;
                            continue;
                        }
                        send(&mut stream, &header(*played.rev.lock().unwrap()));
                    }
                    other => panic!("request {other}"),
                }
            }
            change = changes.recv() => send(&mut stream, &change.unwrap()),
        }
    }
}

fn send(stream: &mut SendStream<Bytes>, message: &[u8]) {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    let _ = stream.send_data(framed.into(), false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_our_keys_alone_hears_how_far_it_is_by_asking() {
    let (played, url) = Played::start().await;
    let store = EtcdStore::open(&Options::new(vec![url])).await.unwrap();
    let start = store.progress().await.unwrap();
    assert_eq!(start, Rev(5));
    let mut watch = store.watch(key("/registry/"), start);
    let mut quiet = store.watch(key("/registry/quiet/"), start);
    while played.changes.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    let first = played.create("/registry/a");
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].rev, first);
    // Nothing that is watched changes, and some questions stay without answer.
    for silent in [0, 3] {
        *played.silent.lock().unwrap() = silent;
        let last = played.change_elsewhere();
        assert_eq!(store.progress().await.unwrap(), last);
        for watch in [&mut watch, &mut quiet] {
            let mut seen = Rev(0);
            while seen < last {
                let batch = watch.next().await.unwrap().unwrap();
                assert!(batch.events.is_empty());
                seen = batch.progress;
            }
        }
    }
    let watched = played.watched.lock().unwrap();
    let ours = b"/registry/";
    assert!(watched.iter().all(|it| it.windows(ours.len()).any(|part| part == ours)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_before_the_log_asks_until_it_meets_it() {
    let (played, url) = Played::start().await;
    let store = EtcdStore::open(&Options::new(vec![url])).await.unwrap();
    // Behind, and nothing has happened under the prefix since.
    let mut watch = store.watch(key("/registry/a/"), Rev(2));
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.progress), (0, Rev(5)));
    let last = played.create("/registry/a/x");
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.progress), (1, last));
}
