//! Extended resources of pods that devices serve: which of them on which node, and what is asked for then, in the claim that
//! the scheduler makes for the pod.

use std::collections::BTreeMap;

use apimachinery::validation::is_extended_resource;
use apimachinery::{Value, value};
use compact_str::{CompactString, format_compact};
use dynamic_resource_allocation::Claim;
use dynamic_resource_allocation::claim::Request;

use crate::devices::{Devices, ExtendedClaim};
use crate::framework::Cycle;
use crate::node::Row;
use crate::pod::{ContainerAsk, PodLite};

/// What the claim is called while it is nowhere but here; no claim can have this name.
const NAME_IN_MEMORY: &str = "<extended-resources>";

/// The extended resources that a pod asks for, of which devices serve at least one.
#[derive(Debug, Clone)]
pub(super) struct Extended<'a> {
    pod: &'a PodLite,
    /// Those that devices serve, with their classes.
    served: Vec<(&'a str, &'a str)>,
    /// The others.
    others: Vec<&'a str>,
    /// The claim that was made for the pod before, and did not lead to its being bound.
    pub(super) stale: Option<&'a Claim>,
}

impl<'a> Extended<'a> {
    /// `None` where no devices serve what a pod asks for.
    pub(super) fn of(cycle: Cycle<'a>) -> Option<Self> {
        let (pod, devices) = (cycle.pod, &cycle.cluster.devices);
        if pod.ask.extended().is_empty() {
            return None;
        }
        let asked = pod.requests.exact.scalars.iter().filter(|(_, amount)| *amount > 0);
        let names: Vec<&str> =
            asked.map(|(name, _)| name.as_str()).filter(|it| is_extended(it)).collect();
        let served = |name: &&'a str| Some((*name, devices.class_serving(name)?));
        let served: Vec<_> = names.iter().filter_map(served).collect();
        if served.is_empty() {
            return None;
        }
        let others = names.into_iter().filter(|name| served.iter().all(|(it, _)| it != name));
        let others = others.collect();
        Some(Self { pod, served, others, stale: devices.extended_claim_of(&pod.uid) })
    }

    /// What devices have to serve on a node, since the node itself has none of it.
    ///
    /// # Errors
    /// Why the node will not do.
    pub(super) fn wanted_on(&self, row: &Row) -> Result<Vec<(&'a str, &'a str)>, &'static str> {
        if self.stale.is_some() {
            return Err("cannot schedule extended resource claim");
        }
        let has = &row.node.allocatable;
        let stated = |name: &str| has.scalars.iter().any(|(it, _)| it == name);
        if !self.others.iter().all(|it| stated(it)) {
            return Err("cannot fit resource");
        }
        Ok(self.served.iter().copied().filter(|(name, _)| has.scalar(name) == 0).collect())
    }

    /// The claim for what devices have to serve.
    pub(super) fn claim(&self, wanted: &[(&str, &str)]) -> Claim {
        let (requests, _) = requests(self.pod.ask.extended(), wanted);
        let mut claim = Claim::default();
        claim.namespace.clone_from(&self.pod.key.namespace);
        claim.name = NAME_IN_MEMORY.into();
        claim.uid = Devices::pending_extended(&self.pod.uid);
        claim.controller.clone_from(&self.pod.uid);
        claim.extended = true;
        claim.requests = requests.iter().map(Request::of).collect();
        claim
    }

    /// The same to be written, with what it was given.
    pub(super) fn to_write(&self, wanted: &[(&str, &str)], allocation: Value) -> ExtendedClaim {
        let (requests, mappings) = requests(self.pod.ask.extended(), wanted);
        ExtendedClaim { requests, mappings, allocation, made: std::sync::Arc::default() }
    }
}

/// Whether a resource may be served by devices: those that are not Kubernetes' own, and those of the names of classes.
pub(crate) fn is_extended(name: &str) -> bool {
    let prefix = dynamic_resource_allocation::claim::DEVICE_CLASS_PREFIX;
    name.starts_with(prefix) || is_extended_resource(name)
}

/// A request that is being put together.
#[derive(Debug, Clone)]
struct Asked {
    name: CompactString,
    count: i64,
}

/// The requests of the claim, and which containers have the devices of which request. Containers that are over before others
/// begin use the devices of those, and what they need besides is asked for once.
fn requests(containers: &[ContainerAsk], wanted: &[(&str, &str)]) -> (Vec<Value>, Vec<Value>) {
    let (mut requests, mut mappings) = (Vec::new(), Vec::new());
    for (resource, class) in wanted {
        let mut lasting: BTreeMap<usize, Asked> = BTreeMap::new();
        let mut of_short = Vec::new();
        for it in containers.iter().filter(|it| !it.is_short) {
            let Some((asked, used)) = ask(it, resource, std::iter::empty()) else { continue };
            mappings.extend(used.iter().map(|name| mapping(it, resource, name)));
            lasting.extend(asked.map(|asked| (it.index, asked)));
        }
        let mut largest: Option<Asked> = None;
        let mut own_names = Vec::new();
        for it in containers.iter().filter(|it| it.is_short) {
            let later = lasting.range(it.index..).map(|(_, asked)| asked);
            let Some((asked, used)) = ask(it, resource, later) else { continue };
            of_short.extend(used.into_iter().map(|name| (it, name)));
            if let Some(asked) = asked {
                own_names.push(asked.name.clone());
                if largest.as_ref().is_none_or(|it| it.count < asked.count) {
                    largest = Some(asked);
                }
            }
        }
        for (container, name) in of_short {
            // Short ones share the largest of their requests.
            let shared = largest.as_ref().filter(|_| own_names.contains(&name));
            let name = shared.map_or(&name, |it| &it.name);
            mappings.push(mapping(container, resource, name));
        }
        let all = largest.into_iter().chain(lasting.into_values());
        requests.extend(all.map(|it| (it, *class)));
    }
    requests.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let written = requests.into_iter().map(|(asked, class)| {
        value!({"name": (asked.name.as_str()), "exactly": {"deviceClassName": class,
            "allocationMode": "ExactCount", "count": (asked.count)}})
    });
    (written.collect(), mappings)
}

/// What a container asks for of a resource, once it has used what others have, and the names of the requests that it uses.
fn ask<'r>(
    container: &ContainerAsk,
    resource: &str,
    others: impl Iterator<Item = &'r Asked>,
) -> Option<(Option<Asked>, Vec<CompactString>)> {
    let amount = container.amounts.iter().find(|it| it.resource == resource)?;
    let (mut found, mut used) = (0, Vec::new());
    for it in others {
        found += it.count;
        used.push(it.name.clone());
        if found >= amount.count {
            return Some((None, used));
        }
    }
    let name = format_compact!("container-{}-request-{}", container.index, amount.place);
    used.push(name.clone());
    Some((Some(Asked { name, count: amount.count - found }), used))
}

fn mapping(container: &ContainerAsk, resource: &str, request: &str) -> Value {
    let container = container.name.as_str();
    value!({"containerName": container, "resourceName": resource, "requestName": request})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Amount;

    #[test]
    fn containers_that_come_one_after_the_other_share_devices() {
        let container = |index: usize, is_short: bool, count: i64| {
            let amounts = vec![Amount { resource: "x/gpu".into(), count, place: 1 }];
            ContainerAsk { name: format_compact!("c{index}"), index, is_short, amounts }
        };
        let check = |containers: &[ContainerAsk], expected: &str| {
            let (requests, mappings) = requests(containers, &[("x/gpu", "gpu")]);
            let requests = requests.iter().map(|it| {
                let count = it.i64_at(&["exactly", "count"]).unwrap();
                format!("{}={count}", it.str_at(&["name"]).replace("-request-1", ""))
            });
            let mappings = mappings.iter().map(|it| {
                let request = it.str_at(&["requestName"]).replace("-request-1", "");
                format!("{}:{request}", it.str_at(&["containerName"]))
            });
            let told: Vec<String> = requests.chain(mappings).collect();
            assert_eq!(told.join(" ").replace("container-", ""), expected);
        };
        check(&[container(0, false, 1), container(1, false, 2)], "0=1 1=2 c0:0 c1:1");
        check(&[container(0, true, 2), container(1, false, 2)], "1=2 c1:1 c0:1");
        check(&[container(0, true, 3), container(1, false, 2)], "0=1 1=2 c1:1 c0:1 c0:0");
        check(
            &[container(0, true, 3), container(1, true, 4), container(2, false, 2)],
            "1=2 2=2 c2:2 c0:2 c0:1 c1:2 c1:1",
        );
        // A sidecar that begins before does not lend what it has.
        check(&[container(0, false, 1), container(1, true, 1)], "0=1 1=1 c0:0 c1:1");
    }
}
