//! Every plugin that is built, in upstream's order at each extension point. The order of filters decides whose refusal a
//! pod is told of.

mod dynamic_resources;
mod fit;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod nodes;
mod normalize;
mod ports;
mod scheduling_gates;
mod spread;
mod taints;
mod volumes;

pub use fit::{Fit, Strategy, Weighted};

use crate::framework::{Filter, PostFilter, PreEnqueue, Reserve, Score};
use crate::preemption::DefaultPreemption;

/// Asked before a pod is queued.
#[must_use]
pub fn pre_enqueue() -> Vec<Box<dyn PreEnqueue>> {
    vec![Box::new(scheduling_gates::SchedulingGates)]
}

/// Asked about each node.
#[must_use]
pub fn filters() -> Vec<Box<dyn Filter>> {
    vec![
        Box::new(nodes::NodeUnschedulable),
        Box::new(nodes::NodeName),
        Box::new(taints::TaintToleration),
        Box::new(node_affinity::NodeAffinity::default()),
        Box::new(ports::NodePorts),
        Box::new(Fit::default()),
        Box::new(volumes::VolumeRestrictions),
        Box::new(volumes::NodeVolumeLimits),
        Box::new(volumes::VolumeBinding),
        Box::new(volumes::VolumeZone),
        Box::new(spread::PodTopologySpread),
        Box::new(inter_pod_affinity::InterPodAffinity),
        Box::new(dynamic_resources::DynamicResources),
    ]
}

/// Asked when a pod fits nowhere.
#[must_use]
pub fn post_filters() -> Vec<Box<dyn PostFilter>> {
    vec![Box::new(dynamic_resources::DynamicResources), Box::new(DefaultPreemption)]
}

/// Told of the node that was chosen, before anything is written.
#[must_use]
pub fn reserve() -> Vec<Box<dyn Reserve>> {
    vec![Box::new(volumes::VolumeBinding)]
}

/// Asked about each node that will do, with weights.
#[must_use]
pub fn scores() -> Vec<(Box<dyn Score>, i64)> {
    vec![
        (Box::new(taints::TaintToleration), 3),
        (Box::new(node_affinity::NodeAffinity::default()), 2),
        (Box::new(Fit::default()), 1),
        (Box::new(spread::PodTopologySpread), 2),
        (Box::new(inter_pod_affinity::InterPodAffinity), 2),
        (Box::new(fit::BalancedAllocation::default()), 1),
        (Box::new(image_locality::ImageLocality), 1),
    ]
}
