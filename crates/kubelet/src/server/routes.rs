//! What is answered where.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::CertificateDer;

use super::query::Query;
use super::remote::Opening;
use super::{Context, access, logs, port_forward, remote, reports, summary};
use crate::spec;

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// A refusal in plain text.
pub(super) type Refusal = (StatusCode, String);

pub(super) fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn json(value: &apimachinery::Value) -> Response<Body> {
    let mut response = Response::new(full(apimachinery::json::to_vec(value)));
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Answers a request.
pub(super) async fn answer(
    context: Arc<Context>,
    request: Request<Incoming>,
    peer: Option<&CertificateDer<'static>>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    if let Err((status, text)) = access::check(&context, &parts, peer).await {
        return Ok(plain(status, text));
    }
    let request = Request::from_parts(parts, body);
    Ok(match route(&context, request).await {
        Ok(response) => response,
        Err((status, text)) => plain(status, text),
    })
}

async fn route(
    context: &Arc<Context>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"] | ["healthz", "ping" | "log" | "syncloop"]) => {
            Ok(plain(StatusCode::OK, "ok"))
        }
        (&Method::GET, ["pods"]) => Ok(json(&reports::pods(context))),
        (&Method::GET, ["stats", "summary"]) => Ok(json(&summary::summary(context).await?)),
        (&Method::GET, ["configz"]) => Ok(json(&reports::configz(context))),
        (&Method::GET, ["runningpods"]) => Ok(json(&reports::running_pods(context).await?)),
        (&Method::GET, ["metrics"]) => Ok(plain(StatusCode::OK, reports::metrics(context).await?)),
        (&Method::GET, ["metrics", "resource"]) => {
            Ok(plain(StatusCode::OK, reports::resource_metrics(context).await?))
        }
        (&Method::GET, ["containerLogs", namespace, name, container]) => {
            let pod = find(context, namespace, name, None)?;
            let stream = logs::stream(context, &pod, container, &query).await?;
            let body = StreamBody::new(stream.map(|it| it.map(Frame::data)));
            let mut response = Response::new(BodyExt::boxed_unsync(body));
            let kind = http::HeaderValue::from_static("text/plain");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            Ok(response)
        }
        (&Method::GET | &Method::POST, [verb @ ("exec" | "attach"), rest @ ..]) => {
            let opening = if *verb == "exec" { Opening::Exec } else { Opening::Attach };
            let (pod, container) = target(context, rest)?;
            remote::open(context, (&pod, &container), &query, opening, request).await
        }
        (&Method::POST, ["run", rest @ ..]) => {
            let (pod, container) = target(context, rest)?;
            Ok(plain(StatusCode::OK, remote::run(context, &pod, &container, &query).await?))
        }
        (&Method::GET | &Method::POST, ["portForward", namespace, name]) => {
            let pod = find(context, namespace, name, None)?;
            port_forward::forward(context, &pod, request).await
        }
        (&Method::GET | &Method::POST, ["portForward", namespace, name, uid]) => {
            let pod = find(context, namespace, name, Some(uid))?;
            port_forward::forward(context, &pod, request).await
        }
        (_, ["exec" | "attach" | "portForward", ..]) => {
            Err((StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into()))
        }
        _ => Err((StatusCode::NOT_FOUND, "404 page not found\n".into())),
    }
}

/// `NAMESPACE/POD/CONTAINER` or `NAMESPACE/POD/UID/CONTAINER`.
fn target(context: &Context, path: &[&str]) -> Result<(Pod, String), Refusal> {
    match path {
        [namespace, name, container] => {
            Ok((find(context, namespace, name, None)?, (*container).to_owned()))
        }
        [namespace, name, uid, container] => {
            Ok((find(context, namespace, name, Some(uid))?, (*container).to_owned()))
        }
        _ => Err((StatusCode::NOT_FOUND, "404 page not found\n".into())),
    }
}

fn find(context: &Context, namespace: &str, name: &str, uid: Option<&str>) -> Result<Pod, Refusal> {
    let objects = context.manager.objects();
    let found = objects.iter().find(|it| {
        it.key.namespace == namespace && it.key.name == name && uid.is_none_or(|uid| it.uid == uid)
    });
    let pod = found.and_then(|it| context.shared.told_pod(it));
    pod.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist\n")))
}

/// The newest container of a name that runs.
pub(super) async fn running(
    context: &Context,
    pod: &Pod,
    container: &str,
) -> Result<String, Refusal> {
    let observed = crate::pod::observe::observe(&context.shared, spec::uid(pod)).await;
    let observed = observed.map_err(|it| (StatusCode::INTERNAL_SERVER_ERROR, it.to_rpc()))?;
    let latest = observed.latest(container).filter(|it| crate::pod::observed::is_running(it));
    let id = latest.map(|it| it.container.id.clone());
    id.ok_or_else(|| {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")"))
    })
}
