//! Cluster IPs: which ones a service needs, which may be given, and the objects that say whose they are. Upstream:
//! `pkg/registry/core/service/ipallocator`.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::validation::parse_ip;
use apimachinery::{Value, value};
use component_base::Random;
use http::Method;
use ipnet::IpNet;

use super::EXTERNAL_NAME;
use super::families::{Family, is_headless, is_settled, texts};
use crate::Server;
use crate::bootstrap::Bootstrap;
use crate::cache::{Cache, cache_key};
use crate::objects::CachedObjects;

const GROUP: &str = "networking.k8s.io";
const PATH: &str = "/apis/networking.k8s.io/v1/ipaddresses";
/// Who makes the objects, by their label.
pub(super) const MANAGER: &str = "ipallocator.k8s.io";
pub(super) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub(super) const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MISMATCH: &str = "the provided network does not match the current range";
const TAKEN: &str = "provided IP is already allocated";
const FULL: &str = "range is full";

/// An address that a service needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Which of the service's addresses.
    place: usize,
    family: Family,
    /// The one that is asked for.
    pub(super) asked: Option<String>,
}

/// What a write means for a service's addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) wanted: Vec<Wanted>,
    pub(super) let_go: Vec<IpAddr>,
}

/// Which addresses a service needs that it does not have, and which it has and needs no more.
pub(super) fn plan(service: &Value, old: Option<&Value>) -> Planned {
    let is_external = |it: &Value| it.str_at(&["spec", "type"]) == EXTERNAL_NAME;
    let addressless = |it: &Value| is_external(it) || is_headless(it);
    let families: Vec<Family> =
        texts(service, "ipFamilies").into_iter().filter_map(Family::parse).collect();
    let given = texts(service, "clusterIPs");
    let wanted = |from: usize| {
        let wanted = families.iter().enumerate().skip(from).map(|(place, family)| {
            let asked = given.get(place).filter(|it| !it.is_empty()).map(|it| (*it).to_owned());
            Wanted { place, family: *family, asked }
        });
        wanted.collect()
    };
    let Some(old) = old else {
        let wanted = if addressless(service) { Vec::new() } else { wanted(0) };
        return Planned { wanted, ..Planned::default() };
    };
    let before = super::cluster_ips(old);
    if is_external(service) {
        let let_go = if addressless(old) { Vec::new() } else { before };
        return Planned { let_go, ..Planned::default() };
    }
    if is_settled(service, Some(old)) {
        return Planned::default();
    }
    if is_external(old) {
        let wanted = if is_headless(service) { Vec::new() } else { wanted(0) };
        return Planned { wanted, ..Planned::default() };
    }
    if is_headless(old) {
        return Planned::default();
    }
    let had = texts(old, "ipFamilies").len();
    match (had, families.len()) {
        (1, 2) => Planned { wanted: wanted(1), ..Planned::default() },
        (2, 1) => Planned { let_go: before.into_iter().skip(1).collect(), ..Planned::default() },
        _ => Planned::default(),
    }
}

/// Writes an address into the service that wants it.
pub(super) fn write(service: &mut Value, wanted: &Wanted, address: IpAddr) {
    let mut all: Vec<String> =
        texts(service, "clusterIPs").into_iter().map(str::to_owned).collect();
    all.resize(all.len().max(wanted.place + 1), String::new());
    if wanted.asked.is_none() {
        all[wanted.place] = address.to_string();
    }
    if wanted.place == 0 {
        service.set_at(&["spec", "clusterIP"], all[0].as_str());
    }
    service.set_at(&["spec", "clusterIPs"], Value::from_iter(all));
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(it) => u128::from(u32::from(it)),
        IpAddr::V6(it) => u128::from(it),
    }
}

/// The address at an offset of a network.
pub(super) fn address_at(net: &IpNet, offset: u128) -> IpAddr {
    let number = number(net.network()) + offset;
    match net {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// A range of a ServiceCIDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    net: IpNet,
    /// Whether addresses may be given of it.
    is_ready: bool,
}

impl Range {
    pub(super) fn net(&self) -> IpNet {
        self.net
    }

    fn family(&self) -> Family {
        Family::of(&self.net.addr())
    }

    /// How many addresses there are: not the network's own, nor the one that all IPv4 hosts listen to.
    pub(super) fn size(&self) -> u128 {
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        let all = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
        all.saturating_sub(if self.family() == Family::V4 { 2 } else { 1 })
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let offset = number(address).wrapping_sub(number(self.net.network()));
        Family::of(&address) == self.family() && (1..=self.size()).contains(&offset)
    }

    /// How many addresses at the beginning are kept for people to choose, as long as there are others.
    fn kept(&self) -> u128 {
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len()).min(16);
        let size = 1_u128 << bits;
        if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
    }

    /// Every address in the order in which they are tried: from anywhere on in the upper part, then in the lower one.
    fn candidates(&self, random: &dyn Random) -> impl Iterator<Item = IpAddr> + Send {
        let (net, kept, size) = (self.net, self.kept(), self.size());
        let part = |from: u128, count: u128| {
            let start = u128::from(random.below(u64::try_from(count).unwrap_or(u64::MAX)));
            (0..count).map(move |it| address_at(&net, 1 + from + (start + it) % count))
        };
        part(kept, size.saturating_sub(kept)).chain(part(0, kept.min(size)))
    }
}

/// The ranges as ServiceCIDRs said when their versions were these.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: Vec<u64>,
    ranges: Arc<[Range]>,
}

/// The caches of addresses and ranges.
pub(super) fn cache<'c>(objects: &'c CachedObjects, resource: &str) -> Option<Cow<'c, Arc<Cache>>> {
    objects.cache(GROUP, resource)
}

/// All ranges there are; before there is any, those that the server was started with.
pub(super) fn ranges(server: &Server, objects: &CachedObjects) -> Arc<[Range]> {
    let all = cache(objects, "servicecidrs").map(|it| it.everything("", 0).objects);
    let versions: Vec<u64> =
        all.iter().flat_map(|it| it.iter()).map(|it| it.resource_version).collect();
    let mut known = server.allocator.ranges.lock();
    if versions.is_empty() {
        let started_with = server.allocator.range.all();
        return started_with.map(|net| Range { net, is_ready: true }).collect();
    }
    if known.versions != versions {
        let values = all.iter().flat_map(|it| it.iter()).filter_map(|it| it.to_value().ok());
        let values: Vec<Value> = values.collect();
        *known = Known { versions, ranges: ranges_of(&values).into() };
    }
    Arc::clone(&known.ranges)
}

/// One range for each network, ready where one of its objects is.
fn ranges_of(objects: &[Value]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for object in objects {
        let conditions = object.items_at(&["status", "conditions"]);
        let ready = conditions.iter().find(|it| it.str_at(&["type"]) == "Ready");
        // Without a word about it a range is ready: its controller may not run.
        let is_ready = object.at(&["metadata", "deletionTimestamp"]).is_none()
            && ready.is_none_or(|it| it.str_at(&["status"]) == "True");
        let nets = object.items_at(&["spec", "cidrs"]).iter();
        for net in nets.filter_map(|it| it.as_str()?.parse::<IpNet>().ok()) {
            let net = net.trunc();
            // Upstream searches no larger ones.
            if net.addr().is_ipv6() && net.prefix_len() < 64 {
                continue;
            }
            match ranges.iter_mut().find(|it| it.net == net) {
                Some(range) => range.is_ready |= is_ready,
                None => ranges.push(Range { net, is_ready }),
            }
        }
    }
    ranges
}

/// Gives a service an address, and says whether its object was made for it.
pub(super) async fn give(
    server: &Arc<Server>,
    wanted: &Wanted,
    owner: &(String, String),
) -> Result<(IpAddr, bool), String> {
    let begun = tokio::time::Instant::now();
    let giving = Giving { server, bootstrap: Bootstrap::new(server), owner };
    let (scope, given) = match &wanted.asked {
        Some(asked) => ("static", giving.asked(asked).await),
        None => ("dynamic", giving.any(wanted.family).await),
    };
    let metrics = &server.allocator.metrics;
    match given {
        Ok((address, range, made)) => {
            metrics.given(&range.net, scope, begun.elapsed());
            Ok((address, made))
        }
        Err(refused) => {
            if let Some(range) = refused.of {
                metrics.refused(&range.net, scope);
            }
            Err(refused.why)
        }
    }
}

/// Why an address could not be had, and of which range.
struct Refused {
    of: Option<Range>,
    why: String,
}

struct Giving<'g> {
    server: &'g Arc<Server>,
    bootstrap: Bootstrap<'g>,
    owner: &'g (String, String),
}

type Given = Result<(IpAddr, Range, bool), Refused>;

impl Giving<'_> {
    async fn asked(&self, asked: &str) -> Given {
        let refused = |of, why: &str| Refused { of, why: why.into() };
        let address = parse_ip(asked).ok_or_else(|| refused(None, MISMATCH))?;
        let ranges = ranges(self.server, self.bootstrap.objects());
        let mut ready = ranges.iter().filter(|it| it.is_ready && it.contains(address));
        let range = *ready.next().ok_or_else(|| refused(None, MISMATCH))?;
        match self.make(address).await {
            Ok(true) => Ok((address, range, true)),
            Ok(false) if self.is_left_over(address) => Ok((address, range, false)),
            Ok(false) => Err(refused(Some(range), TAKEN)),
            Err(why) => Err(Refused { of: Some(range), why }),
        }
    }

    async fn any(&self, family: Family) -> Given {
        let ranges = ranges(self.server, self.bootstrap.objects());
        let cache = cache(self.bootstrap.objects(), "ipaddresses");
        let mut last = None;
        for range in ranges.iter().filter(|it| it.is_ready && it.family() == family) {
            last = Some(*range);
            for address in range.candidates(self.server.random.as_ref()) {
                let name = address.to_string();
                if cache.as_ref().is_some_and(|it| it.get(&name).is_some()) {
                    continue;
                }
                match self.make(address).await {
                    Ok(true) => return Ok((address, *range, true)),
                    // Somebody was faster.
                    Ok(false) => {}
                    Err(why) => return Err(Refused { of: last, why }),
                }
            }
        }
        Err(Refused { of: last, why: FULL.into() })
    }

    /// Whether it could be made: only one can be.
    async fn make(&self, address: IpAddr) -> Result<bool, String> {
        let (namespace, name) = (self.owner.0.as_str(), self.owner.1.as_str());
        let object = object(address, namespace, name);
        let made = self.bootstrap.send(Method::POST, PATH, Some(&object)).await;
        made.map(|it| it.is_some()).map_err(|error| error.into_message())
    }

    /// A server that made the address of this very service ended before it made the service.
    fn is_left_over(&self, address: IpAddr) -> bool {
        let (namespace, name) = (self.owner.0.as_str(), self.owner.1.as_str());
        let objects = self.bootstrap.objects();
        let found = cache(objects, "ipaddresses").and_then(|it| it.get(&address.to_string()));
        let found = found.and_then(|it| it.to_value().ok());
        let services = objects.cache("", "services");
        found.is_some_and(|it| is_of(&it, namespace, name))
            && services.is_none_or(|it| it.get(&cache_key(namespace, name)).is_none())
    }
}

/// The object of a service's address.
pub(super) fn object(address: IpAddr, namespace: &str, name: &str) -> Value {
    let text = address.to_string();
    let family = Family::of(&address).as_str();
    value!({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": (text.as_str()), "labels": {(FAMILY): family, (MANAGED_BY): MANAGER}},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}}})
}

/// Whether an address is a service's.
pub(super) fn is_of(address: &Value, namespace: &str, name: &str) -> bool {
    let parent = |member| address.str_at(&["spec", "parentRef", member]);
    parent("group").is_empty()
        && parent("resource") == "services"
        && parent("namespace") == namespace
        && parent("name") == name
}

/// Takes the object of an address away, where it is this service's.
pub(super) async fn remove(server: &Arc<Server>, address: IpAddr, owner: &(String, String)) {
    let bootstrap = Bootstrap::new(server);
    let name = address.to_string();
    let found = cache(bootstrap.objects(), "ipaddresses").and_then(|it| it.get(&name));
    let of_other = |it: Arc<Obj>| it.to_value().is_ok_and(|it| !is_of(&it, &owner.0, &owner.1));
    if found.is_some_and(of_other) {
        return;
    }
    if let Err(error) = bootstrap.send(Method::DELETE, &format!("{PATH}/{name}"), None).await {
        // Whoever repairs finds it.
        tracing::debug!(%error, "an address of a service stays for now");
    }
}

/// What a write that is not to happen would get: as upstream's, no address that could be anybody's.
pub(super) fn pretend(server: &Arc<Server>, wanted: &Wanted) -> Result<IpAddr, String> {
    let ranges = ranges(server, Bootstrap::new(server).objects());
    let range = ranges.iter().find(|it| it.is_ready && it.family() == wanted.family);
    let range = range.ok_or(FULL)?;
    let Some(asked) = &wanted.asked else { return Ok(range.net.network()) };
    let address = parse_ip(asked).ok_or(MISMATCH)?;
    if ranges.iter().any(|it| it.is_ready && it.contains(address)) {
        return Ok(address);
    }
    let valid = range.net;
    Err(format!(
        "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {valid}"
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use component_base::SeededRandom;

    use super::*;

    fn range(net: &str) -> Range {
        Range { net: net.parse().unwrap(), is_ready: true }
    }

    pub(in crate::allocate) fn ranges_of_one(net: &str) -> Vec<Range> {
        vec![range(net)]
    }

    #[test]
    fn every_address_is_tried_once_those_for_people_last() {
        for (net, kept, size) in [
            ("10.0.0.0/24", 16, 254),
            ("10.0.0.0/28", 0, 14),
            ("10.0.0.0/16", 256, 65_534),
            ("fd00::/120", 16, 255),
        ] {
            let range = range(net);
            assert_eq!((range.kept(), range.size()), (kept, size), "{net}");
            let all: Vec<IpAddr> = range.candidates(&SeededRandom::new(7)).collect();
            let distinct: std::collections::BTreeSet<_> = all.iter().collect();
            assert_eq!((all.len() as u128, distinct.len() as u128), (size, size), "{net}");
            assert!(all.iter().all(|it| range.contains(*it)), "{net}");
            let lower = |it: &IpAddr| number(*it) - number(range.net.network()) <= kept;
            let first = all.iter().position(lower).unwrap_or(all.len());
            assert_eq!(all.len() - first, usize::try_from(kept).unwrap(), "{net}");
        }
        let huge = range("fd00::/64");
        assert!(huge.candidates(&SeededRandom::new(7)).take(3).all(|it| huge.contains(it)));
    }

    #[test]
    fn neither_the_network_nor_its_last_address_is_given() {
        let check = |net: &str, address: &str, expected: bool| {
            assert_eq!(range(net).contains(address.parse().unwrap()), expected, "{net} {address}");
        };
        check("10.0.0.0/24", "10.0.0.0", false);
        check("10.0.0.0/24", "10.0.0.1", true);
        check("10.0.0.0/24", "10.0.0.255", false);
        check("10.0.0.0/24", "10.0.1.1", false);
        check("10.0.0.0/24", "9.255.255.255", false);
        check("fd00::/120", "fd00::ff", true);
        check("fd00::/120", "fd00::", false);
        check("fd00::/120", "10.0.0.1", false);
    }

    #[test]
    fn a_network_is_ready_where_one_of_its_objects_is() {
        let object = |cidr: &str, status: &str, going: bool| {
            let mut it = value!({"spec": {"cidrs": [cidr]}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
            if going {
                it.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
            }
            it
        };
        let all = [
            object("10.0.0.0/24", "False", false),
            object("10.0.0.0/24", "True", false),
            object("10.1.0.0/24", "True", true),
            object("fd00::/48", "True", false),
            value!({"spec": {"cidrs": ["10.2.0.0/24"]}}),
        ];
        let found: Vec<String> =
            ranges_of(&all).iter().map(|it| format!("{} {}", it.net, it.is_ready)).collect();
        assert_eq!(found, ["10.0.0.0/24 true", "10.1.0.0/24 false", "10.2.0.0/24 true"]);
    }

    #[test]
    fn addresses_are_wanted_and_let_go_with_types_and_families() {
        let service = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
        let one = service(
            r#"{"spec":{"type":"ClusterIP","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"ipFamilies":["IPv4"]}}"#,
        );
        let two = service(
            r#"{"spec":{"type":"ClusterIP","clusterIPs":["10.0.0.1","fd00::1"],"ipFamilies":["IPv4","IPv6"]}}"#,
        );
        let upgraded = service(
            r#"{"spec":{"type":"ClusterIP","clusterIPs":["10.0.0.1"],"ipFamilies":["IPv4","IPv6"]}}"#,
        );
        let external = service(r#"{"spec":{"type":"ExternalName"}}"#);
        let check = |new: &Value, old: Option<&Value>, expected: &str| {
            let planned = plan(new, old);
            let wanted = planned.wanted.iter().map(|it| {
                format!("+{}:{}", it.family.as_str(), it.asked.as_deref().unwrap_or("any"))
            });
            let let_go = planned.let_go.iter().map(|it| format!("-{it}"));
            assert_eq!(wanted.chain(let_go).collect::<Vec<_>>().join(" "), expected);
        };
        check(&one, None, "+IPv4:10.0.0.1");
        check(&upgraded, None, "+IPv4:10.0.0.1 +IPv6:any");
        check(&external, None, "");
        check(&one, Some(&one), "");
        check(&upgraded, Some(&one), "+IPv6:any");
        check(&one, Some(&two), "-fd00::1");
        check(&external, Some(&two), "-10.0.0.1 -fd00::1");
        check(&one, Some(&external), "+IPv4:10.0.0.1");
    }
}
