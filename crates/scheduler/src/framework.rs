//! What a plugin is, and which plugins a profile has.
//!
//! A plugin prepares for a pod once (upstream's PreFilter, PreScore) and is then asked about nodes. It is asked about
//! all nodes at once, so that it may walk a column; the order of plugins still decides whose refusal is reported.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use compact_str::CompactString;
use smallvec::{SmallVec, smallvec};

use crate::cluster::Cluster;
use crate::node::Row;
use crate::plugins;
use crate::pod::PodLite;
use crate::preemption::Preemption;
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

    /// Marks the nodes that will not do among those that nobody has marked.
    fn sweep(&self, cluster: &Cluster, marks: &mut [u8], mark: u8) {
        for (row, it) in cluster.rows().iter().zip(marks).filter(|(_, it)| **it == 0) {
            if self.check(row).is_err() {
                *it = mark;
            }
        }
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
}

/// Why a pod may not be looked at yet: upstream's PreEnqueue.
pub trait PreEnqueue: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// The message, where the pod has to wait.
    fn blocks(&self, pod: &PodLite) -> Option<String>;
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
    /// A number to begin at, drawn by the caller.
    pub random: u64,
}

/// What a plugin could do for a pod that fits nowhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Remedy {
    /// Nothing, and why.
    Nothing(String),
    /// Nothing, and the plugins after it are not asked.
    Stop(String),
    /// These pods go, and then it fits.
    Preempt(Preemption),
}

/// Helps a pod that fits nowhere: upstream's PostFilter.
pub trait PostFilter: Send + Sync + Debug {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// What can be done.
    fn remedy(&self, profile: &Profile, failure: &Failure<'_, '_>) -> Remedy;
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
    ) -> Result<Option<Bindings>, String>;

    /// Gives it back.
    fn unreserve(&self, cluster: &mut Cluster, pod: &PodLite);
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
}

impl Default for Profile {
    /// Upstream's default profile, as far as it is built.
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".into(),
            pre_enqueue: plugins::pre_enqueue().into(),
            filters: plugins::filters().into(),
            post_filters: plugins::post_filters().into(),
            reserve: plugins::reserve().into(),
            scores: plugins::scores().into(),
        }
    }
}
