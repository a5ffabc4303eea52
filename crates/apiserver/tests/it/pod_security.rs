//! What the labels of a namespace do to those who write into it.

use apimachinery::{Value, value};

use crate::cluster::{Cluster, admin};

/// A namespace whose pods must keep to `baseline`, with the account that pods need.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let labels = value!({"pod-security.kubernetes.io/enforce": "baseline"});
    let namespace = value!({"metadata": {"name": "safe", "labels": labels}});
    cluster.done("POST /api/v1/namespaces", Some(&namespace)).await;
    let account = value!({"metadata": {"name": "default"}});
    cluster.done("POST /api/v1/namespaces/safe/serviceaccounts", Some(&account)).await;
    cluster.server.hub().catch_up().await.unwrap();
    cluster
}

/// The code and the message of a refusal.
async fn refusal(cluster: &Cluster, request: &str, body: &Value) -> (u16, String) {
    let (code, answer) = cluster.send(&admin(), request, Some(body)).await;
    (code, answer.str_at(&["message"]).to_owned())
}

fn spec(context: &Value) -> Value {
    value!({"containers": [{"name": "c", "image": "i", "securityContext": (context.clone())}]})
}

const PODS: &str = "POST /api/v1/namespaces/safe/pods";

#[tokio::test]
async fn pods_are_refused_by_the_name_that_they_would_have() {
    let cluster = cluster().await;
    let bad = spec(&value!({"privileged": true}));
    let why = "violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)";
    let pod = value!({"metadata": {"name": "p"}, "spec": (bad.clone())});
    let expected = (403, format!("pods \"p\" is forbidden: {why}"));
    assert_eq!(refusal(&cluster, PODS, &pod).await, expected);
    let pod = value!({"metadata": {"generateName": "p-"}, "spec": (bad.clone())});
    let (code, message) = refusal(&cluster, PODS, &pod).await;
    assert_eq!(code, 403);
    assert!(message.starts_with("pods \"p-") && message.ends_with(why), "{message}");
    assert!(!message.starts_with("pods \"p-\""), "{message}");

    let pod = value!({"metadata": {"name": "p"}, "spec": (spec(&value!({})))});
    cluster.done(PODS, Some(&pod)).await;
    let debug = value!({"spec": {"ephemeralContainers": [
        {"name": "d", "image": "i", "securityContext": {"privileged": true}}
    ]}});
    let request = "PATCH /api/v1/namespaces/safe/pods/p/ephemeralcontainers";
    let why = why.replace("container \"c\"", "container \"d\"");
    let expected = (403, format!("pods \"p\" is forbidden: {why}"));
    assert_eq!(refusal(&cluster, request, &debug).await, expected);
    let of = |decision: &str, rest: &str| {
        format!(
            "pod_security_evaluations_total{{decision=\"{decision}\",mode=\"enforce\",policy_level=\"baseline\",policy_version=\"latest\",{rest}"
        )
    };
    let create = "request_operation=\"create\",resource=\"pod\",subresource=\"\"}";
    let update =
        "request_operation=\"update\",resource=\"pod\",subresource=\"ephemeralcontainers\"} 1";
    let (denied, allowed) =
        (of("deny", &format!("{create} 2")), of("allow", &format!("{create} 1")));
    cluster.counts(&[&denied, &allowed, &of("deny", update)]).await;
}

#[tokio::test]
async fn templates_and_levels_are_warned_of() {
    let cluster = cluster().await;
    let labels = value!({"app": "a"});
    let deployment = value!({
        "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": (labels.clone())},
            "template": {
                "metadata": {"labels": (labels.clone())},
                "spec": (spec(&value!({"privileged": true})))
            }
        }
    });
    assert_eq!(
        cluster.warnings("POST /apis/apps/v1/namespaces/safe/deployments", &deployment).await,
        [
            r#"299 - "would violate PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)""#
        ]
    );
    let pod = value!({"metadata": {"name": "p"}, "spec": (spec(&value!({"runAsNonRoot": true})))});
    assert!(cluster.warnings(PODS, &pod).await.is_empty());
    cluster.server.hub().catch_up().await.unwrap();

    let level = |level: &str| {
        let labels = value!({"pod-security.kubernetes.io/enforce": level});
        value!({"metadata": {"labels": (labels)}})
    };
    let request = "PATCH /api/v1/namespaces/safe";
    assert_eq!(
        refusal(&cluster, request, &level("bogus")).await,
        (422, "Namespace \"safe\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"bogus\": must be one of privileged, baseline, restricted".into())
    );
    let expected = [
        r#"299 - "existing pods in namespace \"safe\" violate the new PodSecurity enforce level \"restricted:latest\"""#,
        r#"299 - "p: allowPrivilegeEscalation != false, unrestricted capabilities, seccompProfile""#,
    ];
    let dry = format!("{request}?dryRun=All");
    assert_eq!(cluster.warnings(&dry, &level("restricted")).await, expected);
    assert_eq!(cluster.warnings(request, &level("restricted")).await, expected);
}
