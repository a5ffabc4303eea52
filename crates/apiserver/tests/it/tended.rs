//! Conditions that the server keeps by itself.

use std::sync::Arc;

use apimachinery::{Value, value};
use futures::StreamExt;

use crate::cluster::Cluster;

/// What the condition of an object says, once it has this status.
async fn told(cluster: &Cluster, collection: &str, name: &str, [kind, status]: [&str; 2]) -> Value {
    let path = format!("{collection}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut frames = cluster.watch(&path).await;
    while let Some(frame) = frames.next().await {
        let mut conditions = frame["object"].items_at(&["status", "conditions"]).iter();
        let found =
            conditions.find(|it| it.str_at(&["type"]) == kind && it.str_at(&["status"]) == status);
        if let Some(found) = found {
            return found.clone();
        }
    }
    panic!("the watch of {collection}/{name} ended")
}

fn tend(cluster: &Cluster) {
    tokio::spawn(apiserver::tended::run(Arc::clone(&cluster.server), cluster.stopping()));
}

#[tokio::test]
async fn flow_schemas_are_told_whether_their_level_is_there() {
    let cluster = Cluster::start().await;
    tend(&cluster);
    let root = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let schemas = format!("{root}/flowschemas");
    let there = told(&cluster, &schemas, "catch-all", ["Dangling", "False"]).await;
    assert_eq!(there.str_at(&["reason"]), "Found");
    let schema = value!({"metadata": {"name": "s"},
        "spec": {"matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": "l"}}});
    cluster.done(&format!("POST {schemas}"), Some(&schema)).await;
    let lost = told(&cluster, &schemas, "s", ["Dangling", "True"]).await;
    assert_eq!(
        lost.str_at(&["message"]),
        "This FlowSchema references the PriorityLevelConfiguration object named \"l\" but there is no such object"
    );
    let level = value!({"metadata": {"name": "l"},
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    let levels = format!("{root}/prioritylevelconfigurations");
    cluster.done(&format!("POST {levels}"), Some(&level)).await;
    told(&cluster, &schemas, "s", ["Dangling", "False"]).await;
    cluster.done(&format!("DELETE {levels}/l"), None).await;
    told(&cluster, &schemas, "s", ["Dangling", "True"]).await;
}
