//! Sockets by which other commands speak to a running process: HTTP on Unix sockets that only their owner can open.
//!
//! A node's: `GET /images` lists, `POST /images?path=FILE` imports an archive, `DELETE /images?name=NAME` removes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apimachinery::{Value, json, value};
use bytes::Bytes;
use component_base::ShutdownSignal;
use cri::{ImageService as _, ImageSpec};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::EmbeddedRuntime;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Commands at once.
const CONNECTIONS: usize = 8;
/// The largest answer that a command reads.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long a command waits for a node that starts.
const CONNECT_RETRY: Duration = Duration::from_millis(100);

/// Where the socket of a node lies.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("kubelith.sock")
}

/// Carries out a command: method, path and the value of its one argument.
type Commands =
    Arc<dyn Fn(Method, String, String) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

/// Lists, imports and removes images until `stop`.
pub(crate) fn serve(
    state_dir: &Path,
    runtime: EmbeddedRuntime,
    stop: ShutdownSignal,
) -> Result<()> {
    let commands = move |method, path: String, argument| {
        let runtime = runtime.clone();
        async move { images(&runtime, &method, &path, argument).await }.boxed()
    };
    listen(&path(state_dir), Arc::new(commands), stop)
}

/// Listens on a socket; answers until `stop`.
pub(crate) fn listen(path: &Path, commands: Commands, stop: ShutdownSignal) -> Result<()> {
    // A socket that an earlier process left: the data directory's lock says that it is gone.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("could not replace {}", path.display()));
        }
        _ => {}
    }
    let opening = || format!("could not listen on {}", path.display());
    let listener = UnixListener::bind(path).with_context(opening)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(opening)?;
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, commands) => {}
            () = stop.requested() => {}
        }
    });
    Ok(())
}

async fn accept(listener: UnixListener, commands: Commands) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not take a command");
                tokio::time::sleep(CONNECT_RETRY).await;
                continue;
            }
        };
        let commands = Arc::clone(&commands);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&commands, request));
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a command went away");
            }
            drop(permit);
        });
    }
}

async fn answer(
    commands: &Commands,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let query = request.uri().query().unwrap_or_default();
    let argument = query.split_once('=').map(|(_, it)| percent_encoding::percent_decode_str(it));
    let argument = argument.map(|it| it.decode_utf8_lossy().into_owned()).unwrap_or_default();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (code, value) = match commands(method, path, argument).await {
        Ok(value) => (StatusCode::OK, value),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, Value::from(why)),
    };
    let mut response = Response::new(Full::new(Bytes::from(json::to_vec(&value))));
    *response.status_mut() = code;
    Ok(response)
}

async fn images(
    runtime: &EmbeddedRuntime,
    method: &Method,
    path: &str,
    argument: String,
) -> Result<Value, String> {
    let done = match (method, path) {
        (&Method::GET, "/images") => list(runtime).await,
        (&Method::POST, "/images") => {
            let imported = runtime.import_image(argument.into(), None).await;
            imported.map(|ids| Value::Array(ids.into_iter().map(Into::into).collect()))
        }
        (&Method::DELETE, "/images") => remove(runtime, argument).await,
        _ => Err(cri::CriError::new(cri::Code::Unimplemented, "there is no such command")),
    };
    done.map_err(|error| error.message)
}

async fn list(runtime: &EmbeddedRuntime) -> Result<Value, cri::CriError> {
    let images = runtime.list_images(None).await?.into_iter().map(|image| {
        let names = image.repo_tags.iter().map(|it| it.as_str().into()).collect();
        let digests = image.repo_digests.iter().map(|it| it.as_str().into()).collect();
        let size = i64::try_from(image.size).unwrap_or(i64::MAX);
        value!({"id": (image.id.as_str()), "tags": (Value::Array(names)), "digests": (Value::Array(digests)),
            "size": size, "pinned": (image.pinned)})
    });
    Ok(Value::Array(images.collect()))
}

async fn remove(runtime: &EmbeddedRuntime, name: String) -> Result<Value, cri::CriError> {
    let image = ImageSpec { image: name.clone(), ..ImageSpec::default() };
    if runtime.image_status(&image).await?.is_none() {
        return Err(cri::CriError::new(cri::Code::NotFound, format!("there is no image {name:?}")));
    }
    runtime.remove_image(&image).await?;
    runtime.collect_garbage().await?;
    Ok(Value::Null)
}

/// Asks the node whose state lies there.
pub(crate) async fn ask(state_dir: &Path, method: Method, query: &str) -> Result<Value> {
    let path = path(state_dir);
    let stream = connect(&path).await.with_context(|| {
        format!(
            "no node answers on {}: is kubelith running with this data directory?",
            path.display()
        )
    })?;
    request(stream, method, &format!("/images{query}")).await
}

/// Connects to a socket of [`listen`].
pub(crate) async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// What is answered there.
pub(crate) async fn request(stream: UnixStream, method: Method, uri: &str) -> Result<Value> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(http::header::HOST, "localhost")
        .body(Full::new(Bytes::new()))?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = body.collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    let value = json::parse(&body)?;
    if !code.is_success() {
        bail!("{}", value.as_str().unwrap_or("it could not be done"));
    }
    Ok(value)
}
