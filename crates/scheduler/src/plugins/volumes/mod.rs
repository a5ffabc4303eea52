//! What volumes have to say about nodes: VolumeRestrictions and VolumeZone here, the others beside it.

mod binding;
mod limits;
mod room;

pub(super) use binding::VolumeBinding;
pub(super) use limits::NodeVolumeLimits;
pub(super) use room::Room;

use client::ObjectKey;

use crate::framework::{Check, Cycle, Filter, LooksAtPods, Prepared, Rejection};
use crate::node::Row;
use crate::pod::{ClaimUse, Disk, PodLite};
use crate::volumes::{Claim, PLACES, Volume};

fn key(pod: &PodLite, claim: &ClaimUse) -> ObjectKey {
    ObjectKey::new(pod.key.namespace.clone(), claim.name.clone())
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{kind} \"{name}\" not found")
}

fn claims<'a>(cycle: Cycle<'a>) -> impl Iterator<Item = &'a Claim> {
    let names = cycle.pod.ask.claims.iter();
    names.filter_map(move |it| cycle.cluster.volumes.claim(&key(cycle.pod, it)))
}

/// Upstream's plugin of that name: a claim for one pod is used by one pod, and some disks by one pod of a node.
#[derive(Debug)]
pub(super) struct VolumeRestrictions;

impl Filter for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let volumes = &cycle.cluster.volumes;
        let mut named = cycle.pod.ask.claims.iter().filter(|it| !it.ephemeral);
        if let Some(it) = named.find(|it| volumes.claim(&key(cycle.pod, it)).is_none()) {
            return Prepared::Reject(Rejection::for_good(not_found(
                "persistentvolumeclaim",
                &it.name,
            )));
        }
        let alone: Vec<ObjectKey> = cycle
            .pod
            .ask
            .claims
            .iter()
            .map(|it| key(cycle.pod, it))
            .filter(|it| volumes.claim(it).is_some_and(|it| it.one_pod))
            .collect();
        let disks = cycle.pod.ask.disks.as_slice();
        if alone.is_empty() && disks.is_empty() {
            return Prepared::Skip;
        }
        let mut alone = Alone { claims: alone, users: 0, disks };
        if !alone.claims.is_empty() {
            for row in cycle.cluster.rows() {
                row.pods.iter().for_each(|pod| alone.users += alone.uses(pod));
            }
        }
        Prepared::Ready(Box::new(alone))
    }
}

#[derive(Debug, Clone)]
struct Alone<'a> {
    claims: Vec<ObjectKey>,
    /// How many times they are in use, on whichever node.
    users: usize,
    disks: &'a [Disk],
}

impl Alone<'_> {
    fn uses(&self, pod: &PodLite) -> usize {
        pod.ask.claims.iter().filter(|it| self.claims.contains(&key(pod, it))).count()
    }
}

impl Check for Alone<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let mut taken = row.pods.iter().flat_map(|it| &it.ask.disks);
        if !self.disks.is_empty() && taken.any(|it| self.disks.iter().any(|own| own.conflicts(it)))
        {
            return Err(Rejection::for_now("node(s) had no available disk"));
        }
        if self.users == 0 {
            return Ok(());
        }
        Err(Rejection::for_now(
            "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
             another pod",
        ))
    }

    fn pod_added(&mut self, _row: &Row, pod: &PodLite) {
        self.users += self.uses(pod);
    }

    fn pod_removed(&mut self, _row: &Row, pod: &PodLite) {
        self.users = self.users.saturating_sub(self.uses(pod));
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

/// Upstream's plugin of that name: a volume is in a zone, by its labels.
#[derive(Debug)]
pub(super) struct VolumeZone;

impl Filter for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let all = &cycle.cluster.volumes;
        let mut volumes: Vec<&Volume> = Vec::new();
        // Of claims that are made for the pod alone it takes no note.
        for used in cycle.pod.ask.claims.iter().filter(|it| !it.ephemeral) {
            let claim = all.claim(&key(cycle.pod, used));
            let Some(name) = claim.and_then(|it| it.volume.as_deref()) else { continue };
            match all.volume(name) {
                Some(volume) if volume.places.is_empty() => {}
                Some(volume) => volumes.push(volume),
                None => {
                    let reason = not_found("persistentvolume", name);
                    return Prepared::Reject(Rejection::for_good(reason));
                }
            }
        }
        if volumes.is_empty() { Prepared::Skip } else { Prepared::Ready(Box::new(InZone(volumes))) }
    }
}

#[derive(Debug, Clone)]
struct InZone<'a>(Vec<&'a Volume>);

impl Check for InZone<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let labels = &row.node.labels;
        // A node that says nothing of where it is, is taken to be anywhere.
        if PLACES.iter().all(|key| labels.get(key).is_none()) {
            return Ok(());
        }
        let mut places = self.0.iter().flat_map(|it| &it.places);
        let fits = places.all(|(key, values)| {
            // Nodes may have dropped the old name of the label.
            let newer = key.replace("failure-domain.beta.kubernetes.io", "topology.kubernetes.io");
            let label = labels.get(key).or_else(|| labels.get(&newer));
            label.is_some_and(|label| values.iter().any(|it| it == label))
        });
        if fits { Ok(()) } else { Err(Rejection::for_good("node(s) had no available volume zone")) }
    }

    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}
