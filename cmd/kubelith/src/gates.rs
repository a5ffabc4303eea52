//! Feature gates by upstream's names. One value is made of the flags, and handed to what consults it; a gate that nothing
//! consults is taken at the state that is built, and refused otherwise, not ignored.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use component_base::feature_gates::FeatureGates;

/// Who holds a lease is said by the API server, of those that stand for it.
pub(crate) const COORDINATED_LEADER_ELECTION: &str = "CoordinatedLeaderElection";
/// Workloads and groups of pods, which API server, scheduler and controllers know where it is on.
pub(crate) const GENERIC_WORKLOAD: &str = "GenericWorkload";
/// Policies and webhooks of files.
pub(crate) const MANIFEST_BASED_ADMISSION: &str = "ManifestBasedAdmissionControlConfig";
/// Controllers give up their lease once they have ended (KEP-5366).
pub(crate) const RELEASE_LEASE_ON_EXIT: &str = "ControllerManagerReleaseLeaderElectionLockOnExit";
/// Nodes are scored by the room that a pod's volumes would leave.
pub(crate) const STORAGE_CAPACITY_SCORING: &str = "StorageCapacityScoring";
/// How full pools of devices are can be asked for.
pub(crate) const RESOURCE_POOL_STATUS: &str = "DRAResourcePoolStatus";
/// Servers tell in which versions they store objects.
pub(crate) const STORAGE_VERSION_API: &str = "StorageVersionAPI";
/// Groups that have to be in one place. It needs `GENERIC_WORKLOAD`.
pub(crate) const TOPOLOGY_AWARE_WORKLOADS: &str = "TopologyAwareWorkloadScheduling";
/// Jobs whose pods are scheduled in groups. It needs `GENERIC_WORKLOAD`.
pub(crate) const WORKLOAD_WITH_JOB: &str = "WorkloadWithJob";

/// Gates, and what each needs.
const NEEDS: [(&str, &str); 2] =
    [(WORKLOAD_WITH_JOB, GENERIC_WORKLOAD), (TOPOLOGY_AWARE_WORKLOADS, GENERIC_WORKLOAD)];

/// Those that something consults.
const CONSULTED: [&str; 17] = [
    "AllowUnsafeMalformedObjectDeletion",
    "CBORServingAndStorage",
    "ComponentFlagz",
    "ComponentStatusz",
    RELEASE_LEASE_ON_EXIT,
    COORDINATED_LEADER_ELECTION,
    RESOURCE_POOL_STATUS,
    GENERIC_WORKLOAD,
    "HPAScaleToZero",
    MANIFEST_BASED_ADMISSION,
    "MaxUnavailableStatefulSet",
    "PersistentVolumeClaimUnusedSinceTime",
    STORAGE_CAPACITY_SCORING,
    STORAGE_VERSION_API,
    "StorageVersionHash",
    TOPOLOGY_AWARE_WORKLOADS,
    WORKLOAD_WITH_JOB,
];

/// The gates that `--feature-gates` asks for.
///
/// # Errors
/// A gate that does not exist, is locked, or that nothing here consults and that is to be another than it is.
pub(crate) fn parse(flags: &[String]) -> Result<Arc<FeatureGates>> {
    let defaults = FeatureGates::default();
    let mut asked = defaults.clone();
    for flag in flags {
        asked.set(flag).with_context(|| format!("--feature-gates {flag}"))?;
    }
    let changed = asked.differing(&defaults);
    if let Some((name, on)) = changed.iter().find(|(name, _)| !CONSULTED.contains(name)) {
        bail!(
            "--feature-gates {name}={on}: kubelith cannot switch this feature yet; it is always {}",
            if *on { "off" } else { "on" }
        );
    }
    for (feature, needed) in NEEDS {
        if asked.enabled(feature) && !asked.enabled(needed) {
            bail!(
                "--feature-gates: {feature} is enabled, but depends on features that are disabled: [{needed}]"
            );
        }
    }
    Ok(Arc::new(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_is_consulted_is_switched_and_another_taken_at_its_default() {
        let flags = "WatchList=true,GenericWorkload=true,CBORServingAndStorage=true";
        let gates = parse(&[flags.to_owned()]).unwrap();
        assert!(gates.enabled("GenericWorkload") && gates.enabled("CBORServingAndStorage"));
        for (flag, wanted) in [
            ("Nope=true", "unrecognized feature gate: Nope"),
            ("WatchList=false", "cannot switch"),
            ("WatchList=maybe", "ParseBool"),
            ("SidecarContainers=false", "locked"),
            ("AllBeta=false", "cannot switch"),
            ("WorkloadWithJob=true", "depends on features that are disabled: [GenericWorkload]"),
        ] {
            let error = format!("{:#}", parse(&[flag.to_owned()]).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn every_gate_that_is_consulted_exists() {
        let known: Vec<&str> = FeatureGates::default().iter().map(|it| it.0).collect();
        assert!(CONSULTED.iter().all(|it| known.contains(it)));
    }
}
