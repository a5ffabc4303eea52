//! Jobs.

use apimachinery::{Value, value};

use crate::{cluster, report};

fn job(spec: &Value) -> Value {
    let mut job = value!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (key, value) in spec.as_object().unwrap().iter() {
        job.set_at(&["spec", key], value.clone());
    }
    job
}

#[tokio::test(start_paused = true)]
async fn a_job_completes_and_goes_after_its_time() {
    let names =
        &["job-controller", "ttl-after-finished-controller", "garbage-collector-controller"];
    let cluster = cluster(names).await;
    let spec = value!({"completions": 2, "parallelism": 1, "completionMode": "Indexed", "ttlSecondsAfterFinished": 60});
    cluster.create("batch", "jobs", job(&spec)).await;
    for index in ["0", "1"] {
        let pod = cluster
            .eventually("the pod of the index", async |it| {
                let pods = it.list("", "pods", "default").await;
                let label = ["metadata", "labels", "batch.kubernetes.io/job-completion-index"];
                pods.into_iter().find(|pod| pod.str_at(&label) == index)
            })
            .await;
        let name = pod.str_at(&["metadata", "name"]);
        report(&cluster, name, &value!({"status": {"phase": "Succeeded"}})).await;
    }
    let done = cluster
        .eventually("the job is complete", async |it| {
            let job = it.get("batch", "jobs", "default", "j").await?;
            let conditions = job.items_at(&["status", "conditions"]);
            conditions.iter().any(|it| it.str_at(&["type"]) == "Complete").then_some(job)
        })
        .await;
    assert_eq!(done.str_at(&["status", "completedIndexes"]), "0,1");
    assert_eq!(done.i64_at(&["status", "succeeded"]), Some(2));
    for pod in cluster.list("", "pods", "default").await {
        assert!(pod.items_at(&["metadata", "finalizers"]).is_empty(), "{pod:?}");
    }
    cluster
        .eventually("job and pods are gone", async |it| {
            let job = it.get("batch", "jobs", "default", "j").await;
            let pods = it.list("", "pods", "default").await;
            (job.is_none() && pods.is_empty()).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_pod_is_replaced_and_the_job_fails_in_the_end() {
    let cluster = cluster(&["job-controller"]).await;
    cluster.create("batch", "jobs", job(&value!({"backoffLimit": 1}))).await;
    for _ in 0..2 {
        let pod = cluster
            .eventually("a pod that runs", async |it| {
                let pods = it.list("", "pods", "default").await;
                pods.into_iter().find(|pod| pod.str_at(&["status", "phase"]) == "Pending")
            })
            .await;
        let name = pod.str_at(&["metadata", "name"]);
        report(&cluster, name, &value!({"status": {"phase": "Failed"}})).await;
    }
    let failed = cluster
        .eventually("the job has failed", async |it| {
            let job = it.get("batch", "jobs", "default", "j").await?;
            let conditions = job.items_at(&["status", "conditions"]);
            conditions.iter().any(|it| it.str_at(&["type"]) == "Failed").then_some(job)
        })
        .await;
    assert_eq!(failed.i64_at(&["status", "failed"]), Some(2));
    assert_eq!(cluster.list("", "pods", "default").await.len(), 2);
}
