//! Which versions and resources are served: what is generally available, and what `--runtime-config` and features say.

use apimachinery::{Value, value};
use apiserver::Operating;
use component_base::feature_gates::FeatureGates;
use registry::{Apis, Features, Registry};

use crate::cluster::{Cluster, With, admin};

/// A server that is told this of its APIs.
async fn serving(config: &str, features: Features) -> Cluster {
    let asked: Vec<String> = config.split(',').map(str::to_owned).collect();
    let apis = Apis::default().with_features(features).configure(&asked).unwrap();
    let registry = Some(Registry::of(apis));
    Cluster::start_changed(With { registry, ..With::default() }).await
}

async fn code(cluster: &Cluster, path: &str) -> u16 {
    cluster.send(&admin(), &format!("GET {path}"), None).await.0
}

/// `apps/v1/deployments` of every resource that discovery tells of in a group.
async fn told(cluster: &Cluster, group: &str) -> Vec<String> {
    let list = cluster.done(&format!("GET /apis/{group}"), None).await;
    let mut all = Vec::new();
    for version in list.items_at(&["versions"]) {
        let version = version.str_at(&["groupVersion"]);
        let resources = cluster.done(&format!("GET /apis/{version}"), None).await;
        let names = resources.items_at(&["resources"]).iter();
        all.extend(names.map(|it| format!("{version}/{}", it.str_at(&["name"]))));
    }
    all
}

#[tokio::test]
async fn beta_and_alpha_versions_are_there_where_they_are_asked_for() {
    let usual = Cluster::start().await;
    for path in ["/apis/resource.k8s.io/v1beta1", "/apis/resource.k8s.io/v1beta1/deviceclasses"] {
        assert_eq!(code(&usual, path).await, 404, "{path}");
    }
    let features = Features { coordinated_leader_election: true, ..Features::default() };
    let cluster = serving("api/beta=true", features).await;
    assert_eq!(code(&cluster, "/apis/resource.k8s.io/v1beta1/deviceclasses").await, 200);
    assert_eq!(code(&cluster, "/apis/resource.k8s.io/v1alpha3/devicetaintrules").await, 404);
    assert_eq!(
        told(&cluster, "coordination.k8s.io").await,
        ["coordination.k8s.io/v1/leases", "coordination.k8s.io/v1beta1/leasecandidates"]
    );
    // Without their feature Workloads and PodGroups are not there.
    assert_eq!(told(&cluster, "scheduling.k8s.io").await, ["scheduling.k8s.io/v1/priorityclasses"]);
    let openapi = cluster.done("GET /openapi/v3", None).await;
    assert!(openapi.at(&["paths", "apis/resource.k8s.io/v1beta2"]).is_some());
    assert!(openapi.at(&["paths", "apis/resource.k8s.io/v1alpha3"]).is_none());
}

#[tokio::test]
async fn an_object_is_the_same_in_all_its_versions() {
    let cluster = serving("api/beta=true", Features::default()).await;
    let claims = |version: &str| {
        format!("/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims")
    };
    let claim = value!({"apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceClaim",
        "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "r", "deviceClassName": "gpu"}]}}});
    let made = cluster.done(&format!("POST {}", claims("v1beta1")), Some(&claim)).await;
    let request = &made.items_at(&["spec", "devices", "requests"])[0];
    assert_eq!(
        request,
        &value!({"name": "r", "deviceClassName": "gpu",
        "allocationMode": "ExactCount", "count": 1})
    );
    let today = cluster.done(&format!("GET {}/c", claims("v1")), None).await;
    assert_eq!(today.str_at(&["apiVersion"]), "resource.k8s.io/v1");
    let request = &today.items_at(&["spec", "devices", "requests"])[0];
    assert_eq!(request.str_at(&["exactly", "deviceClassName"]), "gpu");
    let newer = cluster.done(&format!("GET {}", claims("v1beta2")), None).await;
    assert_eq!(newer.str_at(&["apiVersion"]), "resource.k8s.io/v1beta2");
    let request = &newer.items_at(&["items"])[0].items_at(&["spec", "devices", "requests"])[0];
    assert_eq!(request.str_at(&["exactly", "deviceClassName"]), "gpu");
    let response = cluster.respond(&admin(), &format!("GET {}/c", claims("v1beta1")), None).await;
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    let expected =
        "resource.k8s.io/v1beta1 ResourceClaim is deprecated in v1.35+, unavailable in v1.38+";
    assert!(warning.contains(expected), "{warning}");
}

#[tokio::test]
async fn what_is_switched_off_is_gone() {
    let off = "autoscaling/v1=false,batch/v1/cronjobs=false,authentication.k8s.io/v1=false";
    let cluster = serving(off, Features::default()).await;
    let scalers = |version: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers")
    };
    assert_eq!(code(&cluster, &scalers("v1")).await, 404);
    assert_eq!(code(&cluster, &scalers("v2")).await, 200);
    assert_eq!(code(&cluster, "/apis/batch/v1/namespaces/default/cronjobs").await, 404);
    assert_eq!(code(&cluster, "/apis/batch/v1/namespaces/default/jobs").await, 200);
    assert_eq!(told(&cluster, "batch").await, ["batch/v1/jobs", "batch/v1/jobs/status"]);
    assert_eq!(code(&cluster, "/apis/authentication.k8s.io").await, 404);
    let review = value!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    assert_eq!(cluster.send(&admin(), path, Some(&review)).await.0, 404);
}

#[tokio::test]
async fn features_say_what_the_server_tells_of_itself() {
    let mut features = FeatureGates::default();
    let off = "ComponentStatusz=false,ComponentFlagz=false,StorageVersionHash=false";
    features.set(off).unwrap();
    let operating = Some(Operating { features: features.into(), ..Operating::default() });
    let cluster = Cluster::start_changed(With { operating, ..With::default() }).await;
    for path in ["/statusz", "/flagz"] {
        assert_eq!(code(&cluster, path).await, 404, "{path}");
    }
    let paths = cluster.done("GET /", None).await;
    let paths: Vec<&str> = paths.items_at(&["paths"]).iter().filter_map(Value::as_str).collect();
    assert!(paths.contains(&"/metrics") && !paths.contains(&"/statusz"), "{paths:?}");
    let resources = cluster.done("GET /apis/apps/v1", None).await;
    let hash = |it: &Value| it.get("storageVersionHash").is_some();
    assert!(!resources.items_at(&["resources"]).iter().any(hash));
    let metrics = cluster.send(&admin(), "GET /metrics", None).await.1;
    let metrics = metrics.as_str().unwrap();
    assert!(
        metrics.contains("kubernetes_feature_enabled{name=\"ComponentFlagz\",stage=\"BETA\"} 0")
    );
    let usual = Cluster::start().await;
    assert_eq!(code(&usual, "/statusz").await, 200);
}

/// Paths and methods that upstream's routers know, and those that they do not.
#[tokio::test]
async fn paths_are_known_as_upstreams_routers_know_them() {
    let cluster = Cluster::start().await;
    for (request, code) in [
        // The aggregator answers these itself: with a slash at the end, and whatever the method.
        ("GET /apis/apps/", 200),
        ("PUT /apis/apps", 200),
        ("DELETE /apis", 200),
        ("GET /apis/apps/v1/", 200),
        ("GET /api/v1/namespaces/", 200),
        ("GET /api/v1/namespaces/default/", 200),
        ("GET /version/", 200),
        ("GET /api/", 200),
        ("POST /api", 405),
        // Bindings and reviews are made, and no more.
        ("GET /api/v1/namespaces/default/bindings", 405),
        ("POST /api/v1/bindings", 404),
        ("GET /api/v1/namespaces/default/bindings/x", 404),
        ("GET /apis/authentication.k8s.io/v1/tokenreviews", 405),
        ("POST /apis/authentication.k8s.io/v1/tokenreviews/x", 404),
        // Namespaces are in none.
        ("POST /api/v1/namespaces/default/namespaces", 404),
        ("GET /api/v1/namespaces/default/status", 200),
        // Proxies had such paths once.
        ("GET /api/v1/proxy/namespaces/default/pods/x", 404),
        ("GET //api/v1/namespaces", 404),
        ("GET /openapi/v2/", 404),
        ("GET /openapi/v3/", 404),
        ("GET /openapi/v3/apis/apps/v7", 404),
        ("GET /openapi/v3/apis/apps/v1", 200),
    ] {
        assert_eq!(cluster.send(&admin(), request, None).await.0, code, "{request}");
    }
}

#[tokio::test]
async fn fields_and_values_of_features_are_taken_where_they_are_on_and_kept_where_they_were() {
    let set = |most: Value| {
        value!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "s",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let scaler = |metrics: Value| {
        value!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
                "minReplicas": 0, "maxReplicas": 4, "metrics": metrics}})
    };
    let external = value!([{"type": "External", "external": {"metric": {"name": "m"},
        "target": {"type": "Value", "value": "5"}}}]);
    let at = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
    let (sets, scalers) = (
        "/apis/apps/v1/namespaces/default/statefulsets",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
    );
    let features = Features {
        max_unavailable_stateful_set: true,
        hpa_scale_to_zero: true,
        ..Features::default()
    };
    let on = serving("", features).await;
    let made = on.done(&format!("POST {sets}"), Some(&set(value!("50%")))).await;
    assert_eq!(made.str_at(&at), "50%");
    let none = on.send(&admin(), &format!("POST {sets}"), Some(&set(value!(0)))).await;
    assert!(none.1.str_at(&["message"]).contains("cannot be 0"), "{none:?}");
    on.done(&format!("POST {scalers}"), Some(&scaler(external.clone()))).await;
    let (code, cpu) =
        on.send(&admin(), &format!("POST {scalers}"), Some(&scaler(value!([])))).await;
    let wanted = "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas";
    assert_eq!(code, 422);
    assert!(cpu.str_at(&["message"]).ends_with(wanted), "{cpu:?}");
    // What was let in stays, also where the feature is off again.
    let off = on.restarted().await;
    let patch = value!({"metadata": {"labels": {"x": "y"}}});
    let kept = off.done(&format!("PATCH {sets}/s"), Some(&patch)).await;
    assert_eq!(kept.str_at(&at), "50%");
    off.done(&format!("PATCH {scalers}/h"), Some(&patch)).await;
    off.done(&format!("DELETE {sets}/s"), None).await;
    off.done(&format!("DELETE {scalers}/h"), None).await;
    let made = off.done(&format!("POST {sets}"), Some(&set(value!(2)))).await;
    assert!(made.at(&at).is_none());
    let (_, refused) =
        off.send(&admin(), &format!("POST {scalers}"), Some(&scaler(external))).await;
    let wanted = "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1";
    assert!(refused.str_at(&["message"]).ends_with(wanted), "{refused:?}");
}

#[tokio::test]
async fn a_condition_that_a_feature_brings_is_taken_where_it_is_on() {
    let claim = value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let told = value!({"status": {"conditions": [{"type": "Unused", "status": "True"}]}});
    let conditions = |claim: &Value| claim.items_at(&["status", "conditions"]).len();
    let off = Cluster::start().await;
    off.done(&format!("POST {claims}"), Some(&claim)).await;
    let dropped = off.done(&format!("PATCH {claims}/c/status"), Some(&told)).await;
    assert_eq!(conditions(&dropped), 0);
    let features = Features { claim_unused_since_time: true, ..Features::default() };
    let on = serving("", features).await;
    on.done(&format!("POST {claims}"), Some(&claim)).await;
    let taken = on.done(&format!("PATCH {claims}/c/status"), Some(&told)).await;
    assert_eq!(conditions(&taken), 1);
    // What a claim has it keeps, and it may change.
    let off = on.restarted().await;
    let changed = value!({"status": {"conditions": [{"type": "Unused", "status": "False"}]}});
    let kept = off.done(&format!("PATCH {claims}/c/status"), Some(&changed)).await;
    assert_eq!(kept.items_at(&["status", "conditions"])[0].str_at(&["status"]), "False");
}
