//! Feature gates by upstream's names. A gate is taken at the state that is built; the other way is refused, not ignored.

use anyhow::{Context, Result, bail};
use component_base::feature_gates::{FeatureGates, KUBERNETES};

/// The minor version of Kubernetes that is served.
const MINOR: u16 = 37;

/// Checks what `--feature-gates` asks for.
///
/// # Errors
/// A gate that does not exist, is locked, or cannot be switched here yet.
pub(crate) fn check(flags: &[String]) -> Result<()> {
    let defaults = FeatureGates::at_minor(KUBERNETES, MINOR);
    let mut asked = defaults.clone();
    for flag in flags {
        asked.set(flag).with_context(|| format!("--feature-gates {flag}"))?;
    }
    if let Some((name, on)) = asked.differing(&defaults).first() {
        bail!(
            "--feature-gates {name}={on}: kubelith cannot switch this feature yet; it is always {}",
            if *on { "off" } else { "on" }
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_gate_is_taken_at_its_default_and_refused_otherwise() {
        check(&["WatchList=true,GangScheduling=false".to_owned()]).unwrap();
        for (flag, wanted) in [
            ("Nope=true", "unrecognized feature gate: Nope"),
            ("WatchList=false", "cannot switch"),
            ("WatchList=maybe", "ParseBool"),
            ("SidecarContainers=false", "locked"),
        ] {
            let error = format!("{:#}", check(&[flag.to_owned()]).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }
}
