//! Where a webhook is: a URL, or a service of the cluster.

use std::borrow::Cow;
use std::time::Duration;

use apimachinery::Value;
use http::Uri;

/// The port of URLs that name none, and of services whose configuration names none.
const PORT: u16 = 443;

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    Url {
        /// As the configuration has it.
        text: String,
        /// `host:port`
        host: String,
        name: String,
    },
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
        /// `name.namespace.svc`
        server_name: String,
    },
}

impl Destination {
    /// What a `clientConfig` names.
    pub(crate) fn of(config: &Value) -> Result<Self, String> {
        if let Some(service) = config.get("service").filter(|it| !it.is_null()) {
            let text = |member| service.str_at(&[member]).to_owned();
            let (namespace, name, path) = (text("namespace"), text("name"), text("path"));
            let port = service.i64_at(&["port"]).and_then(|it| u16::try_from(it).ok());
            let port = port.filter(|it| *it > 0).unwrap_or(PORT);
            let server_name = format!("{name}.{namespace}.svc");
            return Ok(Self::Service { namespace, name, port, path, server_name });
        }
        let text = config.str_at(&["url"]);
        if text.is_empty() {
            return Err("webhook configuration must have either service or URL".into());
        }
        Self::of_url(text, None)
    }

    /// A URL, whose certificate may be for another name.
    pub(crate) fn of_url(text: &str, server_name: Option<&str>) -> Result<Self, String> {
        let url: Uri = text.parse().map_err(|error| format!("Unparsable URL: {error}"))?;
        let name = url.host().unwrap_or_default();
        let host = format!("{name}:{}", url.port_u16().unwrap_or(PORT));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = server_name.unwrap_or(name).to_owned();
        Ok(Self::Url { text: text.to_owned(), host, name })
    }

    /// The host of that URL.
    pub(crate) fn host(&self) -> Cow<'_, str> {
        match self {
            Self::Url { host, .. } => host.into(),
            Self::Service { server_name, port, .. } => format!("{server_name}:{port}").into(),
        }
    }

    /// The URL that is posted to, which tells how long the answer is waited for.
    pub(crate) fn url(&self, timeout: Option<Duration>) -> String {
        let mut url = match self {
            Self::Url { text, .. } => text.clone(),
            Self::Service { server_name, port, path, .. } => {
                let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
                format!("https://{server_name}:{port}{slash}{path}")
            }
        };
        if let Some(timeout) = timeout {
            // Rounded up to whole seconds.
            let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
            url.push_str(&format!("?timeout={seconds}s"));
        }
        url
    }

    /// What the certificate has to be for.
    pub(crate) fn server_name(&self) -> &str {
        match self {
            Self::Url { name, .. } => name,
            Self::Service { server_name, .. } => server_name,
        }
    }
}
