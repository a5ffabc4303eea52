//! A container's life: hooks, probes, containers before others.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::case::{Case, condition, container, number};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test { name: "001-1840: liveness by a command", run: liveness_by_command, alone: false },
    Test { name: "001-1913: liveness by HTTP", run: liveness_by_http, alone: false },
    Test { name: "001-1969: readiness and liveness by TCP", run: by_tcp, alone: false },
    Test {
        name: "001-3201 002-1604: a container that prepares",
        run: init_containers,
        alone: false,
    },
    Test { name: "001-3268: hooks after the start and before the end", run: hooks, alone: false },
    Test {
        name: "000-0225: the hook before the end takes of the grace",
        run: hook_within_grace,
        alone: false,
    },
];

fn liveness_by_command(case: Case<'_>) -> Result<()> {
    case.apply(&["001-1840"])?;
    case.until("pods", "liveness-exec", "it was started again", |pod| {
        number(container(pod, ""), "/restartCount") >= 1
    })?;
    case.event(
        "liveness-exec",
        "Unhealthy",
        "Liveness probe failed: cat: can't open '/tmp/healthy': No such file or directory",
    )?;
    case.event(
        "liveness-exec",
        "Killing",
        "Container liveness failed liveness probe, will be restarted",
    )?;
    case.kubectl(&["delete", "pod", "liveness-exec", "--grace-period=0", "--force"]).map(drop)
}

fn liveness_by_http(case: Case<'_>) -> Result<()> {
    case.apply(&["001-1913"])?;
    case.until("pods", "liveness-http", "it was started again", |pod| {
        number(container(pod, ""), "/restartCount") >= 1
    })?;
    case.event(
        "liveness-http",
        "Unhealthy",
        "Liveness probe failed: HTTP probe failed with statuscode: 500",
    )?;
    case.remove(&["liveness-http"])
}

fn by_tcp(case: Case<'_>) -> Result<()> {
    let begun = Instant::now();
    case.apply(&["001-1969"])?;
    case.ready(&["goproxy"])?;
    let waited = begun.elapsed().as_secs();
    ensure!(waited >= 14, "ready after {waited} s, its probe begins after 15");
    let pod = case.get("pod", "goproxy")?;
    ensure!(number(container(&pod, ""), "/restartCount") == 0, "{}", pod["status"]);
    case.remove(&["goproxy"])
}

fn init_containers(case: Case<'_>) -> Result<()> {
    for id in ["001-3201", "002-1604"] {
        case.apply(&[id])?;
        case.ready(&["init-demo"])?;
        let pod = case.get("pod", "init-demo")?;
        ensure!(condition(&pod, "Initialized") == "True", "{}", pod["status"]);
        let page = case.exec("init-demo", &["curl", "--silent", "localhost"])?;
        ensure!(page.starts_with("NOW: "), "{id}: not the page that was fetched: {page:?}");
        case.remove(&["init-demo"])?;
    }
    Ok(())
}

fn hooks(case: Case<'_>) -> Result<()> {
    case.apply(&["001-3268"])?;
    case.ready(&["lifecycle-demo"])?;
    let message = case.exec("lifecycle-demo", &["cat", "/usr/share/message"])?;
    ensure!(message == "Hello from the postStart handler\n", "{message:?}");
    let begun = Instant::now();
    case.kubectl(&["delete", "pod", "lifecycle-demo"])?;
    let waited = begun.elapsed().as_secs();
    ensure!(waited < 25, "nginx was told to quit and ran for {waited} s");
    Ok(())
}

/// The fragment's container with an image: the hook sleeps, then the process is told to end.
fn hook_within_grace(case: Case<'_>) -> Result<()> {
    let containers = case.document("fragments/000-0225")?.replace("\"15\"", "\"5\"");
    let script = "trap 'echo told to end; exit 0' TERM; while true; do sleep 0.1; done";
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: with-hook\nspec:\n{}\n      image: busybox\n      command: [sh, -c, \"{script}\"]\n",
        containers.trim_end()
    );
    case.apply_text(&manifest)?;
    case.ready(&["with-hook"])?;
    let begun = Instant::now();
    case.kubectl(&["delete", "pod", "with-hook", "--wait=false"])?;
    let pod = case.get("pod", "with-hook")?;
    ensure!(number(&pod, "/metadata/deletionGracePeriodSeconds") == 30, "{}", pod["metadata"]);
    let followed = case.kubectl(&["logs", "with-hook", "--follow"])?;
    let waited = begun.elapsed().as_secs_f64();
    ensure!(followed == "told to end\n", "{followed:?}");
    ensure!((4.5..20.0).contains(&waited), "told to end after {waited} s, the hook takes 5");
    case.kubectl(&["wait", "pod", "with-hook", "--for=delete", "--timeout=20s"]).map(drop)
}
