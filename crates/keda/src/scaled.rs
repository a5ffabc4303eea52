//! The object itself: what is scaled, how far, how often it is looked at.

use apimachinery::Value;
use jiff::SignedDuration;

use crate::trigger::Trigger;

/// Upstream's defaults.
const POLLING_SECONDS: i64 = 30;
const COOLDOWN_SECONDS: i64 = 300;
const MAX_REPLICAS: i32 = 100;
/// How many triggers an object may have here; each costs a request a look.
const MAX_TRIGGERS: usize = 20;

/// What is scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A ScaledObject, read and checked.
#[derive(Debug, Clone)]
pub struct ScaledObject {
    /// What is scaled.
    pub target: Target,
    /// Between two looks.
    pub polling: SignedDuration,
    /// How long after the last activity there is nothing left.
    pub cooldown: SignedDuration,
    /// How long after its making nothing is taken away.
    pub initial_cooldown: SignedDuration,
    /// How many replicas there are while nothing is active; else as few as `min`.
    pub idle: Option<i32>,
    /// The fewest.
    pub min: i32,
    /// The most.
    pub max: i32,
    /// By what it is scaled.
    pub triggers: Vec<Trigger>,
    /// The behavior of its autoscaler.
    pub behavior: Option<Value>,
    /// The autoscaler's name.
    pub hpa_name: String,
    /// Whether the replicas come back that were there before, once it is deleted.
    pub restores: bool,
    /// It does nothing, at so many replicas where that is said.
    pub paused: Option<Option<i32>>,
}

impl ScaledObject {
    /// Reads an object.
    ///
    /// # Errors
    /// The first that is wrong with it, or is not built.
    pub fn parse(object: &Value) -> Result<Self, String> {
        let spec = object.get("spec").ok_or("there is no spec")?;
        let name = object.str_at(&["metadata", "name"]);
        for missing in [&["fallback"][..], &["advanced", "scalingModifiers"]] {
            let said = spec.at(missing);
            if said.is_some_and(|it| !it.is_null() && *it != Value::object()) {
                return Err(format!("{} is not supported here", missing.join(".")));
            }
        }
        let triggers = spec.items_at(&["triggers"]);
        if triggers.is_empty() {
            return Err("no triggers defined in the ScaledObject/ScaledJob".into());
        }
        if triggers.len() > MAX_TRIGGERS {
            return Err(format!("more than {MAX_TRIGGERS} triggers"));
        }
        let read = triggers.iter().enumerate().map(|(index, it)| Trigger::parse(index, it));
        let (idle, min) = (count(spec, "idleReplicaCount")?, count(spec, "minReplicaCount")?);
        let (min, max) =
            (min.unwrap_or(0), count(spec, "maxReplicaCount")?.unwrap_or(MAX_REPLICAS));
        if min > max {
            return Err(format!("MinReplicaCount={min} must be less than MaxReplicaCount={max}"));
        }
        if let Some(idle) = idle.filter(|it| *it >= min) {
            return Err(format!("IdleReplicaCount={idle} must be less than MinReplicaCount={min}"));
        }
        let advanced = |path: &[&str]| spec.get("advanced").and_then(|it| it.at(path)).cloned();
        let hpa_name = advanced(&["horizontalPodAutoscalerConfig", "name"]);
        let hpa_name = hpa_name.and_then(|it| it.as_str().map(str::to_owned));
        Ok(Self {
            target: target(spec)?,
            polling: seconds(spec, "pollingInterval", POLLING_SECONDS, 1)?,
            cooldown: seconds(spec, "cooldownPeriod", COOLDOWN_SECONDS, 0)?,
            initial_cooldown: seconds(spec, "initialCooldownPeriod", 0, 0)?,
            idle,
            min,
            max,
            triggers: read.collect::<Result<_, _>>()?,
            behavior: advanced(&["horizontalPodAutoscalerConfig", "behavior"]),
            hpa_name: hpa_name.filter(|it| !it.is_empty()).unwrap_or_else(|| hpa_name_of(name)),
            restores: advanced(&["restoreToOriginalReplicaCount"]).and_then(|it| it.as_bool())
                == Some(true),
            paused: paused(object)?,
        })
    }
}

fn hpa_name_of(name: &str) -> String {
    let mut name = format!("keda-hpa-{name}");
    // Names of objects are of ASCII.
    name.truncate(63);
    name
}

fn target(spec: &Value) -> Result<Target, String> {
    let of = |member: &str, default: &str| match spec.str_at(&["scaleTargetRef", member]) {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    let target = Target {
        api_version: of("apiVersion", "apps/v1"),
        kind: of("kind", "Deployment"),
        name: of("name", ""),
    };
    if target.name.is_empty() { Err("scaleTargetRef has no name".into()) } else { Ok(target) }
}

fn count(spec: &Value, member: &str) -> Result<Option<i32>, String> {
    let Some(number) = spec.i64_at(&[member]) else { return Ok(None) };
    let number = i32::try_from(number).ok().filter(|it| *it >= 0);
    number.map(Some).ok_or_else(|| format!("{member} must be a number of replicas"))
}

fn seconds(spec: &Value, member: &str, usual: i64, least: i64) -> Result<SignedDuration, String> {
    let seconds = spec.i64_at(&[member]).unwrap_or(usual);
    if !(least..=i64::from(i32::MAX)).contains(&seconds) {
        return Err(format!("{member} must be {least} at least"));
    }
    Ok(SignedDuration::from_secs(seconds))
}

fn paused(object: &Value) -> Result<Option<Option<i32>>, String> {
    let of = |name: &str| object.str_at(&["metadata", "annotations", name]);
    match (of("autoscaling.keda.sh/paused-replicas"), of("autoscaling.keda.sh/paused")) {
        ("", "" | "false") => Ok(None),
        ("", _) => Ok(Some(None)),
        (text, _) => {
            let replicas = text.parse::<i32>().ok().filter(|it| *it >= 0);
            let wrong = || format!("autoscaling.keda.sh/paused-replicas: {text:?} is no number");
            replicas.map(|it| Some(Some(it))).ok_or_else(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn object(spec: Value) -> Value {
        let mut object = value!({"metadata": {"name": "so"}, "spec": spec});
        object.default_at(&["spec", "scaleTargetRef"], value!({"name": "d"}));
        object.default_at(
            &["spec", "triggers"],
            value!([{"type": "metrics-api", "metadata": {"url": "http://q", "valueLocation": "n", "targetValue": "5"}}]),
        );
        object
    }

    #[test]
    fn what_is_not_said_is_upstreams_default() {
        let read = ScaledObject::parse(&object(Value::object())).unwrap();
        let target =
            Target { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "d".into() };
        assert_eq!((read.target, read.min, read.max, read.idle), (target, 0, 100, None));
        assert_eq!((read.polling.as_secs(), read.cooldown.as_secs()), (30, 300));
        assert_eq!(read.hpa_name, "keda-hpa-so");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (spec, expected) in [
            (
                value!({"minReplicaCount": 5, "maxReplicaCount": 2}),
                "MinReplicaCount=5 must be less",
            ),
            (
                value!({"minReplicaCount": 1, "idleReplicaCount": 1}),
                "IdleReplicaCount=1 must be less",
            ),
            (value!({"triggers": []}), "no triggers defined"),
            (value!({"fallback": {"replicas": 3}}), "fallback is not supported here"),
            (value!({"pollingInterval": 0}), "pollingInterval must be 1 at least"),
            (value!({"maxReplicaCount": 5_000_000_000_i64}), "maxReplicaCount must be a number"),
            (value!({"scaleTargetRef": {"kind": "StatefulSet"}}), "scaleTargetRef has no name"),
        ] {
            let error = ScaledObject::parse(&object(spec.clone())).unwrap_err();
            assert!(error.contains(expected), "{spec:?}: {error}");
        }
    }
}
