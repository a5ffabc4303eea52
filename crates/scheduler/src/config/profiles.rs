//! Which plugins a profile has at which extension point: upstream's defaults, what a configuration adds, replaces and
//! leaves out, and the built plugins that come of it.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::{Problems, Reader};
use super::{Args, Configuration, Features, ProfileConfig};
use crate::framework::{Percentage, Placements, Profile};
use crate::plugins;

/// The sets of a profile by extension point, as they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugins(pub BTreeMap<&'static str, PluginSet>);

/// What is on and off at an extension point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginSet {
    /// Besides the defaults.
    pub enabled: Vec<Plugin>,
    /// Of the defaults; `*` is all.
    pub disabled: Vec<String>,
}

/// A plugin that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// What its score counts.
    pub weight: Option<i64>,
}

/// Where plugins may be named that are asked wherever they have something to say.
const MULTI_POINT: &str = "multiPoint";

/// Every extension point, with what upstream calls a plugin that is asked there.
const POINTS: &[(&str, &str)] = &[
    ("preEnqueue", "PreEnqueuePlugin"),
    ("queueSort", "QueueSortPlugin"),
    ("preFilter", "PreFilterPlugin"),
    ("filter", "FilterPlugin"),
    ("postFilter", "PostFilterPlugin"),
    ("preScore", "PreScorePlugin"),
    ("score", "ScorePlugin"),
    ("reserve", "ReservePlugin"),
    ("permit", "PermitPlugin"),
    ("preBind", "PreBindPlugin"),
    ("bind", "BindPlugin"),
    ("postBind", "PostBindPlugin"),
];

/// Those of placements of pod groups.
const PLACEMENT_POINTS: &[(&str, &str)] =
    &[("placementGenerate", "PlacementGeneratePlugin"), ("placementScore", "PlacementScorePlugin")];

/// Extension points of pod groups which are not built: sets there must be empty.
const NOT_BUILT: &[&str] = &["placementFeasible", "podGroupPostFilter"];

/// The plugins that are on by default, in order, with their weights.
const DEFAULTS: &[(&str, Option<i64>)] = &[
    ("SchedulingGates", None),
    ("PrioritySort", None),
    ("NodeUnschedulable", None),
    ("NodeName", None),
    ("TaintToleration", Some(3)),
    ("NodeAffinity", Some(2)),
    ("NodePorts", None),
    ("NodeResourcesFit", Some(1)),
    ("VolumeRestrictions", None),
    ("NodeVolumeLimits", None),
    ("VolumeBinding", None),
    ("VolumeZone", None),
    ("PodTopologySpread", Some(2)),
    ("InterPodAffinity", Some(2)),
    ("DynamicResources", Some(2)),
    ("DefaultPreemption", None),
    ("NodeResourcesBalancedAllocation", Some(1)),
    ("ImageLocality", Some(1)),
    ("DefaultBinder", None),
    ("NodeDeclaredFeatures", None),
];

impl Plugins {
    pub(super) fn read(mut reader: Reader<'_>, problems: &mut Problems) -> Self {
        let mut sets = BTreeMap::new();
        let points = POINTS.iter().map(|(point, _)| *point).chain([MULTI_POINT]);
        let placements = PLACEMENT_POINTS.iter().map(|(point, _)| *point);
        for point in points.chain(placements).chain(NOT_BUILT.iter().copied()) {
            let Some(mut set) = reader.maybe_object(point, "PluginSet", problems) else { continue };
            let mut read = PluginSet::default();
            for (value, at) in set.list("enabled", problems) {
                let mut item = Reader::new("Plugin", value, at, problems);
                let name = item.string("name", problems);
                read.enabled.push(Plugin { name, weight: item.integer("weight", problems) });
                item.finish(problems);
            }
            for (value, at) in set.list("disabled", problems) {
                let mut item = Reader::new("Plugin", value, at, problems);
                read.disabled.push(item.string("name", problems));
                item.integer("weight", problems);
                item.finish(problems);
            }
            set.finish(problems);
            sets.insert(point, read);
        }
        reader.finish(problems);
        Self(sets)
    }

    fn at(&self, point: &str) -> &PluginSet {
        static NOTHING: PluginSet = PluginSet { enabled: Vec::new(), disabled: Vec::new() };
        self.0.get(point).unwrap_or(&NOTHING)
    }
}

/// The sets of a profile, where pods are scheduled in groups or are not.
#[derive(Debug, Clone, Copy)]
struct Sets<'p> {
    given: &'p Plugins,
    features: Features,
}

impl Sets<'_> {
    /// Where a plugin is asked; `None` where there is no such plugin.
    fn points(self, name: &str) -> Option<&'static [&'static str]> {
        let is_there = match name {
            plugins::GANG_SCHEDULING => self.features.pod_groups,
            plugins::TOPOLOGY_PLACEMENT | plugins::PODS_COUNT => self.features.topology,
            _ => true,
        };
        plugins::points(name).filter(|_| is_there)
    }

    /// The plugins that features bring, with their weights.
    fn of_features(self) -> impl Iterator<Item = &'static (&'static str, Option<i64>)> {
        const GANGS: &[(&str, Option<i64>)] = &[(plugins::GANG_SCHEDULING, None)];
        const PLACEMENTS: &[(&str, Option<i64>)] =
            &[(plugins::TOPOLOGY_PLACEMENT, None), (plugins::PODS_COUNT, Some(1))];
        let gangs = GANGS.iter().filter(move |_| self.features.pod_groups);
        gangs.chain(PLACEMENTS.iter().filter(move |_| self.features.topology))
    }

    /// The plugins that are asked wherever they have something to say: the defaults that are left, some with another
    /// weight, then the others.
    fn everywhere(self) -> Vec<Plugin> {
        let own = self.given.at(MULTI_POINT);
        let off = |name: &str| own.disabled.iter().any(|it| it == name || it == "*");
        let mut replaced = BTreeSet::new();
        let mut all = Vec::new();
        for (name, weight) in
            DEFAULTS.iter().chain(self.of_features()).filter(|(name, _)| !off(name))
        {
            // Of several of one name the last replaces the default; the others are found to be too many.
            match own.enabled.iter().rposition(|it| it.name == *name) {
                Some(place) => {
                    replaced.insert(place);
                    all.push(own.enabled[place].clone());
                }
                None => all.push(Plugin { name: (*name).to_owned(), weight: *weight }),
            }
        }
        let others = own.enabled.iter().enumerate().filter(|(place, _)| !replaced.contains(place));
        all.extend(others.map(|(_, it)| it.clone()));
        all
    }

    /// Those that are asked at one point, in order: those named for it that are asked everywhere, the rest of those that
    /// are asked everywhere, the rest of those named for it.
    ///
    /// # Errors
    /// When one does not exist, has nothing to say there, or is named twice.
    fn asked(self, (point, called): (&str, &str)) -> Result<Vec<Plugin>, String> {
        let own = self.given.at(point);
        let mut named = BTreeSet::new();
        for plugin in &own.enabled {
            let name = plugin.name.as_str();
            if self.points(name).is_none() {
                return Err(format!("{called} \"{name}\" does not exist"));
            }
            if !plugins::asked_at(name, point) {
                return Err(format!("plugin \"{name}\" does not extend {called} plugin"));
            }
            if !named.insert(name) {
                return Err(format!("plugin \"{name}\" already registered as \"{called}\""));
            }
        }
        let off = |name: &str| own.disabled.iter().any(|it| it == name || it == "*");
        let everywhere = self.everywhere();
        let mut seen = BTreeSet::new();
        let mut middle = Vec::new();
        for plugin in &everywhere {
            let name = plugin.name.as_str();
            if self.points(name).is_none() {
                return Err(format!("plugin \"{name}\" does not exist"));
            }
            if !plugins::asked_at(name, point) || off(name) {
                continue;
            }
            if !seen.insert(name) {
                return Err(format!("plugin \"{name}\" already registered as \"{called}\""));
            }
            if !named.contains(name) {
                middle.push(plugin.clone());
            }
        }
        let (first, last): (Vec<Plugin>, Vec<Plugin>) =
            own.enabled.iter().cloned().partition(|it| seen.contains(it.name.as_str()));
        Ok([first, middle, last].concat())
    }

    /// # Errors
    /// When plugins cannot be had somewhere.
    fn judge(self) -> Result<(), String> {
        let has = |point: &str| !self.given.at(point).enabled.is_empty();
        if let Some(point) = NOT_BUILT.iter().find(|it| has(it)) {
            return Err(format!("plugins at {point} are not built"));
        }
        let on = self.features.topology;
        if let Some((point, _)) = PLACEMENT_POINTS.iter().find(|(it, _)| !on && has(it)) {
            let feature = "TopologyAwareWorkloadScheduling";
            return Err(format!("plugins at {point} need the feature {feature}"));
        }
        let placements = PLACEMENT_POINTS.iter().filter(|_| on);
        POINTS.iter().chain(placements).try_for_each(|point| self.asked(*point).map(drop))
    }

    /// The names at one point.
    fn names(self, point: &'static str) -> Result<Vec<String>, String> {
        Ok(self.asked(called(point))?.into_iter().map(|it| it.name).collect())
    }
}

fn called(point: &'static str) -> (&'static str, &'static str) {
    let found = POINTS.iter().chain(PLACEMENT_POINTS).find(|(it, _)| *it == point);
    found.copied().unwrap_or((point, "Plugin"))
}

impl Configuration {
    /// The profiles, with their plugins.
    ///
    /// # Errors
    /// When a profile's plugins cannot be had so.
    pub fn profiles(&self) -> Result<Vec<Profile>, String> {
        let build = |profile: &ProfileConfig| {
            let name = &profile.scheduler_name;
            self.build(profile).map_err(|error| {
                let creating = format!("creating profile for scheduler name {name}");
                format!("initializing profiles: {creating}: {error}")
            })
        };
        self.profiles.iter().map(build).collect()
    }

    fn build(&self, config: &ProfileConfig) -> Result<Profile, String> {
        let name = &config.scheduler_name;
        let sets = Sets { given: &config.plugins, features: self.features };
        sets.judge()?;
        let sorts = sets.names("queueSort")?;
        match sorts.len() {
            1 => {}
            0 => {
                let text = "no queue sort plugin registered for profile with scheduler name";
                return Err(format!("{text} \"{name}\""));
            }
            count => {
                let text = "only one queue sort plugin required for profile with scheduler name";
                return Err(format!("{text} \"{name}\", but got {count}"));
            }
        }
        if sets.names("bind")?.is_empty() {
            let text = "at least one bind plugin is needed for profile with scheduler name";
            return Err(format!("{text} \"{name}\""));
        }
        let mut args = self.with_extenders(&config.args);
        if !self.features.storage_capacity_scoring {
            args.volume_binding.shape = None;
        }
        let weighted = sets.asked(called("score"))?.into_iter().filter_map(|it| {
            let weight = it.weight.filter(|it| *it != 0).unwrap_or(1);
            Some((plugins::score(&it.name, &args)?, weight))
        });
        let share = config.percentage_of_nodes_to_score;
        let filters = sets.names("filter")?;
        let filters = filters.iter().filter_map(|it| plugins::filter(it, &args));
        Ok(Profile {
            scheduler_name: name.as_str().into(),
            pre_enqueue: sets
                .names("preEnqueue")?
                .iter()
                .filter_map(|it| plugins::pre_enqueue(it, &args))
                .collect::<Vec<_>>()
                .into(),
            filters: filters.collect::<Vec<_>>().into(),
            post_filters: sets
                .names("postFilter")?
                .iter()
                .filter_map(|it| plugins::post_filter(it, &args))
                .collect::<Vec<_>>()
                .into(),
            reserve: sets
                .names("reserve")?
                .iter()
                .filter_map(|it| plugins::reserve(it, &args))
                .collect::<Vec<_>>()
                .into(),
            scores: weighted.collect::<Vec<_>>().into(),
            pre_bind: sets.names("preBind")?.iter().map(|it| it.as_str().into()).collect(),
            volume_timeout: args.volume_binding.timeout,
            devices: args.devices,
            placements: self.placements(sets, &args)?,
            gangs: sets.names("permit")?.iter().any(|it| it == plugins::GANG_SCHEDULING),
            percentage: Percentage(share.unwrap_or(self.percentage_of_nodes_to_score)),
        })
    }

    /// How groups are placed that have to be in one place.
    fn placements(&self, sets: Sets<'_>, args: &Args) -> Result<Placements, String> {
        if !self.features.topology {
            return Ok(Placements::default());
        }
        let scores = sets.asked(called("placementScore"))?.into_iter().filter_map(|it| {
            let weight = it.weight.filter(|it| *it != 0).unwrap_or(1);
            Some((plugins::placement_score(&it.name, args)?, weight))
        });
        let generators = sets.names("placementGenerate")?;
        Ok(Placements {
            by_topology: generators.iter().any(|it| it == plugins::TOPOLOGY_PLACEMENT),
            scores: scores.collect::<Vec<_>>().into(),
        })
    }

    /// What an extender counts alone is no reason for NodeResourcesFit.
    fn with_extenders(&self, args: &Args) -> Args {
        let mut args = args.clone();
        let managed = self.extenders.iter().flat_map(|it| &it.managed_resources);
        let alone = managed.filter(|it| it.ignored_by_scheduler).map(|it| it.name.clone());
        args.fit.ignored.extend(alone);
        args
    }
}
