//! Feature gates by upstream's names. One value is made of the flags, and handed to what consults it; a gate that nothing
//! consults is taken at the state that is built, and refused otherwise, not ignored.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use component_base::feature_gates::FeatureGates;

/// Workloads and groups of pods, which API server, scheduler and controllers know where it is on.
pub(crate) const GENERIC_WORKLOAD: &str = "GenericWorkload";

/// Those that something consults.
const CONSULTED: [&str; 5] = [
    "CBORServingAndStorage",
    "ComponentFlagz",
    "ComponentStatusz",
    GENERIC_WORKLOAD,
    "StorageVersionHash",
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
