//! What becomes of pods whose binding got no answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use client::transport::ResponseStream;
use client::{Client, Transport, TransportError};
use http::{Request, Response};
use scheduler::{Configuration, Metrics};
use test_cluster::TestCluster;

use crate::cluster::{event, node, on_node, pod, refused, start};

/// Loses the answers to bindings; with `before`, the requests.
#[derive(Debug)]
struct Lossy {
    inner: Arc<dyn Transport>,
    before: bool,
}

#[async_trait]
impl Transport for Lossy {
    async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseStream>, TransportError> {
        let lost = request.uri().path().ends_with("/binding");
        if lost && self.before {
            return Err(TransportError::NoAnswer("lost on its way".into()));
        }
        let answer = self.inner.send(request).await;
        if lost { Err(TransportError::NoAnswer("the answer was lost".into())) } else { answer }
    }
}

/// A cluster whose scheduler gets no answers to its bindings.
async fn over(before: bool) -> TestCluster {
    let cluster = TestCluster::new(1).await;
    let inner = cluster.transport_named("system:kube-scheduler");
    let client = Client::new(Arc::new(Lossy { inner, before }), "scheduler");
    start(&cluster, client, &Configuration::default(), &[], Metrics::default());
    cluster
}

/// Found by the simulation, seed 5010: the place of a pod that was bound was given away, since no answer had said so.
#[tokio::test(start_paused = true)]
async fn a_pod_that_was_bound_without_an_answer_keeps_its_place() {
    let cluster = over(false).await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("web", "2", 0)).await;
    assert_eq!(on_node(&cluster, "web").await, "n1");
    let message = event(&cluster, "web", "Scheduled").await;
    assert_eq!(message, "Successfully assigned default/web to n1");
    cluster.create("", "pods", pod("late", "2", 0)).await;
    assert_eq!(refused(&cluster, "late").await.0, "Unschedulable");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_not_bound_says_so() {
    let cluster = over(true).await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("web", "2", 0)).await;
    let message = event(&cluster, "web", "FailedScheduling").await;
    let why = "no answer to the request: lost on its way";
    assert_eq!(message, format!("running Bind plugin \"DefaultBinder\": {why}"));
    assert_eq!(refused(&cluster, "web").await, ("SchedulerError".into(), message));
}
