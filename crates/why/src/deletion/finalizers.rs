//! Finalizers: who removes each, and what that waits for.

use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;

use crate::Case;
use crate::explanation::{Finding, MAX_NAMED, counted, some_of};
use crate::objects::key_of;

/// What a finalizer waits for, and who removes it.
pub(super) fn finding(case: &Case<'_>, finalizer: &str) -> Finding {
    match finalizer {
        "foregroundDeletion" => dependants(case, true),
        "orphan" => dependants(case, false),
        "kubernetes.io/pvc-protection" => claim_in_use(case),
        "kubernetes.io/pv-protection" => volume_in_use(case),
        "batch.kubernetes.io/job-tracking" => counted_by_job(case),
        "resource.kubernetes.io/delete-protection" => reserved(case),
        "customresourcecleanup.apiextensions.k8s.io" => instances(case),
        "service.kubernetes.io/load-balancer-cleanup" => held(
            finalizer,
            "a cloud controller has to take its load balancer away",
            "no controller of this cluster removes it",
        ),
        "kubernetes.io/vac-protection" => {
            held(finalizer, "claims or volumes use it", "the controller removes it once none do")
        }
        "networking.k8s.io/service-cidr-finalizer" => held(
            finalizer,
            "services have addresses in it",
            "the controller removes it once none have",
        ),
        other => foreign(case, other),
    }
}

fn held(finalizer: &str, why: &str, who: &str) -> Finding {
    Finding::new("Finalizer", format!("finalizer {finalizer}: {why}; {who}"))
}

/// Objects that name this one as an owner, with their resources.
fn owned(case: &Case<'_>, blocking: bool) -> Vec<(String, Arc<Value>)> {
    let uid = case.object.str_at(&["metadata", "uid"]);
    let namespace = &case.subject.key.namespace;
    let names = |it: &Value| {
        let mut owners = it.items_at(&["metadata", "ownerReferences"]).iter();
        owners.any(|it| {
            it.str_at(&["uid"]) == uid && (!blocking || it.bool_at(&["blockOwnerDeletion"]))
        })
    };
    let mut all = Vec::new();
    let kinds = case.objects.kinds();
    let kinds = kinds.iter().filter(|it| namespace.is_empty() || it.namespaced);
    for kind in kinds {
        let of_kind = case.objects.list(&kind.group, &kind.plural, namespace);
        let owned = of_kind.into_iter().filter(|it| names(it));
        all.extend(owned.map(|it| (kind.plural.to_string(), it)));
    }
    all
}

/// `pods a, b; 3 replicasets`
fn shown(owned: &[(String, Arc<Value>)]) -> String {
    let names: Vec<String> =
        owned.iter().map(|(resource, it)| format!("{resource}/{}", key_of(it).name)).collect();
    some_of(&names)
}

fn dependants(case: &Case<'_>, foreground: bool) -> Finding {
    let owned = owned(case, foreground);
    let (finalizer, what) = match foreground {
        true => ("foregroundDeletion", "blocking its deletion"),
        false => ("orphan", "naming it as their owner"),
    };
    let message = match owned.len() {
        0 => format!(
            "finalizer {finalizer}: nothing is left {what}; the garbage collector removes it next"
        ),
        count => format!(
            "finalizer {finalizer}: {} {what}: {}; the garbage collector removes it once none do",
            counted(count, "dependant"),
            shown(&owned)
        ),
    };
    let because = owned.iter().take(MAX_NAMED).filter_map(|(resource, it)| keeps(resource, it));
    Finding::new("Finalizer", message).because(because.collect())
}

/// Who holds another object, in a line.
pub(super) fn keeps(resource: &str, object: &Value) -> Option<Finding> {
    let list = object.items_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str);
    let finalizers: Vec<&str> = list.collect();
    if finalizers.is_empty() {
        return None;
    }
    let key = key_of(object);
    let message = format!("{resource}/{} has finalizers {}", key.name, some_of(&finalizers));
    Some(Finding::new("Finalizer", message).of(resource, &key))
}

fn claim_in_use(case: &Case<'_>) -> Finding {
    const FINALIZER: &str = "kubernetes.io/pvc-protection";
    let key = &case.subject.key;
    let uses = |pod: &Value| {
        let lite = scheduler::PodLite::from_value(pod);
        lite.ask.claims.iter().any(|it| it.name == key.name)
    };
    let pods = case.objects.list("", "pods", &key.namespace);
    let users: Vec<String> = pods
        .iter()
        .filter(|it| !scheduler::PodLite::has_ended(it) && uses(it))
        .map(|it| key_of(it).name.to_string())
        .collect();
    match users.len() {
        0 => held(FINALIZER, "no pod uses it", "the controller removes it next"),
        count => {
            let why = format!("{} in use of it: {}", counted(count, "pod"), some_of(&users));
            held(FINALIZER, &why, "the controller removes it once none do")
        }
    }
}

fn volume_in_use(case: &Case<'_>) -> Finding {
    const FINALIZER: &str = "kubernetes.io/pv-protection";
    let claim = case.object.at(&["spec", "claimRef"]);
    match claim.filter(|_| case.object.str_at(&["status", "phase"]) == "Bound") {
        None => held(FINALIZER, "no claim has it", "the controller removes it next"),
        Some(it) => {
            let (namespace, name) = (it.str_at(&["namespace"]), it.str_at(&["name"]));
            let why = format!("volume claim {namespace}/{name} has it");
            held(FINALIZER, &why, "the controller removes it once that is gone")
        }
    }
}

fn counted_by_job(case: &Case<'_>) -> Finding {
    const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
    let owner = crate::objects::controller_of(case.object);
    let Some(name) = owner.map(|it| it.str_at(&["name"])) else {
        return held(FINALIZER, "it has no job", "the job controller removes it");
    };
    let key = ObjectKey::new(case.subject.key.namespace.clone(), name);
    let there = case.objects.get("batch", "jobs", &key).is_some();
    let why = match there {
        true => format!("job {name} has to count it"),
        false => format!("its job {name} is gone"),
    };
    held(FINALIZER, &why, "the job controller removes it")
}

fn reserved(case: &Case<'_>) -> Finding {
    const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
    let pods: Vec<&str> = case
        .object
        .items_at(&["status", "reservedFor"])
        .iter()
        .map(|it| it.str_at(&["name"]))
        .collect();
    match pods.len() {
        0 => {
            held(FINALIZER, "it has devices still", "the controller gives them back and removes it")
        }
        count => {
            let why = format!("it is reserved for {}: {}", counted(count, "user"), some_of(&pods));
            held(FINALIZER, &why, "the controller removes it once they are gone")
        }
    }
}

fn instances(case: &Case<'_>) -> Finding {
    const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
    let spec = |path: &[&str]| case.object.str_at(path).to_owned();
    let (group, plural) = (spec(&["spec", "group"]), spec(&["spec", "names", "plural"]));
    let left = case.objects.list(&group, &plural, "");
    let names: Vec<String> = left.iter().map(|it| key_of(it).to_string()).collect();
    let message = match names.len() {
        0 => held(FINALIZER, "none of its objects is left", "the server removes it next").message,
        count => {
            let why = format!("{} left: {}", counted(count, "object"), some_of(&names));
            held(FINALIZER, &why, "the server removes it once they are gone").message
        }
    };
    let because = left.iter().take(MAX_NAMED).filter_map(|it| keeps(&plural, it));
    Finding::new("Finalizer", message).because(because.collect())
}

/// Parts of names that say nothing of whose they are.
const COMMON: [&str; 8] =
    ["finalizer", "finalizers", "kubernetes", "k8s", "cluster", "controller", "operator", "local"];
/// Shorter parts say nothing either.
const LEAST_PART: usize = 3;

/// A finalizer of somebody's own: nothing here removes it but its controller, which may be one of these workloads.
fn foreign(case: &Case<'_>, finalizer: &str) -> Finding {
    let domain = finalizer.split('/').next().unwrap_or(finalizer);
    let mut parts: Vec<&str> = domain.split('.').collect();
    if parts.len() > 1 {
        parts.pop();
    }
    parts.retain(|it| it.len() >= LEAST_PART && !COMMON.contains(it));
    let mut because = Vec::new();
    for resource in ["deployments", "statefulsets", "daemonsets"] {
        for workload in case.objects.list("apps", resource, "") {
            if because.len() < MAX_NAMED && parts.iter().any(|it| mentions(&workload, it)) {
                because.push(candidate(resource, &workload));
            }
        }
    }
    let who = match because.len() {
        0 => "no workload of this cluster looks like its controller: if that is gone for good, what it was to clean up has \
              to be cleaned up by hand, and the finalizer removed"
            .to_owned(),
        count => format!("{} may be its controller", counted(count, "workload")),
    };
    let message = format!("finalizer {finalizer}: nothing built in removes it; {who}");
    Finding::new("ForeignFinalizer", message).because(because)
}

fn mentions(workload: &Value, part: &str) -> bool {
    let key = key_of(workload);
    let containers = workload.items_at(&["spec", "template", "spec", "containers"]).iter();
    key.name.contains(part)
        || key.namespace.contains(part)
        || containers.map(|it| it.str_at(&["image"])).any(|it| it.contains(part))
}

fn candidate(resource: &str, workload: &Value) -> Finding {
    let key = key_of(workload);
    let count = |path: &[&str]| workload.i64_at(path).unwrap_or_default();
    let (ready, wanted) = match resource {
        "daemonsets" => (["status", "numberReady"], count(&["status", "desiredNumberScheduled"])),
        _ => (["status", "readyReplicas"], workload.i64_at(&["spec", "replicas"]).unwrap_or(1)),
    };
    let message = format!(
        "{resource}/{} in {}: {} of {wanted} pods ready",
        key.name,
        key.namespace,
        count(&ready)
    );
    Finding::new("MayBeItsController", message).of(resource, &key)
}
