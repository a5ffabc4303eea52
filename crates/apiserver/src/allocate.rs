//! Addresses and ports that services reserve: cluster IPs, node ports, ports of health checks.
//!
//! Each cluster IP is an object, an IPAddress, made before the service is stored and removed with it: the store lets
//! only one be made, whoever asks and on whichever server. Node ports are those of the stored services and of writes in
//! flight; where other servers share the store, the bitmap that upstream's keep there decides. What a crash leaves
//! behind [`repair`] puts right. Upstream: `pkg/registry/core/service/storage/alloc.go`.

mod addresses;
mod bitmap;
mod families;
mod metrics;
mod ports;
pub mod repair;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value};
use futures::future::BoxFuture;
use ipnet::IpNet;
use parking_lot::Mutex;

pub(crate) use self::bitmap::{KIND as RANGE_ALLOCATION, from_protobuf, to_protobuf};
use self::families::Family;
use crate::Server;
use crate::persist;
use crate::target::Target;

const EXTERNAL_NAME: &str = "ExternalName";
const HEADLESS: &str = "None";

/// The ranges services get their addresses from, as flags say: one, or one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRange {
    primary: IpNet,
    secondary: Option<IpNet>,
}

impl ServiceRange {
    /// The addresses of `base/prefix_length`.
    #[must_use]
    pub fn new(base: std::net::Ipv4Addr, prefix_length: u8) -> Self {
        let net = ipnet::Ipv4Net::new(base, prefix_length.min(30)).unwrap_or_default();
        Self { primary: IpNet::V4(net.trunc()), secondary: None }
    }

    /// The ranges of a flag, the default family's first.
    ///
    /// # Errors
    /// Where there is none, there are more than two, or two of one family; or where one is too large.
    pub fn of(ranges: &[IpNet]) -> Result<Self, String> {
        for range in ranges {
            let (shortest, longest) = if range.addr().is_ipv4() { (8, 28) } else { (64, 124) };
            if !(shortest..=longest).contains(&range.prefix_len()) {
                return Err(format!(
                    "{range}: the prefix must be between /{shortest} and /{longest}"
                ));
            }
        }
        let family = |it: &IpNet| it.addr().is_ipv4();
        match ranges {
            [primary] => Ok(Self { primary: primary.trunc(), secondary: None }),
            [primary, secondary] if family(primary) != family(secondary) => {
                Ok(Self { primary: primary.trunc(), secondary: Some(secondary.trunc()) })
            }
            [_, _] => Err("two ranges must be of different families, IPv4 and IPv6".into()),
            _ => Err("there must be one range, or two of different families".into()),
        }
    }

    /// The address at an offset of the first range: 0 is the network's own, 1 the API server's.
    #[must_use]
    pub fn address(&self, offset: u32) -> IpAddr {
        addresses::address_at(&self.primary, u128::from(offset))
    }

    /// The ranges as text, the default family's first.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.all().map(|it| it.to_string()).collect()
    }

    fn all(&self) -> impl Iterator<Item = IpNet> {
        std::iter::once(self.primary).chain(self.secondary)
    }

    /// The families that the cluster has, the default one first.
    fn families(&self) -> Vec<Family> {
        self.all().map(|it| Family::of(&it.addr())).collect()
    }
}

/// Who has which address and port.
#[derive(Debug)]
pub struct Allocator {
    range: ServiceRange,
    /// The first and last port of nodes that services may have.
    node_ports: RangeInclusive<u16>,
    /// The ranges that ServiceCIDRs say, as they were last looked at.
    ranges: Mutex<addresses::Known>,
    ports: Mutex<ports::State>,
    /// One change of the bitmap at a time, for those of this server.
    bitmap: tokio::sync::Mutex<Option<bitmap::Stored>>,
    metrics: metrics::Metrics,
}

impl Allocator {
    /// Nothing is reserved.
    #[must_use]
    pub fn new(range: ServiceRange, node_ports: RangeInclusive<u16>) -> Self {
        let (ranges, ports, bitmap, metrics) = Default::default();
        Self { range, node_ports, ranges, ports, bitmap, metrics }
    }

    /// Counts beside the server's other metrics.
    pub(crate) fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.metrics.register(registry);
    }
}

pub(crate) use self::metrics::text;

/// What one write has reserved, and what it lets go once it has happened.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    held: Option<Box<Held>>,
}

#[derive(Debug)]
struct Held {
    server: Arc<Server>,
    /// Addresses whose objects were made for this write.
    addresses: Vec<IpAddr>,
    /// Ports that were reserved for this write.
    ports: Vec<u16>,
    /// Addresses and ports that the service has no more.
    let_go: (Vec<IpAddr>, Vec<u16>),
    /// Whose they are: namespace and name.
    owner: (String, String),
}

impl Reserved {
    /// The write did not happen, or, where it is not known whether it did, what was reserved stays until somebody looks.
    pub(crate) async fn failed(mut self, target: &Target, status: &Status) {
        if let Some(held) = self.held.take()
            && status.code < 500
        {
            Box::pin(held.failed(target, status)).await;
        }
    }

    /// Nothing was written.
    pub(crate) async fn take_back(mut self) {
        if let Some(held) = self.held.take() {
            Box::pin(held.take_back()).await;
        }
    }

    /// The write happened: what the service has no more is free.
    pub(crate) async fn commit(mut self) {
        let Some(held) = self.held.take() else { return };
        let Held { server, ports, let_go, owner, .. } = *held;
        ports::settle(&server, ports);
        give_up(&server, &owner, &let_go.0, &let_go.1).await;
    }
}

impl Drop for Reserved {
    /// Who asked has gone away: the write may have happened.
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            ports::settle(&held.server, held.ports);
        }
    }
}

impl Held {
    async fn failed(mut self: Box<Self>, target: &Target, status: &Status) {
        if status.reason == "AlreadyExists" {
            self.keep_what_the_winner_has(target).await;
        }
        self.take_back().await;
    }

    async fn take_back(self: Box<Self>) {
        let Self { server, addresses, ports, owner, .. } = *self;
        ports::forget(&server, &ports);
        give_up(&server, &owner, &addresses, &ports).await;
    }

    /// Another request made the same service at the same time, and may have taken over an address made here.
    async fn keep_what_the_winner_has(&mut self, target: &Target) {
        let (server, (_, name)) = (&self.server, &self.owner);
        let Ok(Some(winner)) = persist::try_current(server, target, name).await else { return };
        let has = cluster_ips(&winner.value);
        self.addresses.retain(|it| !has.contains(it));
    }
}

/// Boxed: an address is taken away by a request of its own, which comes by here too.
fn give_up<'g>(
    server: &'g Arc<Server>,
    owner: &'g (String, String),
    addresses: &'g [IpAddr],
    ports: &'g [u16],
) -> BoxFuture<'g, ()> {
    Box::pin(async move {
        for address in addresses {
            addresses::remove(server, *address, owner).await;
        }
        bitmap::clear(server, ports).await;
    })
}

/// The addresses that a service has.
fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let listed = families::texts(service, "clusterIPs");
    let all = match listed.is_empty() {
        true => vec![service.str_at(&["spec", "clusterIP"])],
        false => listed,
    };
    all.into_iter().filter_map(apimachinery::validation::parse_ip).collect()
}

fn owner_of(service: &Value) -> (String, String) {
    let of = |member| service.str_at(&["metadata", member]).to_owned();
    (of("namespace"), of("name"))
}

fn is_of_services(target: &Target) -> bool {
    target.served.facts.resource == "services" && target.served.facts.group.is_empty()
}

/// What a write is for.
pub(crate) struct Reservation<'r> {
    /// Where services are.
    pub(crate) target: &'r Target,
    /// The service before, where it is changed.
    pub(crate) old: Option<&'r Value>,
    pub(crate) dry_run: bool,
}

/// Reserves what a service asks for or needs, and writes it into the service.
///
/// # Errors
/// 422 where something asked for is taken or outside the range, 500 where nothing is free, 503 where the store does not
/// answer.
pub(crate) async fn reserve(
    server: &Arc<Server>,
    reservation: &Reservation<'_>,
    service: &mut Value,
) -> Result<Reserved, Status> {
    if !is_of_services(reservation.target) {
        return Ok(Reserved::default());
    }
    reserve_for(server, reservation, service).await
}

/// Boxed: an address is made by a request of its own, which comes by here too.
fn reserve_for<'r>(
    server: &'r Arc<Server>,
    reservation: &'r Reservation<'_>,
    service: &'r mut Value,
) -> BoxFuture<'r, Result<Reserved, Status>> {
    Box::pin(async move {
        let (old, dry_run) = (reservation.old, reservation.dry_run);
        let name = service.str_at(&["metadata", "name"]).to_owned();
        let invalid = |errors: FieldErrors| Status::invalid("", "Service", &name, &errors);
        normalize(service);
        families::settle(service, old, &server.allocator.range.families()).map_err(invalid)?;
        if let Some(old) = old {
            families::check_change(service, old).map_err(invalid)?;
        }
        let mut held = Box::new(Held {
            server: Arc::clone(server),
            addresses: Vec::new(),
            ports: Vec::new(),
            let_go: Default::default(),
            owner: owner_of(service),
        });
        if let Err(status) = fill(&mut held, service, old, dry_run).await {
            held.take_back().await;
            return Err(status);
        }
        let held = (!dry_run).then_some(held);
        Ok(Reserved { held })
    })
}

async fn fill(
    held: &mut Held,
    service: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<(), Status> {
    let server = Arc::clone(&held.server);
    let planned = addresses::plan(service, old);
    held.let_go.0 = planned.let_go;
    for wanted in planned.wanted {
        let given = if dry_run {
            addresses::pretend(&server, &wanted).map(|it| (it, false))
        } else {
            addresses::give(&server, &wanted, &held.owner).await
        };
        let (address, made) = given.map_err(|why| refusal(service, &wanted, &why))?;
        if made {
            held.addresses.push(address);
        }
        addresses::write(service, &wanted, address);
    }
    let change = ports::Change { old, dry_run };
    let ports = ports::reserve(&server, &change, service).await?;
    held.ports = ports.reserved;
    held.let_go.1 = ports.let_go;
    Ok(())
}

fn refusal(service: &Value, wanted: &addresses::Wanted, why: &str) -> Status {
    let Some(asked) = &wanted.asked else {
        return Status::internal(format!("failed to allocate a serviceIP: {why}"));
    };
    let mut errors = FieldErrors::new();
    let spec = Path::new("spec");
    let shown = service.at(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
    let detail = format!("failed to allocate IP {asked}: {why}");
    errors.invalid(&spec.child("clusterIPs"), &shown, &detail);
    Status::invalid("", "Service", service.str_at(&["metadata", "name"]), &errors)
}

/// A service that names one address has it in the list too.
fn normalize(service: &mut Value) {
    if service.str_at(&["spec", "type"]) == EXTERNAL_NAME {
        return;
    }
    let address = service.str_at(&["spec", "clusterIP"]).to_owned();
    if !address.is_empty() && service.items_at(&["spec", "clusterIPs"]).is_empty() {
        service.set_at(&["spec", "clusterIPs"], Value::from_iter([address]));
    }
}

/// A service is gone: what it had is free.
pub(crate) async fn release(server: &Arc<Server>, target: &Target, service: &Value) {
    if !is_of_services(target) || service.str_at(&["spec", "type"]) == EXTERNAL_NAME {
        return;
    }
    let ports = ports::of(service);
    give_up(server, &owner_of(service), &cluster_ips(service), &ports).await;
}
