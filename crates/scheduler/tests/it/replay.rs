//! Recorded decisions of upstream, played through the pure decision: message, feasible nodes, scores of every plugin,
//! victims.
//!
//! The recordings are not part of the repository; where they are not beside it, the test says so and passes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use apimachinery::{Object, Value, json};
use client::ObjectKey;
use scheduler::config::Features;
use scheduler::decide::{Decision, Diagnosis, How, Placement};
use scheduler::framework::{Cycle, Percentage};
use scheduler::{Cluster, Configuration, NodeLite, PodLite, Profile, decide};

/// How many scenarios are right; may only grow.
const RIGHT_AT_LEAST: usize = 434;

/// Upstream scores every pod 0 for it where no pod has claims; here it has no score.
const NOT_SCORED: &str = "DynamicResources";

#[test]
fn recorded_decisions_are_repeated() {
    let Some(path) = recordings() else {
        println!("no recorded decisions beside the repository: skipped");
        return;
    };
    let text = std::fs::read(path).unwrap();
    let mut families: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in text.split(|it| *it == b'\n').filter(|it| !it.is_empty()) {
        let scenario = json::parse(line).unwrap();
        let family = families.entry(scenario.str_at(&["family"]).into()).or_default();
        family.1 += 1;
        match play(&scenario) {
            Ok(()) => family.0 += 1,
            Err(why) => wrong.push(format!("{}: {why}", scenario.str_at(&["id"]))),
        }
    }
    for (family, (right, all)) in &families {
        println!("{family:16} {right:3}/{all}");
    }
    wrong.iter().for_each(|it| println!("{it}"));
    let right: usize = families.values().map(|it| it.0).sum();
    let all: usize = families.values().map(|it| it.1).sum();
    println!("{right}/{all} right");
    if given().is_none() {
        assert!(right >= RIGHT_AT_LEAST, "{right} are right, {RIGHT_AT_LEAST} were");
    }
}

/// Another file than that beside the repository: `cargo xtask replay scheduler --file`.
fn given() -> Option<PathBuf> {
    std::env::var_os("KUBELITH_SCHEDULER_DECISIONS").map(PathBuf::from)
}

fn recordings() -> Option<PathBuf> {
    if let Some(given) = given() {
        return Some(given);
    }
    let mut at = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    while at.pop() {
        let path = at.join("shared/reference/scheduler-decisions.jsonl");
        if path.exists() {
            return Some(path);
        }
    }
    None
}

/// The profile of upstream's 1.36, which had no scores by storage capacity.
fn profile() -> Profile {
    let features = Features { storage_capacity_scoring: false, ..Features::default() };
    let config = Configuration { features, ..Configuration::default() };
    Profile { percentage: Percentage(100), ..config.profiles().unwrap().remove(0) }
}

fn play(scenario: &Value) -> Result<(), String> {
    let mut cluster = load(scenario);
    let pods: BTreeMap<String, &Value> =
        scenario.items_at(&["incoming"]).iter().map(|pod| (key(pod).to_string(), pod)).collect();
    let profile = profile();
    for result in scenario.items_at(&["results"]) {
        let name = result.str_at(&["pod"]);
        let mut value = (*pods.get(name).ok_or("no such pod")?).clone();
        if result.str_at(&["step"]) == "ungated" {
            value.remove_at(&["spec", "schedulingGates"]);
        }
        let pod = PodLite::from_value(&value);
        if result.bool_at(&["skipped"]) {
            skipped(&cluster, &pod, &profile, result)?;
        } else {
            let cycle = Cycle { pod: &pod, cluster: &cluster };
            let how = How { parts: true, ..How::default() };
            compare(&cluster, &decide(cycle, &profile, how), result)
                .map_err(|why| format!("{name}: {why}"))?;
        }
        go_on(&mut cluster, pod, &profile, result).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn key(object: &Value) -> ObjectKey {
    ObjectKey::new(object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]))
}

fn load(scenario: &Value) -> Cluster {
    let mut cluster = Cluster::default();
    for namespace in scenario.items_at(&["namespaces"]) {
        let value = apimachinery::value!({"metadata": {"labels": (namespace["labels"].clone())}});
        cluster.set_namespace(namespace.str_at(&["name"]), Some(&value));
    }
    for node in scenario.items_at(&["nodes"]) {
        cluster.set_node(NodeLite::from_value(node));
    }
    for object in scenario.items_at(&["objects"]) {
        let key = key(object);
        match object.str_at(&["kind"]) {
            "Service" => cluster.set_service(&key, Some(object)),
            "PodDisruptionBudget" => cluster.set_budget(&key, Some(object)),
            kind @ ("ReplicaSet" | "StatefulSet" | "ReplicationController") => {
                cluster.set_workload(kind, &key, Some(object));
            }
            "PersistentVolumeClaim" => cluster.volumes.set_claim(&key, Some(object)),
            "PersistentVolume" => cluster.volumes.set_volume(&key.name, Some(object)),
            "StorageClass" => cluster.volumes.set_class(&key.name, Some(object)),
            "CSINode" => cluster.volumes.set_csi_node(&key.name, Some(object)),
            "CSIDriver" => cluster.volumes.set_csi_driver(&key.name, Some(object)),
            "CSIStorageCapacity" => cluster.volumes.set_capacity(&key, Some(object)),
            "VolumeAttachment" => cluster.volumes.set_attachment(&key.name, Some(object)),
            _ => {}
        }
    }
    for pod in scenario.items_at(&["existing"]) {
        if !PodLite::has_ended(pod) {
            cluster.set_pod(Arc::new(PodLite::from_value(pod)));
        }
    }
    cluster
}

fn skipped(
    cluster: &Cluster,
    pod: &PodLite,
    profile: &Profile,
    result: &Value,
) -> Result<(), String> {
    let blocked = profile.pre_enqueue.iter().any(|it| it.blocks(cluster, pod).is_some());
    let gated = result.str_at(&["reason"]) == "SchedulingGated";
    let foreign = !pod.node.is_empty() || pod.ask.scheduler_name != "default-scheduler";
    if gated == blocked && (gated || foreign) { Ok(()) } else { Err("not skipped".into()) }
}

/// Carries out what was recorded. A pod that has preempted gets its node once the others are gone.
fn go_on(
    cluster: &mut Cluster,
    mut pod: PodLite,
    profile: &Profile,
    result: &Value,
) -> Result<(), String> {
    for victim in result.items_at(&["victims"]).iter().filter_map(Value::as_str) {
        let (namespace, name) = victim.split_once('/').unwrap_or(("", victim));
        cluster.remove_pod(&ObjectKey::new(namespace, name));
    }
    let after = result.str_at(&["after"]);
    if !after.is_empty() {
        let nominated = Arc::new(pod.clone());
        cluster.nominate(&nominated, Some(result.str_at(&["nominated"])));
        let decision = decide(Cycle { pod: &pod, cluster }, profile, How::default());
        let node = match &decision {
            Decision::Place(placement) => placement.node.as_str(),
            Decision::Reject(_) | Decision::Fail(_) => "",
        };
        equal("after", &node, &after)?;
        cluster.nominate(&nominated, None);
    }
    let node = [result.str_at(&["node"]), after].concat();
    if !node.is_empty() {
        pod.node = node.into();
        cluster.set_pod(Arc::new(pod));
    }
    Ok(())
}

fn compare(cluster: &Cluster, decision: &Decision, result: &Value) -> Result<(), String> {
    match decision {
        Decision::Place(placement) => placed(cluster, placement, result),
        Decision::Reject(diagnosis) => rejected(diagnosis, result),
        Decision::Fail(error) => Err(error.clone()),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what}\n   got {got:?}\n  want {want:?}")) }
}

fn rejected(diagnosis: &Diagnosis, result: &Value) -> Result<(), String> {
    let message = result.str_at(&["message"]).to_owned();
    if message.is_empty() {
        return Err(format!(
            "got {} instead of node {}",
            diagnosis.message,
            result.str_at(&["node"])
        ));
    }
    let mut victims: Vec<String> = Vec::new();
    let mut nominated = "";
    let chosen = scheduler::preemption::best(diagnosis.candidates.clone());
    if let Some(preemption) = &chosen {
        victims = preemption.victims.iter().map(|it| it.key.to_string()).collect();
        victims.sort();
        nominated = &preemption.node;
    }
    equal("message", &diagnosis.message, &message)?;
    equal("nominated", &nominated, &result.str_at(&["nominated"]))?;
    let mut want: Vec<String> =
        result.items_at(&["victims"]).iter().filter_map(|it| Some(it.as_str()?.into())).collect();
    want.sort();
    equal("victims", &victims, &want)
}

fn placed(cluster: &Cluster, placement: &Placement, result: &Value) -> Result<(), String> {
    if result.str_at(&["node"]).is_empty() {
        return Err(format!("got {} instead of {}", placement.node, result.str_at(&["message"])));
    }
    let number = |key| usize::try_from(result.i64_at(&[key]).unwrap_or(-1)).unwrap_or(usize::MAX);
    equal("feasible", &placement.feasible, &number("feasible"))?;
    equal("evaluated", &placement.evaluated, &number("evaluated"))?;
    let name = |index: &usize| cluster.rows()[*index].node.name.to_string();
    let by_node = |scores: &[i64]| -> BTreeMap<String, i64> {
        placement.candidates.iter().map(name).zip(scores.iter().copied()).collect()
    };
    let recorded = |scores: &Value| -> BTreeMap<String, i64> {
        let members = scores.as_object().into_iter().flat_map(Object::iter);
        members.filter_map(|(node, score)| Some((node.to_owned(), score.as_i64()?))).collect()
    };
    let mut parts: BTreeMap<&str, BTreeMap<String, i64>> =
        placement.parts.iter().map(|(plugin, scores)| (*plugin, by_node(scores))).collect();
    for (plugin, scores) in result["plugins"].as_object().into_iter().flat_map(Object::iter) {
        if plugin != NOT_SCORED {
            equal(plugin, &parts.remove(plugin).unwrap_or_default(), &recorded(scores))?;
        }
    }
    equal("further plugins", &parts, &BTreeMap::new())?;
    equal("scores", &by_node(&placement.scores), &recorded(&result["scores"]))?;
    let best = result.items_at(&["best"]).iter().filter_map(Value::as_str);
    let best: Vec<&str> = best.collect();
    if best.contains(&placement.node.as_str()) {
        return Ok(());
    }
    Err(format!("got {}, the best are {best:?}", placement.node))
}
