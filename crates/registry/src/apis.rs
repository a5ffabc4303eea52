//! Which versions and resources a server serves: those that are generally available, unless it is told otherwise.
//!
//! Upstream: `MergeAPIResourceConfigs` and `APIEnablementOptions`, the flag `--runtime-config`. It does not know what an
//! object looks like in which version.

use std::collections::BTreeMap;

use api::ResourceFacts;

use crate::removed;

/// Which of upstream's features are on, as far as declarations know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// `GenericWorkload`: Workloads, PodGroups, and pods that are members of groups.
    pub generic_workload: bool,
    /// `CoordinatedLeaderElection`: LeaseCandidates, and what a Lease says of how its holder is found.
    pub coordinated_leader_election: bool,
    /// `WorkloadWithJob`: jobs say how their pods are scheduled together.
    pub workload_with_job: bool,
    /// `TopologyAwareWorkloadScheduling`: groups say that they have to be in one place.
    pub topology_aware_workloads: bool,
    /// `MaxUnavailableStatefulSet`: how many pods of a StatefulSet may be away while it is updated.
    pub max_unavailable_stateful_set: bool,
    /// `HPAScaleToZero`: autoscalers may take all pods.
    pub hpa_scale_to_zero: bool,
    /// `PersistentVolumeClaimUnusedSinceTime`: claims say whether a pod has them.
    pub claim_unused_since_time: bool,
    /// `ManifestBasedAdmissionControlConfig`: objects that configure admission leave some names to those of files.
    pub manifest_based_admission: bool,
    /// `StorageVersionAPI`: servers tell in which versions they store objects.
    pub storage_version_api: bool,
    /// `DRAResourcePoolStatus`: how full pools of devices are can be asked for.
    pub resource_pool_status: bool,
}

/// What of upstream's API is not built: group, version, resource.
const NOT_BUILT: &[(&str, &str, &str)] = &[
    ("certificates.k8s.io", "v1beta1", "podcertificaterequests"),
    ("lifecycle.k8s.io", "v1alpha1", "evictionrequests"),
    ("lifecycle.k8s.io", "v1alpha1", "evictions"),
    ("scheduling.k8s.io", "v1alpha3", "compositepodgroups"),
];

/// A value of `--runtime-config` that cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApiError {
    /// Nothing would be served.
    #[error("invalid key with only api/all=false")]
    Nothing,
    /// No `GROUP/VERSION` or `GROUP/VERSION/RESOURCE`.
    #[error("runtime-config invalid key {0}")]
    Key(String),
    /// No groups of upstream's.
    #[error("unknown api groups {0}")]
    Groups(String),
    /// No version of the group.
    #[error("group version {0} that has not been registered")]
    Version(String),
    /// No truth value of a set of versions.
    #[error("invalid value {0}={1}")]
    SetValue(String, String),
    /// No truth value of a version or resource.
    #[error("invalid value of {0}: {1}, err: strconv.ParseBool: parsing \"{1}\": invalid syntax")]
    Value(String, String),
    /// A resource that is not lowercase.
    #[error(
        "invalid key {0}: group/version/resource and resource is always lowercase plural, not {1:?}"
    )]
    Resource(String, String),
    /// Something of upstream's that is not there.
    #[error("runtime-config {0}: kubelith has not built this API yet")]
    NotBuilt(String),
    /// A version that upstream does not serve any more.
    #[error("runtime-config {0}: Kubernetes has removed this version: see --serve-removed-apis")]
    Removed(String),
}

/// Which versions and resources are served.
#[derive(Debug, Clone)]
pub struct Apis {
    pub(crate) removed: bool,
    pub(crate) features: Features,
    versions: BTreeMap<(&'static str, &'static str), bool>,
    /// What is asked of single resources, whatever their version is.
    resources: BTreeMap<(String, String, String), bool>,
}

/// What is generally available.
impl Default for Apis {
    fn default() -> Self {
        let known = api::all_resources().map(|it| (it.group, it.version));
        let unbuilt = NOT_BUILT.iter().map(|it| (it.0, it.1));
        let versions =
            known.chain(unbuilt).map(|it| (it, Stage::of(it.1) == Some(Stage::Stable))).collect();
        Self { removed: false, features: Features::default(), versions, resources: BTreeMap::new() }
    }
}

/// How far a version has come, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Stable,
    Beta,
    Alpha,
}

impl Stage {
    fn of(version: &str) -> Option<Self> {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        let rest = version.strip_prefix('v')?;
        if number(rest) {
            return Some(Self::Stable);
        }
        let parts = |word| rest.split_once(word).is_some_and(|(a, b)| number(a) && number(b));
        if parts("beta") { Some(Self::Beta) } else { parts("alpha").then_some(Self::Alpha) }
    }
}

/// Sets of versions, in the order in which they count.
const SETS: [(&str, Option<Stage>); 4] = [
    ("api/all", None),
    ("api/ga", Some(Stage::Stable)),
    ("api/beta", Some(Stage::Beta)),
    ("api/alpha", Some(Stage::Alpha)),
];

impl Apis {
    /// The same with versions too that upstream does not serve any more.
    #[must_use]
    pub fn with_removed(self, removed: bool) -> Self {
        Self { removed, ..self }
    }

    /// The same with these features.
    #[must_use]
    pub fn with_features(self, features: Features) -> Self {
        Self { features, ..self }
    }

    /// Takes what `--runtime-config` asks for: `api/beta=true`, `GROUP/VERSION=false`, `GROUP/VERSION/RESOURCE`.
    ///
    /// # Errors
    /// A key that is none, a group or version that does not exist, a value that is no truth value, or what is not built
    /// where it is asked for by its name.
    pub fn configure(mut self, asked: &[String]) -> Result<Self, ApiError> {
        let pairs = asked.iter().map(|it| it.trim()).filter(|it| !it.is_empty());
        let pairs = pairs.map(|it| it.split_once('=').unwrap_or((it, "")));
        let asked: BTreeMap<&str, &str> =
            pairs.map(|(key, value)| (key.trim(), value.trim())).collect();
        if asked.len() == 1 && asked.get("api/all") == Some(&"false") {
            return Err(ApiError::Nothing);
        }
        let single = |key: &str| SETS.iter().all(|it| it.0 != key);
        let keys: Vec<Key<'_>> = asked
            .iter()
            .filter(|(key, _)| single(key))
            .map(|(key, value)| Key::parse(key, value))
            .collect::<Result<_, _>>()?;
        self.know_groups(&keys)?;
        for (set, stage) in SETS {
            if let Some(value) = asked.get(set) {
                self.switch_set(set, stage, value)?;
            }
        }
        let (versions, resources): (Vec<&Key<'_>>, Vec<&Key<'_>>) =
            keys.iter().partition(|it| it.resource.is_none());
        for key in versions.into_iter().chain(resources) {
            self.switch(key)?;
        }
        Ok(self)
    }

    fn know_groups(&self, keys: &[Key<'_>]) -> Result<(), ApiError> {
        let known = |group: &str| {
            self.versions.keys().any(|it| it.0 == group)
                || removed::ALL.iter().any(|it| it.group == group)
        };
        let unknown: Vec<&str> = keys.iter().map(|it| it.group).filter(|it| !known(it)).collect();
        if unknown.is_empty() { Ok(()) } else { Err(ApiError::Groups(unknown.join(","))) }
    }

    fn switch_set(&mut self, set: &str, stage: Option<Stage>, value: &str) -> Result<(), ApiError> {
        let on = match value {
            "true" => true,
            "false" => false,
            other => return Err(ApiError::SetValue(set.into(), other.into())),
        };
        for ((_, version), served) in &mut self.versions {
            if stage.is_none() || Stage::of(version) == stage {
                *served = on;
            }
        }
        Ok(())
    }

    fn switch(&mut self, key: &Key<'_>) -> Result<(), ApiError> {
        let on = key.on()?;
        let (group, version) = (key.group, key.version);
        let removed = removed::ALL.iter().find(|it| (it.group, it.version) == (group, version));
        let known = self.versions.iter_mut().find(|(it, _)| **it == (group, version));
        match (&known, removed) {
            (None, None) => return Err(ApiError::Version(format!("{group}/{version}"))),
            (None, Some(_)) if on && !self.removed => {
                return Err(ApiError::Removed(key.text.into()));
            }
            _ => {}
        }
        let unbuilt = |it: &&(&str, &str, &str)| (it.0, it.1) == (group, version);
        let Some(resource) = key.resource else {
            if on && NOT_BUILT.iter().any(|it| unbuilt(&it)) && !built(group, version) {
                return Err(ApiError::NotBuilt(key.text.into()));
            }
            match (known, removed) {
                (Some((_, served)), _) => *served = on,
                (None, Some(it)) => {
                    self.versions.insert((it.group, it.version), on);
                }
                (None, None) => {}
            }
            return Ok(());
        };
        if resource.to_lowercase() != resource {
            return Err(ApiError::Resource(key.text.into(), resource.into()));
        }
        if on && NOT_BUILT.iter().filter(unbuilt).any(|it| it.2 == resource) {
            return Err(ApiError::NotBuilt(key.text.into()));
        }
        self.resources.insert((group.into(), version.into(), resource.into()), on);
        Ok(())
    }

    /// Whether a resource is served in a version.
    #[must_use]
    pub fn serves(&self, facts: &ResourceFacts) -> bool {
        !self.is_off(facts.group, facts.version, facts.resource)
    }

    /// Whether a resource of upstream's is not served in a version. Groups of others are never off.
    pub(crate) fn is_off(&self, group: &str, version: &str, resource: &str) -> bool {
        let of_version = || self.versions.get(&(group, version)).copied().unwrap_or(true);
        !self.asked(group, version, resource).unwrap_or_else(of_version)
    }

    fn asked(&self, group: &str, version: &str, resource: &str) -> Option<bool> {
        if self.resources.is_empty() {
            return None;
        }
        self.resources.get(&(group.into(), version.into(), resource.into())).copied()
    }

    /// What upstream would serve as well and is not built: `GROUP/VERSION/RESOURCE` of each.
    #[must_use]
    pub fn not_built(&self) -> Vec<String> {
        let on = |it: &&(&str, &str, &str)| {
            let asked = self.asked(it.0, it.1, it.2);
            asked.or_else(|| self.versions.get(&(it.0, it.1)).copied()).unwrap_or(false)
        };
        NOT_BUILT.iter().filter(on).map(|it| format!("{}/{}/{}", it.0, it.1, it.2)).collect()
    }
}

/// Whether something of a version is built.
fn built(group: &str, version: &str) -> bool {
    api::all_resources().any(|it| (it.group, it.version) == (group, version))
}

/// `GROUP/VERSION` or `GROUP/VERSION/RESOURCE`, and what is wanted of it.
#[derive(Debug)]
struct Key<'k> {
    text: &'k str,
    group: &'k str,
    version: &'k str,
    resource: Option<&'k str>,
    value: &'k str,
}

impl<'k> Key<'k> {
    fn parse(text: &'k str, value: &'k str) -> Result<Self, ApiError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (group, version, resource) = match parts.as_slice() {
            [group, version] => (*group, *version, None),
            [group, version, resource] => (*group, *version, Some(*resource)),
            _ => return Err(ApiError::Key(text.into())),
        };
        Ok(Self { text, group, version, resource, value })
    }

    fn on(&self) -> Result<bool, ApiError> {
        match self.value {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(ApiError::Value(self.text.into(), other.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(config: &str) -> Result<Vec<String>, String> {
        let asked: Vec<String> = config.split(',').map(str::to_owned).collect();
        let apis = Apis::default().configure(&asked).map_err(|it| it.to_string())?;
        let unusual = api::all_resources()
            .filter(|it| apis.serves(it) != (Stage::of(it.version) == Some(Stage::Stable)));
        Ok(unusual.map(|it| format!("{}/{}", it.api_version(), it.resource)).collect())
    }

    fn check(config: &str, expected: &str) {
        let said = served(config).map_or_else(|error| error, |it| it.join(" "));
        assert_eq!(said, expected, "{config}");
    }

    #[test]
    fn versions_and_resources_are_switched() {
        check("", "");
        check("api/ga=true,apps/v1", "");
        check(
            "resource.k8s.io/v1alpha3=true",
            "resource.k8s.io/v1alpha3/devicetaintrules resource.k8s.io/v1alpha3/resourcepoolstatusrequests",
        );
        check("autoscaling/v1=false", "autoscaling/v1/horizontalpodautoscalers");
        check("batch/v1/cronjobs=false", "batch/v1/cronjobs");
        check(
            "scheduling.k8s.io/v1beta1/podgroups=true,scheduling.k8s.io/v1beta1=false",
            "scheduling.k8s.io/v1beta1/podgroups",
        );
        check(
            "api/beta=true,resource.k8s.io/v1beta1=false,resource.k8s.io/v1beta2=false,\
             scheduling.k8s.io/v1beta1=false,certificates.k8s.io/v1beta1/clustertrustbundles=false",
            "admissionregistration.k8s.io/v1beta1/mutatingadmissionpolicies \
             admissionregistration.k8s.io/v1beta1/mutatingadmissionpolicybindings \
             coordination.k8s.io/v1beta1/leasecandidates \
             storagemigration.k8s.io/v1beta1/storageversionmigrations",
        );
    }

    #[test]
    fn what_cannot_be_is_refused_in_upstreams_words() {
        check("api/all=false", "invalid key with only api/all=false");
        check("v1=true", "runtime-config invalid key v1");
        check("nope/v1", "unknown api groups nope");
        check("apps/v9=true", "group version apps/v9 that has not been registered");
        check("api/beta=yes", "invalid value api/beta=yes");
        check(
            "apps/v1=maybe",
            "invalid value of apps/v1: maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
        );
        check(
            "apps/v1/Deployments",
            "invalid key apps/v1/Deployments: group/version/resource and resource is always lowercase plural, not \"Deployments\"",
        );
        check(
            "lifecycle.k8s.io/v1alpha1=true",
            "runtime-config lifecycle.k8s.io/v1alpha1: kubelith has not built this API yet",
        );
        check(
            "extensions/v1beta1=true",
            "runtime-config extensions/v1beta1: Kubernetes has removed this version: see --serve-removed-apis",
        );
        check("extensions/v1beta1=false,lifecycle.k8s.io/v1alpha1=false", "");
    }

    #[test]
    fn what_is_on_and_not_built_is_told() {
        let asked = ["api/alpha=true".to_owned()];
        let apis = Apis::default().configure(&asked).unwrap();
        assert!(apis.not_built().contains(&"scheduling.k8s.io/v1alpha3/compositepodgroups".into()));
        assert_eq!(Apis::default().not_built(), Vec::<String>::new());
    }
}
