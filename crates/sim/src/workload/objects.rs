//! What users ask for: the objects that the workload makes.

use apimachinery::{Value, value};

use super::{devices, disks};
use crate::dice::Dice;
use crate::node::{FAIL, SECONDS};

/// The name of a class of pods that others make room for.
const URGENT: &str = "urgent";

/// An object with its name and labels, in a namespace.
pub(super) fn object(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = value!({"apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "labels": {"app": name, "made-by": "sim"}}});
    if !namespace.is_empty() {
        object.set_at(&["metadata", "namespace"], namespace);
    }
    object
}

/// A pod's template, labelled with `app`.
fn template(dice: &Dice, app: &str) -> Value {
    let cpu = format!("{}m", dice.between(1, 6) * 50);
    let memory = format!("{}Mi", dice.between(1, 4) * 32);
    // None at all would be to say that a pod is gone while it runs.
    let grace = dice.between(1, 5);
    let mut template = value!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": grace,
        "containers": [{"name": "c", "image": "i:1", "resources": {"requests": {
            "cpu": (cpu.as_str()), "memory": (memory.as_str())}}}]}});
    if dice.chance(150) {
        template.set_at(&["spec", "priorityClassName"], URGENT);
    }
    template
}

/// A class of pods that others make room for.
pub(super) fn urgent() -> Value {
    let mut it = object("scheduling.k8s.io/v1", "PriorityClass", "", URGENT);
    it.set_at(&["value"], 1_000);
    it
}

fn selector(app: &str) -> Value {
    value!({"matchLabels": {"app": app}})
}

/// A number, or so many percent.
fn amount(dice: &Dice, low: i64) -> Value {
    match dice.below(3) {
        0 => Value::from(format!("{}%", dice.between(1, 5) * 20)),
        _ => Value::Int(dice.between(low, 2)),
    }
}

pub(super) fn namespace(name: &str) -> Value {
    object("v1", "Namespace", "", name)
}

pub(super) fn deployment(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("apps/v1", "Deployment", namespace, name);
    it.set_at(
        &["spec"],
        value!({"replicas": (dice.between(0, 5)), "selector": (selector(name)),
            "template": (template(dice, name)), "revisionHistoryLimit": (dice.between(0, 3))}),
    );
    match dice.below(3) {
        0 => it.set_at(&["spec", "strategy"], value!({"type": "Recreate"})),
        1 => it.set_at(
            &["spec", "strategy"],
            value!({"type": "RollingUpdate", "rollingUpdate": {
                "maxSurge": (amount(dice, 0)), "maxUnavailable": (amount(dice, 1))}}),
        ),
        _ => {}
    }
    it
}

pub(super) fn replica_set(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("apps/v1", "ReplicaSet", namespace, name);
    it.set_at(
        &["spec"],
        value!({"replicas": (dice.between(0, 4)), "selector": (selector(name)),
            "template": (template(dice, name))}),
    );
    let pods = it.member_mut("spec").member_mut("template").member_mut("spec");
    match dice.below(8) {
        0 => devices::with_own_device(pods),
        1 => disks::with_ephemeral(pods, dice),
        _ => {}
    }
    it
}

pub(super) fn replication_controller(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("v1", "ReplicationController", namespace, name);
    it.set_at(
        &["spec"],
        value!({"replicas": (dice.between(0, 4)), "selector": {"app": name},
            "template": (template(dice, name))}),
    );
    it
}

pub(super) fn stateful_set(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("apps/v1", "StatefulSet", namespace, name);
    let policy = if dice.chance(400) { "Parallel" } else { "OrderedReady" };
    it.set_at(
        &["spec"],
        value!({"replicas": (dice.between(0, 4)), "serviceName": name, "selector": (selector(name)),
            "template": (template(dice, name)), "podManagementPolicy": policy}),
    );
    if dice.chance(300) {
        let partition =
            value!({"type": "RollingUpdate", "rollingUpdate": {"partition": (dice.between(0, 2))}});
        it.set_at(&["spec", "updateStrategy"], partition);
    }
    // By the name: pods that another set of the name has left get no disks any more, and the set waits for ever (upstream's too).
    if !name.ends_with('2') {
        disks::with_claims(&mut it, dice);
    }
    it
}

pub(super) fn daemon_set(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("apps/v1", "DaemonSet", namespace, name);
    it.set_at(
        &["spec"],
        value!({"selector": (selector(name)), "template": (template(dice, name))}),
    );
    let container = "resources";
    if let Some(first) = it.items_at_mut(&["spec", "template", "spec", "containers"]).first_mut() {
        first.set_at(&[container, "requests", "cpu"], "20m");
    }
    match dice.below(3) {
        0 => it.set_at(&["spec", "updateStrategy"], value!({"type": "OnDelete"})),
        1 => it.set_at(
            &["spec", "updateStrategy"],
            value!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        ),
        _ => {}
    }
    it
}

fn job_spec(dice: &Dice, app: &str) -> Value {
    let mut template = template(dice, app);
    let policy = if dice.chance(700) { "Never" } else { "OnFailure" };
    template.set_at(&["spec", "restartPolicy"], policy);
    template.set_at(&["metadata", "annotations", SECONDS], dice.between(0, 12).to_string());
    let fails = if dice.chance(400) { dice.between(50, 400) } else { 0 };
    template.set_at(&["metadata", "annotations", FAIL], fails.to_string());
    let completions = dice.between(1, 5);
    let mut spec = value!({"completions": completions, "parallelism": (dice.between(1, 3)),
        "backoffLimit": (dice.between(0, 6)), "template": template});
    if dice.chance(450) {
        spec.set_at(&["completionMode"], "Indexed");
        if policy == "Never" && dice.chance(400) {
            spec.set_at(&["backoffLimitPerIndex"], dice.between(0, 2));
            spec.set_at(&["maxFailedIndexes"], dice.between(0, completions));
        }
    }
    if dice.chance(150) {
        spec.set_at(&["activeDeadlineSeconds"], dice.between(5, 60));
    }
    if dice.chance(400) {
        spec.set_at(&["ttlSecondsAfterFinished"], dice.between(0, 60));
    }
    if policy == "Never" && dice.chance(200) {
        spec.set_at(&["podReplacementPolicy"], "Failed");
    }
    with_policies(&mut spec, dice);
    spec
}

/// What a job makes of pods that fail, and when enough of it is done.
fn with_policies(spec: &mut Value, dice: &Dice) {
    let by_index = !spec.at(&["backoffLimitPerIndex"]).is_none_or(Value::is_null);
    if spec["template"]["spec"].str_at(&["restartPolicy"]) == "Never" && dice.chance(250) {
        let actions = ["Ignore", "Count", "FailJob", "FailIndex"];
        let action = actions[dice.below(if by_index { 4 } else { 3 })];
        // Disruptions end with another code than failures of their own.
        let codes = value!({"operator": "In", "values": [(dice.between(1, 2))]});
        let rule = value!({"action": action, "onExitCodes": codes});
        spec.set_at(&["podReplacementPolicy"], "Failed");
        spec.set_at(&["podFailurePolicy"], value!({"rules": [rule]}));
    }
    if spec.str_at(&["completionMode"]) == "Indexed" && dice.chance(300) {
        let rule = match dice.below(2) {
            0 => value!({"succeededCount": 1}),
            _ => value!({"succeededIndexes": "0"}),
        };
        spec.set_at(&["successPolicy"], value!({"rules": [rule]}));
    }
}

pub(super) fn job(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("batch/v1", "Job", namespace, name);
    it.set_at(&["spec"], job_spec(dice, name));
    if dice.chance(100) {
        it.set_at(&["spec", "suspend"], true);
    }
    if let Some(labels) = it.at_mut(&["spec", "template", "metadata"]) {
        // The server makes its own selector.
        labels.remove_at(&["labels"]);
    }
    it
}

pub(super) fn cron_job(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("batch/v1", "CronJob", namespace, name);
    let policies = ["Allow", "Forbid", "Replace"];
    let mut job = job_spec(dice, name);
    job.set_at(&["completions"], 1);
    for field in [
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "completionMode",
        "podFailurePolicy",
        "successPolicy",
    ] {
        job.remove_at(&[field]);
    }
    it.set_at(
        &["spec"],
        value!({"schedule": "* * * * *", "concurrencyPolicy": (policies[dice.below(3)]),
            "successfulJobsHistoryLimit": (dice.between(0, 2)), "failedJobsHistoryLimit": (dice.between(0, 1)),
            "jobTemplate": {"spec": job}}),
    );
    it
}

pub(super) fn service(dice: &Dice, namespace: &str, name: &str, app: &str) -> Value {
    let mut it = object("v1", "Service", namespace, name);
    let types = ["ClusterIP", "ClusterIP", "NodePort"];
    it.set_at(
        &["spec"],
        value!({"type": (types[dice.below(3)]), "selector": {"app": app},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
    );
    it
}

pub(super) fn budget(dice: &Dice, namespace: &str, name: &str, app: &str) -> Value {
    let mut it = object("policy/v1", "PodDisruptionBudget", namespace, name);
    it.set_at(&["spec", "selector"], selector(app));
    let field = if dice.chance(500) { "minAvailable" } else { "maxUnavailable" };
    it.set_at(&["spec", field], amount(dice, 0));
    it
}

pub(super) fn quota(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("v1", "ResourceQuota", namespace, name);
    let hard = value!({"pods": (dice.between(2, 20).to_string()), "count/configmaps": "40",
        "persistentvolumeclaims": (dice.between(3, 12).to_string()),
        "requests.cpu": (dice.between(1, 6).to_string())});
    it.set_at(&["spec", "hard"], hard);
    it
}

pub(super) fn config_map(dice: &Dice, namespace: &str, name: &str, owners: Vec<Value>) -> Value {
    let mut it = object("v1", "ConfigMap", namespace, name);
    it.set_at(&["data", "number"], dice.between(0, 1_000_000).to_string());
    if !owners.is_empty() {
        it.set_at(&["metadata", "ownerReferences"], owners);
    }
    it
}

/// A reference to an object as an owner.
pub(super) fn owned_by(owner: &Value, blocks: bool) -> Value {
    value!({"apiVersion": (owner.str_at(&["apiVersion"])), "kind": (owner.str_at(&["kind"])),
        "name": (owner.str_at(&["metadata", "name"])), "uid": (owner.str_at(&["metadata", "uid"])),
        "blockOwnerDeletion": blocks})
}

pub(super) fn pod(dice: &Dice, namespace: &str, name: &str) -> Value {
    let mut it = object("v1", "Pod", namespace, name);
    let template = template(dice, name);
    it.set_at(&["spec"], template["spec"].clone());
    if dice.chance(500) {
        it.set_at(&["spec", "restartPolicy"], "Never");
        it.set_at(&["metadata", "annotations", SECONDS], dice.between(1, 60).to_string());
    }
    it
}

pub(super) fn eviction(namespace: &str, name: &str) -> Value {
    value!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}})
}
