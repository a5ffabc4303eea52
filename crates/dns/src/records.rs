//! What DNS needs of a Service and its EndpointSlices.

use std::net::IpAddr;

use compact_str::CompactString;
use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::zone::{dashed, key};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A port with a name, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: CompactString,
    pub(crate) protocol: CompactString,
    pub(crate) number: u16,
}

impl Port {
    fn new(name: Option<&str>, protocol: Option<&str>, number: u16) -> Self {
        let lower = |text: &str| CompactString::from(text.to_ascii_lowercase());
        let name = lower(name.unwrap_or_default());
        Self { name, protocol: lower(protocol.unwrap_or("tcp")), number }
    }

    /// Whether it is the one asked for: any, where none is.
    pub(crate) fn is(&self, asked: Option<&(CompactString, CompactString)>) -> bool {
        asked.is_none_or(|(name, protocol)| self.name == *name && self.protocol == *protocol)
    }
}

/// What a Service's name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its own addresses.
    ClusterIp(Box<[IpAddr]>),
    /// Its endpoints.
    Headless,
    /// Another name.
    External(Name),
}

/// A Service as told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceSpec {
    pub(crate) kind: Kind,
    pub(crate) ports: Box<[Port]>,
}

/// An endpoint that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    /// Its own name, or one made of its address.
    pub(crate) hostname: CompactString,
    /// Whether it is its own.
    pub(crate) named: bool,
}

/// A slice as told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceSpec {
    pub(crate) endpoints: Box<[Endpoint]>,
    pub(crate) ports: Box<[Port]>,
}

/// Everything that answers are made of.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) service: ServiceSpec,
    pub(crate) slices: Vec<SliceSpec>,
}

impl ServiceSpec {
    /// What DNS needs of a Service; `None` where it has no name in DNS.
    pub(crate) fn project(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            Some(Port::new(port.name.as_deref(), port.protocol.as_deref(), number))
        });
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            let mut name = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
            name.set_fqdn(true);
            Kind::External(name)
        } else if spec.cluster_ip.as_deref() == Some("None") {
            Kind::Headless
        } else {
            let many = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok());
            let mut ips: Vec<IpAddr> = many.collect();
            if ips.is_empty() {
                ips.extend(spec.cluster_ip.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
            }
            // The address is not there yet.
            if ips.is_empty() {
                return None;
            }
            Kind::ClusterIp(ips.into())
        };
        Some(Self { kind, ports: ports.collect() })
    }
}

impl SliceSpec {
    /// The key of the Service it belongs to and what DNS needs of it.
    pub(crate) fn project(slice: &EndpointSlice) -> Option<(CompactString, Self)> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        if slice.address_type == "FQDN" {
            return None;
        }
        let mut endpoints = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            if conditions.and_then(|conditions| conditions.ready) == Some(false) {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()) {
                let own = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
                let hostname = own.map_or_else(|| dashed(ip), |n| n.to_ascii_lowercase().into());
                endpoints.push(Endpoint { ip, hostname, named: own.is_some() });
            }
        }
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            Some(Port::new(port.name.as_deref(), port.protocol.as_deref(), number))
        });
        let spec = Self { endpoints: endpoints.into(), ports: ports.collect() };
        Some((key(service, namespace), spec))
    }
}
