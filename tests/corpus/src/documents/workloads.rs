//! Deployments: rolled out, scaled, undone, behind Services, drained.

use anyhow::{Result, ensure};

use crate::case::{Case, condition, message, number, text};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "000-0013: three replicas that need a node each, on one node",
        run: one_of_three,
        alone: false,
    },
    Test {
        name: "002-2479: a Deployment scaled, rolled out, undone, paused",
        run: rolled_out,
        alone: false,
    },
];

fn one_of_three(case: Case<'_>) -> Result<()> {
    let _alone = case.processors();
    let case = case.within("prod")?;
    let document = case.document("000-0013")?;
    // The autoscaler's version is gone; the other two are made.
    let refused = case
        .with_input(&["apply", "-f", "-"], &document)
        .err()
        .map(|it| format!("{it:#}"))
        .unwrap_or_default();
    ensure!(
        refused.contains(
            "no matches for kind \"HorizontalPodAutoscaler\" in version \"autoscaling/v2beta2\""
        ),
        "{refused}"
    );
    let budget = case.get("poddisruptionbudget", "my-app-v3")?;
    ensure!(text(&budget, "/spec/minAvailable") == "75%", "{budget}");
    case.until("deployments", "my-app-v3", "one replica is ready", |it| {
        number(it, "/status/readyReplicas") == 1 && number(it, "/status/replicas") == 3
    })?;
    let waiting = case.until_any("pods", "a second one cannot be scheduled", |pod| {
        condition(pod, "PodScheduled") == "False"
    })?;
    let told = message(&waiting, "PodScheduled");
    ensure!(
        told.starts_with(
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
        ),
        "{told}"
    );
    case.kubectl(&["delete", "deployment", "my-app-v3"])?;
    case.kubectl(&["delete", "pods", "--all", "--grace-period=1"]).map(drop)
}

fn rolled_out(case: Case<'_>) -> Result<()> {
    case.apply(&["002-2479"])?;
    let rollout = |what: &str| case.line(&format!("rollout {what} deployment/nginx-deployment"));
    let done = rollout("status")?;
    ensure!(done.ends_with("deployment \"nginx-deployment\" successfully rolled out\n"), "{done}");
    case.line("scale deployment nginx-deployment --replicas=3")?;
    rollout("status")?;
    case.line("set image deployment/nginx-deployment nginx=nginx:1.9.1")?;
    rollout("status")?;
    let history = rollout("history")?;
    ensure!(history.lines().filter(|it| it.starts_with(['1', '2'])).count() == 2, "{history}");
    let undone = rollout("undo")?;
    ensure!(undone == "deployment.apps/nginx-deployment rolled back\n", "{undone}");
    rollout("status")?;
    let image = |case: &Case<'_>| -> Result<String> {
        let object = case.get("deployment", "nginx-deployment")?;
        Ok(text(&object, "/spec/template/spec/containers/0/image").to_owned())
    };
    ensure!(image(&case)? == "nginx:1.7.9", "{}", image(&case)?);
    rollout("pause")?;
    case.line("set image deployment/nginx-deployment nginx=nginx:1.16.1")?;
    let paused = case.until("deployments", "nginx-deployment", "the pause is told", |it| {
        it["spec"]["paused"] == true
            && number(it, "/status/observedGeneration") == number(it, "/metadata/generation")
    })?;
    ensure!(number(&paused, "/status/updatedReplicas") == 0, "{}", paused["status"]);
    rollout("resume")?;
    rollout("status")?;
    rollout("restart")?;
    rollout("status")?;
    case.line("delete deployment nginx-deployment").map(drop)
}
