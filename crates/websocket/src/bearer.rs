//! Tokens among the protocols that a client offers: a browser can set no other header of a WebSocket's request.
//!
//! Upstream: `k8s.io/apiserver/pkg/authentication/request/websocket`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};

/// What stands before the token, which is written in base64 for URLs.
const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Why a token among the protocols is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// There are several.
    #[error("multiple base64.bearer.authorization tokens specified")]
    Several,
    /// It is no base64 for URLs without padding, or what that says cannot stand in a header.
    #[error("invalid base64.bearer.authorization token encoding")]
    Encoding,
    /// No protocol is offered besides, which the answer could name.
    #[error("missing additional subprotocol")]
    Alone,
}

/// Makes a token among the protocols that of `Authorization`, unless the request has one there; the protocols are those
/// that are left.
///
/// # Errors
/// Where there is a token that cannot be read: the request is nobody's then.
pub fn take(headers: &mut HeaderMap) -> Result<(), Bad> {
    if headers.contains_key(AUTHORIZATION) || !super::is_asked(headers) {
        return Ok(());
    }
    let (tokens, others): (Vec<&str>, Vec<&str>) =
        super::offered(headers).partition(|it| it.starts_with(PREFIX));
    let token = match tokens[..] {
        [] => return Ok(()),
        [token] => token.strip_prefix(PREFIX).unwrap_or_default(),
        _ => return Err(Bad::Several),
    };
    let token = URL_SAFE_NO_PAD.decode(token).ok().and_then(|it| String::from_utf8(it).ok());
    let token = token.ok_or(Bad::Encoding)?;
    if token.is_empty() {
        return Ok(());
    }
    if others.is_empty() {
        return Err(Bad::Alone);
    }
    let value = |text: String| HeaderValue::try_from(text).map_err(|_| Bad::Encoding);
    let (mut bearer, others) = (value(format!("Bearer {token}"))?, value(others.join(","))?);
    bearer.set_sensitive(true);
    headers.insert(AUTHORIZATION, bearer);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_with_the_protocols() {
        let taken = |protocols: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket")] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().expect("a header's value"));
            take(&mut headers).map(|()| {
                let text = |name| {
                    headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned()
                };
                (text(AUTHORIZATION), text(SEC_WEBSOCKET_PROTOCOL))
            })
        };
        let token = format!("{PREFIX}dG9rZW4");
        let ok = |token: &str, rest: &str| Ok((token.to_owned(), rest.to_owned()));
        assert_eq!(taken(&format!("a, {token}, b")), ok("Bearer token", "a,b"));
        assert_eq!(taken("a, b"), ok("", "a, b"));
        assert_eq!(taken(&token), Err(Bad::Alone));
        assert_eq!(taken(&format!("{token}, a, {token}")), Err(Bad::Several));
        assert_eq!(taken(&format!("a, {PREFIX}=")), Err(Bad::Encoding));
        assert_eq!(taken(&format!("a, {PREFIX}DQo")), Err(Bad::Encoding));
    }
}
