//! What a request may cost, and of which kind it is.

use std::sync::Arc;

use apimachinery::Status;
use http::header::CONTENT_LENGTH;

use super::{Charge, Kind, MemoryBudget};
use crate::Server;
use crate::cache::cache_key;
use crate::exchange::Exchange;
use crate::filters::is_stream;
use crate::negotiate::{self, Encoding, Transform};

/// What any request takes while it is carried out, in bytes: its task, its headers, what its filters keep.
const REQUEST_BYTES: u64 = 32 << 10;
/// How many bytes an object takes that is read, for each of its text: 4 KB of JSON are 44 KB as a value, and the answer is
/// made beside it.
const READ_FACTOR: u64 = 14;
/// The same where it is written: what was there, what is to be, and what was asked for are there at once.
const WRITE_FACTOR: u64 = 24;
/// What a list keeps for each of its objects, in bytes, where they are shared with the cache.
const ENTRY_BYTES: u64 = 16;
/// Headers of this size are looked at before anything else is, in bytes.
const LARGE_HEADERS: u64 = 16 << 10;
/// Namespaces whose leases keep nodes and the cluster's own parts going.
const VITAL_LEASES: [&str; 2] = ["kube-node-lease", "kube-system"];
/// Groups of what is asked by being made.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];
/// Paths that tell how the server is.
const PROBES: [&str; 5] = ["healthz", "livez", "readyz", "metrics", "version"];

/// What a request does to memory.
fn kind_of(exchange: &Exchange) -> Kind {
    let info = &exchange.info;
    if exchange.user.is_in(auth::user::MASTERS) {
        let frees = matches!(
            (info.verb, info.subresource.as_str()),
            ("delete" | "deletecollection", _) | ("create", "eviction")
        );
        return if frees { Kind::Relief } else { Kind::Exempt };
    }
    if !info.is_resource {
        let first = info.path.split('/').nth(1).unwrap_or_default();
        return if PROBES.contains(&first) { Kind::Exempt } else { Kind::Read };
    }
    let lease = info.group == "coordination.k8s.io" && info.resource == "leases";
    if lease && VITAL_LEASES.contains(&info.namespace.as_str()) && !is_of_many(info.verb) {
        return Kind::Exempt;
    }
    match (info.verb, info.subresource.as_str()) {
        ("delete" | "deletecollection", _)
        | ("create", "eviction" | "binding")
        | ("update" | "patch", "status" | "finalize") => Kind::Free,
        // Reviews and tokens are answered and not kept.
        ("create", "token") => Kind::Change,
        ("create", _) if REVIEWS.contains(&info.group.as_str()) => Kind::Change,
        ("create", "") => Kind::Create,
        ("create" | "update" | "patch", _) => Kind::Change,
        _ if exchange.peer.user.is_some() => Kind::Change,
        _ => Kind::Read,
    }
}

fn is_of_many(verb: &str) -> bool {
    matches!(verb, "list" | "watch" | "deletecollection")
}

/// Charges what a request may cost, as far as that is known before it is carried out.
///
/// # Errors
/// 429 where the budget has no room for it.
pub(crate) fn admit(server: &Server, exchange: &mut Exchange) -> Result<(), Status> {
    let Some(budget) = &server.operating.memory else { return Ok(()) };
    let kind = kind_of(exchange);
    let cost = REQUEST_BYTES.saturating_add(of_object(server, exchange));
    if !is_stream(exchange) {
        check_body(budget, kind, exchange, cost)?;
    }
    exchange.charge = Some(Charge::new(budget, kind, cost)?);
    exchange.is_exempt = kind.is_exempt();
    Ok(())
}

/// Refuses a body that there is no room for, before it is read. It is charged as it comes: a client that announces much and
/// sends nothing takes nothing from others.
fn check_body(
    budget: &MemoryBudget,
    kind: Kind,
    exchange: &Exchange,
    cost: u64,
) -> Result<(), Status> {
    let announced = exchange.header(CONTENT_LENGTH).parse::<u64>().unwrap_or_default();
    // Beyond what a body may have it is refused for that.
    let body = announced.min(crate::MAX_BODY_BYTES as u64) * WRITE_FACTOR;
    if body == 0 || budget.has_room(kind, body.saturating_add(cost)) {
        return Ok(());
    }
    Err(budget.refuse(kind))
}

/// What a request for one object costs besides.
fn of_object(server: &Server, exchange: &Exchange) -> u64 {
    let info = &exchange.info;
    if !info.is_resource || info.name.is_empty() || is_of_many(info.verb) {
        return 0;
    }
    let found = server.catalog.cache(&info.group, &info.version, &info.resource);
    let key = cache_key(&info.namespace, &info.name);
    let Some(object) = found.and_then(|cache| cache.get(&key)) else { return 0 };
    let bytes = object.stored().len() as u64;
    let factor = match info.verb {
        "get" if is_as_stored(exchange) => 2,
        "get" | "delete" => READ_FACTOR,
        _ => WRITE_FACTOR,
    };
    bytes.saturating_mul(factor)
}

/// Whether the client takes objects as they are stored.
fn is_as_stored(exchange: &Exchange) -> bool {
    negotiate::negotiate(exchange).is_ok_and(|form| {
        form.encoding == Encoding::Json && form.transform == Transform::None && !form.pretty
    })
}

/// Charges objects that are decoded to be shown, by the bytes of their text.
///
/// # Errors
/// 429 where the budget has no room for them.
pub(crate) fn decoded(
    charge: Option<&Arc<Charge>>,
    bytes: impl FnOnce() -> u64,
) -> Result<(), Status> {
    charge.map_or(Ok(()), |charge| charge.grow(bytes().saturating_mul(READ_FACTOR)))
}

/// Charges the places of so many objects in a list.
///
/// # Errors
/// 429 where the budget has no room for them.
pub(crate) fn entries(charge: Option<&Arc<Charge>>, count: usize) -> Result<(), Status> {
    charge.map_or(Ok(()), |charge| charge.grow((count as u64).saturating_mul(ENTRY_BYTES)))
}

impl Charge {
    /// Charges what becomes of a body that has come whole.
    ///
    /// # Errors
    /// 429 where the budget has no room for it.
    pub(crate) fn of_body(&self, bytes: usize) -> Result<(), Status> {
        self.grow((bytes as u64).saturating_mul(WRITE_FACTOR))
    }
}

/// Refuses large headers where there is no room for them, before anybody is asked who sends them.
///
/// # Errors
/// 429.
pub(crate) fn precheck(budget: Option<&Arc<MemoryBudget>>, headers: u64) -> Result<(), Status> {
    match budget {
        Some(budget) if headers >= LARGE_HEADERS && !budget.has_room(Kind::Read, headers) => {
            Err(budget.refuse(Kind::Read))
        }
        _ => Ok(()),
    }
}
