//! What the machine can do: a server with the same TLS and HTTP that does nothing but answer the same bytes, and one
//! that tells everybody who listens of every write.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::load::Clients;

/// How large its answers are.
const ANSWER_BYTES: usize = 1024;
/// How many events a listener may be behind.
const BEHIND: usize = 1024;

/// Starts it in a runtime of its own threads, as a server is; connections to it come back.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn start() -> Result<Clients> {
    answering(ANSWER_BYTES).await
}

/// The same with answers of this many bytes.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn answering(bytes: usize) -> Result<Clients> {
    let answer = Bytes::from(vec![b'x'; bytes]);
    started(move |stream| answer_all(stream, answer.clone())).await
}

/// One whose GETs never end: each is sent a line of this many bytes at once, and one more with every other request.
///
/// # Errors
/// When it cannot listen.
pub(crate) async fn telling(bytes: usize) -> Result<Clients> {
    let line: Bytes = [&vec![b'x'; bytes.saturating_sub(1)][..], b"\n"].concat().into();
    let (writes, _) = broadcast::channel(BEHIND);
    started(move |stream| tell_all(stream, line.clone(), writes.clone())).await
}

/// A webhook that takes everything but what is called `refused`: its URL, and its authority in base64.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn reviewing() -> Result<(String, String)> {
    let (address, authority) = listening(review_all, b"http/1.1")?;
    Ok((format!("https://{address}/"), BASE64_STANDARD.encode(authority)))
}

/// Serves connections in a runtime of its own.
async fn started<F, S>(serve: S) -> Result<Clients>
where
    F: Future<Output = ()> + Send,
    S: Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
{
    let (address, authority) = listening(serve, b"h2")?;
    Clients::connect(address, &authority, "").await
}

/// Where it listens, and its authority.
fn listening<F, S>(serve: S, protocol: &[u8]) -> Result<(SocketAddr, String)>
where
    S: Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let identity = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let authority = identity.cert.pem();
    let key = rustls::pki_types::PrivateKeyDer::try_from(identity.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            tell.send(listener.local_addr()?)?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let (acceptor, serve) = (acceptor.clone(), serve.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream).await;
                    }
                });
            }
        })
    });
    Ok((told.recv()?, authority))
}

async fn answer_all(stream: TlsStream<TcpStream>, answer: Bytes) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answer.clone();
        async move {
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(Response::new(Full::new(answer)))
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn review_all(stream: TlsStream<TcpStream>) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await?.to_bytes();
        let review: Value = serde_json::from_slice(&body).unwrap_or_default();
        let asked = &review["request"];
        let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": asked["uid"], "allowed": asked["name"] != "refused"}});
        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(answer.to_string()))))
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// hyper's server sends a thousand streams of a connection in pieces too small for hyper's client: h2 itself does not.
async fn tell_all(stream: TlsStream<TcpStream>, line: Bytes, writes: broadcast::Sender<()>) {
    let Ok(mut connection) = h2::server::Builder::new()
        .initial_connection_window_size(1 << 22)
        .handshake::<_, Bytes>(stream)
        .await
    else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (line, writes) = (line.clone(), writes.clone());
        tokio::spawn(async move {
            let _gone = match *request.method() {
                Method::GET => tell(respond, &line, &mut writes.subscribe()).await,
                _ => take(request, respond, &writes).await,
            };
        });
    }
}

/// Sends a line now, and one with every write.
async fn tell(
    mut respond: SendResponse<Bytes>,
    line: &Bytes,
    writes: &mut broadcast::Receiver<()>,
) -> Result<()> {
    let mut stream = respond.send_response(Response::new(()), false)?;
    loop {
        stream.send_data(line.clone(), false)?;
        stream.reserve_capacity(1);
        while stream.capacity() == 0 {
            poll_fn(|cx| stream.poll_capacity(cx)).await.transpose()?;
        }
        stream.reserve_capacity(0);
        writes.recv().await?;
    }
}

async fn take(
    mut request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    writes: &broadcast::Sender<()>,
) -> Result<()> {
    let body = request.body_mut();
    while let Some(bytes) = body.data().await {
        let length = bytes?.len();
        body.flow_control().release_capacity(length)?;
    }
    // Nobody may listen.
    let _ = writes.send(());
    respond.send_response(Response::new(()), true)?;
    Ok(())
}
