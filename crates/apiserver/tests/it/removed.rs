//! Versions that upstream serves no more, where they are asked for.

use apimachinery::{Value, value};
use futures::StreamExt;

use crate::cluster::{Cluster, admin};
use crate::custom::until;

const INGRESSES: &str = "/apis/extensions/v1beta1/namespaces/default/ingresses";

fn ingress() -> Value {
    let backend = |name: &str, port: Value| value!({"serviceName": name, "servicePort": (port)});
    value!({"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "i"}, "spec": {
        "backend": (backend("all", 80.into())),
        "rules": [{"host": "h", "http": {"paths": [{"path": "/p", "backend": (backend("one", "web".into()))}]}}]
    }})
}

/// Without what the server adds to metadata.
fn spec(object: &Value) -> &Value {
    object.get("spec").expect("a spec")
}

#[tokio::test]
async fn nothing_of_them_is_there_unless_it_is_asked_for() {
    let cluster = Cluster::start().await;
    for path in [INGRESSES, "/apis/batch/v1beta1", "/apis/extensions"] {
        assert_eq!(cluster.send(&admin(), &format!("GET {path}"), None).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn an_old_ingress_is_one_of_today_to_whoever_asks_so() {
    let cluster = Cluster::with_removed_versions().await;
    let mut watch = cluster.watch(&format!("{INGRESSES}?watch=true")).await;
    let made = cluster.done(&format!("POST {INGRESSES}"), Some(&ingress())).await;
    assert_eq!(made.str_at(&["apiVersion"]), "extensions/v1beta1");
    assert_eq!(made.at(&["spec", "backend"]), ingress().at(&["spec", "backend"]));
    let seen = watch.next().await.expect("an event");
    assert_eq!(seen.at(&["object", "spec", "backend", "servicePort"]), Some(&80.into()));
    let today = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/i";
    let now = cluster.done(&format!("GET {today}"), None).await;
    assert_eq!(
        spec(&now),
        &value!({
            "defaultBackend": {"service": {"name": "all", "port": {"number": 80}}},
            "rules": [{"host": "h", "http": {"paths": [{"path": "/p", "pathType": "ImplementationSpecific",
                "backend": {"service": {"name": "one", "port": {"name": "web"}}}}]}}]
        })
    );
    // What is changed is what the client sees; what others wrote is kept.
    let patch = value!({"spec": {"backend": {"serviceName": "other"}}});
    cluster.done(&format!("PATCH {INGRESSES}/i"), Some(&patch)).await;
    let now = cluster.done(&format!("GET {today}"), None).await;
    assert_eq!(
        now.at(&["spec", "defaultBackend", "service"]),
        Some(&value!({"name": "other", "port": {"number": 80}}))
    );
    // An apply too.
    let mut applied = ingress();
    applied.set_at(&["spec", "backend", "serviceName"], "applied");
    let request = format!("PATCH {INGRESSES}/i?fieldManager=x&force=true");
    cluster.done(&request, Some(&applied)).await;
    let now = cluster.done(&format!("GET {today}"), None).await;
    assert_eq!(now.str_at(&["spec", "defaultBackend", "service", "name"]), "applied");
    let list = cluster.done(&format!("GET {INGRESSES}"), None).await;
    let item = &list.items_at(&["items"])[0];
    assert_eq!(item.str_at(&["spec", "backend", "serviceName"]), "applied");
    let refused = value!({"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "j"},
        "spec": {"backend": {"serviceName": "UPPER", "servicePort": 80}}});
    let (code, answer) = cluster.send(&admin(), &format!("POST {INGRESSES}"), Some(&refused)).await;
    assert_eq!(code, 422, "{answer:?}");
}

#[tokio::test]
async fn clients_are_warned_and_discovery_tells() {
    let cluster = Cluster::with_removed_versions().await;
    let budget = value!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {}}});
    let path = "/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets";
    let warnings = cluster.warnings(&format!("POST {path}"), &budget).await;
    let warning = "299 - \"policy/v1beta1 PodDisruptionBudget is deprecated in v1.21+, unavailable in v1.25+; \
                   use policy/v1 PodDisruptionBudget\"";
    assert_eq!(warnings, [warning]);
    // Nothing was selected then by the selector that selects everything now.
    let now = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b";
    let now = cluster.done(&format!("GET {now}"), None).await;
    assert_eq!(now.str_at(&["spec", "selector", "matchExpressions"]), "");
    assert_eq!(now.items_at(&["spec", "selector", "matchExpressions"]).len(), 1, "{now:?}");
    let old = cluster.done(&format!("GET {path}/b"), None).await;
    assert_eq!(old.at(&["spec", "selector"]), Some(&Value::object()));
    let group = cluster.done("GET /apis/policy", None).await;
    let versions: Vec<&str> =
        group.items_at(&["versions"]).iter().map(|it| it.str_at(&["version"])).collect();
    assert_eq!(versions, ["v1", "v1beta1"]);
    assert_eq!(group.str_at(&["preferredVersion", "version"]), "v1");
    let metrics = cluster.done("GET /metrics", None).await;
    let line = "apiserver_requested_deprecated_apis{group=\"policy\",removed_release=\"1.25\",\
                resource=\"poddisruptionbudgets\",subresource=\"\",version=\"v1beta1\"} 1";
    assert!(metrics.as_str().unwrap_or_default().contains(line), "{metrics:?}");
}

#[tokio::test]
async fn old_defaults_and_shapes_come_out_as_they_were() {
    let cluster = Cluster::with_removed_versions().await;
    let template = value!({"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = value!({"metadata": {"name": "d"}, "spec": {"template": (template),
        "rollbackTo": {"revision": 1}}});
    let path = "/apis/extensions/v1beta1/namespaces/default/deployments";
    let made = cluster.done(&format!("POST {path}"), Some(&deployment)).await;
    assert_eq!(made.at(&["spec", "selector"]), Some(&value!({"matchLabels": {"a": "b"}})));
    assert_eq!(made.at(&["spec", "strategy", "rollingUpdate", "maxSurge"]), Some(&1.into()));
    let metric = value!({"type": "Resource",
        "resource": {"name": "memory", "targetAverageUtilization": 70}});
    let object = value!({"type": "Object", "object": {"target": {"apiVersion": "v1", "kind": "Service", "name": "s"},
        "metricName": "hits", "targetValue": "10"}});
    let autoscaler = value!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [(metric), (object)]}});
    let path = "/apis/autoscaling/v2beta1/namespaces/default/horizontalpodautoscalers";
    let made = cluster.done(&format!("POST {path}"), Some(&autoscaler)).await;
    assert_eq!(spec(&made).at(&["metrics"]), spec(&autoscaler).at(&["metrics"]), "{made:?}");
    let now = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h";
    let now = cluster.done(&format!("GET {now}"), None).await;
    assert_eq!(
        now.at(&["spec", "metrics"]),
        Some(&value!([
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}}},
            {"type": "Object", "object": {"describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"},
                "metric": {"name": "hits"}, "target": {"type": "Value", "value": "10"}}}
        ]))
    );
}

#[tokio::test]
async fn a_definition_of_one_version_becomes_one_of_today() {
    let cluster = Cluster::with_removed_versions().await;
    let definition = value!({"metadata": {"name": "widgets.old.example"}, "spec": {
        "group": "old.example", "version": "v1", "names": {"kind": "Widget", "plural": "widgets"},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "JSONPath": ".spec.size"}],
        "subresources": {"status": {}},
        "validation": {"openAPIV3Schema": {"properties": {"spec": {"type": "object",
            "properties": {"size": {"type": "integer", "maximum": 5}}}}}}}});
    let path = "/apis/apiextensions.k8s.io/v1beta1/customresourcedefinitions";
    let made = cluster.done(&format!("POST {path}"), Some(&definition)).await;
    assert_eq!(made.str_at(&["spec", "version"]), "v1");
    assert_eq!(
        made.items_at(&["spec", "additionalPrinterColumns"])[0].str_at(&["JSONPath"]),
        ".spec.size"
    );
    let path = "GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.old.example";
    let established = |_, it: &Value| {
        let conditions = it.items_at(&["status", "conditions"]);
        let is =
            |it: &Value| (it.str_at(&["type"]), it.str_at(&["status"])) == ("Established", "True");
        conditions.iter().any(is)
    };
    until(&cluster, path, established).await;
    let things = "POST /apis/old.example/v1/namespaces/default/widgets";
    let thing = |size: i64| {
        value!({"apiVersion": "old.example/v1", "kind": "Widget",
        "metadata": {"name": "w"}, "spec": {"size": (size), "more": 1}})
    };
    let (code, answer) = cluster.send(&admin(), things, Some(&thing(6))).await;
    assert_eq!(code, 422, "{answer:?}");
    let made = cluster.done(things, Some(&thing(5))).await;
    assert_eq!(made.at(&["spec", "more"]), Some(&1.into()), "nothing was pruned then");
}
