//! Watches beside writes, and what lives by them.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use apiserver::bootstrap;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::cluster::{Cluster, settings};

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

/// A watch from a version that is not there yet opens, and tells of what comes after it.
#[tokio::test]
async fn a_watch_from_the_future_waits_for_it() {
    let cluster = Cluster::start().await;
    let ahead = make(&cluster, "before").await.parse::<u64>().unwrap() + 2;
    let mut frames = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={ahead}")).await;
    for (name, version) in [("older", ahead - 1), ("same", ahead), ("newer", ahead + 1)] {
        assert_eq!(make(&cluster, name).await, version.to_string());
    }
    assert_eq!(told(&next(&mut frames).await), ("ADDED", "newer"));
}

/// No time is as much as the server gives, less than none is over.
#[tokio::test]
async fn a_watch_has_the_time_that_it_asks_for() {
    let cluster = Cluster::start().await;
    let from = make(&cluster, "before").await;
    let watch =
        |seconds: i64| format!("{MAPS}?watch=1&resourceVersion={from}&timeoutSeconds={seconds}");
    assert!(cluster.watch(&watch(-1)).await.next().await.is_none());
    let (mut all, mut ages) =
        (cluster.watch(&watch(0)).await, cluster.watch(&watch(i64::MAX)).await);
    make(&cluster, "after").await;
    assert_eq!(told(&next(&mut all).await), ("ADDED", "after"));
    assert_eq!(told(&next(&mut ages).await), ("ADDED", "after"));
}

/// How other parts of a cluster find the server comes back when somebody takes it away, and is put right.
#[tokio::test]
async fn what_every_cluster_has_is_made_again() {
    let cluster = Cluster::start().await;
    let lasting = bootstrap::lasting(&cluster.server, &settings());
    tokio::spawn(bootstrap::keep(Arc::clone(&cluster.server), lasting, cluster.stopping()));
    let services = "/api/v1/namespaces/default/services";
    let mut frames = cluster.watch(&format!("{services}?watch=1")).await;
    assert_eq!(told(&next(&mut frames).await), ("ADDED", "kubernetes"));
    cluster.done(&format!("DELETE {services}/kubernetes"), None).await;
    assert_eq!(told(&next(&mut frames).await), ("DELETED", "kubernetes"));
    let made = next(&mut frames).await;
    assert_eq!(told(&made), ("ADDED", "kubernetes"));
    assert_eq!(made.str_at(&["object", "spec", "clusterIP"]), "10.96.0.1");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let mut frames = cluster.watch(&format!("{slices}?watch=1")).await;
    assert_eq!(told(&next(&mut frames).await), ("ADDED", "kubernetes"));
    let wrong = value!({"endpoints": []});
    cluster.done(&format!("PATCH {slices}/kubernetes"), Some(&wrong)).await;
    assert_eq!(told(&next(&mut frames).await), ("MODIFIED", "kubernetes"));
    let right = next(&mut frames).await;
    assert_eq!(right["object"]["endpoints"].as_array().map(<[_]>::len), Some(1));
}
