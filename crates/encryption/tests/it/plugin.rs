//! A KMS plugin for tests: gRPC on a Unix socket, with keys that are no secret.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use grpc::wire::{Field, fields, write_bytes, write_entry};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// How a plugin behaves.
#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    pub(crate) key: String,
    pub(crate) health: String,
    pub(crate) hangs: bool,
    pub(crate) refuses: bool,
}

/// A plugin; it stops when this is dropped.
pub(crate) struct Plugin {
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
    /// The methods that were called.
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    directory: TempDir,
    task: Option<JoinHandle<()>>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Plugin {
    /// One that is well, with this key.
    pub(crate) fn start(key: &str) -> Self {
        let behaviour =
            Behaviour { key: key.into(), health: "ok".into(), hangs: false, refuses: false };
        let mut plugin = Self {
            behaviour: Arc::new(Mutex::new(behaviour)),
            calls: Arc::default(),
            directory: tempfile::tempdir().unwrap(),
            task: None,
        };
        plugin.restart();
        plugin
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("kms.sock")
    }

    pub(crate) fn stop(&mut self) {
        self.task.take().inspect(JoinHandle::abort);
        let _ = std::fs::remove_file(self.socket());
    }

    pub(crate) fn restart(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (behaviour, calls) = (Arc::clone(&self.behaviour), Arc::clone(&self.calls));
        self.task = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&behaviour), Arc::clone(&calls)));
            }
        }));
    }

    /// How often a method was called.
    pub(crate) fn called(&self, method: &str) -> usize {
        self.calls.lock().iter().filter(|it| *it == method).count()
    }
}

async fn serve(
    stream: UnixStream,
    behaviour: Arc<Mutex<Behaviour>>,
    calls: Arc<Mutex<Vec<String>>>,
) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let now = behaviour.lock().clone();
        let calls = Arc::clone(&calls);
        tokio::spawn(async move { answer(request, respond, now, &calls).await });
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    behaviour: Behaviour,
    calls: &Mutex<Vec<String>>,
) {
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let method = request.uri().path().strip_prefix("/v2.KeyManagementService/").unwrap().to_owned();
    let mut body = request.into_body();
    let mut message = BytesMut::new();
    while let Some(piece) = body.data().await {
        message.extend_from_slice(&piece.unwrap());
    }
    calls.lock().push(method.clone());
    if behaviour.hangs {
        std::future::pending::<()>().await;
    }
    let head = Response::builder().header("content-type", "application/grpc");
    if behaviour.refuses {
        let head =
            head.header("grpc-status", "13").header("grpc-message", "the%20vault%20is%20shut");
        respond.send_response(head.body(()).unwrap(), true).unwrap();
        return;
    }
    let reply = reply(&method, &message[5..], &behaviour);
    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(reply.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&reply);
    stream.send_data(framed.into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

fn reply(method: &str, message: &[u8], behaviour: &Behaviour) -> Vec<u8> {
    let bytes = |number: u32| {
        let found = fields(message).unwrap().into_iter().find_map(|it| match it {
            (at, Field::Bytes(bytes)) if at == number => Some(bytes.to_vec()),
            _ => None,
        });
        found.unwrap_or_default()
    };
    let turned = |bytes: &[u8]| bytes.iter().map(|it| it ^ 0x55).collect::<Vec<u8>>();
    let mut out = Vec::new();
    match method {
        "Status" => {
            write_bytes(&mut out, 1, b"v2");
            write_bytes(&mut out, 2, behaviour.health.as_bytes());
            write_bytes(&mut out, 3, behaviour.key.as_bytes());
        }
        "Encrypt" => {
            write_bytes(&mut out, 1, &turned(&bytes(1)));
            write_bytes(&mut out, 2, behaviour.key.as_bytes());
            write_entry(&mut out, 3, ("test.example/note", b"kept"));
        }
        "Decrypt" => {
            assert!(!bytes(3).is_empty(), "the key is named");
            assert!(!bytes(4).is_empty(), "the annotation comes back");
            write_bytes(&mut out, 1, &turned(&bytes(1)));
        }
        other => panic!("{other} is no method"),
    }
    out
}
