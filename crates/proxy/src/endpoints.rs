//! What the proxy needs of an EndpointSlice.

use std::net::IpAddr;

use compact_str::CompactString;
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};

use crate::service::{PROXY_NAME_LABEL, Protocol, ServiceKey};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Where a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's zone; empty where it has none.
    pub zone: &'a str,
}

/// For whom an endpoint is, as its slice hints: for all, where nobody is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// Nobody is named.
    Absent,
    /// Others are named.
    Elsewhere,
    /// Who is here is named.
    Here,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it takes new connections while it ends, where nobody else does.
    pub serving_terminating: bool,
    /// Whether it is on this node.
    pub local: bool,
    /// Whether it is for this node.
    pub node_hint: Hint,
    /// Whether it is for this node's zone.
    pub zone_hint: Hint,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: CompactString,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port endpoints listen on.
    pub port: u16,
}

/// An EndpointSlice, reduced to what rules follow from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceSpec {
    /// Its endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// Its ports.
    pub ports: Box<[EndpointPort]>,
}

impl SliceSpec {
    /// The Service it belongs to and what rules follow from; `None` where it is not for this proxy.
    #[must_use]
    pub fn project(slice: &EndpointSlice, place: Place<'_>) -> Option<(ServiceKey, Self)> {
        let labels = slice.metadata.labels.as_ref()?;
        if labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL) {
            return None;
        }
        let name = labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        if slice.address_type == "FQDN" {
            return None;
        }
        let endpoints =
            slice.endpoints.iter().flatten().filter_map(|one| endpoint(one, place)).collect();
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(EndpointPort {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: u16::try_from(port.port?).ok().filter(|port| *port != 0)?,
            })
        });
        let spec = Self { endpoints, ports: ports.collect() };
        Some((ServiceKey::new(namespace, name), spec))
    }
}

fn endpoint(endpoint: &ApiEndpoint, place: Place<'_>) -> Option<Endpoint> {
    // The addresses of one endpoint are the same endpoint; as upstream, the first one is used.
    let ip = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    let hints = endpoint.hints.as_ref();
    let nodes = hints.iter().flat_map(|it| it.for_nodes.iter().flatten());
    let nodes = nodes.map(|it| it.name.as_str());
    let zones = hints.iter().flat_map(|it| it.for_zones.iter().flatten());
    let zones = zones.map(|it| it.name.as_str());
    Some(Endpoint {
        ip,
        ready,
        serving_terminating: serving && terminating,
        local: endpoint.node_name.as_deref() == Some(place.node),
        node_hint: hint(nodes, place.node),
        zone_hint: hint(zones, place.zone),
    })
}

fn hint<'a>(mut names: impl Iterator<Item = &'a str>, here: &str) -> Hint {
    match names.next() {
        None => Hint::Absent,
        Some(first) if first == here || names.any(|it| it == here) => Hint::Here,
        Some(_) => Hint::Elsewhere,
    }
}
