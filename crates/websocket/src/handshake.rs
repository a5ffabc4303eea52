//! Requests to speak WebSocket, and the answers to them.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Why there is no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its text.
    pub text: &'static str,
}

const fn refused(status: StatusCode, text: &'static str) -> Refusal {
    Refusal { status, text }
}

fn has(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let all = headers.get_all(name);
    all.iter().any(|it| it.to_str().is_ok_and(|it| it.to_ascii_lowercase().contains(wanted)))
}

/// Whether a request is one for a WebSocket.
#[must_use]
pub fn is_asked(headers: &HeaderMap) -> bool {
    let is_websocket =
        headers.get(UPGRADE).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_websocket && has(headers, CONNECTION, "upgrade")
}

/// Whether what is asked for is a WebSocket of the version that there is.
///
/// # Errors
/// What is wrong with the request.
pub fn check(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method != Method::GET {
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, "bad method"));
    }
    if headers.get(SEC_WEBSOCKET_KEY).is_none_or(HeaderValue::is_empty) {
        return Err(refused(StatusCode::BAD_REQUEST, "mismatch challenge/response"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|it| it != "13") {
        return Err(refused(StatusCode::BAD_REQUEST, "missing or bad WebSocket Version"));
    }
    Ok(())
}

/// The protocols that a client offers, its favourite first.
pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    all.filter_map(|it| it.to_str().ok()).flat_map(|it| it.split(',')).map(str::trim)
}

/// Which of the `known` protocols is spoken: the first of the client's. Where it offers none, the one without a name is, if
/// that is known.
///
/// # Errors
/// Where none of those offered is known.
pub fn choose(headers: &HeaderMap, known: &[&'static str]) -> Result<&'static str, Refusal> {
    let find = |name: &str| known.iter().copied().find(|it| *it == name);
    let found = if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        offered(headers).find_map(find)
    } else {
        find("")
    };
    // Nothing is said of the protocols that there are.
    found.ok_or(refused(StatusCode::FORBIDDEN, ""))
}

/// The answer that makes a WebSocket of the connection that the request with these headers came on, with this body.
#[must_use]
pub fn switching<B>(request: &HeaderMap, protocol: &str, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(protocol) = HeaderValue::from_str(protocol)
        && !protocol.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let key = request.get(SEC_WEBSOCKET_KEY).map(|it| derive_accept_key(it.as_bytes()));
    if let Some(accept) = key.and_then(|it| HeaderValue::try_from(it).ok()) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), value.parse().expect("a header's value"))
            })
            .collect()
    }

    #[test]
    fn what_is_no_websocket_is_refused_in_upstreams_words() {
        let key = ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
        let version = ("sec-websocket-version", "13");
        for (method, given, code, text) in [
            (Method::POST, &[key, version][..], 405, "bad method"),
            (Method::GET, &[version], 400, "mismatch challenge/response"),
            (
                Method::GET,
                &[("sec-websocket-key", ""), version],
                400,
                "mismatch challenge/response",
            ),
            (Method::GET, &[key], 400, "missing or bad WebSocket Version"),
            (
                Method::GET,
                &[key, ("sec-websocket-version", "8")],
                400,
                "missing or bad WebSocket Version",
            ),
        ] {
            let refusal = check(&method, &headers(given)).expect_err("a refusal");
            assert_eq!((refusal.status.as_u16(), refusal.text), (code, text), "{given:?}");
        }
        assert_eq!(check(&Method::GET, &headers(&[key, version])), Ok(()));
    }

    #[test]
    fn a_websocket_is_asked_for_by_two_headers() {
        let upgrade = ("upgrade", "WebSocket");
        assert!(is_asked(&headers(&[("connection", "keep-alive, Upgrade"), upgrade])));
        assert!(!is_asked(&headers(&[upgrade])));
        assert!(!is_asked(&headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")])));
    }

    #[test]
    fn the_clients_favourite_is_spoken() {
        let known = ["", "v4.channel.k8s.io", "channel.k8s.io"];
        let chosen = |offers: &[&str]| {
            let all: Vec<_> = offers.iter().map(|it| ("sec-websocket-protocol", *it)).collect();
            let mut map = HeaderMap::new();
            for (name, value) in all {
                map.append(name, value.parse().expect("a header's value"));
            }
            choose(&map, &known).ok()
        };
        assert_eq!(chosen(&[]), Some(""));
        assert_eq!(chosen(&["nope, channel.k8s.io, v4.channel.k8s.io"]), Some("channel.k8s.io"));
        assert_eq!(chosen(&["nope", "v4.channel.k8s.io"]), Some("v4.channel.k8s.io"));
        assert_eq!(chosen(&["nope"]), None);
    }
}
