//! VolumeBinding: the volumes that a pod's claims have, get or have made for them must be such that its node reaches them.

use client::ObjectKey;
use compact_str::CompactString;

use super::{key, not_found};
use crate::cluster::Cluster;
use crate::framework::{
    Check, Cycle, Filter, LooksAtPods, Prepared, Rejection, Reserve, ReservedWrites,
};
use crate::labels::Labels;
use crate::node::Row;
use crate::pod::{ClaimUse, PodLite};
use crate::volumes::{Bindings, Claim, NotMade, Volume, Volumes};

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(in super::super) struct VolumeBinding;

const NOTHING_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

impl Filter for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.ask.claims.is_empty() {
            return Prepared::Skip;
        }
        match Needs::of(cycle.pod, &cycle.cluster.volumes) {
            // Every node would do.
            Ok(needs) if needs.open.is_empty() && needs.are_reached_everywhere() => Prepared::Skip,
            Ok(needs) => Prepared::Ready(Box::new(needs)),
            Err(reason) => Prepared::Reject(Rejection::for_good(reason)),
        }
    }
}

impl Reserve for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn reserve(
        &self,
        cluster: &mut Cluster,
        pod: &PodLite,
        node: &str,
    ) -> Result<Option<ReservedWrites>, String> {
        if pod.ask.claims.is_empty() {
            return Ok(None);
        }
        let needs = Needs::of(pod, &cluster.volumes)?;
        let row = cluster.row(node).ok_or_else(|| format!("node {node} is gone"))?;
        let plan = needs.plan(&row.node.name, &row.node.labels);
        let bindings = plan.map_err(str::to_owned)?.bindings();
        if bindings == Bindings::default() {
            return Ok(None);
        }
        cluster.volumes.reserve(&pod.key, node, bindings.clone());
        Ok(Some(ReservedWrites::Volumes(bindings)))
    }

    fn unreserve(&self, cluster: &mut Cluster, pod: &PodLite) {
        cluster.volumes.unreserve(&pod.key);
    }
}

/// What a pod's claims need of a node.
#[derive(Debug, Clone)]
pub(super) struct Needs<'a> {
    volumes: &'a Volumes,
    /// What they have, in their order; `None` for a volume that is not there.
    bound: Vec<Option<&'a Volume>>,
    /// Those that are to be bound, the smallest first.
    pub(super) open: Vec<Open<'a>>,
}

/// A claim that is to be bound for the pod.
#[derive(Debug, Clone)]
pub(super) struct Open<'a> {
    key: ObjectKey,
    pub(super) claim: &'a Claim,
    /// The node that its volume is to be made for, where that is settled.
    settled: Option<&'a str>,
    /// What it can have, the best first.
    suitable: Vec<(&'a str, &'a Volume)>,
}

/// What becomes of the open claims of a pod on a node.
#[derive(Debug, Default)]
pub(super) struct Plan<'n, 'a> {
    /// Those that get a volume.
    pub(super) chosen: Vec<(&'n Open<'a>, &'a str, &'a Volume)>,
    /// Those whose volumes are made, with the room that there is for such, where it is told.
    pub(super) made: Vec<(&'n Open<'a>, Option<i64>)>,
}

impl Plan<'_, '_> {
    fn bindings(&self) -> Bindings {
        let chosen = self.chosen.iter();
        Bindings {
            chosen: chosen.map(|(open, name, _)| (open.key.clone(), (*name).into())).collect(),
            made: self.made.iter().map(|(open, _)| open.key.clone()).collect(),
        }
    }
}

impl<'a> Needs<'a> {
    /// # Errors
    /// Why no node will do, in upstream's words.
    pub(super) fn of(pod: &PodLite, volumes: &'a Volumes) -> Result<Self, String> {
        let mut needs = Self { volumes, bound: Vec::new(), open: Vec::new() };
        let mut immediate = false;
        for used in &pod.ask.claims {
            let key = key(pod, used);
            let claim = usable(pod, used, volumes.claim(&key))?;
            match &claim.volume {
                Some(volume) => needs.bound.push(volumes.volume(volume)),
                None if volumes.waits_for_pods(&claim.class) && !claim.names_volume => {
                    let settled = volumes.selected_node(&key, claim);
                    let suitable = volumes.suitable(&key, claim);
                    needs.open.push(Open { key, claim, settled, suitable });
                }
                None => immediate = true,
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let size = |it: &Open<'_>| it.claim.open.as_ref().map(|it| client::volumes::wanted(it));
        needs.open.sort_by_cached_key(size);
        Ok(needs)
    }

    fn are_reached_everywhere(&self) -> bool {
        self.bound.iter().all(|it| it.is_some_and(Volume::reaches_all))
    }

    /// Whether what the claims have is reached from a node.
    ///
    /// # Errors
    /// Why the first is not that is not.
    fn reach(&self, node: &str, labels: &Labels) -> Result<(), &'static str> {
        self.bound.iter().try_for_each(|it| match it {
            None => Err(GONE),
            Some(it) if self.volumes.reaches(it, node, labels) => Ok(()),
            Some(_) => Err("node(s) didn't match PersistentVolume's node affinity"),
        })
    }

    /// What becomes of the open claims on a node.
    pub(super) fn plan(
        &self,
        node: &CompactString,
        labels: &Labels,
    ) -> Result<Plan<'_, 'a>, &'static str> {
        let mut plan = Plan::default();
        let mut to_make = Vec::new();
        for open in &self.open {
            if let Some(settled) = open.settled {
                if settled != node {
                    return Err(NOTHING_TO_BIND);
                }
                to_make.push(open);
                continue;
            }
            let chosen = open.suitable.iter().find(|(name, volume)| {
                let taken = plan.chosen.iter().any(|(_, it, _)| it == name);
                !taken && self.volumes.reaches(volume, node, labels)
            });
            match chosen {
                Some((name, volume)) => plan.chosen.push((open, name, volume)),
                None => to_make.push(open),
            }
        }
        for open in to_make {
            let room = self.volumes.can_be_made(open.claim, labels).map_err(|why| match why {
                NotMade::NotThere => NOTHING_TO_BIND,
                NotMade::NoRoom => "node(s) did not have enough free storage",
            })?;
            plan.made.push((open, room));
        }
        Ok(plan)
    }
}

/// A claim that a pod can have, bound or not.
fn usable<'a>(
    pod: &PodLite,
    used: &ClaimUse,
    claim: Option<&'a Claim>,
) -> Result<&'a Claim, String> {
    let name = &used.name;
    let Some(claim) = claim else {
        return Err(if used.ephemeral {
            format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
            )
        } else {
            not_found("persistentvolumeclaim", name)
        });
    };
    if let Some(volume) = &claim.lost {
        return Err(format!(
            "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
        ));
    }
    if claim.going {
        return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    if used.ephemeral && claim.controller != pod.uid {
        let namespace = &pod.key.namespace;
        return Err(format!(
            "PVC {namespace}/{name} was not created for pod {} (pod is not owner)",
            pod.key
        ));
    }
    Ok(claim)
}

impl Check for Needs<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let (node, labels) = (&row.node.name, &row.node.labels);
        let mut reasons: Vec<&'static str> = Vec::new();
        reasons.extend(self.reach(node, labels).err());
        reasons.extend(self.plan(node, labels).err());
        if reasons.is_empty() {
            return Ok(());
        }
        let reasons = reasons.into_iter().map(Into::into).collect();
        Err(Rejection { reasons, unresolvable: true })
    }

    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}
