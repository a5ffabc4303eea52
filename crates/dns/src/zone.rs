//! Names below the cluster domain, and what each asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use compact_str::CompactString;
use hickory_proto::rr::Name;

use crate::DnsError;

/// The cluster domain.
#[derive(Debug, Clone)]
pub struct Zone {
    pub(crate) name: Name,
    labels: Vec<CompactString>,
}

/// What a name below the zone stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The zone itself.
    Apex,
    /// `dns-version`
    Version,
    /// `ns.dns`
    NameServer,
    /// A name that only has others below it: `svc`, `pod`.
    Empty,
    /// `NAMESPACE.svc`, `NAMESPACE.pod`
    Namespace(CompactString),
    /// `[_PORT._PROTOCOL.]SERVICE.NAMESPACE.svc`
    Service { key: CompactString, port: Option<(CompactString, CompactString)> },
    /// `HOSTNAME.SERVICE.NAMESPACE.svc`
    Endpoint { hostname: CompactString, key: CompactString },
    /// `_PROTOCOL.SERVICE.NAMESPACE.svc`
    Protocol { key: CompactString },
    /// `1-2-3-4.NAMESPACE.pod`
    Pod { ip: IpAddr, namespace: CompactString },
    /// Nothing that could exist.
    Nothing,
}

impl Zone {
    /// The zone called `name`, such as `cluster.local`.
    ///
    /// # Errors
    /// When that is not a domain name.
    pub fn new(name: &str) -> Result<Self, DnsError> {
        let bad = || DnsError::Zone(name.to_owned());
        let mut parsed = Name::from_ascii(name).map_err(|_| bad())?.to_lowercase();
        parsed.set_fqdn(true);
        let labels: Vec<_> = lower_labels(&parsed).ok_or_else(bad)?;
        if labels.is_empty() {
            return Err(bad());
        }
        Ok(Self { name: parsed, labels })
    }

    /// The name `relative` below the zone.
    pub(crate) fn below(&self, relative: &str) -> Option<Name> {
        let relative = Name::from_ascii(relative).ok()?;
        relative.append_domain(&self.name).ok()
    }

    /// What `name` asks for; `None` where it is not below the zone.
    pub(crate) fn parse(&self, name: &Name) -> Option<Asked> {
        let labels = lower_labels(name)?;
        let relative = labels.strip_suffix(self.labels.as_slice())?;
        Some(asked(relative))
    }
}

/// Labels in lower case; `None` where one is not plain text, as no name of ours is.
fn lower_labels(name: &Name) -> Option<Vec<CompactString>> {
    name.iter()
        .map(|label| {
            let mut text = CompactString::from_utf8(label).ok()?;
            text.make_ascii_lowercase();
            Some(text)
        })
        .collect()
}

fn asked(relative: &[CompactString]) -> Asked {
    let parts: Vec<&str> = relative.iter().map(CompactString::as_str).collect();
    match parts.as_slice() {
        [] => Asked::Apex,
        ["dns-version"] => Asked::Version,
        ["ns", "dns"] => Asked::NameServer,
        ["dns" | "svc" | "pod"] => Asked::Empty,
        [namespace, "svc" | "pod"] => Asked::Namespace((*namespace).into()),
        [address, namespace, "pod"] => pod_ip(address)
            .map_or(Asked::Nothing, |ip| Asked::Pod { ip, namespace: (*namespace).into() }),
        [name, namespace, "svc"] => Asked::Service { key: key(name, namespace), port: None },
        ["_tcp" | "_udp" | "_sctp", name, namespace, "svc"] => {
            Asked::Protocol { key: key(name, namespace) }
        }
        [hostname, name, namespace, "svc"] => {
            Asked::Endpoint { hostname: (*hostname).into(), key: key(name, namespace) }
        }
        [port, protocol, name, namespace, "svc"] => {
            match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => Asked::Service {
                    key: key(name, namespace),
                    port: Some((port.into(), protocol.into())),
                },
                _ => Asked::Nothing,
            }
        }
        _ => Asked::Nothing,
    }
}

/// How the index knows a Service.
pub(crate) fn key(name: &str, namespace: &str) -> CompactString {
    let mut key = CompactString::with_capacity(name.len() + namespace.len() + 1);
    key.push_str(name);
    key.push('.');
    key.push_str(namespace);
    key
}

/// `1-2-3-4` or `fd00--1`.
fn pod_ip(label: &str) -> Option<IpAddr> {
    let dotted = label.replace('-', ".");
    dotted
        .parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

/// The name of an endpoint that has none of its own.
pub(crate) fn dashed(ip: IpAddr) -> CompactString {
    let text = ip.to_string();
    text.chars().map(|c| if matches!(c, '.' | ':') { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_ask_for() {
        let zone = Zone::new("Cluster.Local.").unwrap();
        for (name, expected) in [
            ("cluster.local.", "Some(Apex)"),
            ("example.org.", "None"),
            ("notcluster.local.", "None"),
            ("SVC.Cluster.LOCAL.", "Some(Empty)"),
            ("ns.svc.cluster.local.", "Some(Namespace(\"ns\"))"),
            ("A.Ns.svc.cluster.local.", "Some(Service { key: \"a.ns\", port: None })"),
            ("_tcp.a.ns.svc.cluster.local.", "Some(Protocol { key: \"a.ns\" })"),
            ("h.a.ns.svc.cluster.local.", "Some(Endpoint { hostname: \"h\", key: \"a.ns\" })"),
            (
                "_P._tcp.a.ns.svc.cluster.local.",
                "Some(Service { key: \"a.ns\", port: Some((\"p\", \"tcp\")) })",
            ),
            ("p.tcp.a.ns.svc.cluster.local.", "Some(Nothing)"),
            ("x.y.z.a.ns.svc.cluster.local.", "Some(Nothing)"),
            ("1-2-3-4.ns.pod.cluster.local.", "Some(Pod { ip: 1.2.3.4, namespace: \"ns\" })"),
            ("fd00--1.ns.pod.cluster.local.", "Some(Pod { ip: fd00::1, namespace: \"ns\" })"),
            ("web-0.ns.pod.cluster.local.", "Some(Nothing)"),
            ("dns-version.cluster.local.", "Some(Version)"),
        ] {
            let asked = zone.parse(&Name::from_ascii(name).unwrap());
            assert_eq!(format!("{asked:?}"), expected, "{name}");
        }
        for bad in ["", ".", "a..b", &"x".repeat(70)] {
            assert!(Zone::new(bad).is_err(), "{bad}");
        }
    }
}
