//! NodeVolumeLimits: a node attaches only so many volumes of a CSI driver.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;

use super::key;
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
        match least {
            // No node says how many it attaches.
            None => Prepared::Skip,
            Some(least) => Prepared::Ready(Box::new(Limited { volumes, wanted, least })),
        }
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
    /// Whether there is room for all volumes even if those there are were all different and of one driver: most nodes are
    /// not looked at any closer.
    fn has_plenty(&self, row: &Row) -> bool {
        let used: usize = row.pods.iter().map(|it| it.ask.claims.len()).sum();
        let most = used + self.volumes.attachments(&row.node.name) + self.wanted.len();
        i64::try_from(most).is_ok_and(|most| most <= self.least)
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
        if self.has_plenty(row) {
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
