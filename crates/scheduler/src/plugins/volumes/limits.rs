//! NodeVolumeLimits: a node attaches only so many volumes of a CSI driver, and none of one that is not there, where the driver
//! says so.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;

use super::key;
use crate::cluster::Cluster;
use crate::framework::{Check, Cycle, Filter, Prepared, Rejection};
use crate::node::Row;
use crate::pod::PodLite;
use crate::volumes::{Csi, Volumes};

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
        if cycle.pod.ask.volumes() == 0 {
            return Prepared::Skip;
        }
        let volumes = &cycle.cluster.volumes;
        let wanted: Vec<Csi> = of_pod(cycle.pod, volumes).collect();
        let least = wanted.iter().filter_map(|it| volumes.least_limit(&it.driver)).min();
        let needed = wanted.iter().any(|it| volumes.needs(&it.driver));
        // Where nothing is wanted, or no node says how many it attaches, there is room for all.
        let limited = Limited { volumes, wanted, least: least.unwrap_or(i64::MAX), needed };
        if !needed && (least.is_none() || limited.is_plenty_everywhere(cycle.cluster)) {
            return Prepared::Skip;
        }
        Prepared::Ready(Box::new(limited))
    }
}

/// The volumes of drivers that a pod has: those of its claims, and those that it names itself.
fn of_pod<'a>(pod: &'a PodLite, volumes: &'a Volumes) -> impl Iterator<Item = Csi> + 'a {
    let claims = pod.ask.claims.iter().filter_map(|it| volumes.csi(&key(pod, it)));
    claims.chain(pod.ask.in_tree().iter().cloned())
}

#[derive(Debug, Clone)]
struct Limited<'a> {
    volumes: &'a Volumes,
    wanted: Vec<Csi>,
    /// So many volumes of each of the drivers every node attaches.
    least: i64,
    /// Whether a driver of theirs says that its volumes are for nodes alone where it is installed.
    needed: bool,
}

impl Limited<'_> {
    /// Whether there is room on every node, even where all pods go for which nodes are being emptied. Where it is so, nobody
    /// needs to look at one node after the other.
    fn is_plenty_everywhere(&self, cluster: &Cluster) -> bool {
        let coming = cluster.nominated().flat_map(|(_, pods)| pods);
        let coming: usize = coming.map(|it| it.ask.volumes()).sum();
        let most = cluster.rows().iter().map(|it| it.claims).max().unwrap_or_default();
        self.is_plenty(coming + most + self.volumes.attachments_most())
    }

    /// Whether there is room for all volumes beside those that so many uses and attachments come to at most: even if they
    /// were all different and of one driver.
    fn is_plenty(&self, used: usize) -> bool {
        i64::try_from(used + self.wanted.len()).is_ok_and(|it| it <= self.least)
    }

    /// Whether the drivers are installed on a node that say that they have to be.
    fn check_installed(&self, node: &str) -> Result<(), Rejection> {
        let missing = |it: &&Csi| {
            let driver = it.driver.as_str();
            self.volumes.needs(driver)
                && self.volumes.counts_on(it, node)
                && !self.volumes.is_installed(driver, node)
        };
        match self.wanted.iter().find(missing) {
            Some(it) => {
                let why = format!("{} CSI driver is not installed on the node", it.driver);
                Err(Rejection::for_good(why))
            }
            None => Ok(()),
        }
    }

    /// Those of some volumes that count for their drivers on a node.
    fn counted(&self, row: &Row, all: impl Iterator<Item = Csi>) -> BTreeSet<Handle> {
        let counted = all.filter(|it| self.volumes.counts_on(it, &row.node.name));
        counted.map(|it| (it.driver, it.handle)).collect()
    }

    /// What a node has attached, or will have for the pods on it.
    fn attached(&self, row: &Row) -> BTreeSet<Handle> {
        let of_pods = row.pods.iter().flat_map(|it| of_pod(it, self.volumes));
        let attached = self.volumes.attached(&row.node.name).filter_map(|it| it.csi.clone());
        self.counted(row, of_pods.chain(attached))
    }
}

impl Check for Limited<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        if self.needed {
            self.check_installed(&row.node.name)?;
        }
        if self.is_plenty(row.claims + self.volumes.attachments(&row.node.name)) {
            return Ok(());
        }
        let Some(limits) = self.volumes.limits(&row.node.name) else { return Ok(()) };
        let wanted = self.counted(row, self.wanted.iter().cloned());
        let attached = self.attached(row);
        let mut counts: BTreeMap<&CompactString, i64> = BTreeMap::new();
        for (driver, _) in wanted.difference(&attached) {
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
