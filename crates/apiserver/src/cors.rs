//! Pages of other sites that may ask from a browser. Upstream: `k8s.io/apiserver/pkg/server/filters/cors.go`.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use regex::Regex;

use crate::Body;

const METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE, PATCH";
const HEADERS: &str = "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, \
    X-Requested-With, If-Modified-Since";
const EXPOSED: &str = "Date";

/// The sites.
#[derive(Debug, Clone)]
pub struct Cors(Vec<Regex>);

impl Cors {
    /// Sites whose origin one of these patterns matches. There is one at least.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let compiled = patterns.iter().map(|it| Regex::new(it).map_err(|why| why.to_string()));
        Ok(Self(compiled.collect::<Result<_, _>>()?))
    }

    /// The answer's headers, where the request comes from one of the sites.
    pub(crate) fn origin<'r, B>(&self, request: &'r Request<B>) -> Option<&'r HeaderValue> {
        let origin = request.headers().get(ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.0.iter().any(|it| it.is_match(text)).then_some(origin)
    }
}

/// Tells the browser that the page may have the answer.
pub(crate) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
        (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A browser asks first whether it may ask: answered before anybody wants to know who asks.
pub(crate) fn preflight(method: &Method) -> Option<Response<Body>> {
    if method != Method::OPTIONS {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sites_that_are_named_may_ask() {
        let cors = Cors::new(&["//example\\.com(:|$)".into(), "^https://b\\.org$".into()]).unwrap();
        for (origin, expected) in [
            ("https://example.com", true),
            ("http://example.com:8080", true),
            ("https://example.com.evil.org", false),
            ("https://b.org", true),
            ("http://b.org", false),
        ] {
            let request = Request::get("/").header(ORIGIN, origin).body(()).unwrap();
            assert_eq!(cors.origin(&request).is_some(), expected, "{origin}");
        }
        assert!(cors.origin(&Request::get("/").body(()).unwrap()).is_none());
        assert!(Cors::new(&["(".into()]).is_err());
    }
}
