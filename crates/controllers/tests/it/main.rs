//! Controllers on a real API server, in virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attach;
mod binder;
mod computed;
mod cronjob;
mod custom;
mod daemonset;
mod deployment;
mod devices;
mod disruption;
mod endpoints;
mod endpointslice;
mod garbage_collector;
mod job;
mod leader_election;
mod migration;
mod mirroring;
mod namespaces;
mod node_lifecycle;
mod nodes;
mod pod_groups;
mod podautoscaler;
mod policy_status;
mod protection;
mod quota;
mod replicaset;
mod replicationcontroller;
mod roles;
mod scaledobject;
mod selinux_warning;
mod statefulset;
mod storage_versions;
mod tokens;
mod trust_bundles;

use std::sync::Arc;

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;
use controllers::node_ipam::NodeRanges;
use controllers::pod_gc::PodGc;
use controllers::serviceaccount_token::{TokenFor, TokenSigner};
use test_cluster::TestCluster;

/// A cluster with these controllers.
async fn cluster(names: &'static [&'static str]) -> TestCluster {
    let cluster = TestCluster::new(1).await;
    controllers::start_all(&setup(&cluster), |name| names.contains(&name));
    cluster
}

/// The same with features that are off unless they are asked for.
async fn cluster_with(
    known: test_cluster::registry::Features,
    gates: &str,
    names: &'static [&'static str],
) -> TestCluster {
    cluster_asked(known, gates, &[], names).await
}

/// The same with versions and resources that are not served unless they are asked for.
async fn cluster_asked(
    known: test_cluster::registry::Features,
    gates: &str,
    asked: &[&str],
    names: &'static [&'static str],
) -> TestCluster {
    use test_cluster::registry::{Apis, Registry};
    let asked: Vec<String> = asked.iter().map(|it| (*it).to_owned()).collect();
    let apis = Apis::default().with_features(known).configure(&asked).unwrap();
    let cluster = TestCluster::serving(1, Registry::of(apis)).await;
    let mut features = component_base::feature_gates::FeatureGates::default();
    features.set(gates).unwrap();
    let more = cluster.server.optional_resources();
    let setup = controllers::Setup { features: Arc::new(features), more, ..setup(&cluster) };
    controllers::start_all(&setup, |name| names.contains(&name));
    cluster
}

/// What the controllers of a cluster are given.
fn setup(cluster: &TestCluster) -> controllers::Setup {
    let client = cluster.client.clone();
    controllers::Setup {
        features: Arc::default(),
        more: Vec::new(),
        one_server: false,
        caches: cluster.caches(),
        client_for: Box::new(move |_| client.clone()),
        clock: Arc::clone(&cluster.clock),
        random: Arc::clone(&cluster.random),
        root_ca: "-----BEGIN CERTIFICATE-----".into(),
        authorities: Default::default(),
        signing_duration: std::time::Duration::from_secs(86_400),
        tokens: Some(Arc::new(Signer)),
        node_ranges: node_ranges(),
        node_lifecycle: Default::default(),
        pod_gc: PodGc::default(),
        podautoscaler: controllers::podautoscaler::Options::default(),
        legacy_tokens: Default::default(),
        attach_detach: Default::default(),
        tuning: Default::default(),
        workers: Default::default(),
        metrics: Default::default(),
        tasks: controllers::TaskTracker::new(),
        stop: cluster.stop(),
    }
}

/// Signs tokens that say whose they are.
#[derive(Debug)]
struct Signer;

impl TokenSigner for Signer {
    fn sign(&self, token: TokenFor<'_>) -> Result<String, String> {
        Ok(format!("{}:{}", token.namespace, token.account))
    }
}

/// Four ranges of addresses for nodes, of which services have one.
fn node_ranges() -> NodeRanges {
    let range = |text: &str| text.parse().unwrap();
    NodeRanges { cluster: vec![(range("10.0.0.0/22"), 24)], reserved: vec![range("10.0.1.0/24")] }
}

/// A pod on node n1 with these labels.
fn pod_of(name: &str, labels: &Value) -> Value {
    value!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": (labels.clone())},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
}

/// Plays the node: the pod runs and is ready.
async fn ready(cluster: &TestCluster, name: &str) {
    let patch = value!({"status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    report(cluster, name, &patch).await;
}

/// Plays the node: the pod's status changes.
async fn report(cluster: &TestCluster, name: &str, patch: &Value) {
    let pods = Resource::built_in("", "pods");
    let done =
        cluster.client.patch(&pods, "default", name, "status", PatchKind::Merge, patch).await;
    done.unwrap();
}
