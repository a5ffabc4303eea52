//! Answers to questions about the cluster's names, as the Kubernetes DNS specification and CoreDNS give them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use compact_str::CompactString;
use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index::Index;
use crate::records::{Kind, Records};
use crate::zone::{Asked, Zone};

/// The version of the specification.
const VERSION: &str = "1.1.0";
/// As many endpoints as one answer names.
const RECORDS_MAX: usize = 1000;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// These records, and those that spare the client its next question.
    Records {
        /// The answers.
        answers: Vec<Record>,
        /// Addresses of names in the answers.
        additionals: Vec<Record>,
    },
    /// The name exists, but has no such records.
    NoData,
    /// There is no such name.
    NoName,
    /// The name is another one's, which has to be asked about.
    Alias {
        /// The record that says so.
        cname: Box<Record>,
        /// The other name.
        target: Box<Name>,
    },
    /// The name is not ours.
    NotOurs,
}

struct Context<'a> {
    index: &'a Index,
    /// As the client wrote it, so that it gets the same letters back.
    name: &'a Name,
    kind: RecordType,
}

/// A name, an address and the ports there: what the answers to most questions are made of.
struct Target {
    name: Option<Name>,
    ip: IpAddr,
    ports: Vec<u16>,
}

impl Index {
    /// What is to be said to a question of class IN.
    #[must_use]
    pub fn answer(&self, question: &Query) -> Outcome {
        let context = Context { index: self, name: question.name(), kind: question.query_type() };
        match self.zone.parse(question.name()) {
            Some(asked) => context.answer(asked),
            None => context.reverse().unwrap_or(Outcome::NotOurs),
        }
    }

    /// The record that says how long a denial holds.
    pub(crate) fn soa(&self) -> Option<Record> {
        // The serial number means nothing: nobody transfers the zone.
        let (master, mailbox) = (self.zone.below("ns.dns")?, self.zone.below("hostmaster")?);
        let minimum = self.ttl;
        let soa = SOA::new(master, mailbox, 1, 7200, 1800, 86400, minimum);
        Some(Record::from_rdata(self.zone.name.clone(), self.ttl, RData::SOA(soa)))
    }
}

impl Context<'_> {
    fn answer(&self, asked: Asked) -> Outcome {
        let exists = |exists: bool| if exists { Outcome::NoData } else { Outcome::NoName };
        match asked {
            Asked::Apex => self.apex(),
            Asked::Version => {
                self.only(RecordType::TXT, || vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))])
            }
            Asked::NameServer => self.addresses(self.index.service_ips.iter().copied()),
            Asked::Empty => Outcome::NoData,
            Asked::Namespace(namespace) => exists(self.index.has_namespace(&namespace)),
            Asked::Pod { ip, namespace } => {
                if self.index.has_namespace(&namespace) {
                    self.addresses([ip].into_iter())
                } else {
                    Outcome::NoName
                }
            }
            Asked::Protocol { key } => exists(self.index.service(&key).is_some()),
            Asked::Service { key, port } => match self.index.service(&key) {
                Some(records) => self.service(&key, &records, port.as_ref()),
                None => Outcome::NoName,
            },
            Asked::Endpoint { hostname, key } => match self.index.service(&key) {
                Some(records) => self.endpoint(&key, &records, &hostname),
                None => Outcome::NoName,
            },
            Asked::Nothing => Outcome::NoName,
        }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.index.ttl, data)
    }

    fn records(&self, data: impl IntoIterator<Item = RData>) -> Outcome {
        let mut answers: Vec<_> = data.into_iter().map(|data| self.record(data)).collect();
        if answers.is_empty() {
            return Outcome::NoData;
        }
        // Clients take the first one: each of them is first in turn.
        let turn = self.index.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
        answers.rotate_left(turn);
        Outcome::Records { answers, additionals: Vec::new() }
    }

    fn only(&self, kind: RecordType, data: impl FnOnce() -> Vec<RData>) -> Outcome {
        if self.kind == kind { self.records(data()) } else { Outcome::NoData }
    }

    fn addresses(&self, ips: impl Iterator<Item = IpAddr>) -> Outcome {
        self.records(ips.filter_map(|ip| address(ip, self.kind)))
    }

    fn apex(&self) -> Outcome {
        match self.kind {
            RecordType::SOA => match self.index.soa() {
                Some(soa) => Outcome::Records { answers: vec![soa], additionals: Vec::new() },
                None => Outcome::NoData,
            },
            RecordType::NS => {
                self.records(self.index.zone.below("ns.dns").map(|name| RData::NS(NS(name))))
            }
            _ => Outcome::NoData,
        }
    }

    fn service(
        &self,
        key: &CompactString,
        records: &Records,
        port: Option<&(CompactString, CompactString)>,
    ) -> Outcome {
        match &records.service.kind {
            Kind::External(target) => self.alias(target),
            Kind::ClusterIp(ips) => {
                let ports = records.service.ports.iter().filter(|candidate| candidate.is(port));
                let ports: Vec<_> = ports.map(|port| port.number).collect();
                if ports.is_empty() && port.is_some() {
                    return Outcome::NoName;
                }
                let name = below_svc(&self.index.zone, key);
                let target =
                    |ip: &IpAddr| Target { name: name.clone(), ip: *ip, ports: ports.clone() };
                self.targets(&ips.iter().map(target).collect::<Vec<_>>())
            }
            Kind::Headless => {
                let targets = self.endpoints(key, records, port, None);
                if targets.is_empty() { Outcome::NoName } else { self.targets(&targets) }
            }
        }
    }

    fn endpoint(&self, key: &CompactString, records: &Records, hostname: &str) -> Outcome {
        let targets = self.endpoints(key, records, None, Some(hostname));
        if targets.is_empty() { Outcome::NoName } else { self.targets(&targets) }
    }

    fn endpoints(
        &self,
        key: &CompactString,
        records: &Records,
        port: Option<&(CompactString, CompactString)>,
        hostname: Option<&str>,
    ) -> Vec<Target> {
        let mut targets = Vec::new();
        // An endpoint may be in two slices while it moves between them.
        let mut seen = BTreeSet::new();
        for slice in &records.slices {
            let ports = slice.ports.iter().filter(|candidate| candidate.is(port));
            let ports: Vec<_> = ports.map(|port| port.number).collect();
            if ports.is_empty() && port.is_some() {
                continue;
            }
            let wanted = slice
                .endpoints
                .iter()
                .filter(|endpoint| hostname.is_none_or(|hostname| endpoint.hostname == hostname));
            for endpoint in wanted.take(RECORDS_MAX) {
                if !seen.insert((endpoint.ip, ports.clone())) {
                    continue;
                }
                let name = (self.kind == RecordType::SRV)
                    .then(|| below_svc(&self.index.zone, &format!("{}.{key}", endpoint.hostname)))
                    .flatten();
                targets.push(Target { name, ip: endpoint.ip, ports: ports.clone() });
            }
        }
        targets
    }

    fn targets(&self, targets: &[Target]) -> Outcome {
        if self.kind == RecordType::SRV {
            return self.locations(targets);
        }
        let ips: BTreeSet<_> = targets.iter().map(|target| target.ip).collect();
        self.addresses(ips.into_iter())
    }

    /// SRV records, with the addresses of their targets.
    fn locations(&self, targets: &[Target]) -> Outcome {
        let named = targets.iter().filter_map(|target| Some((target, target.name.as_ref()?)));
        // Both addresses of a target stand for one location.
        let pairs: BTreeSet<(&Name, u16)> = named
            .clone()
            .flat_map(|(target, name)| target.ports.iter().map(move |port| (name, *port)))
            .collect();
        let count = u16::try_from(pairs.len()).unwrap_or(u16::MAX).max(1);
        let weight = (100 / count).max(1);
        let locations = pairs
            .into_iter()
            .map(|(name, port)| RData::SRV(SRV::new(0, weight, port, name.clone())));
        let mut outcome = self.records(locations);
        if let Outcome::Records { additionals, .. } = &mut outcome {
            let address = |(target, name): (&Target, &Name)| {
                let data = data(target.ip);
                Record::from_rdata(name.clone(), self.index.ttl, data)
            };
            additionals.extend(named.map(address));
        }
        outcome
    }

    fn alias(&self, target: &Name) -> Outcome {
        match self.kind {
            RecordType::A | RecordType::AAAA | RecordType::CNAME => {
                let cname = self.record(RData::CNAME(CNAME(target.clone())));
                if self.kind == RecordType::CNAME {
                    return Outcome::Records { answers: vec![cname], additionals: Vec::new() };
                }
                Outcome::Alias { cname: Box::new(cname), target: Box::new(target.clone()) }
            }
            _ => Outcome::NoData,
        }
    }

    /// The names of an address that is ours.
    fn reverse(&self) -> Option<Outcome> {
        if self.kind != RecordType::PTR {
            return None;
        }
        let net = self.name.parse_arpa_name().ok()?;
        if net.prefix_len() != net.max_prefix_len() {
            return None;
        }
        let names = self.index.names(net.addr())?;
        let name = |name: &CompactString| below_svc(&self.index.zone, name);
        Some(self.records(names.iter().filter_map(name).map(|name| RData::PTR(PTR(name)))))
    }
}

fn below_svc(zone: &Zone, name: &str) -> Option<Name> {
    zone.below(&format!("{name}.svc"))
}

fn data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn address(ip: IpAddr, kind: RecordType) -> Option<RData> {
    match (ip, kind) {
        (IpAddr::V4(_), RecordType::A) | (IpAddr::V6(_), RecordType::AAAA) => Some(data(ip)),
        _ => None,
    }
}
