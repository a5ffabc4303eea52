use std::time::Duration;

use apimachinery::value;

use super::*;
use crate::ledger::Ledger;
use crate::observer::{Place, State};

/// Shows the rules these changes, a second after the other, in a world where nothing may be old; which rules were broken
/// comes back.
fn check(changes: &[(Option<Value>, Option<Value>)]) -> Vec<&'static str> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (ledger, mut rules, mut state) = (Ledger::new(false), all(), State::default());
        for (old, new) in changes {
            tokio::time::advance(Duration::from_secs(1)).await;
            let object = new.as_ref().or(old.as_ref()).unwrap();
            let (kind, name) = (object.str_at(&["kind"]), object.str_at(&["metadata", "name"]));
            let place = Place { namespace: "ns".into(), name: name.into() };
            if let Some(new) = new {
                state.put(kind, &place, new.clone());
            }
            let now = Instant::now();
            let context = Context { state: &state, ledger: &ledger, now, since: now };
            let change = Change { kind, place: &place, old: old.as_ref(), new: new.as_ref() };
            rules.iter_mut().for_each(|rule| rule.see(&change, &context));
        }
        ledger.violations().iter().map(|it| it.rule).collect()
    })
}

fn made(object: &Value) -> (Option<Value>, Option<Value>) {
    (None, Some(object.clone()))
}

fn workload(kind: &str, spec: &Value) -> Value {
    value!({"kind": kind, "metadata": {"name": "web", "uid": "w"}, "spec": (spec.clone())})
}

fn pod(name: &str, owner: &str) -> Value {
    let owner = value!({"kind": owner, "name": "web", "uid": "w", "controller": true});
    value!({"kind": "Pod", "metadata": {"name": name, "uid": name, "ownerReferences": [owner]},
        "spec": {"containers": [{"resources": {"requests": {"cpu": "1500m"}}}]}, "status": {"phase": "Pending"}})
}

#[test]
fn a_pod_too_many_of_a_replica_set_is_noticed() {
    let set = workload("ReplicaSet", &value!({"replicas": 2}));
    let [a, b, c] = ["a", "b", "c"].map(|name| pod(name, "ReplicaSet"));
    assert_eq!(check(&[made(&set), made(&a), made(&b)]), [""; 0]);
    let mut going = a.clone();
    going.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
    let replaced = [made(&set), made(&a), made(&b), (Some(a.clone()), Some(going)), made(&c)];
    assert_eq!(check(&replaced), [""; 0]);
    let all = check(&[made(&set), made(&a), made(&b), made(&c)]);
    assert_eq!(all, ["no more pods than a ReplicaSet asks for"]);
}

#[test]
fn ordinals_beyond_the_replicas_and_out_of_order_are_noticed() {
    let set = workload("StatefulSet", &value!({"replicas": 2}));
    let [first, second, third] = ["web-0", "web-1", "web-2"].map(|name| pod(name, "StatefulSet"));
    let mut ready = first.clone();
    ready.set_at(&["status", "conditions"], vec![value!({"type": "Ready", "status": "True"})]);
    let in_order = [made(&set), made(&first), (Some(first.clone()), Some(ready)), made(&second)];
    assert_eq!(check(&in_order), [""; 0]);
    let hasty = check(&[made(&set), made(&first), made(&second)]);
    assert_eq!(hasty, ["pods of an ordered StatefulSet come one after the other"]);
    let parallel =
        workload("StatefulSet", &value!({"replicas": 2, "podManagementPolicy": "Parallel"}));
    let beyond = check(&[made(&parallel), made(&first), made(&second), made(&third)]);
    assert_eq!(beyond, ["no more pods than a StatefulSet asks for"]);
}

#[test]
fn a_node_that_holds_too_much_is_noticed() {
    let bound = |name: &str| {
        let (before, mut after) = (pod(name, "Other"), pod(name, "Other"));
        after.set_at(&["spec", "nodeName"], "n");
        (Some(before), Some(after))
    };
    let node = value!({"kind": "Node", "metadata": {"name": "n", "uid": "n"}});
    assert_eq!(check(&[made(&node), bound("a"), bound("b")]), [""; 0]);
    let full = check(&[made(&node), bound("a"), bound("b"), bound("c")]);
    assert_eq!(full, ["the scheduler binds no more than a node can hold"]);
}

#[test]
fn a_job_that_counts_what_did_not_succeed_is_noticed() {
    let job = workload("Job", &value!({"completions": 2, "parallelism": 1}));
    let mut told = job.clone();
    told.set_at(&["status", "succeeded"], 1);
    let (before, mut after) = (pod("a", "Job"), pod("a", "Job"));
    after.set_at(&["status", "phase"], "Succeeded");
    let counted = (Some(job.clone()), Some(told));
    let right = [made(&job), made(&before), (Some(before.clone()), Some(after)), counted.clone()];
    assert_eq!(check(&right), [""; 0]);
    assert_eq!(check(&[made(&job), made(&before), counted]), ["Jobs count right"]);
    let crowd = check(&[made(&job), made(&before), made(&pod("b", "Job"))]);
    assert_eq!(crowd, ["no more pods than a Job asks for"]);
}

#[test]
fn a_pod_that_succeeds_after_it_was_counted_as_failed_stays_counted() {
    let job = workload("Job", &value!({"completions": 2, "parallelism": 1}));
    let mut before = pod("a", "Job");
    before.set_at(&["metadata", "finalizers"], vec!["batch.kubernetes.io/job-tracking".into()]);
    let mut after = before.clone();
    after.set_at(&["status", "phase"], "Succeeded");
    let mut counted = job.clone();
    let uids = vec![before["metadata"]["uid"].clone()];
    counted.set_at(&["status", "uncountedTerminatedPods", "failed"], uids);
    let mut failed = job.clone();
    failed.set_at(&["status", "conditions"], vec![value!({"type": "Failed", "status": "True"})]);
    let end = |last: &Value| (Some(last.clone()), Some(failed.clone()));
    let succeeds = (Some(before.clone()), Some(after));
    let start = [made(&job), made(&before)];
    let counts = (Some(job.clone()), Some(counted.clone()));
    let right = [&start[..], &[counts, succeeds.clone(), end(&counted)]].concat();
    assert_eq!(check(&right), [""; 0]);
    let wrong = [&start[..], &[succeeds, end(&job)]].concat();
    assert_eq!(check(&wrong), ["Jobs count right"]);
}

#[test]
fn evictions_that_nobody_allowed_are_noticed() {
    let budget = |allowed: i64, evicted: &[&str]| {
        let evicted: Vec<(&str, Value)> =
            evicted.iter().map(|it| (*it, Value::from("2026-01-01T00:00:00Z"))).collect();
        let mut it = workload("PodDisruptionBudget", &value!({"minAvailable": 0}));
        it.set_at(&["status", "disruptionsAllowed"], allowed);
        for (name, at) in evicted {
            it.set_at(&["status", "disruptedPods", name], at);
        }
        it
    };
    let right = [made(&budget(1, &[])), (Some(budget(1, &[])), Some(budget(0, &["a"])))];
    assert_eq!(check(&right), [""; 0]);
    for (before, after) in
        [(budget(0, &[]), budget(-1, &["a"])), (budget(1, &[]), budget(1, &["a"]))]
    {
        let broken = check(&[made(&before), (Some(before.clone()), Some(after))]);
        assert!(broken.contains(&"no eviction beyond disruptionsAllowed"), "{broken:?}");
    }
}

#[test]
fn addresses_that_two_services_have_are_noticed() {
    let service = |name: &str| value!({"kind": "Service", "metadata": {"name": name, "uid": name}, "spec": {"clusterIPs": ["10.96.0.7"]}});
    let again = [made(&service("a")), (Some(service("a")), None), made(&service("b"))];
    assert_eq!(check(&again), [""; 0]);
    let twice = check(&[made(&service("a")), made(&service("b"))]);
    assert_eq!(twice, ["addresses, ports, ranges, volumes and devices are given once"]);
}

#[test]
fn volumes_and_devices_that_two_have_are_noticed() {
    let claim = |name: &str| {
        value!({"kind": "ResourceClaim", "metadata": {"name": name, "uid": name},
            "status": {"allocation": {"devices": {"results": [{"driver": "d", "pool": "p", "device": "1"}]}}}})
    };
    let again = [made(&claim("a")), (Some(claim("a")), None), made(&claim("b"))];
    assert_eq!(check(&again), [""; 0]);
    let twice = check(&[made(&claim("a")), made(&claim("b"))]);
    assert_eq!(twice, ["addresses, ports, ranges, volumes and devices are given once"]);
    let volume = |name: &str, claim: &str| {
        value!({"kind": "PersistentVolume", "metadata": {"name": name, "uid": name}, "status": {"phase": "Bound"},
            "spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": {"uid": claim}}})
    };
    assert_eq!(check(&[made(&volume("v", "a")), made(&volume("w", "b"))]), [""; 0]);
    let has_one = value!({"kind": "PersistentVolumeClaim", "metadata": {"name": "a", "uid": "a"},
        "spec": {"volumeName": "v"}});
    let two = check(&[made(&has_one), made(&volume("v", "a")), made(&volume("w", "a"))]);
    assert_eq!(two, ["a claim is bound to one volume"]);
    // Who does not know yet which one it has may give it another.
    assert_eq!(check(&[made(&volume("v", "a")), made(&volume("w", "a"))]), [""; 0]);
    let passed_on =
        check(&[made(&volume("v", "a")), (Some(volume("v", "a")), Some(volume("v", "b")))]);
    assert_eq!(passed_on, ["a volume is bound to one claim"]);
    let mut released = volume("v", "a");
    released.set_at(&["status", "phase"], "Released");
    let removed = check(&[made(&released), (Some(released.clone()), None)]);
    assert_eq!(removed, ["volumes and claims that are to be kept stay"]);
}

#[test]
fn a_pod_that_is_bound_without_its_claims_is_noticed() {
    let (mut before, at) =
        (pod("a", "Other"), |it: &mut Value| it.set_at(&["spec", "nodeName"], "n"));
    before.set_at(
        &["spec", "volumes"],
        vec![value!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})],
    );
    let mut after = before.clone();
    at(&mut after);
    let mut claim = value!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "uid": "c"}, "spec": {}});
    let bound = |claim: &Value| {
        check(&[made(claim), made(&before), (Some(before.clone()), Some(after.clone()))])
    };
    assert_eq!(bound(&claim), ["pods are bound to nodes with claims that are bound"]);
    claim.set_at(&["spec", "volumeName"], "v");
    assert_eq!(bound(&claim), [""; 0]);
    let mut before = pod("a", "Other");
    before.set_at(
        &["spec", "resourceClaims"],
        vec![value!({"name": "gpu", "resourceClaimName": "c"})],
    );
    let mut after = before.clone();
    at(&mut after);
    let mut claim = value!({"kind": "ResourceClaim", "metadata": {"name": "c", "uid": "c"},
        "status": {"allocation": {"devices": {}}}});
    let bound = |claim: &Value| {
        check(&[made(claim), made(&before), (Some(before.clone()), Some(after.clone()))])
    };
    assert_eq!(bound(&claim), ["pods are bound to nodes with devices that are theirs"]);
    claim.set_at(&["status", "reservedFor"], vec![value!({"uid": "a"})]);
    assert_eq!(bound(&claim), [""; 0]);
    let mut taken = claim.clone();
    taken.remove_at(&["status", "allocation"]);
    let steps = [
        made(&before),
        (Some(before), Some(after.clone())),
        made(&claim),
        (Some(claim), Some(taken)),
    ];
    let steps = [&[steps[2].clone()], &steps[..2], &[steps[3].clone()]].concat();
    assert_eq!(check(&steps), ["no device is taken from a pod that runs"]);
}

#[test]
fn an_autoscaler_beyond_its_bounds_is_noticed() {
    let autoscaler = |desired: i64| {
        value!({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "a", "uid": "a"}, "status": {"desiredReplicas": desired},
            "spec": {"minReplicas": 2, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}})
    };
    assert_eq!(check(&[made(&autoscaler(0)), made(&autoscaler(3))]), [""; 0]);
    assert_eq!(check(&[made(&autoscaler(4))]), ["an autoscaler keeps within its bounds"]);
    let scaled = |replicas: i64| {
        let mut it = workload("Deployment", &value!({"replicas": replicas}));
        let by = value!({"manager": "kube-controller-manager", "subresource": "scale"});
        it.set_at(&["metadata", "managedFields"], vec![by]);
        it
    };
    let step = |to: i64| [made(&autoscaler(0)), (Some(scaled(2)), Some(scaled(to)))];
    assert_eq!(check(&step(3)), [""; 0]);
    assert_eq!(check(&step(1)), ["an autoscaler keeps within its bounds"]);
}

#[test]
fn a_definition_that_goes_before_its_objects_is_noticed() {
    let definition = value!({"kind": "CustomResourceDefinition", "metadata": {"name": "d", "uid": "d"},
        "spec": {"names": {"kind": "Widget"}}});
    let gone = (Some(definition.clone()), None);
    assert_eq!(check(&[made(&definition), gone.clone()]), [""; 0]);
    let widget = value!({"kind": "Widget", "metadata": {"name": "w", "uid": "w"}});
    let early = check(&[made(&definition), made(&widget), gone]);
    assert_eq!(early, ["a definition goes after its objects"]);
}
