//! Zones of nodes, how ill each is, and how fast pods may be evicted there. Upstream: `nodelifecycle`'s `handleDisruption`
//! and its rate limited tainters.
//!
//! Counts are kept as nodes change, so that a question costs nothing. Knows no clock and writes nothing.

use std::collections::BTreeMap;

use apimachinery::Value;
use compact_str::CompactString;
use jiff::{SignedDuration, Timestamp};

/// How fast nodes are tainted so that pods go, and when a zone counts as ill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Nodes a second in a zone that is well (upstream: `--node-eviction-rate`).
    pub usual: f64,
    /// Nodes a second in a large zone that is ill in part (upstream: `--secondary-node-eviction-rate`).
    pub reduced: f64,
    /// A zone of more nodes is large; in others nothing is evicted while they are ill (upstream:
    /// `--large-cluster-size-threshold`).
    pub large: usize,
    /// The part of a zone's nodes that may be not ready (upstream: `--unhealthy-zone-threshold`).
    pub unhealthy: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self { usual: 0.1, reduced: 0.01, large: 50, unhealthy: 0.55 }
    }
}

/// A zone is ill in part only when more nodes than this are not ready.
const FEW: usize = 2;

/// How a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Normal,
    Partial,
    Full,
}

/// When a node may be tainted so that its pods go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Now, and it has been counted.
    Now,
    /// Not before this time.
    At(Timestamp),
    /// Not before something changes.
    Held,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Zone {
    pub(super) ready: usize,
    pub(super) not_ready: usize,
    /// When a node was tainted last.
    last: Option<Timestamp>,
}

impl Zone {
    pub(super) fn size(&self) -> usize {
        self.ready + self.not_ready
    }

    /// The part of its nodes that is ready.
    #[allow(
        clippy::cast_precision_loss,
        reason = "clusters have fewer nodes than a double has integers"
    )]
    fn not_ready_part(&self) -> f64 {
        self.not_ready as f64 / self.size().max(1) as f64
    }

    fn state(&self, rates: &Rates) -> State {
        if self.ready == 0 && self.not_ready > 0 {
            State::Full
        } else if self.not_ready > FEW && self.not_ready_part() >= rates.unhealthy {
            State::Partial
        } else {
            State::Normal
        }
    }

    /// Nodes a second.
    fn rate(&self, rates: &Rates) -> f64 {
        match self.state(rates) {
            State::Normal | State::Full => rates.usual,
            State::Partial if self.size() > rates.large => rates.reduced,
            State::Partial => 0.0,
        }
    }

    /// The share of its nodes that is ready, in per cent, as upstream tells it.
    #[allow(
        clippy::cast_precision_loss,
        reason = "clusters have fewer nodes than a double has integers"
    )]
    pub(super) fn health(&self) -> f64 {
        (self.ready * 100) as f64 / self.size().max(1) as f64
    }
}

/// All zones of a cluster.
#[derive(Debug, Default)]
pub(super) struct Zones {
    nodes: BTreeMap<CompactString, (CompactString, bool)>,
    zones: BTreeMap<CompactString, Zone>,
    ready: usize,
    /// Whether nothing was ready when somebody last looked.
    all_ill: bool,
    /// When something was ready again: silence before counts for nothing.
    resumed: Option<Timestamp>,
}

/// The zone of a node as upstream writes it: region and zone.
pub(super) fn name(node: &Value) -> CompactString {
    let label = |of: &str| {
        let now = node.str_at(&["metadata", "labels", &format!("topology.kubernetes.io/{of}")]);
        if !now.is_empty() {
            return now;
        }
        let older = format!("failure-domain.beta.kubernetes.io/{of}");
        node.str_at(&["metadata", "labels", &older])
    };
    match (label("region"), label("zone")) {
        ("", "") => CompactString::default(),
        (region, zone) => CompactString::from(format!("{region}:\0:{zone}")),
    }
}

impl Zones {
    /// A node is this now, or gone. Says what that changes for others.
    pub(super) fn see(&mut self, node: &str, now: Option<&(CompactString, bool)>) -> Change {
        let before = match now {
            Some(it) => self.nodes.insert(node.into(), it.clone()),
            None => self.nodes.remove(node),
        };
        if before.as_ref() == now {
            return Change::Nothing;
        }
        let had_ready = self.ready > 0;
        for (entry, more) in [(before.as_ref(), false), (now, true)] {
            let Some((zone, ready)) = entry else { continue };
            let zone = self.zones.entry(zone.clone()).or_default();
            let count = if *ready { &mut zone.ready } else { &mut zone.not_ready };
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *ready {
                self.ready = if more { self.ready + 1 } else { self.ready.saturating_sub(1) };
            }
        }
        self.zones.retain(|_, zone| zone.size() > 0);
        if had_ready == (self.ready > 0) { Change::Counts } else { Change::AllIll }
    }

    /// Looks at the whole cluster; whether there is a node and none is ready: then something else than nodes is ill, and
    /// nothing is evicted.
    pub(super) fn all_ill(&mut self, now: Timestamp) -> bool {
        let all_ill = self.ready == 0 && !self.nodes.is_empty();
        if self.all_ill && !all_ill {
            self.resumed = Some(now);
        }
        self.all_ill = all_ill;
        all_ill
    }

    /// Before this time nobody could tell a node's silence from something else's.
    pub(super) fn resumed(&self) -> Option<Timestamp> {
        self.resumed
    }

    /// Whether a node of this zone may be tainted now; counted if so.
    pub(super) fn turn(&mut self, zone: &str, rates: &Rates, now: Timestamp) -> Turn {
        if self.all_ill(now) {
            return Turn::Held;
        }
        let Some(zone) = self.zones.get_mut(zone) else { return Turn::Held };
        let rate = zone.rate(rates);
        if rate <= 0.0 {
            return Turn::Held;
        }
        let pause = SignedDuration::try_from_secs_f64(1.0 / rate).unwrap_or(SignedDuration::MAX);
        match zone.last.map(|last| last.saturating_add(pause).unwrap_or(Timestamp::MAX)) {
            Some(next) if next > now => Turn::At(next),
            _ => {
                zone.last = Some(now);
                Turn::Now
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Zone)> {
        self.zones.iter().map(|(name, zone)| (name.as_str(), zone))
    }

    /// Those that are not ready.
    pub(super) fn not_ready(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|(_, (_, ready))| !ready).map(|(name, _)| name.as_str())
    }

    /// Whether a node is known to be ready.
    pub(super) fn is_ready(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|(_, ready)| *ready)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(CompactString::as_str)
    }
}

/// What a node's change means to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The rates of its zone may be others.
    Counts,
    /// The whole cluster is ill from now on, or no more.
    AllIll,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(ready: usize, not_ready: usize) -> Zones {
        let mut zones = Zones::default();
        for n in 0..ready + not_ready {
            zones.see(&format!("n{n}"), Some(&("z".into(), n < ready)));
        }
        zones
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_zone_is_as_ill_as_its_nodes() {
        for (ready, not_ready, state) in [
            (1, 0, State::Normal),
            (0, 1, State::Full),
            (1, 2, State::Normal),
            (2, 3, State::Partial),
            (3, 3, State::Normal),
            (0, 3, State::Full),
        ] {
            let zone = Zone { ready, not_ready, last: None };
            assert_eq!(zone.state(&Rates::default()), state, "{ready} {not_ready}");
        }
    }

    #[test]
    fn nodes_are_tainted_one_after_another_as_fast_as_their_zone_allows() {
        let rates = Rates::default();
        let check = |ready, not_ready, second: Turn| {
            let mut zones = zones(ready, not_ready);
            let first = zones.turn("z", &rates, at(100));
            let next = zones.turn("z", &rates, at(100));
            let expected = if second == Turn::Held { Turn::Held } else { Turn::Now };
            assert_eq!((first, next), (expected, second), "{ready} {not_ready}");
        };
        check(5, 2, Turn::At(at(110)));
        // Ill in part: slowly where the zone is large, not at all where it is not.
        check(10, 41, Turn::At(at(200)));
        check(10, 40, Turn::Held);
        // Nothing in the cluster is ready.
        check(0, 3, Turn::Held);
        // A zone is fully ill, another is not.
        let mut zones = zones(0, 3);
        zones.see("other", Some(&("y".into(), true)));
        assert_eq!(zones.turn("z", &rates, at(100)), Turn::Now);
    }

    #[test]
    fn silence_counts_from_when_the_cluster_was_seen_again() {
        let mut zones = zones(0, 2);
        assert!(zones.all_ill(at(1)));
        assert_eq!(zones.resumed(), None);
        assert_eq!(zones.see("n0", Some(&("z".into(), true))), Change::AllIll);
        assert_eq!(zones.see("n0", Some(&("z".into(), true))), Change::Nothing);
        assert!(!zones.all_ill(at(7)));
        assert_eq!(zones.resumed(), Some(at(7)));
        assert_eq!(zones.see("n1", None), Change::Counts);
        assert_eq!(zones.not_ready().count(), 0);
    }
}
