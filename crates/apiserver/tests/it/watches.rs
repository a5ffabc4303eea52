//! Watches beside writes.

use std::time::Duration;

use apimachinery::{Value, value};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::cluster::Cluster;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(cluster: &Cluster, name: &str) -> String {
    let map = value!({"metadata": {"name": name}});
    let made = cluster.done(&format!("POST {MAPS}"), Some(&map)).await;
    made.str_at(&["metadata", "resourceVersion"]).to_owned()
}

fn told(frame: &Value) -> (&str, &str) {
    (frame.str_at(&["type"]), frame.str_at(&["object", "metadata", "name"]))
}

async fn next(frames: &mut BoxStream<'static, Value>) -> Value {
    let frame = tokio::time::timeout(Duration::from_secs(10), frames.next()).await;
    frame.expect("a frame in time").expect("the watch goes on")
}

/// A client that breaks off at the end of the initial events and goes on from there misses nothing.
#[tokio::test]
async fn the_end_of_the_initial_events_is_of_the_moment_they_are_of() {
    let cluster = Cluster::start().await;
    make(&cluster, "before").await;
    let initial = format!("{MAPS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true");
    let selector =
        "&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name!%3Dkube-root-ca.crt";
    let mut frames = cluster.watch(&(initial + selector)).await;
    // Written while the client has not read anything yet.
    make(&cluster, "after").await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(told(&next(&mut frames).await), ("ADDED", "before"));
    let end = next(&mut frames).await;
    assert_eq!(told(&end), ("BOOKMARK", ""));
    let version = end.str_at(&["object", "metadata", "resourceVersion"]).to_owned();
    drop(frames);
    let mut resumed = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(told(&next(&mut resumed).await), ("ADDED", "after"));
}
