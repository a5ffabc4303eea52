use apimachinery::patch::json_patch;
use apimachinery::value;
use client::call::PatchKind;
use controller::Action;
use dynamic_resource_allocation::claim::FINALIZER;

use super::*;

/// What is done, in short: `create START`, `say CLAIM=NAME`, `update HOLDERS [allocated] FINALIZERS`, `delete`, `ask`.
fn told(plan: &Plan) -> String {
    let actions = plan.stages.iter().flat_map(|it| &it.actions);
    let mut did: Vec<String> = actions
        .map(|it| match &it.action {
            Action::Create { object, .. } => {
                format!("create {}", object.str_at(&["metadata", "generateName"]))
            }
            Action::Patch { patch, kind: PatchKind::Json, .. } => {
                let each = patch.as_array().unwrap().iter().map(|it| {
                    let path = it.str_at(&["path"]);
                    format!("{} {}", it.str_at(&["op"]), path.rsplit('/').next().unwrap())
                });
                each.collect::<Vec<_>>().join(", ")
            }
            Action::Patch { patch, .. } => {
                let statuses = patch.items_at(&["status", "resourceClaimStatuses"]).iter();
                let each = statuses.map(|it| {
                    format!("{}={}", it.str_at(&["name"]), it.str_at(&["resourceClaimName"]))
                });
                format!("say {}", each.collect::<Vec<_>>().join(","))
            }
            Action::Update { object, .. } => format!(
                "update {} {}{}",
                object.items_at(&["status", "reservedFor"]).len(),
                if object.at(&["status", "allocation"]).is_some() { "allocated " } else { "" },
                object.items_at(&["metadata", "finalizers"]).len()
            ),
            Action::Delete { .. } => "delete".into(),
            other => format!("{other:?}"),
        })
        .collect();
    did.extend(plan.fetches.iter().map(|_| "ask".to_owned()));
    did.extend(plan.events.iter().map(|it| it.message.clone()));
    did.join("; ")
}

fn by_name(values: &[Value], path: &[&str]) -> BTreeMap<String, Arc<Value>> {
    values.iter().map(|it| (it.str_at(path).to_owned(), Arc::new(it.clone()))).collect()
}

fn check_pod(pod: &Value, claims: &[Value], templates: &[&str], expected: &str) {
    let mut whole = value!({"metadata": {"name": "p", "namespace": "ns", "uid": "U"},
        "spec": {"resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]}});
    for (member, value) in pod.as_object().unwrap().iter() {
        for (name, value) in value.as_object().unwrap().iter() {
            whole.set_at(&[member, name], value.clone());
        }
    }
    let templates: Vec<Value> =
        templates.iter().map(|it| value!({"metadata": {"name": (*it)}})).collect();
    let own: Vec<Value> = claims
        .iter()
        .filter(|it| owner(it).is_some_and(|it| it.str_at(&["uid"]) == "U"))
        .cloned()
        .collect();
    let seen = PodSeen {
        pod: Arc::new(whole),
        claims: by_name(claims, &["metadata", "name"]),
        made: by_name(&own, &["metadata", "annotations", POD_CLAIM_NAME]),
        templates: by_name(&templates, &["metadata", "name"]),
    };
    assert_eq!(told(&plan::pod(&seen)), expected, "{pod:?}");
}

fn made(name: &str, uid: &str, status: Value) -> Value {
    value!({"metadata": {"name": name, "annotations": {(POD_CLAIM_NAME): "c"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]}, "status": status})
}

#[test]
fn a_pod_gets_a_claim_for_each_template_and_says_so() {
    let given = |claim: &str| value!({"status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": claim}]}});
    let plain = value!({});
    check_pod(&plain, &[], &["t"], "create p-c-");
    check_pod(&plain, &[made("x", "U", value!({}))], &["t"], "say c=x");
    check_pod(&plain, &[made("x", "V", value!({}))], &["t"], "create p-c-");
    check_pod(&given("x"), &[made("x", "U", value!({}))], &["t"], "");
    check_pod(&given("x"), &[], &["t"], "create p-c-");
    check_pod(&value!({"status": {"resourceClaimStatuses": [{"name": "c"}]}}), &[], &["t"], "");
    check_pod(&value!({"status": {"phase": "Failed"}}), &[], &["t"], "");
    check_pod(
        &plain,
        &[],
        &[],
        "PodResourceClaim c: resource claim template \"t\": resourceclaimtemplate.resource.k8s.io \"t\" not found",
    );
    check_pod(
        &value!({"metadata": {"name": (format!("p{}", "x".repeat(99)))}}),
        &[],
        &["t"],
        &format!("create p{}-", "x".repeat(54)),
    );
}

#[test]
fn a_pod_on_a_node_gets_claims_that_are_allocated() {
    let on_node = value!({"spec": {"nodeName": "n"}, "status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "x"}]}});
    check_pod(&on_node, &[made("x", "U", value!({"allocation": {}}))], &[], "update 1 allocated 0");
    check_pod(&on_node, &[made("x", "U", value!({}))], &[], "");
    let mine = value!({"allocation": {}, "reservedFor": [{"uid": "U"}]});
    check_pod(&on_node, &[made("x", "U", mine)], &[], "");
}

#[test]
fn a_claim_is_given_back_when_nobody_needs_it() {
    let check = |claim: &Value, holders: Vec<Holder>, is_over: bool, expected: &[&str]| {
        let mut memory = Memory::default();
        let mut claim = claim.clone();
        let entries = holders.iter().map(|_| value!({"resource": "pods", "uid": "u"}));
        claim.set_at(&["status", "reservedFor"], Value::Array(entries.collect()));
        let mut holders = holders;
        for (turn, expected) in expected.iter().enumerate() {
            let seen = ClaimSeen { claim: Arc::new(claim.clone()), holders, is_over };
            let plan = plan::claim(&seen, &mut memory);
            assert_eq!(told(&plan), *expected, "turn {turn} of {claim:?}");
            holders = Vec::new();
            let first = plan.stages.first().and_then(|it| it.actions.first());
            let after = first.and_then(|it| match &it.action {
                Action::Update { object, .. } => Some(object.clone()),
                Action::Patch { patch, .. } => json_patch::apply(&claim, patch).ok(),
                _ => None,
            });
            if let Some(after) = after {
                claim = after;
                holders = claim
                    .items_at(&["status", "reservedFor"])
                    .iter()
                    .map(|_| Holder::Needs)
                    .collect();
            }
        }
    };
    let protected = value!({"metadata": {"uid": "u", "finalizers": [(FINALIZER)]}, "status": {"allocation": {}}});
    check(&protected, vec![Holder::Needs], false, &[""]);
    let one_goes = "test uid, test reservedFor, replace reservedFor";
    check(&protected, vec![Holder::Needs, Holder::Gone], false, &[one_goes, ""]);
    let all_go = "test uid, test reservedFor, remove reservedFor, remove allocation";
    check(&protected, vec![Holder::Gone], false, &[all_go, "update 0 0", ""]);
    check(&protected, vec![Holder::Gone], true, &[all_go, "update 0 0; delete"]);
    // One that was allocated for nobody stays so until it is deleted.
    check(&protected, vec![], false, &[""]);
    let mut going = protected.clone();
    going.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
    check(&going, vec![], false, &["update 0 1", "update 0 0", ""]);
    // The scheduler protects a claim before it allocates it: that is left alone.
    let reserved = value!({"metadata": {"finalizers": [(FINALIZER)]}, "status": {}});
    check(&reserved, vec![], false, &[""]);
    let fetch = Fetch::read(Resource::of::<Pod>(), ObjectKey::new("ns", "p"));
    check(&protected, vec![Holder::Ask(Box::new(fetch))], false, &["ask"]);
}
