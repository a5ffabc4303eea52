//! What a plugin is, and which plugins a profile has.
//!
//! A plugin prepares for a pod once (upstream's PreFilter, PreScore) and is then asked about nodes. It is asked about
//! all nodes at once, so that it may walk a column; the order of plugins still decides whose refusal is reported.

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::ObjectKey;
use compact_str::CompactString;
use smallvec::{SmallVec, smallvec};

use crate::cluster::Cluster;
use crate::config::{Configuration, DynamicResourcesArgs};
use crate::devices::ClaimBindings;
use crate::node::Row;
use crate::pod::PodLite;
use crate::preemption::Candidate;
use crate::resources::Resources;
use crate::volumes::Bindings;

/// The best score that a plugin gives, before its weight.
pub const MAX_SCORE: i64 = 100;

/// A pod before a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodLite,
    /// The cluster.
    pub cluster: &'a Cluster,
}

impl Cycle<'_> {
    /// The row that is being emptied for the pod.
    #[must_use]
    pub fn nominated_row(&self) -> Option<usize> {
        self.cluster.position(self.cluster.nomination_of(&self.pod.key)?)
    }
}

/// Why a node will not do, or no node at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// In upstream's words.
    pub reasons: SmallVec<[Cow<'static, str>; 1]>,
    /// Whether it stays so whichever pods are removed.
    pub unresolvable: bool,
}

impl Rejection {
    /// Removing pods might help.
    #[must_use]
    pub fn for_now(reason: &'static str) -> Self {
        Self { reasons: smallvec![Cow::Borrowed(reason)], unresolvable: false }
    }

    /// Removing pods does not help.
    #[must_use]
    pub fn for_good(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: smallvec![reason.into()], unresolvable: true }
    }
}

/// What a plugin's preparation came to.
#[derive(Debug)]
pub enum Prepared<'a> {
    /// It has nothing to say about this pod.
    Skip,
    /// No node will do.
    Reject(Rejection),
    /// Ask about nodes.
    Ready(Box<dyn Check + 'a>),
}

/// Refuses nodes: upstream's PreFilter and Filter.
pub trait Filter: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Looks at the pod, and at the cluster as far as that serves all nodes.
    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a>;
}

/// What the pods that are on a node have to do with a check of it.
#[derive(Debug, Clone, Copy)]
pub enum LooksAtPods<'a> {
    /// They may matter in any way.
    Yes,
    /// They do not matter.
    No,
    /// What they ask for matters, and how many they are: this much more is asked for.
    Sums(&'a Resources),
}

/// Upstream's Filter, prepared for one pod.
pub trait Check: Debug {
    /// Whether a node will do.
    ///
    /// # Errors
    /// Why it will not.
    fn check(&self, row: &Row) -> Result<(), Rejection>;

    /// The only nodes worth asking about, where that is known.
    fn only(&self) -> Option<&[CompactString]> {
        None
    }

    /// Whether what is said of a node depends on that node and on what makes pods alike, and on nothing else: see
    /// [`crate::alike`].
    fn is_local(&self) -> bool {
        false
    }

    /// Whether the namespace and the labels of the pod are among what makes pods alike to it, where it is local.
    fn looks_at_labels(&self) -> bool {
        false
    }

    /// What the pods of a node have to do with what is said of it.
    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::Yes
    }

    /// Marks the nodes of a range of rows that will not do, among those that nobody has marked. `marks` are those of the
    /// range.
    fn sweep(&self, cluster: &Cluster, range: Range<usize>, marks: &mut [u8], mark: u8) {
        for (row, it) in cluster.rows()[range].iter().zip(marks).filter(|(_, it)| **it == 0) {
            if self.check(row).is_err() {
                *it = mark;
            }
        }
    }

    /// The refusal of a row, where it is refused; as [`Check::check`], by whichever way is faster for many.
    fn refusal(&self, cluster: &Cluster, row: usize) -> Option<Rejection> {
        self.check(&cluster.rows()[row]).err()
    }

    /// Why the pod cannot be decided about at all, where a check of a node has found that out.
    fn failure(&self) -> Option<String> {
        None
    }

    /// A pod is thought onto a node.
    fn pod_added(&mut self, _row: &Row, _pod: &PodLite) {}

    /// A pod is thought away from a node.
    fn pod_removed(&mut self, _row: &Row, _pod: &PodLite) {}

    /// A copy to think with.
    fn fork(&self) -> Box<dyn Check + '_>;
}

/// Prefers nodes: upstream's PreScore, Score and NormalizeScore.
pub trait Score: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Gives each node in `feasible` 0 to [`MAX_SCORE`]; false where it has nothing to say about this pod.
    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool;

    /// Whether the score of a node depends on that node and on what makes pods alike, and on nothing else, or there is
    /// none: see [`crate::alike`].
    fn is_local(&self, cycle: Cycle<'_>) -> bool;
}

/// Why a pod may not be looked at yet: upstream's PreEnqueue.
pub trait PreEnqueue: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// The message, where the pod has to wait.
    fn blocks(&self, cluster: &Cluster, pod: &PodLite) -> Option<String>;
}

/// What the filters made of every node.
#[derive(Debug)]
pub struct Failure<'a, 'c> {
    /// The pod and the cluster.
    pub cycle: Cycle<'a>,
    /// The checks in order, each with its plugin's name.
    pub checks: &'c [(&'static str, Box<dyn Check + 'a>)],
    /// Each node's refusal; `None` for nodes that a plugin left out beforehand.
    pub refusals: &'c [Option<Rejection>],
    /// Where a plugin refused the pod as a whole: its place among the filters.
    pub refused_by: Option<usize>,
    /// How many nodes there are for the pod.
    pub nodes: usize,
    /// A number to begin at, drawn by the caller.
    pub random: u64,
}

/// What a plugin could do for a pod that fits nowhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Remedy {
    /// Nothing now, and why. A node that is being emptied for the pod still is.
    Nothing(String),
    /// Nothing, and why: no node is worth emptying, nor is one that was.
    Hopeless(String),
    /// Nothing, and the plugins after it are not asked.
    Stop(String),
    /// A claim gives back what it was given, since nobody uses it, and why.
    Deallocate {
        /// The claim.
        claim: ObjectKey,
        /// What is told of it.
        remark: String,
    },
    /// Pods of one of these nodes go, and then it fits.
    Preempt(Vec<Candidate>),
}

/// Helps a pod that fits nowhere: upstream's PostFilter.
pub trait PostFilter: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// What can be done.
    fn remedy(&self, profile: &Profile, failure: &Failure<'_, '_>) -> Remedy;
}

/// What is to be written before a pod is bound.
#[derive(Debug, Clone, PartialEq)]
pub enum ReservedWrites {
    /// Its volumes.
    Volumes(Bindings),
    /// Its resource claims.
    Claims(ClaimBindings),
}

impl ReservedWrites {
    /// Whose writes they are.
    #[must_use]
    pub fn plugin(&self) -> &'static str {
        match self {
            Self::Volumes(_) => "VolumeBinding",
            Self::Claims(_) => "DynamicResources",
        }
    }

    /// Where the name of the claim is to be found that is made for the pod, once it is.
    pub(crate) fn made(&self) -> Option<Arc<OnceLock<CompactString>>> {
        match self {
            Self::Volumes(_) => None,
            Self::Claims(bindings) => bindings.extended.as_ref().map(|it| Arc::clone(&it.made)),
        }
    }
}

/// Takes what a pod needs of the cluster besides its node: upstream's Reserve, and PreBind in what it returns.
pub trait Reserve: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Takes it, in the picture of the cluster. What is to be written before the pod is bound comes back.
    ///
    /// # Errors
    /// Why it cannot be had on this node after all.
    fn reserve(
        &self,
        cluster: &mut Cluster,
        pod: &PodLite,
        node: &str,
    ) -> Result<Option<ReservedWrites>, String>;

    /// Gives it back.
    fn unreserve(&self, cluster: &mut Cluster, pod: &PodLite);
}

/// Which share of the nodes suffices once they will do, in percent; 0 for upstream's adaptive one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percentage(pub i64);

/// So many nodes are always looked for.
const MIN_FEASIBLE_NODES: usize = 100;
/// The least share that the adaptive one comes to.
const MIN_ADAPTIVE_PERCENT: usize = 5;

impl Percentage {
    /// How many nodes that will do are enough of so many.
    #[must_use]
    pub fn enough(self, nodes: usize) -> usize {
        let percent = match usize::try_from(self.0).unwrap_or_default() {
            0 => 50usize.saturating_sub(nodes / 125).max(MIN_ADAPTIVE_PERCENT),
            it => it,
        };
        if nodes < MIN_FEASIBLE_NODES || percent >= 100 {
            return nodes;
        }
        (nodes * percent / 100).max(MIN_FEASIBLE_NODES)
    }
}

/// The plugins of a scheduler by extension point, in order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Profile {
    /// `spec.schedulerName` of the pods that are its business.
    pub scheduler_name: CompactString,
    /// Asked before a pod is queued.
    pub pre_enqueue: Arc<[Box<dyn PreEnqueue>]>,
    /// Asked about each node.
    pub filters: Arc<[Box<dyn Filter>]>,
    /// Asked when a pod fits nowhere.
    pub post_filters: Arc<[Box<dyn PostFilter>]>,
    /// Told of the node that was chosen.
    pub reserve: Arc<[Box<dyn Reserve>]>,
    /// Asked about each node that will do, with weights.
    pub scores: Arc<[(Box<dyn Score>, i64)]>,
    /// Whose writes are made before a pod is bound.
    pub pre_bind: Arc<[CompactString]>,
    /// How long volumes may take.
    pub volume_timeout: Duration,
    /// How long devices may take.
    pub devices: DynamicResourcesArgs,
    /// How many nodes suffice.
    pub percentage: Percentage,
    /// Whether of a group that asks for it all pods get a node, or none does.
    pub gangs: bool,
    /// How a group is placed that has to be in one place.
    pub placements: Placements,
}

/// Where a group may be as a whole, and which of these is best.
#[derive(Debug, Clone, Default)]
pub struct Placements {
    /// Whether a group is kept to one of the places of the label that it names: upstream's TopologyPlacementGenerator.
    pub by_topology: bool,
    /// Asked about each placement in which the group fits, with weights.
    pub scores: Arc<[(Box<dyn PlacementScore>, i64)]>,
}

/// Nodes on which a group fits.
#[derive(Debug)]
pub struct Proposal<'a> {
    /// The rows.
    pub rows: &'a [usize],
    /// The members that found a node among them.
    pub members: &'a [Arc<PodLite>],
    /// How many members had a node before.
    pub scheduled: usize,
}

/// Prefers placements: upstream's PlacementScore and NormalizePlacementScore.
pub trait PlacementScore: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Gives each proposal 0 to [`MAX_SCORE`].
    fn score(&self, cluster: &Cluster, proposals: &[Proposal<'_>]) -> Vec<i64>;
}

impl Default for Profile {
    /// Upstream's default profile.
    fn default() -> Self {
        let profiles = Configuration::default().profiles();
        let profiles = profiles.expect("because the defaults are a valid configuration");
        profiles.into_iter().next().expect("because there is always a profile")
    }
}
