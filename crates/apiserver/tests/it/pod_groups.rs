//! Workloads, PodGroups, and pods that are members of groups.

use apimachinery::{Value, value};
use registry::{Apis, Features, Registry};

use crate::cluster::{Cluster, With, admin};

const GROUPS: &str = "/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups";
const WORKLOADS: &str = "/apis/scheduling.k8s.io/v1beta1/namespaces/default/workloads";

async fn cluster() -> Cluster {
    with(Features { generic_workload: true, ..Features::default() }).await
}

async fn with(features: Features) -> Cluster {
    let asked = ["scheduling.k8s.io/v1beta1=true".to_owned(), "scheduling.k8s.io/v1alpha3".into()];
    let apis = Apis::default().with_features(features).configure(&asked).unwrap();
    let registry = Some(Registry::of(apis));
    Cluster::start_changed(With { registry, ..With::default() }).await
}

fn group(name: &str, spec: Value) -> Value {
    value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": name}, "spec": spec})
}

fn gang(count: i64) -> Value {
    value!({"schedulingPolicy": {"gang": {"minCount": count}}})
}

fn workload(templates: Value) -> Value {
    value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "Workload",
        "metadata": {"name": "w"}, "spec": {"podGroupTemplates": templates}})
}

/// What is wrong with an object that is sent so.
async fn refusals(cluster: &Cluster, request: &str, object: &Value) -> Vec<String> {
    let (code, answer) = cluster.send(&admin(), request, Some(object)).await;
    assert_eq!(code, 422, "{answer:?}");
    let causes = answer.items_at(&["details", "causes"]).iter();
    let told = causes.map(|it| format!("{}: {}", it.str_at(&["field"]), it.str_at(&["message"])));
    told.collect()
}

#[tokio::test]
async fn a_group_is_defaulted_protected_and_given_a_priority() {
    let cluster = cluster().await;
    let class = value!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "high"}, "value": 7});
    cluster.done("POST /apis/scheduling.k8s.io/v1/priorityclasses", Some(&class)).await;
    let mut spec = gang(4);
    spec.set_at(&["priorityClassName"], "high");
    spec.set_at(&["schedulingConstraints"], value!({"topology": [{"key": "rack"}]}));
    let mut object = group("g", spec);
    object.set_at(&["status"], value!({"conditions": [{"type": "X"}]}));
    let made = cluster.done(&format!("POST {GROUPS}"), Some(&object)).await;
    assert_eq!(
        made.get("spec"),
        Some(&value!({"schedulingPolicy": {"gang": {"minCount": 4}}, "priorityClassName": "high",
            "priority": 7, "disruptionMode": {"single": {}}}))
    );
    assert!(made.items_at(&["status", "conditions"]).is_empty());
    let finalizers = made.items_at(&["metadata", "finalizers"]);
    assert_eq!(finalizers, [Value::from("scheduling.k8s.io/podgroup-protection")]);
    let alpha = GROUPS.replace("v1beta1", "v1alpha3");
    let seen = cluster.done(&format!("GET {alpha}/g"), None).await;
    assert_eq!(seen.str_at(&["apiVersion"]), "scheduling.k8s.io/v1alpha3");
    // minCount may change, and nothing else.
    let patch = value!({"spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}});
    let changed = cluster.done(&format!("PATCH {GROUPS}/g"), Some(&patch)).await;
    let count = ["spec", "schedulingPolicy", "gang", "minCount"];
    assert_eq!(changed.i64_at(&count), Some(2));
}

#[tokio::test]
async fn what_is_wrong_with_a_group_is_told() {
    let cluster = cluster().await;
    let post = format!("POST {GROUPS}");
    let check = async |spec: Value, expected: &[&str]| {
        assert_eq!(refusals(&cluster, &post, &group("bad", spec)).await, expected);
    };
    check(
        value!({"schedulingPolicy": {}}),
        &["spec.schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, `gang`"],
    )
    .await;
    check(gang(0), &["spec.schedulingPolicy.gang.minCount: Required value"]).await;
    check(
        value!({"schedulingPolicy": {"basic": {}, "gang": {"minCount": (-1)}}}),
        &[
            "spec.schedulingPolicy: Invalid value: \"{basic, gang}\": must specify exactly one of: `basic`, `gang`",
            "spec.schedulingPolicy.gang.minCount: Invalid value: -1: must be greater than or equal to 1",
        ],
    )
    .await;
    cluster.done(&post, Some(&group("g", gang(2)))).await;
    let mut changed = group("g", value!({"schedulingPolicy": {"basic": {}}, "priority": 0}));
    changed.set_at(&["spec", "disruptionMode"], value!({"single": {}}));
    let told = refusals(&cluster, &format!("PUT {GROUPS}/g"), &changed).await;
    assert_eq!(
        told,
        [
            "spec.schedulingPolicy.basic: Invalid value: {}: field is immutable",
            "spec.schedulingPolicy.gang: Invalid value: null: field cannot be cleared once set",
        ]
    );
    let status = value!({"status": {"conditions": [{"type": "PodGroupInitiallyScheduled",
        "status": "Maybe", "reason": "no reason", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let told = refusals(&cluster, &format!("PATCH {GROUPS}/g/status"), &status).await;
    assert_eq!(told.len(), 2, "{told:?}");
}

#[tokio::test]
async fn a_workloads_templates_stay_what_they_are() {
    let cluster = cluster().await;
    let post = format!("POST {WORKLOADS}");
    let template =
        |name: &str| value!({"name": name, "schedulingPolicy": {"gang": {"minCount": 2}}});
    let bad = workload(value!([(template("Bad")), (template("Bad"))]));
    let told = refusals(&cluster, &post, &bad).await;
    assert!(told[0].starts_with("spec.podGroupTemplates[1]: Duplicate value"), "{told:?}");
    assert!(told[1].starts_with("spec.podGroupTemplates[0].name: Invalid value"), "{told:?}");
    let none = refusals(&cluster, &post, &workload(value!([]))).await;
    assert_eq!(
        none,
        [
            "spec: Invalid value: \"\": must specify one of: `podGroupTemplates`, `compositePodGroupTemplates`"
        ]
    );
    cluster.done(&post, Some(&workload(value!([(template("a"))])))).await;
    let more = workload(value!([(template("a")), (template("b"))]));
    let told = refusals(&cluster, &format!("PUT {WORKLOADS}/w"), &more).await;
    assert_eq!(told, ["spec.podGroupTemplates[1]: Forbidden: item may not be added"]);
}

#[tokio::test]
async fn a_pod_is_a_member_only_where_groups_are_known() {
    let pods = "POST /api/v1/namespaces/default/pods";
    let account =
        value!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let pod = |name: &str, group: Value| {
        value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"schedulingGroup": (group), "containers": [{"name": "c", "image": "i"}]}})
    };
    let member = value!({"podGroupName": "g"});
    let accounts = "POST /api/v1/namespaces/default/serviceaccounts";
    let (known, usual) = (cluster().await, Cluster::start().await);
    for cluster in [&known, &usual] {
        cluster.send(&admin(), accounts, Some(&account)).await;
    }
    let made = known.done(pods, Some(&pod("a", member.clone()))).await;
    assert_eq!(made.str_at(&["spec", "schedulingGroup", "podGroupName"]), "g");
    let told = refusals(&known, pods, &pod("b", value!({"podGroupName": "No!"}))).await;
    assert!(told[0].starts_with("spec.schedulingGroup.podGroupName: Invalid value"), "{told:?}");
    let told = refusals(&known, pods, &pod("b", value!({}))).await;
    assert_eq!(
        told,
        ["spec.schedulingGroup: Invalid value: \"\": must specify one of: `podGroupName`"]
    );
    let made = usual.done(pods, Some(&pod("a", member.clone()))).await;
    assert_eq!(made.at(&["spec", "schedulingGroup"]), None);
    let job = value!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "schedulingGroup": (member),
            "containers": [{"name": "c", "image": "i"}]}}}});
    let made = usual.done("POST /apis/batch/v1/namespaces/default/jobs", Some(&job)).await;
    assert_eq!(made.at(&["spec", "template", "spec", "schedulingGroup"]), None);
}

#[tokio::test]
async fn constraints_of_topology_are_kept_where_their_feature_is_on() {
    let features =
        Features { generic_workload: true, topology_aware_workloads: true, ..Features::default() };
    let cluster = with(features).await;
    let constrained = |keys: Value| {
        let mut spec = gang(2);
        spec.set_at(&["schedulingConstraints", "topology"], keys);
        spec
    };
    let object = group("g", constrained(value!([{"key": "rack"}])));
    let made = cluster.done(&format!("POST {GROUPS}"), Some(&object)).await;
    let kept = &made.items_at(&["spec", "schedulingConstraints", "topology"])[0];
    assert_eq!(kept.str_at(&["key"]), "rack");
    let mut template = constrained(value!([{"key": "rack"}]));
    template.set_at(&["name"], "t");
    let made =
        cluster.done(&format!("POST {WORKLOADS}"), Some(&workload(value!([template])))).await;
    let kept = &made.items_at(&["spec", "podGroupTemplates"])[0];
    assert_eq!(kept.items_at(&["schedulingConstraints", "topology"]).len(), 1);
    for (keys, expected) in [
        (
            value!([{"key": "a"}, {"key": "b"}]),
            "spec.schedulingConstraints.topology: Too many: 2: must have at most 1 item",
        ),
        (value!([{"key": ""}]), "spec.schedulingConstraints.topology[0].key: Required value"),
    ] {
        let told =
            refusals(&cluster, &format!("POST {GROUPS}"), &group("h", constrained(keys))).await;
        assert_eq!(told, [expected]);
    }
    let patch = value!({"spec": {"schedulingConstraints": {"topology": [{"key": "zone"}]}}});
    let told = refusals(&cluster, &format!("PATCH {GROUPS}/g"), &patch).await;
    let expected = "spec.schedulingConstraints: Invalid value: {\"topology\":[{\"key\":\"zone\"}]}: field is immutable";
    assert_eq!(told, [expected]);
}
