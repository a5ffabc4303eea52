//! Every plugin that is built: where it is asked, and how it is made of its arguments. Which of them a profile has, and in
//! which order, says its configuration.

mod dynamic_resources;
mod fit;
mod gang_scheduling;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod nodes;
mod normalize;
mod pods_count;
mod ports;
mod scheduling_gates;
mod spread;
mod taints;
mod volumes;

use dynamic_resources::DynamicResources;
pub(crate) use dynamic_resources::{is_extended, is_late};
pub use fit::{Strategy, Weighted};

use crate::config::Args;
use crate::framework::{Filter, PlacementScore, PostFilter, PreEnqueue, Reserve, Score};
use crate::preemption::DefaultPreemption;

/// Upstream's plugins by name, with the extension points at which they have something to say.
const PLUGINS: &[(&str, &[&str])] = &[
    ("DefaultBinder", &["bind"]),
    ("DefaultPreemption", &["postFilter", "preEnqueue"]),
    (
        "DynamicResources",
        &["preEnqueue", "preFilter", "filter", "postFilter", "score", "reserve", "preBind"],
    ),
    (GANG_SCHEDULING, &["preEnqueue", "permit"]),
    ("ImageLocality", &["score"]),
    ("InterPodAffinity", &["preFilter", "filter", "preScore", "score"]),
    ("NodeAffinity", &["preFilter", "filter", "preScore", "score"]),
    ("NodeDeclaredFeatures", &["preFilter", "filter"]),
    ("NodeName", &["filter"]),
    ("NodePorts", &["preFilter", "filter"]),
    ("NodeResourcesBalancedAllocation", &["preScore", "score"]),
    ("NodeResourcesFit", &["preFilter", "filter", "preScore", "score", "placementScore"]),
    ("NodeUnschedulable", &["filter"]),
    ("NodeVolumeLimits", &["preFilter", "filter"]),
    (PODS_COUNT, &["placementScore"]),
    ("PodTopologySpread", &["preFilter", "filter", "preScore", "score"]),
    ("PrioritySort", &["queueSort"]),
    ("SchedulingGates", &["preEnqueue"]),
    ("TaintToleration", &["filter", "preScore", "score"]),
    (TOPOLOGY_PLACEMENT, &["placementGenerate"]),
    ("VolumeBinding", &["preFilter", "filter", "preScore", "score", "reserve", "preBind"]),
    ("VolumeRestrictions", &["preFilter", "filter"]),
    ("VolumeZone", &["preFilter", "filter"]),
];

/// The plugin that is there only where pods are scheduled in groups.
pub(crate) const GANG_SCHEDULING: &str = "GangScheduling";

/// The plugins that are there only where groups may have to be in one place.
pub(crate) const TOPOLOGY_PLACEMENT: &str = "TopologyPlacementGenerator";
/// See above.
pub(crate) const PODS_COUNT: &str = "PodGroupPodsCount";

/// Where a plugin is asked; `None` where there is no such plugin.
pub(crate) fn points(name: &str) -> Option<&'static [&'static str]> {
    PLUGINS.iter().find(|(it, _)| *it == name).map(|(_, points)| *points)
}

/// Whether a plugin is asked at an extension point.
pub(crate) fn asked_at(name: &str, point: &str) -> bool {
    points(name).is_some_and(|it| it.contains(&point))
}

/// Asked before a pod is queued.
pub(crate) fn pre_enqueue(name: &str, args: &Args) -> Option<Box<dyn PreEnqueue>> {
    match name {
        "SchedulingGates" => Some(Box::new(scheduling_gates::SchedulingGates)),
        GANG_SCHEDULING => Some(Box::new(gang_scheduling::GangScheduling)),
        "DynamicResources" => Some(Box::new(DynamicResources(args.devices))),
        // DefaultPreemption holds back pods whose preemption is still being written.
        _ => None,
    }
}

/// Asked about each node.
pub(crate) fn filter(name: &str, args: &Args) -> Option<Box<dyn Filter>> {
    Some(match name {
        "NodeUnschedulable" => Box::new(nodes::NodeUnschedulable),
        "NodeName" => Box::new(nodes::NodeName),
        "TaintToleration" => Box::new(taints::TaintToleration),
        "NodeAffinity" => Box::new(node_affinity::NodeAffinity::new(&args.node_affinity)),
        "NodePorts" => Box::new(ports::NodePorts),
        "NodeResourcesFit" => Box::new(fit::Fit::new(&args.fit)),
        "VolumeRestrictions" => Box::new(volumes::VolumeRestrictions),
        "NodeVolumeLimits" => Box::new(volumes::NodeVolumeLimits),
        "VolumeBinding" => Box::new(volumes::VolumeBinding),
        "VolumeZone" => Box::new(volumes::VolumeZone),
        "PodTopologySpread" => Box::new(spread::PodTopologySpread::new(&args.spread)),
        "InterPodAffinity" => Box::new(inter_pod_affinity::InterPodAffinity(args.affinity)),
        "DynamicResources" => Box::new(DynamicResources(args.devices)),
        "NodeDeclaredFeatures" => Box::new(nodes::NodeDeclaredFeatures),
        _ => return None,
    })
}

/// Asked when a pod fits nowhere.
pub(crate) fn post_filter(name: &str, args: &Args) -> Option<Box<dyn PostFilter>> {
    match name {
        "DynamicResources" => Some(Box::new(DynamicResources(args.devices))),
        "DefaultPreemption" => Some(Box::new(DefaultPreemption(args.preemption))),
        _ => None,
    }
}

/// Told of the node that was chosen, before anything is written.
pub(crate) fn reserve(name: &str, args: &Args) -> Option<Box<dyn Reserve>> {
    match name {
        "DynamicResources" => Some(Box::new(DynamicResources(args.devices))),
        "VolumeBinding" => Some(Box::new(volumes::VolumeBinding)),
        _ => None,
    }
}

/// Asked about each placement in which a group fits.
pub(crate) fn placement_score(name: &str, args: &Args) -> Option<Box<dyn PlacementScore>> {
    match name {
        PODS_COUNT => Some(Box::new(pods_count::PodGroupPodsCount)),
        "NodeResourcesFit" => Some(Box::new(fit::Fit::new(&args.fit))),
        _ => None,
    }
}

/// Asked about each node that will do.
pub(crate) fn score(name: &str, args: &Args) -> Option<Box<dyn Score>> {
    Some(match name {
        "TaintToleration" => Box::new(taints::TaintToleration),
        "NodeAffinity" => Box::new(node_affinity::NodeAffinity::new(&args.node_affinity)),
        "NodeResourcesFit" => Box::new(fit::Fit::new(&args.fit)),
        "PodTopologySpread" => Box::new(spread::PodTopologySpread::new(&args.spread)),
        "InterPodAffinity" => Box::new(inter_pod_affinity::InterPodAffinity(args.affinity)),
        "NodeResourcesBalancedAllocation" => {
            Box::new(fit::BalancedAllocation { resources: args.balanced.clone() })
        }
        "ImageLocality" => Box::new(image_locality::ImageLocality),
        "DynamicResources" => Box::new(DynamicResources(args.devices)),
        "VolumeBinding" => Box::new(volumes::Room(args.volume_binding.shape.clone()?)),
        _ => return None,
    })
}
