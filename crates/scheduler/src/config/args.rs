//! The arguments of plugins: what a profile's `pluginConfig` says, with upstream's defaults.

use std::time::Duration;

use apimachinery::Value;

use super::reader::{Problems, Reader};
use crate::labels::Labels;
use crate::plugins::{Strategy, Weighted};
use crate::terms::{NodeWish, Spread};

/// The arguments of every plugin that takes some.
#[derive(Debug, Clone)]
pub struct Args {
    /// NodeResourcesFit
    pub fit: FitArgs,
    /// NodeResourcesBalancedAllocation
    pub balanced: Vec<Weighted>,
    /// PodTopologySpread
    pub spread: SpreadArgs,
    /// InterPodAffinity
    pub affinity: AffinityArgs,
    /// NodeAffinity
    pub node_affinity: NodeWish,
    /// VolumeBinding
    pub volume_binding: VolumeBindingArgs,
    /// DynamicResources
    pub devices: DynamicResourcesArgs,
    /// DefaultPreemption
    pub preemption: PreemptionArgs,
    /// What was given by whom, as it was given, for validation.
    pub(super) given: Vec<Given>,
}

/// A `pluginConfig` entry.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) plugin: String,
    pub(super) args: Value,
}

/// What NodeResourcesFit is told.
#[derive(Debug, Clone)]
pub struct FitArgs {
    /// Extended resources that are no reason against a node.
    pub ignored: Vec<String>,
    /// The parts before the slash of such.
    pub ignored_groups: Vec<String>,
    /// What makes a node better.
    pub strategy: Strategy,
    /// Which resources are looked at.
    pub resources: Vec<Weighted>,
}

impl Default for FitArgs {
    fn default() -> Self {
        Self {
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: cpu_and_memory(),
        }
    }
}

/// What PodTopologySpread is told.
#[derive(Debug, Clone, Default)]
pub struct SpreadArgs {
    /// What holds for pods that do not say themselves; `None` for upstream's own defaults.
    pub list: Option<Vec<Spread>>,
}

/// What InterPodAffinity is told.
#[derive(Debug, Clone, Copy)]
pub struct AffinityArgs {
    /// What a required term of a pod that is there already counts for the pods that it wants.
    pub hard_weight: i64,
    /// Whether preferences of pods that are there count only for pods that have some themselves.
    pub ignore_preferred: bool,
}

impl Default for AffinityArgs {
    fn default() -> Self {
        Self { hard_weight: 1, ignore_preferred: false }
    }
}

/// What VolumeBinding is told.
#[derive(Debug, Clone)]
pub struct VolumeBindingArgs {
    /// How long the volumes of a pod may take.
    pub timeout: Duration,
    /// The score by the share of room in use: points of percent and score (0 to 100), by percent. `None` for no scores.
    pub shape: Option<Vec<(i64, i64)>>,
}

impl Default for VolumeBindingArgs {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(600), shape: Some(vec![(0, 100), (100, 0)]) }
    }
}

/// What DynamicResources is told.
#[derive(Debug, Clone, Copy)]
pub struct DynamicResourcesArgs {
    /// How long devices of one node may be tried; zero for as long as it takes.
    pub filter_timeout: Duration,
    /// How long devices may take to get ready.
    pub binding_timeout: Duration,
}

impl Default for DynamicResourcesArgs {
    fn default() -> Self {
        Self { filter_timeout: Duration::from_secs(10), binding_timeout: Duration::from_secs(600) }
    }
}

/// What DefaultPreemption is told.
#[derive(Debug, Clone, Copy)]
pub struct PreemptionArgs {
    /// The share of nodes that are tried at most.
    pub percentage: usize,
    /// The number that are tried anyway.
    pub absolute: usize,
}

impl Default for PreemptionArgs {
    fn default() -> Self {
        Self { percentage: 10, absolute: 100 }
    }
}

impl Default for Args {
    fn default() -> Self {
        Self {
            fit: FitArgs::default(),
            balanced: cpu_and_memory(),
            spread: SpreadArgs::default(),
            affinity: AffinityArgs::default(),
            node_affinity: NodeWish::default(),
            volume_binding: VolumeBindingArgs::default(),
            devices: DynamicResourcesArgs::default(),
            preemption: PreemptionArgs::default(),
            given: Vec::new(),
        }
    }
}

/// The resources that count where nobody says.
#[must_use]
pub fn cpu_and_memory() -> Vec<Weighted> {
    vec![("cpu".into(), 1), ("memory".into(), 1)]
}

/// Reads the arguments of one plugin.
type Read = fn(&mut Args, Reader<'_>, &mut Problems);

/// The plugins that take arguments.
const TAKE_ARGS: &[(&str, Read)] = &[
    ("DefaultPreemption", preemption),
    ("DynamicResources", dynamic_resources),
    ("InterPodAffinity", affinity),
    ("NodeAffinity", node_affinity),
    ("NodeResourcesBalancedAllocation", balanced),
    ("NodeResourcesFit", fit),
    ("PodTopologySpread", spread),
    ("VolumeBinding", volume_binding),
];

impl Args {
    /// Takes over one `pluginConfig` entry. Arguments of plugins that there are none of are let be, as upstream lets
    /// be those of plugins outside of its tree.
    ///
    /// # Errors
    /// When they have not the plugin's form.
    pub(super) fn set(&mut self, plugin: &str, args: &Value) -> Result<(), String> {
        self.given.push(Given { plugin: plugin.to_owned(), args: args.clone() });
        let Some((_, read)) = TAKE_ARGS.iter().find(|(name, _)| *name == plugin) else {
            return Ok(());
        };
        let decoding = |text: String| format!("decoding args for plugin {plugin}: {text}");
        type_of(plugin, args).map_err(decoding)?;
        let mut problems = Problems::default();
        let mut reader = Reader::new("Args", args, "", &mut problems);
        reader.any("apiVersion");
        reader.any("kind");
        read(self, reader, &mut problems);
        problems.finish().map_err(decoding)
    }
}

/// Whether arguments say that they are another plugin's, or of another version.
fn type_of(plugin: &str, args: &Value) -> Result<(), String> {
    let (version, kind) = (args.str_at(&["apiVersion"]), args.str_at(&["kind"]));
    if !version.is_empty() && version != super::VERSION {
        return Err(super::not_registered(if kind.is_empty() { plugin } else { kind }, version));
    }
    if !kind.is_empty() && kind != format!("{plugin}Args") {
        return Err(format!(
            "args for plugin {plugin} were not of type {plugin}Args.{}, got {kind}.{}",
            super::GROUP,
            super::GROUP
        ));
    }
    Ok(())
}

fn preemption(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    let size = |it: i64| usize::try_from(it).unwrap_or_default();
    if let Some(it) = reader.integer("minCandidateNodesPercentage", problems) {
        args.preemption.percentage = size(it);
    }
    if let Some(it) = reader.integer("minCandidateNodesAbsolute", problems) {
        args.preemption.absolute = size(it);
    }
    reader.finish(problems);
}

fn dynamic_resources(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    if let Some(it) = reader.duration("filterTimeout", problems) {
        args.devices.filter_timeout = it;
    }
    if let Some(it) = reader.duration("bindingTimeout", problems) {
        args.devices.binding_timeout = it;
    }
    reader.finish(problems);
}

fn affinity(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    if let Some(it) = reader.integer("hardPodAffinityWeight", problems) {
        args.affinity.hard_weight = it;
    }
    let ignore = reader.flag("ignorePreferredTermsOfExistingPods", problems);
    args.affinity.ignore_preferred = ignore.unwrap_or_default();
    reader.finish(problems);
}

fn node_affinity(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    let added = reader.any("addedAffinity").cloned().unwrap_or_default();
    if let Some(mut affinity) = reader.maybe_object("addedAffinity", "NodeAffinity", problems) {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        if let Some(mut selector) = affinity.maybe_object(required, "NodeSelector", problems) {
            for (term, at) in selector.list("nodeSelectorTerms", problems) {
                node_term(Reader::new("NodeSelectorTerm", term, at, problems), problems);
            }
            selector.finish(problems);
        }
        for (item, at) in affinity.list("preferredDuringSchedulingIgnoredDuringExecution", problems)
        {
            let mut item = Reader::new("PreferredSchedulingTerm", item, at, problems);
            item.integer("weight", problems);
            node_term(item.object("preference", "NodeSelectorTerm", problems), problems);
            item.finish(problems);
        }
        affinity.finish(problems);
    }
    reader.finish(problems);
    let mut spec = Value::object();
    spec.set_at(&["affinity", "nodeAffinity"], added);
    args.node_affinity = NodeWish::from_spec(&spec);
}

fn node_term(mut term: Reader<'_>, problems: &mut Problems) {
    for list in ["matchExpressions", "matchFields"] {
        for (item, at) in term.list(list, problems) {
            let mut item = Reader::new("NodeSelectorRequirement", item, at, problems);
            item.text("key", problems);
            item.text("operator", problems);
            item.texts("values", problems);
            item.finish(problems);
        }
    }
    term.finish(problems);
}

fn resources(reader: &mut Reader<'_>, problems: &mut Problems) -> Vec<Weighted> {
    let items = reader.list("resources", problems);
    let mut all: Vec<Weighted> = Vec::with_capacity(items.len());
    for (item, at) in items {
        let mut item = Reader::new("ResourceSpec", item, at, problems);
        let name = item.string("name", problems);
        let weight = item.integer("weight", problems).filter(|it| *it != 0).unwrap_or(1);
        item.finish(problems);
        all.push((name.into(), weight));
    }
    if all.is_empty() { cpu_and_memory() } else { all }
}

fn balanced(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    args.balanced = resources(&mut reader, problems);
    reader.finish(problems);
}

/// Scores of a shape go to 10, scores of nodes to 100.
const SHAPE_SCALE: i64 = 10;

fn shape(reader: &mut Reader<'_>, problems: &mut Problems) -> Vec<(i64, i64)> {
    let mut points = Vec::new();
    for (item, at) in reader.list("shape", problems) {
        let mut item = Reader::new("UtilizationShapePoint", item, at, problems);
        let utilization = item.integer("utilization", problems).unwrap_or_default();
        let score = item.integer("score", problems).unwrap_or_default();
        item.finish(problems);
        points.push((utilization, score * SHAPE_SCALE));
    }
    points
}

fn fit(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    args.fit.ignored = reader.texts("ignoredResources", problems);
    args.fit.ignored_groups = reader.texts("ignoredResourceGroups", problems);
    if let Some(mut strategy) = reader.maybe_object("scoringStrategy", "ScoringStrategy", problems)
    {
        let name = strategy.string("type", problems);
        args.fit.resources = resources(&mut strategy, problems);
        let name_of = "RequestedToCapacityRatioParam";
        let ratio = strategy.maybe_object("requestedToCapacityRatio", name_of, problems);
        let points = ratio.map(|mut ratio| {
            let points = shape(&mut ratio, problems);
            ratio.finish(problems);
            points
        });
        args.fit.strategy = match name.as_str() {
            "MostAllocated" => Strategy::MostAllocated,
            "RequestedToCapacityRatio" => {
                Strategy::RequestedToCapacityRatio(points.unwrap_or_default())
            }
            // Any other name is refused when the whole is validated.
            _ => Strategy::LeastAllocated,
        };
        strategy.finish(problems);
    }
    reader.finish(problems);
}

fn spread(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    let mut constraints = Vec::new();
    for (value, at) in reader.list("defaultConstraints", problems) {
        let mut item = Reader::new("TopologySpreadConstraint", value, at, problems);
        item.integer("maxSkew", problems);
        item.text("topologyKey", problems);
        item.text("whenUnsatisfiable", problems);
        item.any("labelSelector");
        item.integer("minDomains", problems);
        item.text("nodeAffinityPolicy", problems);
        item.text("nodeTaintsPolicy", problems);
        item.texts("matchLabelKeys", problems);
        item.finish(problems);
        constraints.push(Spread::from_value(value, &Labels::default()));
    }
    let kind = reader.string("defaultingType", problems);
    args.spread.list = (kind == "List").then_some(constraints);
    reader.finish(problems);
}

fn volume_binding(args: &mut Args, mut reader: Reader<'_>, problems: &mut Problems) {
    if let Some(seconds) = reader.integer("bindTimeoutSeconds", problems) {
        args.volume_binding.timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    }
    let points = shape(&mut reader, problems);
    if !points.is_empty() {
        args.volume_binding.shape = Some(points);
    }
    reader.finish(problems);
}
