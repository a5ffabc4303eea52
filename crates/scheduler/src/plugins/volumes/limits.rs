//! NodeVolumeLimits: a node attaches only so many volumes of a CSI driver.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;

use super::key;
use crate::cluster::Cluster;
use crate::framework::{Check, Cycle, Filter, Prepared, Rejection};
use crate::node::Row;
use crate::volumes::Volumes;

/// A driver, and what names a volume to it.
type Handle = (CompactString, CompactString);

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(in super::super) struct NodeVolumeLimits;

impl Filter for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let volumes = &cycle.cluster.volumes;
        let wanted = cycle.pod.ask.claims.iter();
        let wanted: BTreeSet<Handle> =
            wanted.filter_map(|it| volumes.csi(&key(cycle.pod, it))).collect();
        if wanted.is_empty() {
            return Prepared::Skip;
        }
        let least = wanted.iter().filter_map(|(driver, _)| volumes.least_limit(driver)).min();
        // No node says how many it attaches.
        let Some(least) = least else { return Prepared::Skip };
        let limited = Limited { volumes, wanted, least };
        if limited.is_plenty_everywhere(cycle.cluster) {
            return Prepared::Skip;
        }
        Prepared::Ready(Box::new(limited))
    }
}

#[derive(Debug, Clone)]
struct Limited<'a> {
    volumes: &'a Volumes,
    wanted: BTreeSet<Handle>,
    /// So many volumes of each of the drivers every node attaches.
    least: i64,
}

impl Limited<'_> {
    /// Whether there is room on every node, even where all pods go for which nodes are being emptied. Where it is so, nobody
    /// needs to look at one node after the other.
    fn is_plenty_everywhere(&self, cluster: &Cluster) -> bool {
        let coming = cluster.nominated().flat_map(|(_, pods)| pods);
        let coming: usize = coming.map(|it| it.ask.claims.len()).sum();
        let most = cluster.rows().iter().map(|it| it.claims).max().unwrap_or_default();
        self.is_plenty(coming + most + self.volumes.attachments_most())
    }

    /// Whether there is room for all volumes beside those that so many uses and attachments come to at most: even if they
    /// were all different and of one driver.
    fn is_plenty(&self, used: usize) -> bool {
        i64::try_from(used + self.wanted.len()).is_ok_and(|it| it <= self.least)
    }

    /// What a node has attached, or will have for the pods on it.
    fn attached(&self, row: &Row) -> BTreeSet<Handle> {
        let claims = row.pods.iter().flat_map(|pod| pod.ask.claims.iter().map(|it| key(pod, it)));
        let mut all: BTreeSet<Handle> = claims.filter_map(|it| self.volumes.csi(&it)).collect();
        all.extend(self.volumes.attached(&row.node.name).filter_map(|it| it.csi.clone()));
        all
    }
}

impl Check for Limited<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        if self.is_plenty(row.claims + self.volumes.attachments(&row.node.name)) {
            return Ok(());
        }
        let Some(limits) = self.volumes.limits(&row.node.name) else { return Ok(()) };
        let attached = self.attached(row);
        let new = self.wanted.iter().filter(|it| !attached.contains(it));
        let mut counts: BTreeMap<&CompactString, i64> = BTreeMap::new();
        for (driver, _) in new {
            *counts.entry(driver).or_default() += 1;
        }
        for (driver, count) in &mut counts {
            let others = attached.iter().filter(|(it, _)| it == *driver).count();
            *count += i64::try_from(others).unwrap_or(i64::MAX);
        }
        if counts.iter().any(|(driver, count)| limits.get(*driver).is_some_and(|it| count > it)) {
            return Err(Rejection::for_now("node(s) exceed max volume count"));
        }
        Ok(())
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}
