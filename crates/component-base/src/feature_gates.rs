//! Feature gates: upstream's names, with the stage each has had by version.

mod kubernetes;

pub use kubernetes::KUBERNETES;

use std::collections::BTreeMap;

/// How far a feature has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// Usually on.
    Beta,
    /// On; may still be switched off until it is locked.
    GenerallyAvailable,
    /// Going away.
    Deprecated,
}

/// What a gate is from one minor version of Kubernetes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The minor version of 1.x this holds from.
    pub since_minor: u16,
    /// Its stage there.
    pub stage: Stage,
    /// Whether it is on when nobody says.
    pub default: bool,
    /// Whether saying otherwise is refused.
    pub locked: bool,
}

/// One gate and its history, oldest first.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// Upstream's name.
    pub name: &'static str,
    /// Its history, oldest first.
    pub history: &'static [Spec],
}

impl Gate {
    fn at(&self, minor: u16) -> Option<&'static Spec> {
        self.history.iter().rev().find(|spec| spec.since_minor <= minor)
    }
}

/// A value of `--feature-gates` that cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GateError {
    /// Not a gate of this version.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    /// Not `true` or `false`.
    #[error(
        "invalid value of {name}={value}, err: strconv.ParseBool: parsing \"{value}\": invalid syntax"
    )]
    NotBool {
        /// The gate.
        name: String,
        /// What was given for it.
        value: String,
    },
    /// No `=` in the pair.
    #[error("missing bool value for {0}")]
    Missing(String),
    /// Locked to its default.
    #[error("cannot set feature gate {name} to {value}, feature is locked to {locked}")]
    Locked {
        /// The gate.
        name: String,
        /// What was asked.
        value: bool,
        /// What it stays.
        locked: bool,
    },
}

/// The minor version of Kubernetes whose gates these are.
pub const MINOR: u16 = 37;

/// The gates of one process, at one version.
#[derive(Debug, Clone)]
pub struct FeatureGates {
    states: BTreeMap<&'static str, (bool, &'static Spec)>,
}

/// Upstream's gates with the defaults they have at 1.[`MINOR`], but for those that are held back.
impl Default for FeatureGates {
    fn default() -> Self {
        let mut gates = Self::at_minor(KUBERNETES, MINOR);
        for name in kubernetes::HELD_BACK {
            if let Some((on, _)) = gates.states.get_mut(name) {
                *on = false;
            }
        }
        gates
    }
}

impl FeatureGates {
    /// `gates` with the defaults they have at 1.`minor`.
    #[must_use]
    pub fn at_minor(gates: &'static [Gate], minor: u16) -> Self {
        let states = gates
            .iter()
            .filter_map(|gate| gate.at(minor).map(|spec| (gate.name, (spec.default, spec))))
            .collect();
        Self { states }
    }

    /// Whether `name` is on. A gate that does not exist is off.
    #[must_use]
    pub fn enabled(&self, name: &str) -> bool {
        self.states.get(name).is_some_and(|(on, _)| *on)
    }

    /// The gates by name: stage, and whether each is on.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> {
        self.states.iter().map(|(name, (on, spec))| (*name, spec.stage, *on))
    }

    /// The gates whose state differs from `other`'s, by name, with their state here.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<(&'static str, bool)> {
        let differs = |name: &str, on: bool| other.states.get(name).is_none_or(|it| it.0 != on);
        let all = self.states.iter().map(|(name, (on, _))| (*name, *on));
        all.filter(|(name, on)| differs(name, *on)).collect()
    }

    /// Takes the value of `--feature-gates`: `A=true,B=false`. `AllAlpha` and `AllBeta` set a whole stage.
    ///
    /// # Errors
    /// A name that is not known, a value that is not a bool, or a gate that is locked. Nothing is changed then.
    pub fn set(&mut self, flag: &str) -> Result<(), GateError> {
        let mut states = self.states.clone();
        for pair in flag.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = parse(pair)?;
            match name {
                "AllAlpha" => set_stage(&mut states, Stage::Alpha, value),
                "AllBeta" => set_stage(&mut states, Stage::Beta, value),
                _ => set_one(&mut states, name, value)?,
            }
        }
        self.states = states;
        Ok(())
    }
}

fn parse(pair: &str) -> Result<(&str, bool), GateError> {
    let (name, value) = pair.split_once('=').ok_or_else(|| GateError::Missing(pair.into()))?;
    let value = match value.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        other => return Err(GateError::NotBool { name: name.into(), value: other.into() }),
    };
    Ok((name.trim(), value))
}

type States = BTreeMap<&'static str, (bool, &'static Spec)>;

fn set_stage(states: &mut States, stage: Stage, value: bool) {
    for (on, spec) in states.values_mut() {
        if spec.stage == stage && !spec.locked {
            *on = value;
        }
    }
}

fn set_one(states: &mut States, name: &str, value: bool) -> Result<(), GateError> {
    let Some((on, spec)) = states.get_mut(name) else {
        return Err(GateError::Unknown(name.into()));
    };
    if spec.locked && spec.default != value {
        return Err(GateError::Locked { name: name.into(), value, locked: spec.default });
    }
    *on = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATES: &[Gate] = &[
        Gate {
            name: "Young",
            history: &[Spec {
                since_minor: 36,
                stage: Stage::Alpha,
                default: false,
                locked: false,
            }],
        },
        Gate {
            name: "Old",
            history: &[
                Spec { since_minor: 30, stage: Stage::Beta, default: true, locked: false },
                Spec {
                    since_minor: 36,
                    stage: Stage::GenerallyAvailable,
                    default: true,
                    locked: true,
                },
            ],
        },
    ];

    #[test]
    fn a_gate_has_the_default_of_its_version() {
        let gates = FeatureGates::at_minor(GATES, 37);
        assert!(gates.enabled("Old"));
        assert!(!gates.enabled("Young"));
        assert!(!FeatureGates::at_minor(GATES, 29).enabled("Old"));
    }

    #[test]
    fn upstreams_gates_are_those_of_the_version_that_is_served() {
        let gates = FeatureGates::default();
        for (name, on) in
            [("DRADeviceTaintRules", true), ("GenericWorkload", false), ("GangScheduling", false)]
        {
            assert_eq!(gates.enabled(name), on, "{name}");
        }
        // Generally available, and still to be switched off.
        assert_eq!(gates.clone().set("DRADeviceTaintRules=false"), Ok(()));
        let gone = gates.clone().set("GangScheduling=true");
        assert_eq!(gone, Err(GateError::Unknown("GangScheduling".into())));
        let names: Vec<&str> = KUBERNETES.iter().map(|it| it.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        // On in 1.37, and here where they are asked for.
        for name in kubernetes::HELD_BACK {
            assert!(FeatureGates::at_minor(KUBERNETES, MINOR).enabled(name), "{name}");
            assert!(!gates.enabled(name), "{name}");
        }
    }

    #[test]
    fn bad_values_change_nothing() {
        let mut gates = FeatureGates::at_minor(GATES, 37);
        let errors = ["Young=true,Nope=true", "Young=true,Old=false", "Young=maybe", "Young"]
            .map(|flag| gates.set(flag).unwrap_err().to_string());
        assert_eq!(errors[0], "unrecognized feature gate: Nope");
        assert_eq!(errors[1], "cannot set feature gate Old to false, feature is locked to true");
        assert!(!gates.enabled("Young"));
        gates.set("AllAlpha=true").unwrap();
        assert!(gates.enabled("Young"));
    }
}
