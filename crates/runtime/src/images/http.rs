//! Asking a registry: redirects, and authentication when it is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use component_base::with_causes;
use cri::AuthConfig;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::Deserialize;

use super::registries::{Endpoint, HostTls};
use super::store::ImageError;
use super::tls;

/// How long a registry may take to begin an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an answer may lead elsewhere.
const MAX_REDIRECTS: usize = 10;
/// The largest token answer.
const MAX_TOKEN_BYTES: usize = 1 << 20;

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Clients by trust, kept for their connections.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<BTreeMap<HostTls, HttpClient>>);

impl Clients {
    fn get(&self, tls: &HostTls) -> Result<HttpClient, ImageError> {
        let mut clients = self.0.lock();
        if let Some(client) = clients.get(tls) {
            return Ok(client.clone());
        }
        let config = tls::client_config(tls).map_err(ImageError::Unavailable)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        clients.insert(tls.clone(), client.clone());
        Ok(client)
    }
}

/// One repository of one registry, during one pull.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    clients: &'a Clients,
    endpoint: &'a Endpoint,
    repository: &'a str,
    credentials: Option<AuthConfig>,
    /// What the registry wants to see.
    authorization: Mutex<Option<HeaderValue>>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// `manifests` or `blobs`.
    pub(crate) kind: &'a str,
    /// A tag or digest.
    pub(crate) object: &'a str,
    /// Media types.
    pub(crate) accept: &'a str,
    /// From this byte on.
    pub(crate) from: u64,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        clients: &'a Clients,
        endpoint: &'a Endpoint,
        repository: &'a str,
        credentials: Option<&AuthConfig>,
    ) -> Self {
        let credentials = credentials.cloned().or_else(|| endpoint.auth.clone());
        let ready = credentials
            .as_ref()
            .filter(|c| !c.registry_token.is_empty())
            .and_then(|c| HeaderValue::from_str(&format!("Bearer {}", c.registry_token)).ok());
        Self { clients, endpoint, repository, credentials, authorization: Mutex::new(ready) }
    }

    /// Asks, authenticating once when told to.
    pub(crate) async fn get(&self, wanted: Wanted<'_>) -> Result<Response<Incoming>, ImageError> {
        let Endpoint { base, namespace, .. } = self.endpoint;
        let query = namespace.as_ref().map(|ns| format!("?ns={ns}")).unwrap_or_default();
        let Wanted { kind, object, .. } = wanted;
        let url = format!("{base}/{}/{kind}/{object}{query}", self.repository);
        let first = self.follow(&url, wanted).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        let challenges: Vec<String> = first
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|h| h.to_str().ok().map(str::to_owned))
            .collect();
        let header = self.answer(&challenges).await?;
        *self.authorization.lock() = Some(header);
        self.follow(&url, wanted).await
    }

    async fn follow(
        &self,
        url: &str,
        wanted: Wanted<'_>,
    ) -> Result<Response<Incoming>, ImageError> {
        let mut uri: Uri = url.parse().map_err(|_| bad_address(url))?;
        let home = uri.authority().cloned();
        for _ in 0..MAX_REDIRECTS {
            let mut request = Request::builder().method(Method::GET).uri(uri.clone());
            // The secret is for the registry, not for where it points to.
            let secret = self.authorization.lock().clone();
            if let (Some(secret), true) = (secret, uri.authority() == home.as_ref()) {
                request = request.header(AUTHORIZATION, secret);
            }
            if !wanted.accept.is_empty() {
                request = request.header(ACCEPT, wanted.accept);
            }
            if wanted.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", wanted.from));
            }
            let response = self.send(request).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|h| h.to_str().ok());
            let target = target.ok_or_else(|| bad_address(url))?;
            uri = absolute(&uri, target).ok_or_else(|| bad_address(target))?;
        }
        Err(ImageError::Unavailable(format!("stopped after {MAX_REDIRECTS} redirects")))
    }

    async fn send(
        &self,
        request: http::request::Builder,
    ) -> Result<Response<Incoming>, ImageError> {
        let request = request
            .body(Empty::new())
            .map_err(|e| ImageError::Invalid(format!("make a request: {e}")))?;
        let uri = request.uri().to_string();
        let client = self.clients.get(&self.endpoint.tls)?;
        match tokio::time::timeout(ANSWER_TIMEOUT, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(ImageError::Unavailable(format!(
                "failed to do request: Get {uri:?}: {}",
                with_causes(&error)
            ))),
            Err(_) => Err(ImageError::Unavailable(format!(
                "failed to do request: Get {uri:?}: timed out"
            ))),
        }
    }

    /// What to show the registry for its challenges.
    async fn answer(&self, challenges: &[String]) -> Result<HeaderValue, ImageError> {
        for challenge in challenges {
            let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let token = self.token(&parameters(rest)).await?;
                return HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| ImageError::Denied("the registry's token is not usable".into()));
            }
            if scheme.eq_ignore_ascii_case("basic")
                && let Some(basic) = self.credentials.as_ref().and_then(basic)
            {
                return Ok(basic);
            }
        }
        Err(ImageError::Denied(
            "pull access denied, repository does not exist or may require authorization: \
             authorization failed: no basic auth credentials"
                .into(),
        ))
    }

    async fn token(&self, parameters: &BTreeMap<String, String>) -> Result<String, ImageError> {
        let realm = parameters
            .get("realm")
            .ok_or_else(|| ImageError::Denied("the registry names no realm".into()))?;
        let mut url = url::form(realm);
        if let Some(service) = parameters.get("service") {
            url.add("service", service);
        }
        let own = format!("repository:{}:pull", self.repository);
        url.add("scope", parameters.get("scope").unwrap_or(&own));
        let mut request = Request::builder().method(Method::GET).uri(&url.text);
        let secret = self.credentials.as_ref().and_then(basic);
        let anonymous = secret.is_none();
        if let Some(secret) = secret {
            request = request.header(AUTHORIZATION, secret);
        }
        let response = self.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            let kind = if anonymous { "anonymous" } else { "oauth" };
            return Err(ImageError::Denied(format!(
                "failed to authorize: failed to fetch {kind} token: unexpected status from GET \
                 request to {}: {status}",
                url.text
            )));
        }
        let body = Limited::new(response.into_body(), MAX_TOKEN_BYTES)
            .collect()
            .await
            .map_err(|e| ImageError::Unavailable(format!("read token: {e}")))?
            .to_bytes();
        let token: Token = serde_json::from_slice(&body)
            .map_err(|e| ImageError::Denied(format!("decode token: {e}")))?;
        [token.token, token.access_token]
            .into_iter()
            .find(|t| !t.is_empty())
            .ok_or_else(|| ImageError::Denied("the registry gave no token".into()))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Token {
    token: String,
    access_token: String,
}

/// Adding to a query.
mod url {
    pub(super) struct Form {
        pub(super) text: String,
    }

    pub(super) fn form(base: &str) -> Form {
        Form { text: base.to_owned() }
    }

    impl Form {
        pub(super) fn add(&mut self, name: &str, value: &str) {
            self.text.push(if self.text.contains('?') { '&' } else { '?' });
            self.text += name;
            self.text.push('=');
            for byte in value.bytes() {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                    self.text.push(char::from(byte));
                } else {
                    self.text += &format!("%{byte:02X}");
                }
            }
        }
    }
}

fn bad_address(text: &str) -> ImageError {
    ImageError::Unavailable(format!("{text:?} is not an address"))
}

/// `target` seen from `from`.
fn absolute(from: &Uri, target: &str) -> Option<Uri> {
    let uri: Uri = target.parse().ok()?;
    if uri.scheme().is_some() {
        return Some(uri);
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn basic(credentials: &AuthConfig) -> Option<HeaderValue> {
    let encoded = if !credentials.auth.is_empty() {
        credentials.auth.clone()
    } else if !credentials.username.is_empty() || !credentials.password.is_empty() {
        let pair = format!("{}:{}", credentials.username, credentials.password);
        base64::engine::general_purpose::STANDARD.encode(pair)
    } else {
        return None;
    };
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `name="value",name=value`.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').map_or((after, ""), |(v, r)| (v, r)),
        };
        all.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        rest = after.trim_start_matches([',', ' ']);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text =
            r#"realm="https://auth.x/token?a=1",service=reg.x, scope="repository:a/b:pull,push""#;
        let got = parameters(text);
        assert_eq!(got["realm"], "https://auth.x/token?a=1");
        assert_eq!(got["service"], "reg.x");
        assert_eq!(got["scope"], "repository:a/b:pull,push");
        let mut url = url::form(&got["realm"]);
        url.add("scope", "a/b:c");
        assert_eq!(url.text, "https://auth.x/token?a=1&scope=a%2Fb%3Ac");
    }

    #[test]
    fn redirects_may_be_relative() {
        let from: Uri = "https://a:5/v2/x".parse().unwrap();
        for (target, expected) in [("/y?z=1", "https://a:5/y?z=1"), ("https://b/c", "https://b/c")]
        {
            assert_eq!(absolute(&from, target).unwrap().to_string(), expected);
        }
    }
}
