//! Every verb of kubectl at least once.

use anyhow::{Result, ensure};

use crate::case::Case;
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "kubectl auth, create token, api-resources, version",
        run: about_the_server,
        alone: false,
    },
    Test {
        name: "kubectl label, annotate, edit, get, describe, delete",
        run: objects,
        alone: false,
    },
    Test { name: "kubectl logs, exec, cp, port-forward", run: streams, alone: false },
];

fn about_the_server(case: Case<'_>) -> Result<()> {
    ensure!(case.line("auth can-i create pods")? == "yes\n");
    let refused = case.fails(&[
        "auth",
        "can-i",
        "create",
        "pods",
        "--as=system:serviceaccount:default:default",
    ])?;
    ensure!(refused.is_empty() || refused.contains("exit"), "{refused}");
    case.line("create serviceaccount robot")?;
    let token = case.line("create token robot")?;
    ensure!(token.trim().split('.').count() == 3, "{token}");
    let resources = case.line("api-resources --namespaced=true --output=name")?;
    for name in ["pods", "deployments.apps", "poddisruptionbudgets.policy"] {
        ensure!(resources.lines().any(|it| it == name), "{resources}");
    }
    let version = case.line("version --output=json")?;
    ensure!(version.contains("\"gitVersion\": \"v1.37"), "{version}");
    Ok(())
}

fn objects(case: Case<'_>) -> Result<()> {
    case.line("create configmap note --from-literal=a=1")?;
    case.line("label configmap note kind=test")?;
    case.line("annotate configmap note about=this")?;
    let found = case.line("get configmaps -l kind=test --no-headers")?;
    ensure!(found.starts_with("note   1      "), "{found:?}");
    let described = case.line("describe configmap note")?;
    for part in ["Name:         note", "Labels:       kind=test", "Annotations:  about: this"] {
        ensure!(described.contains(part), "{described}");
    }
    case.line("delete configmap note")?;
    let refused = case.fails(&["get", "configmap", "note"])?;
    ensure!(
        refused == "Error from server (NotFound): configmaps \"note\" not found\n",
        "{refused:?}"
    );
    Ok(())
}

fn streams(case: Case<'_>) -> Result<()> {
    case.kubectl(&[
        "run",
        "shell",
        "--image=busybox",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        "echo one; echo two; sleep 3600",
    ])?;
    case.ready(&["shell"])?;
    let log = case.line("logs shell --tail=1")?;
    ensure!(log == "two\n", "{log:?}");
    let told = case.with_input(&["exec", "-i", "shell", "--", "cat"], "through\n")?;
    ensure!(told == "through\n", "{told:?}");
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    std::fs::write(&file, "copied")?;
    let there = format!("{}/shell:/tmp/file", case.namespace);
    case.kubectl(&["cp", &file.to_string_lossy(), &there])?;
    let back = directory.path().join("back");
    case.kubectl(&["cp", &there, &back.to_string_lossy()])?;
    ensure!(std::fs::read_to_string(&back)? == "copied");
    case.remove(&["shell"])
}
