//! Metrics of objects.

use std::time::Duration;

use apimachinery::value;
use metrics_adapter::{Asked, CUSTOM};

use crate::{Stage, asked};

const V2: &str = "custom.metrics.k8s.io/v1beta2";

async fn refused(stage: &Stage, asked: &Asked) -> (u16, String) {
    let status = stage.adapter.answer(asked).await.unwrap_err();
    (status.code, status.message)
}

#[tokio::test]
async fn a_metric_of_one_pod_and_of_those_that_a_selector_takes() {
    let stage = Stage::new().await;
    for (name, app) in [("a", "web"), ("b", "web"), ("c", "db")] {
        stage.pod(name, app).await;
    }
    stage.prometheus.answers_query("pod", &[("a", "1.5"), ("b", "20"), ("c", "7")]);
    let one = asked(&format!("{V2}/default/pods/a/http_requests_per_second"));
    let list = stage.adapter.answer(&one).await.unwrap();
    assert_eq!(list.str_at(&["kind"]), "MetricValueList");
    assert_eq!(list.str_at(&["apiVersion"]), V2);
    let item = &list.items_at(&["items"])[0];
    let object = value!({"kind": "Pod", "namespace": "default", "name": "a", "apiVersion": "/v1"});
    assert_eq!(item["describedObject"], object);
    let metric = value!({"name": "http_requests_per_second", "selector": null});
    assert_eq!(item["metric"], metric);
    assert_eq!(item.str_at(&["value"]), "1500m");
    let mut several = asked(&format!("{V2}/default/pods/*/http_requests_per_second"));
    several.selector = "app=web".into();
    several.metric_selector = "code=200".into();
    let list = stage.adapter.answer(&several).await.unwrap();
    let values: Vec<(&str, &str)> = list
        .items_at(&["items"])
        .iter()
        .map(|it| (it.str_at(&["describedObject", "name"]), it.str_at(&["value"])))
        .collect();
    assert_eq!(values, [("a", "1500m"), ("b", "20")]);
    let selector = &list.items_at(&["items"])[0]["metric"]["selector"];
    assert_eq!(*selector, value!({"matchLabels": {"code": "200"}}));
    let expected = [
        r#"sum(rate(http_requests_total{namespace="default",pod="a"}[2m])) by (pod)"#,
        r#"sum(rate(http_requests_total{code="200",namespace="default",pod=~"a|b"}[2m])) by (pod)"#,
    ];
    assert_eq!(stage.prometheus.queries(), expected);
}

#[tokio::test]
async fn the_older_version_and_what_is_in_no_namespace() {
    let stage = Stage::new().await;
    stage.prometheus.answers_query("node", &[("n1", "3")]);
    let old = asked("custom.metrics.k8s.io/v1beta1//nodes/n1/http_requests_per_second");
    let list = stage.adapter.answer(&old).await.unwrap();
    let item = &list.items_at(&["items"])[0];
    assert_eq!(item.str_at(&["metricName"]), "http_requests_per_second");
    let members = item.as_object().unwrap();
    assert!(!members.contains_key("metric") && members.contains_key("selector"));
    assert_eq!(
        item["describedObject"],
        value!({"kind": "Node", "name": "n1", "apiVersion": "/v1"})
    );
    stage.prometheus.answers_query("namespace", &[("default", "4")]);
    let namespace = asked(&format!("{V2}/default/metrics/http_requests_per_second"));
    let list = stage.adapter.answer(&namespace).await.unwrap();
    let object = &list.items_at(&["items"])[0]["describedObject"];
    assert_eq!(*object, value!({"kind": "Namespace", "name": "default", "apiVersion": "/v1"}));
}

#[tokio::test]
async fn what_there_is_not_is_told_in_upstreams_words() {
    let stage = Stage::new().await;
    stage.prometheus.answers_query("pod", &[]);
    let could_not = "the server could not find the metric";
    for (path, selector, expected) in [
        ("default/pods/a/nothing", "", format!("{could_not} nothing for pods")),
        (
            "default/pods/a/http_requests_per_second",
            "",
            format!("{could_not} http_requests_per_second for pods a"),
        ),
        // Nobody has the label.
        (
            "default/pods/*/http_requests_per_second",
            "app=none",
            format!("{could_not} http_requests_per_second for pods"),
        ),
        ("default/gizmos/a/x", "", format!("{could_not} x for gizmos")),
        (
            "default/ingresses.networking.k8s.io/a/x",
            "",
            format!("{could_not} x for ingresses.networking.k8s.io"),
        ),
        ("default/pods", "", "the server could not find the requested resource".into()),
    ] {
        let mut asked = asked(&format!("{V2}/{path}"));
        asked.selector = selector.into();
        assert_eq!(refused(&stage, &asked).await, (404, expected), "{path}");
    }
    let mut wrong = asked(&format!("{V2}/default/pods/*/http_requests_per_second"));
    wrong.selector = "a in".into();
    assert_eq!(refused(&stage, &wrong).await.0, 400);
}

#[tokio::test]
async fn a_prometheus_that_hangs_or_tells_too_much_fails_in_time() {
    let stage = Stage::with(Duration::from_millis(300), 2_000).await;
    let one = asked(&format!("{V2}/default/pods/a/http_requests_per_second"));
    let unable = (500, "Internal error occurred: unable to fetch metrics".to_owned());
    let many: Vec<String> = (0..100).map(|it| format!("pod-{it}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|it| (it.as_str(), "1")).collect();
    stage.prometheus.answers_query("pod", &many);
    assert_eq!(refused(&stage, &one).await, unable);
    stage.prometheus.answers(
        "/api/v1/query",
        r#"{"status":"error","errorType":"execution","error":"too many"}"#,
    );
    let other = asked(&format!("{V2}/default/pods/b/http_requests_per_second"));
    assert_eq!(refused(&stage, &other).await, unable);
    stage.prometheus.be_silent();
    let begun = std::time::Duration::from_millis(300);
    let third = asked(&format!("{V2}/default/pods/c/http_requests_per_second"));
    let waited = tokio::time::timeout(begun * 20, refused(&stage, &third)).await;
    assert_eq!(waited.unwrap(), unable);
}

#[tokio::test]
async fn equal_requests_share_one_query() {
    let stage = Stage::new().await;
    stage.prometheus.answers_query("pod", &[("a", "1")]);
    let one = asked(&format!("{V2}/default/pods/a/http_requests_per_second"));
    let all = (0..20).map(|_| stage.adapter.answer(&one));
    for answer in futures::future::join_all(all).await {
        assert_eq!(answer.unwrap().items_at(&["items"]).len(), 1);
    }
    assert_eq!(stage.prometheus.queries().len(), 1);
}

#[tokio::test]
async fn discovery_tells_what_there_is_and_availability_whether_it_can_be_asked() {
    let stage = Stage::new().await;
    assert_eq!(stage.adapter.available(CUSTOM), Ok(()));
    let served = stage.adapter.served();
    let custom = served.iter().find(|it| (it.group, it.version) == (CUSTOM, "v1beta2")).unwrap();
    let told: Vec<(&str, bool)> = custom
        .resources
        .iter()
        .map(|it| (it.str_at(&["name"]), it.bool_at(&["namespaced"])))
        .collect();
    let metric = |of: &str| format!("{of}/http_requests_per_second");
    let (namespaces, nodes, pods) = (metric("namespaces"), metric("nodes"), metric("pods"));
    let expected = [(namespaces.as_str(), false), (nodes.as_str(), false), (pods.as_str(), true)];
    assert_eq!(told, expected);
}
