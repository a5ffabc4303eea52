//! Controllers on a real API server, in virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod deployment;
mod endpointslice;
mod garbage_collector;
mod namespaces;
mod node_lifecycle;
mod replicaset;

use std::sync::Arc;

use test_cluster::TestCluster;

/// A cluster with these controllers.
async fn cluster(names: &'static [&'static str]) -> TestCluster {
    let cluster = TestCluster::new(1).await;
    let client = cluster.client.clone();
    let setup = controllers::Setup {
        caches: cluster.caches(),
        client_for: Box::new(move |_| client.clone()),
        clock: Arc::clone(&cluster.clock),
        random: Arc::clone(&cluster.random),
        root_ca: "-----BEGIN CERTIFICATE-----".into(),
        authority: None,
        stop: cluster.stop(),
    };
    controllers::start_all(&setup, |name| names.contains(&name));
    cluster
}
