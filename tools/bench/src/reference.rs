//! What the machine can do: a server with the same TLS and HTTP that does nothing but answer the same bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::load::Clients;

/// How large its answers are.
const ANSWER_BYTES: usize = 1024;

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
    let identity = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let authority = identity.cert.pem();
    let key = rustls::pki_types::PrivateKeyDer::try_from(identity.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            tell.send(listener.local_addr()?)?;
            serve(&listener, &TlsAcceptor::from(Arc::new(config)), bytes).await
        })
    });
    let address: SocketAddr = told.recv()?;
    Clients::connect(address, &authority, "").await
}

async fn serve(listener: &TcpListener, acceptor: &TlsAcceptor, bytes: usize) -> Result<()> {
    let answer = Bytes::from(vec![b'x'; bytes]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let answer = answer.clone();
                async move {
                    request.into_body().collect().await?;
                    Ok::<_, hyper::Error>(Response::new(Full::new(answer)))
                }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
