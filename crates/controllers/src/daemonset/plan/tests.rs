use std::sync::Arc;

use apimachinery::{Value, value};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};

use super::*;
use crate::history::Kept;
use crate::nodes::NodeFacts;

const NOW: &str = "2026-01-01T01:00:00Z";

fn parse<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_slice(&apimachinery::json::to_vec(value)).unwrap()
}

/// A pod written as `NAME@NODE`, and then any of `old`, `ready`, `failed`, `done`, `going`.
fn pod(text: &str) -> Pod {
    let mut words = text.split(' ');
    let (name, node) = words.next().unwrap().split_once('@').unwrap();
    let mut pod = value!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"a": "b", "controller-revision-hash": "new"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "s", "uid": "S", "controller": true}]},
        "spec": {"containers": [], "nodeName": node}, "status": {"phase": "Running"}});
    for word in words {
        match word {
            "old" => pod.set_at(&["metadata", "labels", "controller-revision-hash"], "old"),
            "ready" => pod.set_at(
                &["status", "conditions"],
                value!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]),
            ),
            "failed" => pod.set_at(&["status", "phase"], "Failed"),
            "done" => pod.set_at(&["status", "phase"], "Succeeded"),
            "going" => pod.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z"),
            _ => panic!("a pod is not {word}"),
        }
    }
    parse(&pod)
}

fn node(name: &str, effect: &str) -> Arc<NodeFacts> {
    let taint = ("k".to_owned(), "v".to_owned(), effect.to_owned());
    let taints = if effect.is_empty() { Vec::new() } else { vec![taint] };
    Arc::new(NodeFacts { name: name.into(), labels: [].into(), taints })
}

/// Nodes n1 and n2, one that takes no new pods, and one that takes none.
fn nodes() -> Vec<Arc<NodeFacts>> {
    vec![node("n1", ""), node("n2", ""), node("no-new", "NoSchedule"), node("none", "NoExecute")]
}

fn observed(strategy: &str, pods: &[&str]) -> Observed {
    let strategy = apimachinery::json::parse(strategy.as_bytes()).unwrap();
    let template = value!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
    let set = value!({"metadata": {"name": "s", "namespace": "ns", "uid": "S", "generation": 1},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": (template.clone()), "updateStrategy": strategy}});
    let data = value!({"spec": {"template": {"x": 1}}});
    let revision = value!({"metadata": {"name": "s-new", "uid": "R", "labels": {"controller-revision-hash": "new"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "s", "uid": "S", "controller": true}]},
        "data": (data.clone()), "revision": 2});
    let mut revision: ControllerRevision = parse(&revision);
    revision.metadata.labels.get_or_insert_default().insert("a".into(), "b".into());
    Observed {
        set: parse::<DaemonSet>(&set),
        template,
        kept: Kept {
            data,
            hash: "new".into(),
            name: "s-new".into(),
            collisions: None,
            existing: None,
        },
        pods: pods.iter().map(|it| pod(it).into()).collect(),
        revisions: vec![revision.into()],
        nodes: nodes(),
    }
}

/// What a plan does, without its status.
fn did(plan: &Plan) -> String {
    let actions = plan.stages.iter().flat_map(|it| &it.actions);
    let shown = actions.filter_map(|it| match &it.action {
        Action::Create { object, .. } if object.str_at(&["kind"]) == "Pod" => {
            let required = object.at(&["spec", "affinity", "nodeAffinity"])?;
            let required = required.get("requiredDuringSchedulingIgnoredDuringExecution")?;
            let field = &required.items_at(&["nodeSelectorTerms"])[0].items_at(&["matchFields"])[0];
            Some(format!("+{}", field.items_at(&["values"])[0].as_str()?))
        }
        Action::Create { object, .. } => {
            Some(format!("keep {}", object.str_at(&["metadata", "name"])))
        }
        Action::Delete { key, .. } => Some(format!("-{}", key.name)),
        Action::Patch { key, .. } => Some(format!("patch {}", key.name)),
        Action::Update { subresource: "status", .. } => None,
        _ => Some("other".into()),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn check(strategy: &str, pods: &[&str], expected: &str) {
    let plan = plan(&observed(strategy, pods), &mut Backoff::default(), NOW.parse().unwrap());
    assert_eq!(did(&plan), expected, "{strategy} {pods:?}");
}

const ROLLING: &str =
    r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":1,"maxSurge":0}}"#;

#[test]
fn every_node_that_fits_has_one_pod() {
    check(ROLLING, &[], "+n1 +n2");
    check(ROLLING, &["a@n1"], "+n2");
    check(ROLLING, &["a@n1", "b@n2"], "");
    check(ROLLING, &["a@n1", "b@n2", "c@n2"], "-c");
    check(ROLLING, &["a@n1", "b@n2 going"], "");
    check(ROLLING, &["a@n1", "b@n2", "c@no-new"], "");
    check(ROLLING, &["a@n1", "b@n2", "c@none"], "-c");
    check(ROLLING, &["a@n1", "b@n2 failed"], "-b");
    check(ROLLING, &["a@n1", "b@n2 done"], "-b");
    check(ROLLING, &["a@n1", "b@n2 failed going"], "+n2");
    check(ROLLING, &["a@n1", "b@n2", "c@gone"], "");
}

#[test]
fn a_pod_that_fails_again_and_again_waits() {
    let observed = observed(ROLLING, &["a@n1", "b@n2 failed"]);
    let mut backoff = Backoff::default();
    let now: Timestamp = NOW.parse().unwrap();
    let first = plan(&observed, &mut backoff, now);
    assert_eq!(did(&first), "-b");
    let message = "Found failed daemon pod ns/b on node n2, will try to kill it";
    assert_eq!(
        (first.events[0].reason, first.events[0].message.as_str()),
        ("FailedDaemonPod", message)
    );
    let second = plan(&observed, &mut backoff, now);
    assert_eq!(
        (did(&second).as_str(), second.requeue_at.unwrap().to_string().as_str()),
        ("", "2026-01-01T01:00:01Z")
    );
}

#[test]
fn old_pods_go_as_many_at_once_as_may_be_unavailable() {
    check(ROLLING, &["a@n1 old ready", "b@n2 old ready"], "-a");
    check(ROLLING, &["a@n1 old ready", "b@n2 old"], "-b");
    check(ROLLING, &["a@n1 ready", "b@n2 old ready"], "-b");
    check(ROLLING, &["a@n1", "b@n2 old ready"], "");
    check(ROLLING, &["a@n1 ready", "b@n2 ready"], "");
    let half = r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"100%","maxSurge":0}}"#;
    check(half, &["a@n1 old ready", "b@n2 old ready"], "-a -b");
    check(r#"{"type":"OnDelete"}"#, &["a@n1 old ready", "b@n2 old ready"], "");
}

#[test]
fn new_pods_come_first_where_it_may_surge() {
    let surge = r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":0,"maxSurge":1}}"#;
    check(surge, &["a@n1 old ready", "b@n2 old ready"], "+n1");
    check(surge, &["a@n1 old ready", "b@n2 old"], "+n2 +n1");
    check(surge, &["a@n1 old ready", "c@n1", "b@n2 old ready"], "");
    check(surge, &["a@n1 old ready", "c@n1 ready", "b@n2 old ready"], "-a");
    check(surge, &["a@n1 old", "c@n1", "b@n2 old ready"], "-a");
    check(surge, &["a@n1 old ready", "b@n1 old ready", "c@n2 ready"], "-b");
    // A pod on a node that it leaves stays until there are enough elsewhere.
    check(surge, &["a@n1 ready", "b@n2", "c@no-new old ready"], "");
    check(surge, &["a@n1 ready", "b@n2 ready", "c@no-new old ready"], "-c");
}

#[test]
fn a_template_that_is_not_kept_is_kept_first() {
    let mut observed = observed(ROLLING, &["a@n1 ready", "b@n2 ready"]);
    observed.kept.data = value!({"spec": {"template": {"x": 2}}});
    observed.kept.name = "s-next".into();
    observed.kept.hash = "next".into();
    let plan = plan(&observed, &mut Backoff::default(), NOW.parse().unwrap());
    assert_eq!(did(&plan), "keep s-next -a");
}

#[test]
fn pods_stand_what_daemons_stand() {
    let mut observed = observed(ROLLING, &[]);
    observed.template.set_at(&["spec", "hostNetwork"], true);
    observed.template.set_at(
        &["spec", "tolerations"],
        value!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]),
    );
    let template = observed.template.clone();
    observed.set.spec.template = parse(&template);
    let owner =
        Owner { api_version: "apps/v1", kind: "DaemonSet", metadata: &observed.set.metadata };
    let pod = template::pod(&observed.set, &observed.template, "h", &owner, "n1");
    let tolerations = pod.items_at(&["spec", "tolerations"]);
    let keys: Vec<&str> = tolerations
        .iter()
        .map(|it| it.str_at(&["key"]).trim_start_matches("node.kubernetes.io/"))
        .collect();
    let expected = [
        "not-ready",
        "unreachable",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
        "network-unavailable",
    ];
    assert_eq!(keys, expected);
    assert_eq!(tolerations[0].get("tolerationSeconds"), None);
}
