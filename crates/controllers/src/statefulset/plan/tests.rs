use apimachinery::{Value, value};

use super::*;
use crate::history::Kept;

const NOW: &str = "2026-01-01T01:00:00Z";

fn parse<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_slice(&apimachinery::json::to_vec(value)).unwrap()
}

/// A pod written as its number, and then any of `old`, `ready`, `pending`, `failed`, `going`, `young`, `unnamed` (without
/// its own label), `orphan`.
fn pod(text: &str) -> Pod {
    let mut words = text.split(' ');
    let name = format!("s-{}", words.next().unwrap());
    let mut pod = value!({"metadata": {"name": (name.as_str()), "namespace": "ns", "uid": (name.as_str()),
        "labels": {"a": "b", "controller-revision-hash": "s-new", "statefulset.kubernetes.io/pod-name": (name.as_str())},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "S", "controller": true}]},
        "spec": {"containers": []}, "status": {"phase": "Running"}});
    let ready =
        |since: &str| value!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    for word in words {
        match word {
            "old" => pod.set_at(&["metadata", "labels", "controller-revision-hash"], "s-old"),
            "ready" => pod.set_at(&["status", "conditions"], ready("2026-01-01T00:00:00Z")),
            "young" => pod.set_at(&["status", "conditions"], ready("2026-01-01T00:59:55Z")),
            "pending" => pod.set_at(&["status", "phase"], "Pending"),
            "failed" => pod.set_at(&["status", "phase"], "Failed"),
            "going" => pod.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z"),
            "unnamed" => {
                drop(pod.remove_at(&["metadata", "labels", "statefulset.kubernetes.io/pod-name"]))
            }
            "orphan" => drop(pod.remove_at(&["metadata", "ownerReferences"])),
            _ => panic!("a pod is not {word}"),
        }
    }
    parse(&pod)
}

fn observed(spec: &str, pods: &[&str]) -> Observed {
    let template = |x: i64| value!({"metadata": {"labels": {"a": "b"}}, "spec": {"x": x}});
    let mut set = value!({"metadata": {"name": "s", "namespace": "ns", "uid": "S", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}},
        "status": {"replicas": 0, "currentRevision": "s-old"}});
    let spec = apimachinery::json::parse(spec.as_bytes()).unwrap();
    for (key, value) in spec.as_object().unwrap().iter() {
        set.set_at(&["spec", key], value.clone());
    }
    let data = |x: i64| value!({"spec": {"template": (template(x))}});
    let revision = |name: &str, x: i64| {
        parse(&value!({"metadata": {"name": name, "uid": name, "labels": {"a": "b"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "S", "controller": true}]},
            "data": (data(x)), "revision": x}))
    };
    Observed {
        claim_templates: set.items_at(&["spec", "volumeClaimTemplates"]).to_vec(),
        set: parse(&set),
        kept: Kept {
            data: data(2),
            hash: "new".into(),
            name: "s-new".into(),
            collisions: None,
            existing: None,
        },
        pods: pods.iter().map(|it| pod(it).into()).collect(),
        revisions: vec![revision("s-old", 1), revision("s-new", 2)],
        taken: [].into(),
        claims: [].into(),
    }
}

/// What a plan does, without its status.
fn did(plan: &Plan) -> String {
    let actions = plan.stages.iter().flat_map(|it| &it.actions);
    let shown = actions.filter_map(|it| match &it.action {
        Action::Create { object, .. } => {
            let name = object.str_at(&["metadata", "name"]);
            let revision = object.str_at(&["metadata", "labels", "controller-revision-hash"]);
            let old = if revision == "s-old" { " old" } else { "" };
            Some(format!("+{name}{old}"))
        }
        Action::Delete { key, .. } => Some(format!("-{}", key.name)),
        Action::Update { subresource: "status", .. } => None,
        Action::Update { object, .. } => Some(format!("~{}", object.str_at(&["metadata", "name"]))),
        _ => Some("other".into()),
    });
    let mut shown: Vec<String> = shown.collect();
    shown.extend(plan.error.as_ref().map(|it| format!("({it})")));
    shown.join(" ")
}

fn check(spec: &str, pods: &[&str], expected: &str) {
    let plan = plan(&observed(spec, pods), false, NOW.parse().unwrap()).0;
    assert_eq!(did(&plan), expected, "{spec} {pods:?}");
}

/// The same where several pods may be updated at a time; how many may be away, and how many are.
fn check_several(spec: &str, pods: &[&str], expected: &str, counts: (i32, i32)) {
    let (plan, told) = plan(&observed(spec, pods), true, NOW.parse().unwrap());
    assert_eq!(did(&plan), expected, "{spec} {pods:?}");
    let told = told.map(|it| (it.most.unwrap_or_default(), it.unavailable));
    assert_eq!(told, Some(counts), "{spec} {pods:?}");
}

#[test]
fn pods_come_and_go_one_after_another() {
    check("{}", &[], "+s-0");
    check("{}", &["0"], "");
    check("{}", &["0 ready"], "+s-1");
    check("{}", &["0 ready", "1 ready going"], "");
    check("{}", &["0 failed", "1 ready"], "-s-0");
    check("{}", &["0 failed going", "1 ready"], "");
    check("{}", &["0 ready", "1 ready", "2 ready"], "");
    check(r#"{"ordinals":{"start":5}}"#, &[], "+s-5");
    check(r#"{"replicas":1}"#, &["0 ready", "1 ready", "2 ready"], "-s-2");
    check(r#"{"replicas":1}"#, &["0 ready", "1 ready", "2 ready going"], "");
    check(r#"{"replicas":1}"#, &["0", "1 ready"], "");
    // The pod that holds the others up is the one that may go although it is not ready.
    check(r#"{"replicas":1}"#, &["0 ready", "1", "2"], "");
    check(r#"{"replicas":1}"#, &["0 ready", "1 ready", "2"], "-s-2");
    check(r#"{"minReadySeconds":10}"#, &["0 young"], "");
    check(r#"{"minReadySeconds":5}"#, &["0 young"], "+s-1");
}

#[test]
fn a_pod_that_is_adopted_is_put_right_once_it_is() {
    check(r#"{"replicas":1}"#, &["0 ready unnamed"], "~s-0");
    // The adoption alone: another write of the version that was read would be refused.
    check(r#"{"replicas":1}"#, &["0 ready unnamed orphan"], "other");
}

#[test]
fn pods_come_and_go_at_once_where_they_may() {
    let parallel = |more: &str| format!(r#"{{"podManagementPolicy":"Parallel"{more}}}"#);
    check(&parallel(""), &[], "+s-0 +s-2 +s-1");
    check(&parallel(""), &["1"], "+s-0 +s-2");
    check(&parallel(r#","replicas":1"#), &["0", "1", "2"], "-s-2 -s-1");
}

#[test]
fn an_update_goes_from_the_last_pod_to_the_first() {
    let old = ["0 old ready", "1 old ready", "2 old ready"];
    check("{}", &old, "-s-2");
    check("{}", &["0 old ready", "1 old ready", "2 old ready going"], "");
    check("{}", &["0 old ready", "1 old ready"], "+s-2");
    check("{}", &["0 old ready", "1 old ready", "2"], "");
    check("{}", &["0 old ready", "1 old ready", "2 ready"], "-s-1");
    check(r#"{"updateStrategy":{"type":"OnDelete"}}"#, &old, "");
    let partition =
        r#"{"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"partition":2}}}"#;
    check(partition, &old, "-s-2");
    check(partition, &["0 old ready", "1 old ready", "2 ready"], "");
    check(partition, &["0 old ready"], "+s-1 old");
}

#[test]
fn an_update_is_over_when_all_pods_are_of_it_whoever_deleted_them() {
    let current = |strategy: &str, pods: &[&str]| {
        let spec = format!(r#"{{"updateStrategy":{{"type":"{strategy}"}}}}"#);
        let plan = plan(&observed(&spec, pods), false, NOW.parse().unwrap()).0;
        let written =
            plan.stages.iter().flat_map(|it| &it.actions).find_map(|it| match &it.action {
                Action::Update { subresource: "status", object, .. } => Some(object.clone()),
                _ => None,
            });
        let status = written.unwrap();
        let revision = status.str_at(&["status", "currentRevision"]).to_owned();
        (revision, status.i64_at(&["status", "currentReplicas"]).unwrap_or_default())
    };
    for strategy in ["RollingUpdate", "OnDelete"] {
        let done = current(strategy, &["0 ready", "1 ready", "2 ready"]);
        assert_eq!(done, ("s-new".to_owned(), 3), "{strategy}");
    }
    for pods in [["0 old ready", "1 ready", "2 ready"], ["0", "1 ready", "2 ready"]] {
        assert_eq!(current("OnDelete", &pods).0, "s-old");
    }
}

#[test]
fn several_pods_are_updated_at_a_time_where_the_set_says_so() {
    let old = ["0 old ready", "1 old ready", "2 old ready"];
    let two = r#"{"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"partition":0,"maxUnavailable":2}}}"#;
    // Without the feature it is as if the set did not say it.
    check(two, &old, "-s-2");
    check_several(two, &old, "-s-2 -s-1", (2, 0));
    check_several("{}", &old, "-s-2", (0, 0));
    let rolling = |policy: &str, most: &str, partition: i32| {
        format!(
            r#"{{"podManagementPolicy":"{policy}","updateStrategy":{{"type":"RollingUpdate","rollingUpdate":{{"partition":{partition},"maxUnavailable":{most}}}}}}}"#
        )
    };
    check_several(&rolling("OrderedReady", r#""10%""#, 0), &old, "-s-2", (1, 0));
    check_several(&rolling("OrderedReady", "3", 1), &old, "-s-2 -s-1", (3, 0));
    let both = rolling("Parallel", r#""67%""#, 0);
    check_several(&both, &old, "-s-2 -s-1", (2, 0));
    check_several(&both, &["0 old ready", "1 old ready", "2"], "-s-1", (2, 1));
    check_several(&both, &["0 old ready", "1 old ready going", "2"], "", (2, 2));
    // Those that are away already go whatever their number, and the rest of what may be away after them.
    check_several(&both, &["0 old", "1 old ready", "2 old ready"], "-s-0 -s-2", (2, 1));
    check_several(&both, &["0 old", "1 old", "2 old"], "-s-2 -s-1 -s-0", (2, 3));
    check_several(&rolling("Parallel", "1", 2), &["0 old", "1 old", "2 old ready"], "", (1, 2));
}

const CLAIMS: &str = r#"{"volumeClaimTemplates":[{"metadata":{"name":"data"},"spec":{}}]}"#;

#[test]
fn a_pod_has_its_claims_before_it_comes() {
    check(CLAIMS, &[], "+data-s-0 +s-0");
    check(CLAIMS, &["0 pending"], "+data-s-0");
    let with = |claim: &str, expected: &str| {
        let mut observed = observed(CLAIMS, &[]);
        let claim = apimachinery::json::parse(claim.as_bytes()).unwrap();
        observed.claims.insert("data-s-0".into(), claim.into());
        let plan = plan(&observed, false, NOW.parse().unwrap()).0;
        assert_eq!(did(&plan), expected);
    };
    with("{}", "+s-0");
    with(r#"{"metadata":{"deletionTimestamp":"x"}}"#, "(pvc data-s-0 is being deleted)");
}

#[test]
fn a_name_that_somebody_else_has_is_waited_for() {
    let mut observed = observed("{}", &[]);
    observed.taken.insert(0);
    let plan = plan(&observed, false, NOW.parse().unwrap()).0;
    assert_eq!(did(&plan), "(pods \"s-0\" already exists)");
}

#[test]
fn a_pod_s_labels_are_put_right() {
    let mut observed = observed("{}", &["0 ready", "1 ready", "2 ready"]);
    std::sync::Arc::make_mut(&mut observed.pods[1])
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .remove("statefulset.kubernetes.io/pod-name");
    let plan = plan(&observed, false, NOW.parse().unwrap()).0;
    assert_eq!(did(&plan), "~s-1");
}

#[test]
fn a_pod_knows_its_name_number_and_volumes() {
    let observed = observed(CLAIMS, &[]);
    let template = value!({"spec": {"volumes": [{"name": "data"}, {"name": "tmp"}]}});
    let pod = identity::pod(&observed.set, &template, &observed.claim_templates, "r", 7);
    assert_eq!(pod.str_at(&["metadata", "name"]), "s-7");
    assert_eq!(pod.str_at(&["metadata", "labels", "apps.kubernetes.io/pod-index"]), "7");
    assert_eq!(pod.str_at(&["spec", "hostname"]), "s-7");
    assert_eq!(pod.str_at(&["spec", "subdomain"]), "svc");
    let volumes = value!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-s-7"}}, {"name": "tmp"}]);
    assert_eq!(pod.at(&["spec", "volumes"]), Some(&volumes));
}
