//! CronJobs.

use apimachinery::value;

use crate::cluster;

#[tokio::test(start_paused = true)]
async fn a_job_starts_each_hour_and_only_once() {
    let cluster = cluster(&["cronjob-controller"]).await;
    let cron_job = value!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"schedule": "*/30 * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
    cluster.create("batch", "cronjobs", cron_job).await;
    let job = cluster
        .eventually("a job", async |it| it.list("batch", "jobs", "default").await.pop())
        .await;
    assert_eq!(cluster.clock.now().as_second() % 1_800, 0);
    let cron_job = cluster
        .eventually("a status that names it", async |it| {
            let cron_job = it.get("batch", "cronjobs", "default", "c").await?;
            (cron_job.items_at(&["status", "active"]).len() == 1).then_some(cron_job)
        })
        .await;
    let active = &cron_job.items_at(&["status", "active"])[0];
    assert_eq!(active.str_at(&["uid"]), job.str_at(&["metadata", "uid"]));
    let told = cluster
        .eventually("the next is not started while the first runs", async |it| {
            let events = it.list("", "events", "default").await;
            events.into_iter().find(|it| it.str_at(&["reason"]) == "JobAlreadyActive")
        })
        .await;
    assert_eq!(told.i64_at(&["count"]), Some(1));
    assert_eq!(cluster.list("batch", "jobs", "default").await.len(), 1);
}
