//! DynamicResources: the devices that a pod's claims have or get must be such that its node reaches them.

mod extended;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use client::ObjectKey;
use dynamic_resource_allocation::allocate::rank;
use dynamic_resource_allocation::{AllocateError, Allocator, Claim, Node};
use tokio::time::Instant;

pub(crate) use extended::is_extended;

use self::extended::Extended;
use super::normalize::{Best, to_share};
use crate::cluster::Cluster;
use crate::config::DynamicResourcesArgs;
use crate::devices::{Asked, ClaimBindings, Devices};
use crate::framework::{
    Check, Cycle, Failure, Filter, LooksAtPods, PostFilter, PreEnqueue, Prepared, Profile,
    Rejection, Remedy, Reserve, ReservedWrites, Score,
};
use crate::node::Row;
use crate::pod::PodLite;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct DynamicResources(pub(super) DynamicResourcesArgs);

const NAME: &str = "DynamicResources";
const NOT_AVAILABLE: &str = "resourceclaim not available on the node";

impl PreEnqueue for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn blocks(&self, cluster: &Cluster, pod: &PodLite) -> Option<String> {
        cluster.devices.claims_of(pod).err()
    }
}

impl Filter for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        if asks_nothing(cycle) {
            return Prepared::Skip;
        }
        match Needs::of(cycle, self.0) {
            Ok(needs) if needs.claims.is_empty() && needs.extended.is_none() => Prepared::Skip,
            Ok(needs) => Prepared::Ready(Box::new(needs)),
            Err(reason) => Prepared::Reject(Rejection::for_good(reason)),
        }
    }
}

impl PostFilter for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn remedy(&self, profile: &Profile, failure: &Failure<'_, '_>) -> Remedy {
        let own = profile.filters.iter().position(|it| it.name() == NAME);
        // Upstream looks for what its own preparation left; where another plugin refused before that, it finds nothing,
        // says so, and ends the search for a remedy.
        if failure.refused_by.zip(own).is_some_and(|(by, own)| by < own) {
            return Remedy::Stop("not found".into());
        }
        let pod = failure.cycle.pod;
        let claims = failure.cycle.cluster.devices.claims_of(pod).unwrap_or_default();
        let extended = Extended::of(failure.cycle);
        if claims.is_empty() && extended.is_none() {
            return Remedy::Nothing("no new claims to deallocate".into());
        }
        let mut unused = claims.into_iter().filter(|claim| {
            let own = |it: &[_]| matches!(it, [one] if is_uid(one, pod));
            claim.reserved_for.is_empty() || own(&claim.reserved_for)
        });
        let unused = unused.find(|it| self.is_in_the_way(failure, it));
        let (claim, what) = match (unused, extended.and_then(|it| it.stale)) {
            (Some(claim), _) => (claim, "deallocation"),
            (None, Some(claim)) => (claim, "deletion"),
            (None, None) => return Remedy::Nothing("still not schedulable".into()),
        };
        Remedy::Deallocate {
            claim: ObjectKey::new(claim.namespace.clone(), claim.name.clone()),
            remark: format!("{what} of ResourceClaim completed"),
        }
    }
}

/// Whether a pod asks for no devices, not even by the names of resources.
fn asks_nothing(cycle: Cycle<'_>) -> bool {
    cycle.pod.ask.resource_claims.is_empty() && Extended::of(cycle).is_none()
}

fn is_uid(consumer: &dynamic_resource_allocation::claim::Consumer, pod: &PodLite) -> bool {
    consumer.uid == pod.uid
}

impl DynamicResources {
    /// What the claims of a pod get on its node.
    fn bindings(
        &self,
        cluster: &Cluster,
        pod: &PodLite,
        node: &str,
    ) -> Result<ClaimBindings, String> {
        let row = cluster.row(node).ok_or_else(|| format!("node {node} is gone"))?;
        let needs = Needs::of(Cycle { pod, cluster }, self.0)?;
        let mut allocations = Vec::new();
        let (allocator, wanted) = needs.allocator(row)?;
        if let Some(allocator) = &allocator {
            let found = needs.allocate(allocator, row);
            allocations = found
                .ok()
                .flatten()
                .ok_or_else(|| "claim allocation not found for node".to_owned())?;
        }
        let mut extended = None;
        if let Some(it) = needs.extended.as_ref().filter(|_| !wanted.is_empty()) {
            extended = allocations.pop().map(|allocation| it.to_write(&wanted, allocation));
        }
        let mut allocations = allocations.into_iter();
        let bind = |claim: &&Claim| {
            let key = ObjectKey::new(claim.namespace.clone(), claim.name.clone());
            (key, if claim.allocation.is_none() { allocations.next() } else { None })
        };
        Ok(ClaimBindings { claims: needs.claims.iter().map(bind).collect(), extended })
    }

    /// Whether what a claim was given is why some node will not do.
    fn is_in_the_way(&self, failure: &Failure<'_, '_>, claim: &Claim) -> bool {
        let cluster = failure.cycle.cluster;
        let refused = failure.refusals.iter().zip(cluster.rows()).filter(|(refusal, _)| {
            refusal.as_ref().is_some_and(|it| it.reasons.iter().any(|it| it == NOT_AVAILABLE))
        });
        let mut rows = refused.map(|(_, row)| row);
        rows.any(|row| is_unavailable(claim, row, &cluster.devices, self.0))
    }
}

impl Score for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        if asks_nothing(cycle) {
            return false;
        }
        let Ok(needs) = Needs::of(cycle, self.0) else { return false };
        if !needs.open.iter().flat_map(|it| &it.requests).any(|it| it.prioritized) {
            return false;
        }
        for (score, row) in scores.iter_mut().zip(feasible) {
            let row = &cycle.cluster.rows()[*row];
            let Ok((Some(allocator), _)) = needs.allocator(row) else { continue };
            let allocations = needs.allocate(&allocator, row);
            let allocations = allocations.ok().flatten().unwrap_or_default();
            let ranks = allocator.claims().iter().zip(&allocations);
            *score = ranks.map(|(claim, allocation)| rank(claim, allocation)).sum();
        }
        to_share(scores, Best::Largest);
        true
    }

    fn is_local(&self, cycle: Cycle<'_>) -> bool {
        asks_nothing(cycle)
    }
}

impl Reserve for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reserve(
        &self,
        cluster: &mut Cluster,
        pod: &PodLite,
        node: &str,
    ) -> Result<Option<ReservedWrites>, String> {
        if asks_nothing(Cycle { pod, cluster }) {
            return Ok(None);
        }
        let bindings = self.bindings(cluster, pod, node)?;
        for (key, allocation) in &bindings.claims {
            if let Some(allocation) = allocation {
                cluster.devices.reserve(pod, key, allocation);
            }
        }
        if let Some(extended) = &bindings.extended {
            cluster.devices.reserve_extended(pod, &extended.allocation);
        }
        let nothing = bindings.claims.is_empty() && bindings.extended.is_none();
        Ok((!nothing).then_some(ReservedWrites::Claims(bindings)))
    }

    fn unreserve(&self, cluster: &mut Cluster, pod: &PodLite) {
        cluster.devices.unreserve(&pod.uid);
    }
}

/// Resources that devices have to serve, with their classes.
type Wanted<'a> = Vec<(&'a str, &'a str)>;

/// What a pod's claims need of a node.
#[derive(Debug)]
struct Needs<'a> {
    args: DynamicResourcesArgs,
    devices: &'a Devices,
    claims: Vec<&'a Claim>,
    /// Those that have nothing yet.
    open: Vec<&'a Claim>,
    /// What was found out about such claims before.
    asked: Option<Asked<'a>>,
    /// What it asks for by the names of resources.
    extended: Option<Extended<'a>>,
    /// For those that have nothing yet, and what devices have to serve besides.
    allocators: RefCell<BTreeMap<Wanted<'a>, Rc<Allocator<'a>>>>,
    /// Until when the search for a node may go on.
    deadline: Rc<Cell<Option<Instant>>>,
    failed: RefCell<Option<String>>,
}

impl<'a> Needs<'a> {
    /// # Errors
    /// Why no node will do, in upstream's words.
    fn of(cycle: Cycle<'a>, args: DynamicResourcesArgs) -> Result<Self, String> {
        let devices = &cycle.cluster.devices;
        let claims = devices.claims_of(cycle.pod)?;
        let mut open = Vec::new();
        for claim in &claims {
            if claim.allocation.is_none() {
                can_be_allocated(devices, claim)?;
                open.push(*claim);
            } else if !claim.can_be_reserved() && !claim.is_reserved_for(&cycle.pod.uid) {
                return Err("resourceclaim in use".into());
            }
        }
        let extended = Extended::of(cycle);
        let known = !open.is_empty() && extended.is_none();
        Ok(Self {
            asked: known.then(|| devices.asked(&open)),
            args,
            devices,
            claims,
            open,
            extended,
            allocators: RefCell::default(),
            deadline: Rc::default(),
            failed: RefCell::default(),
        })
    }

    /// Who chooses devices on a node, where some are to be chosen, and which resources they serve there.
    ///
    /// # Errors
    /// Why the node will not do.
    fn allocator(&self, row: &Row) -> Result<(Option<Rc<Allocator<'a>>>, Wanted<'a>), String> {
        let wanted = self.extended.as_ref().map(|it| it.wanted_on(row)).transpose()?;
        let wanted = wanted.unwrap_or_default();
        if self.open.is_empty() && wanted.is_empty() {
            return Ok((None, wanted));
        }
        let mut known = self.allocators.borrow_mut();
        if let Some(allocator) = known.get(&wanted) {
            return Ok((Some(Rc::clone(allocator)), wanted));
        }
        let (deadline, devices) = (Rc::clone(&self.deadline), self.devices);
        let passed = move || {
            let now = devices.clock().map(|it| it.monotonic());
            now.zip(deadline.get()).is_some_and(|(now, deadline)| now >= deadline)
        };
        let mut claims: Vec<Cow<'a, Claim>> =
            self.open.iter().map(|it| Cow::Borrowed(*it)).collect();
        if let Some(it) = self.extended.as_ref().filter(|_| !wanted.is_empty()) {
            claims.push(Cow::Owned(it.claim(&wanted)));
        }
        let allocator = Rc::new(Allocator::new(devices.supply(Box::new(passed)), claims));
        known.insert(wanted.clone(), Rc::clone(&allocator));
        Ok((Some(allocator), wanted))
    }

    fn allocate(
        &self,
        allocator: &Allocator<'a>,
        row: &Row,
    ) -> Result<Option<Vec<apimachinery::Value>>, AllocateError> {
        self.set_deadline();
        allocator.allocate(node(row))
    }

    /// The search for a node may go on so long from now on.
    fn set_deadline(&self) {
        let limit = Some(self.args.filter_timeout).filter(|it| !it.is_zero());
        let now = self.devices.clock().map(|it| it.monotonic());
        self.deadline.set(now.zip(limit).and_then(|(now, limit)| now.checked_add(limit)));
    }

    fn fail(&self, why: String) -> Rejection {
        self.failed.borrow_mut().get_or_insert(why.clone());
        Rejection::for_good(why)
    }
}

fn node(row: &Row) -> Node<'_> {
    Node { name: &row.node.name, labels: &row.node.labels }
}

/// Whether a claim that has nothing can get something now.
fn can_be_allocated(devices: &Devices, claim: &Claim) -> Result<(), String> {
    if devices.is_pending(claim) {
        return Err(format!("resource claim {} is in the process of being allocated", claim.key()));
    }
    for request in &claim.requests {
        for (way, ask) in request.ways.iter().enumerate() {
            if !devices.has_class(&ask.class) {
                let (name, class) = (request.reference(way), &ask.class);
                return Err(format!("request {name}: device class {class} does not exist"));
            }
        }
    }
    Ok(())
}

/// Whether a claim has what a pod on this node can do nothing with, now or ever.
fn is_unavailable(claim: &Claim, row: &Row, devices: &Devices, args: DynamicResourcesArgs) -> bool {
    let Some(allocation) = &claim.allocation else { return false };
    if !allocation.reaches(node(row)) {
        return true;
    }
    if !allocation.has_binding_conditions() {
        return false;
    }
    claim
        .is_ready_for_binding()
        .map_or(true, |ready| !ready && is_late(claim, devices.clock().map(|it| it.now()), args))
}

/// Whether devices took longer to get ready than they may.
pub(crate) fn is_late(
    claim: &Claim,
    now: Option<jiff::Timestamp>,
    args: DynamicResourcesArgs,
) -> bool {
    let Some(allocation) = &claim.allocation else { return false };
    let since = apimachinery::time::parse_time(&allocation.timestamp).ok();
    now.zip(since).is_some_and(|(now, since)| {
        let limit = jiff::SignedDuration::try_from(args.binding_timeout);
        allocation.has_binding_conditions() && limit.is_ok_and(|it| now.duration_since(since) > it)
    })
}

impl Check for Needs<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let (allocator, _) = self.allocator(row).map_err(Rejection::for_good)?;
        if let Some(allocator) = allocator {
            if let Some(why) = self.failed.borrow().clone() {
                return Err(Rejection::for_good(why));
            }
            let find = || {
                self.set_deadline();
                allocator.is_possible(node(row))
            };
            let possible = match &self.asked {
                Some(asked) => asked.is_possible(&row.node.name, find),
                None => find(),
            };
            match possible {
                Ok(true) => {}
                Ok(false) => return Err(Rejection::for_good("cannot allocate all claims")),
                Err(AllocateError::Node(why)) => return Err(Rejection::for_good(why)),
                Err(AllocateError::Claim(why)) => return Err(self.fail(why)),
                Err(AllocateError::TimedOut) => {
                    let node = &row.node.name;
                    let why = format!("node {node}: timed out trying to allocate devices");
                    return Err(self.fail(why));
                }
            }
        }
        let unavailable = |it: &&Claim| is_unavailable(it, row, self.devices, self.args);
        if self.claims.iter().any(unavailable) {
            return Err(Rejection::for_good(NOT_AVAILABLE));
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(Same(self))
    }
}

/// What is said of devices does not depend on which pods are thought to be there.
#[derive(Debug)]
struct Same<'c>(&'c dyn Check);

impl Check for Same<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        self.0.check(row)
    }

    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(Same(self.0))
    }
}
