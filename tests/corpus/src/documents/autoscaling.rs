//! Autoscaling under a real load: what containers use is measured, and pods come and go by it.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::case::{Case, number, text};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[Test {
    name: "autoscaling by the processor: up under load and down without",
    run: by_processor,
    alone: false,
}];

/// Works as hard as it may while a file is there.
const WORK: &str = "while :; do if [ -e /tmp/load ]; then n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; else sleep 0.2; fi; done";

fn by_processor(case: Case<'_>) -> Result<()> {
    let _alone = case.processors();
    let resources = json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "200m"}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "work"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "work"}}, "template": {
            "metadata": {"labels": {"app": "work"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "work", "image": "busybox",
                "command": ["sh", "-c", WORK], "resources": resources}]}}}});
    case.apply_text(&deployment.to_string())?;
    let target = json!({"type": "Utilization", "averageUtilization": 50});
    let at_once = json!({"stabilizationWindowSeconds": 0});
    let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "work"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "work"},
            "minReplicas": 1, "maxReplicas": 3, "behavior": {"scaleDown": at_once, "scaleUp": at_once},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]}});
    case.line("rollout status deployment/work --timeout=90s")?;
    let pods = case.kubectl(&[
        "get",
        "pods",
        "--selector=app=work",
        "--output=jsonpath={.items[0].metadata.name}",
    ])?;
    let pod = pods.trim();
    ensure!(!pod.is_empty(), "the deployment has no pod");
    case.exec(pod, &["touch", "/tmp/load"])?;
    case.apply_text(&autoscaler.to_string())?;
    let scaled = |what: &str, replicas: i64| {
        case.until("deployments", "work", what, |it| {
            number(it, "/spec/replicas") == replicas
                && number(it, "/status/readyReplicas") == replicas
        })
    };
    scaled("there are three under load", 3)?;
    let seen = case.get("horizontalpodautoscaler", "work")?;
    let used = number(&seen, "/status/currentMetrics/0/resource/current/averageUtilization");
    ensure!(used > 0, "{}", seen["status"]);
    case.exec(pod, &["rm", "/tmp/load"]).context("the load could not be ended")?;
    scaled("there is one without load", 1)?;
    let seen = case.get("horizontalpodautoscaler", "work")?;
    ensure!(!text(&seen, "/status/lastScaleTime").is_empty(), "{}", seen["status"]);
    case.line("delete deployment,horizontalpodautoscaler work").map(drop)
}
