//! One request passed on, in the name of who made it. Upstream: `handler_proxy.go`.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Status;
use auth::UserInfo;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use spans::{Kind, Part};

use super::ask::address_of;
use super::routes::{Remote, Service};
use crate::Server;
use crate::body::Body;
use crate::exchange::{AUDIT_ID, Exchange, RequestBody};
use crate::forward::{self, Onward};
use crate::handlers::connect::asks_upgrade;
use crate::handlers::proxy::tell_origin;
use crate::metrics::Ended;
use crate::respond;

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const TRACEPARENT: HeaderName = HeaderName::from_static(spans::TRACEPARENT);
const EXTRA: &str = "x-remote-extra-";
/// How long a server may take to begin its answer (upstream: `RequestTimeout`); watches and streams aside.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is written as `%XX` in the name of a header: all that is no token, and the percent sign itself.
const NO_TOKEN: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b'(')
    .add(b')')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'{')
    .add(b'}');

/// Passes a request on in the name of who made it, and its answer back.
pub(crate) async fn pass(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    remote: &Remote,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let user = Arc::clone(&exchange.user);
    pass_as(server, exchange, remote, (&user, body)).await
}

/// The same in another name.
pub(super) async fn pass_as(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    remote: &Remote,
    (user, body): (&UserInfo, RequestBody),
) -> Result<Response<Body>, Status> {
    if !remote.available {
        return Ok(refusal(exchange, 503, "service unavailable"));
    }
    let tls = match &remote.tls {
        Ok(tls) => tls.clone(),
        Err(why) => return Ok(refusal(exchange, 500, why)),
    };
    let address = match address_of(server, remote).await {
        Ok(address) => address,
        Err(error) => {
            tracing::warn!(service = %remote.service, error, "an API server has no address");
            return Ok(refusal(exchange, 503, "service unavailable"));
        }
    };
    if let Err(why) = identify(&mut exchange.parts.headers, user) {
        return Ok(refusal(exchange, 500, &why));
    }
    exchange.parts.headers.insert(AUDIT_ID, exchange.audit_id.clone());
    let path = exchange.parts.uri.path().to_owned();
    tell_origin(exchange, &path);
    let path = exchange.parts.uri.path_and_query().map_or(path, ToString::to_string);
    let to = Onward { address, tls: Some(tls), path };
    let (method, lasts) = (exchange.parts.method.clone(), lasts(exchange));
    if asks_upgrade(exchange) {
        exchange.lasting = Some(server.metrics.hold(exchange));
    }
    let mut part = followed(exchange, remote);
    let passed = Box::pin(forward::forward(exchange, &to, method, forward::streamed(body)));
    let passed = spans::run(&mut part, passed);
    let passed = if lasts {
        passed.await
    } else {
        let Ok(passed) = tokio::time::timeout(PATIENCE, passed).await else {
            let what = "request did not complete within the allotted timeout";
            exchange.ended = Some(Ended::Here);
            return Err(Status::timeout(what, 0));
        };
        passed
    };
    if let (Some(part), Ok(answer)) = (&mut part, &passed) {
        part.tell("http.response.status_code", answer.status().as_u16());
    }
    Ok(match passed {
        Err(why) => {
            server.aggregator.metrics.failed(&why);
            refusal(exchange, 503, &format!("error trying to reach service: {why}"))
        }
        Ok(answer)
            if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) =>
        {
            let what = "the backend attempted to redirect this request, which is not permitted";
            refusal(exchange, StatusCode::BAD_GATEWAY.as_u16(), what)
        }
        Ok(answer) => answer,
    })
}

/// The part of the request that the other server answers, which is told so.
fn followed(exchange: &mut Exchange, remote: &Remote) -> Option<Part> {
    let method = exchange.parts.method.to_string();
    let part = spans::begin(format!("HTTP {method}"), Kind::Client)?;
    let path = exchange.parts.uri.path().to_owned();
    let part = part.with("http.request.method", method).with("url.path", path);
    let Service { namespace, name, .. } = &remote.service;
    let part = part.with("server.address", format!("{name}.{namespace}.svc"));
    if let Ok(parent) = HeaderValue::from_str(&part.traceparent()) {
        exchange.parts.headers.insert(TRACEPARENT, parent);
    }
    Some(part)
}

/// Whether a request may last as long as its client likes.
fn lasts(exchange: &Exchange) -> bool {
    let sub = exchange.info.subresource.as_str();
    exchange.info.verb == "watch"
        || matches!(sub, "log" | "exec" | "attach" | "portforward" | "proxy")
        || asks_upgrade(exchange)
}

/// Plain text, as Go's servers refuse.
fn refusal(exchange: &mut Exchange, code: u16, why: &str) -> Response<Body> {
    exchange.ended = Some(Ended::Elsewhere);
    let mut answer = respond::text(code, format!("{why}\n"));
    let nosniff = HeaderValue::from_static("nosniff");
    answer.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
    answer
}

/// Says who asks, and nothing that a client said about that.
///
/// # Errors
/// When a name cannot be written into a header.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), String> {
    let told: Vec<HeaderName> = headers
        .keys()
        .filter(|it| [USER, UID, GROUP].contains(it) || it.as_str().starts_with(EXTRA))
        .cloned()
        .collect();
    told.iter().for_each(|it| drop(headers.remove(it)));
    let text = |text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| format!("net/http: invalid header field value {text:?}"))
    };
    headers.insert(USER, text(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, text(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, text(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", utf8_percent_encode(key, NO_TOKEN));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        for value in values {
            headers.append(name.clone(), text(value)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_and_what_the_client_said_is_not() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "a"),
            ("x-remote-extra-own", "1"),
            ("accept", "*/*"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut user = UserInfo::new("bob", &["g1", "g2"]);
        user.extra.insert("a.b/c%d".into(), vec!["1".into(), "2".into()]);
        user.groups.retain(|it| it.starts_with('g'));
        identify(&mut headers, &user).unwrap();
        let told: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        for expected in [
            "accept=*/*",
            "x-remote-user=bob",
            "x-remote-group=g1",
            "x-remote-group=g2",
            "x-remote-extra-a.b%2fc%25d=1",
            "x-remote-extra-a.b%2fc%25d=2",
        ] {
            assert!(told.iter().any(|it| it == expected), "{expected} is not in {told:?}");
        }
        assert_eq!(told.len(), 6, "{told:?}");
        user.name = "a\nb".into();
        assert!(identify(&mut headers, &user).is_err());
    }
}
