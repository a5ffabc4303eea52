//! Volumes: empty directories, projected volumes, images.

use anyhow::{Result, ensure};

use crate::case::{Case, container, number, text};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "001-0865 002-1399: an empty directory outlives its container",
        run: empty_directory,
        alone: false,
    },
    Test { name: "001-1144: a projected volume of two Secrets", run: projected, alone: false },
];

fn empty_directory(case: Case<'_>) -> Result<()> {
    for id in ["001-0865", "002-1399"] {
        case.apply(&[id])?;
        case.ready(&["redis"])?;
        let listed = case.exec(
            "redis",
            &["sh", "-c", "echo Hello > /data/redis/test-file; ps ax -o pid,comm"],
        )?;
        let server = listed.lines().find(|it| it.contains("redis-server"));
        let pid = server.and_then(|it| it.split_whitespace().next()).unwrap_or_default().to_owned();
        ensure!(pid == "1", "{listed}");
        // Ends the process that the container is made of, so that the call itself may end with it.
        let _ = case.exec("redis", &["kill", &pid]);
        case.until("pods", "redis", "its container was started again", |pod| {
            number(container(pod, ""), "/restartCount") == 1 && container(pod, "/ready") == true
        })?;
        let kept = case.exec("redis", &["cat", "/data/redis/test-file"])?;
        ensure!(kept == "Hello\n", "{kept:?}");
        case.remove(&["redis"])?;
    }
    Ok(())
}

fn projected(case: Case<'_>) -> Result<()> {
    case.kubectl(&["create", "secret", "generic", "user", "--from-literal=username=admin"])?;
    case.kubectl(&["create", "secret", "generic", "pass", "--from-literal=password=1f2d1e2e67df"])?;
    case.apply(&["001-1144"])?;
    case.ready(&["test-projected-volume"])?;
    let script = "cd /projected-volume; for f in *; do echo $f=$(cat $f); done";
    let told = case.exec("test-projected-volume", &["sh", "-c", script])?;
    ensure!(told == "password=1f2d1e2e67df\nusername=admin\n", "{told:?}");
    let refused =
        case.fails(&["exec", "test-projected-volume", "--", "touch", "/projected-volume/new"])?;
    ensure!(refused.contains("Read-only file system"), "{refused}");
    let pod = case.get("pod", "test-projected-volume")?;
    ensure!(text(&pod, "/status/phase") == "Running", "{pod}");
    case.remove(&["test-projected-volume"])
}
