//! Which group and version is served by whom.

use std::sync::Arc;

use apimachinery::Value;
use compact_str::{CompactString, ToCompactString, format_compact};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::Aggregator;

/// The port of services whose APIService names none.
const PORT: u16 = 443;

/// A service that stands for an API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) namespace: CompactString,
    pub(crate) name: CompactString,
    pub(crate) port: u16,
}

/// What one APIService sends elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) group: CompactString,
    pub(crate) version: CompactString,
    pub(crate) service: Service,
    /// Whether it answered when it was last asked.
    pub(crate) available: bool,
    /// How to speak with it, or why that cannot be.
    pub(super) tls: Result<(Arc<ClientConfig>, ServerName<'static>), String>,
    /// What it was made of.
    spec: Value,
}

impl Remote {
    /// What an APIService says; `None` where it names no service.
    pub(super) fn of(
        aggregator: &Aggregator,
        object: &Value,
        before: Option<&Self>,
    ) -> Option<Self> {
        let spec = &object["spec"];
        let named = spec.get("service").filter(|it| !it.is_null())?;
        let port = named.i64_at(&["port"]).and_then(|it| u16::try_from(it).ok());
        let service = Service {
            namespace: named.str_at(&["namespace"]).into(),
            name: named.str_at(&["name"]).into(),
            port: port.unwrap_or(PORT),
        };
        let tls = match before {
            Some(before) if before.spec == *spec => before.tls.clone(),
            _ => tls(aggregator, spec, &service),
        };
        Some(Self {
            group: spec.str_at(&["group"]).into(),
            version: spec.str_at(&["version"]).into(),
            available: is_available(object),
            tls,
            service,
            spec: spec.clone(),
        })
    }

    /// Whether both are reached the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.spec == other.spec
    }

    /// The path of its discovery document.
    pub(super) fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}

fn tls(
    aggregator: &Aggregator,
    spec: &Value,
    service: &Service,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let bundle = spec.str_at(&["caBundle"]);
    let config = aggregator.tls((!spec.bool_at(&["insecureSkipTLSVerify"])).then_some(bundle))?;
    let name = format_compact!("{}.{}.svc", service.name, service.namespace);
    let name = ServerName::try_from(name.to_string()).map_err(|error| error.to_string())?;
    Ok((config, name))
}

pub(super) fn is_available(object: &Value) -> bool {
    let mut conditions = object.items_at(&["status", "conditions"]).iter();
    conditions.any(|it| it.str_at(&["type"]) == "Available" && it.str_at(&["status"]) == "True")
}

/// All of them, by group and version.
#[derive(Debug, Default)]
pub(crate) struct Routes(Vec<Arc<Remote>>);

impl Routes {
    pub(super) fn new(mut remotes: Vec<Arc<Remote>>) -> Self {
        remotes.sort_by(|a, b| (&a.group, &a.version).cmp(&(&b.group, &b.version)));
        Self(remotes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn find(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        let place = self
            .0
            .binary_search_by(|it| (it.group.as_str(), it.version.as_str()).cmp(&(group, version)));
        place.ok().map(|place| Arc::clone(&self.0[place]))
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, name, port } = self;
        f.write_str(&[namespace, "/", name, ":", &port.to_compact_string()].concat())
    }
}
