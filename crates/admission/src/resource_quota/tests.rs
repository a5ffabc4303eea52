//! What quotas count, and when they refuse.

use apimachinery::json;
use auth::UserInfo;
use auth::fixed::FixedObjects;

use super::*;
use crate::tests::{Case, Fixed};

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes()).unwrap()
}

/// A quota whose status is up to date.
fn quota(hard: &str, used: &str, rest: &str) -> Value {
    parse(&format!(
        r#"{{"kind":"ResourceQuota","apiVersion":"v1","metadata":{{"name":"q","namespace":"ns"}},
        "spec":{{"hard":{hard}{rest}}},"status":{{"hard":{hard},"used":{used}}}}}"#
    ))
}

/// Sends an object through; the usage afterwards, or the refusal.
async fn charge(quota: &Value, resource: &str, object: &str) -> String {
    let objects = FixedObjects::default();
    objects.put("", "resourcequotas", quota);
    let plugin = ResourceQuota::new(Arc::new(Fixed(objects.clone())));
    let user = UserInfo::default();
    let mut case = Case::new(Operation::Create, resource, parse(object));
    match plugin.validate(&mut case.attributes(&user)).await {
        Err(status) => status.message,
        Ok(()) => {
            let after = auth::Objects::get(&objects, "", "resourcequotas", "ns", "q").unwrap();
            json::to_string(&after.to_value().unwrap()["status"]["used"])
        }
    }
}

const POD: &str = r#"{"metadata":{"name":"p"},"spec":{"containers":[
    {"name":"a","resources":{"requests":{"cpu":"100m","memory":"1Gi"},"limits":{"cpu":"200m"}}},{"name":"b","resources":{"requests":{"cpu":"0.2","memory":"1Gi"},"limits":{"cpu":1}}}],
    "initContainers":[{"name":"i","resources":{"requests":{"cpu":"250m","memory":"3Gi"},"limits":{"cpu":"1"}}}]}}"#;

#[tokio::test]
async fn pods_are_counted_by_what_they_ask_for() {
    let hard =
        r#"{"pods":"2","requests.cpu":"1","memory":"4Gi","limits.cpu":"2","count/pods":"9"}"#;
    let used =
        r#"{"pods":"1","requests.cpu":"500m","memory":"1Gi","limits.cpu":"0","count/pods":"1"}"#;
    assert_eq!(
        charge(&quota(hard, used, ""), "pods", POD).await,
        r#"{"count/pods":"2","limits.cpu":"1200m","memory":"4Gi","pods":"2","requests.cpu":"800m"}"#
    );
    let used =
        r#"{"pods":"2","requests.cpu":"900m","memory":"0","limits.cpu":"0","count/pods":"1"}"#;
    assert_eq!(
        charge(&quota(hard, used, ""), "pods", POD).await,
        "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=300m, used: pods=2,requests.cpu=900m, limited: pods=2,requests.cpu=1"
    );
}

#[tokio::test]
async fn what_a_quota_bounds_must_be_said() {
    let hard = r#"{"limits.cpu":"2","limits.memory":"1Gi"}"#;
    let pod = r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"b"},{"name":"a","resources":{"limits":{"cpu":"1"}}}]}}"#;
    assert_eq!(
        charge(&quota(hard, "{}", ""), "pods", pod).await,
        "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: b; limits.memory for: a,b"
    );
    let unknown = parse(
        r#"{"kind":"ResourceQuota","apiVersion":"v1","metadata":{"name":"q","namespace":"ns"},"spec":{"hard":{"pods":"1"}}}"#,
    );
    assert_eq!(
        charge(&unknown, "pods", POD).await,
        "pods \"p\" is forbidden: status unknown for quota: q, resources: pods"
    );
}

#[tokio::test]
async fn scopes_choose_which_pods_count() {
    let hard = r#"{"pods":"0"}"#;
    let used = r#"{"pods":"0"}"#;
    let best_effort = r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"}]}}"#;
    for (rest, counts) in [
        (r#","scopes":["BestEffort"]"#, true),
        (r#","scopes":["NotBestEffort"]"#, false),
        (r#","scopes":["Terminating"]"#, false),
        (r#","scopes":["BestEffort","NotTerminating"]"#, true),
        (
            r#","scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"In","values":["high"]}]}"#,
            false,
        ),
        (
            r#","scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"DoesNotExist"}]}"#,
            true,
        ),
    ] {
        let answer = charge(&quota(hard, used, rest), "pods", best_effort).await;
        assert_eq!(answer.contains("exceeded quota"), counts, "{rest}: {answer}");
    }
}

#[tokio::test]
async fn services_claims_and_other_objects_are_counted() {
    let check = async |resource: &str, object: &str, hard: &str, expected: &str| {
        let used = hard.replace('9', "0");
        assert_eq!(charge(&quota(hard, &used, ""), resource, object).await, expected, "{object}");
    };
    check(
        "services",
        r#"{"metadata":{"name":"s"},"spec":{"type":"LoadBalancer","ports":[{"port":1},{"port":2}]}}"#,
        r#"{"services":"9","services.nodeports":"9","services.loadbalancers":"9"}"#,
        r#"{"services":"1","services.loadbalancers":"1","services.nodeports":"2"}"#,
    )
    .await;
    check(
        "persistentvolumeclaims",
        r#"{"metadata":{"name":"c"},"spec":{"storageClassName":"fast","resources":{"requests":{"storage":"5"}}}}"#,
        r#"{"requests.storage":"9","fast.storageclass.storage.k8s.io/requests.storage":"9","slow.storageclass.storage.k8s.io/requests.storage":"9"}"#,
        r#"{"fast.storageclass.storage.k8s.io/requests.storage":"5","requests.storage":"5","slow.storageclass.storage.k8s.io/requests.storage":"0"}"#,
    )
    .await;
    check(
        "secrets",
        r#"{"metadata":{"name":"c"}}"#,
        r#"{"secrets":"9","count/secrets":"9","configmaps":"9"}"#,
        r#"{"configmaps":"0","count/secrets":"1","secrets":"1"}"#,
    )
    .await;
}
