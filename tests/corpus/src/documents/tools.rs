//! Every verb of kubectl at least once.

use anyhow::{Result, ensure};

use crate::case::Case;
use crate::process::{Background, run, with_input};
use crate::runner::Test;

pub(super) const TESTS: &[Test] = &[
    Test { name: "kubectl explain, diff, apply --server-side", run: schemas, alone: false },
    Test { name: "kubectl get --watch, events, describe, wait", run: watching, alone: false },
    Test { name: "kubectl port-forward", run: forwarded, alone: false },
    Test { name: "kubectl get --raw of proxies", run: proxied, alone: false },
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
    Test { name: "kubectl logs, exec, cp", run: streams, alone: false },
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
    ensure!(found.starts_with("note "), "{found:?}");
    let described = case.line("describe configmap note")?;
    for part in ["Name:         note", "Labels:       kind=test", "Annotations:  about: this"] {
        ensure!(described.contains(part), "{described}");
    }
    let edited =
        run(case.command("edit configmap note").env("KUBE_EDITOR", "sed -i s/this/that/"))?;
    ensure!(edited == "configmap/note edited\n", "{edited}");
    ensure!(case.get("configmap", "note")?["metadata"]["annotations"]["about"] == "that");
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

fn schemas(case: Case<'_>) -> Result<()> {
    let explained = case.line("explain deployment.spec.strategy.rollingUpdate")?;
    let parts = [
        "KIND:       Deployment",
        "GROUP:      apps",
        "FIELD: rollingUpdate <RollingUpdateDeployment>",
        "maxSurge",
    ];
    for part in parts {
        ensure!(explained.contains(part), "no {part:?} in {explained}");
    }
    let text = case.document("002-2479")?;
    case.apply_text(&text)?;
    // What would change is told by the exit code 1.
    let changed = text.replace("replicas: 2", "replicas: 3");
    let told = with_input(case.command("diff -f -"), &changed)?;
    ensure!(told.status.code() == Some(1), "{told:?}");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("-  replicas: 2\n+  replicas: 3\n"), "{told}");
    let unchanged = case.apply_text(&text)?;
    ensure!(unchanged == "deployment.apps/nginx-deployment unchanged\n", "{unchanged}");
    let apply = ["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"];
    let applied = case.with_input(&apply, &changed)?;
    ensure!(applied == "deployment.apps/nginx-deployment serverside-applied\n", "{applied}");
    let now = case.line("get deployment nginx-deployment --output=jsonpath={.spec.replicas}")?;
    ensure!(now == "3", "{now}");
    let wrong = text.replace("replicas: 2", "replicaz: 2");
    let refused = case.refused_input(&["apply", "-f", "-"], &wrong)?;
    ensure!(refused.contains("unknown field \"spec.replicaz\""), "{refused}");
    case.line("delete deployment nginx-deployment").map(drop)
}

fn watching(case: Case<'_>) -> Result<()> {
    case.line("run short --image=busybox --restart=Never -- true")?;
    case.line("wait pod/short --for=jsonpath={.status.phase}=Succeeded --timeout=90s")?;
    let reasons = ["Scheduled", "Pulled", "Created", "Started"];
    for reason in reasons {
        case.event("short", reason, "")?;
    }
    let events = case.line("get events --field-selector=involvedObject.name=short")?;
    ensure!(events.starts_with("LAST SEEN   TYPE     REASON"), "{events}");
    for reason in reasons {
        ensure!(events.contains(reason), "{events}");
    }
    let described = case.line("describe pod short")?;
    let parts = [
        "Status:           Succeeded",
        "QoS Class:                   BestEffort",
        "Reason:       Completed",
        "Successfully assigned",
    ];
    for part in parts {
        ensure!(described.contains(part), "no {part:?} in {described}");
    }
    let watch = case.command("get pods --watch --output-watch-events --request-timeout=3s");
    let told = String::from_utf8_lossy(&with_input(watch, "")?.stdout).into_owned();
    ensure!(told.contains("ADDED") && told.contains("0/1     Completed"), "{told}");
    Ok(())
}

fn forwarded(case: Case<'_>) -> Result<()> {
    case.line("run web --image=nginx")?;
    case.ready(&["web"])?;
    let log = tempfile::NamedTempFile::new()?;
    let forward = case.command("port-forward pod/web 18080:80");
    let mut forwarding = Background::start(&forward, log.path())?;
    forwarding.until("forwards", || {
        let told = std::fs::read_to_string(log.path()).ok()?;
        told.contains("Forwarding from 127.0.0.1:18080").then_some(())
    })?;
    for _ in 0..3 {
        let ask = ["--silent", "--fail", "--max-time", "10", "http://127.0.0.1:18080/"];
        let page = case.cluster.outside("curl", &ask)?;
        ensure!(page.contains("Welcome to nginx!"), "{page}");
    }
    case.remove(&["web"])
}

fn proxied(case: Case<'_>) -> Result<()> {
    case.line("run shown --image=nginx --port=80")?;
    case.ready(&["shown"])?;
    case.line("expose pod shown --port=8080 --target-port=80")?;
    case.line("wait endpoints/shown --for=jsonpath={.subsets[0].addresses[0].ip} --timeout=60s")?;
    let namespace = case.namespace;
    for path in ["pods/shown", "pods/shown:80", "services/shown:8080", "services/http:shown:8080"] {
        let page = case.line(&format!("get --raw /api/v1/namespaces/{namespace}/{path}/proxy/"))?;
        ensure!(page.contains("Welcome to nginx!"), "{path}: {page}");
    }
    let refused = case.fails(&[
        "get",
        "--raw",
        &format!("/api/v1/namespaces/{namespace}/pods/shown:81/proxy/"),
    ])?;
    ensure!(refused.contains("connect: connection refused"), "{refused}");
    let node = case.line("get pod shown --output=jsonpath={.spec.nodeName}")?;
    let health = case.line(&format!("get --raw /api/v1/nodes/{}/proxy/healthz", node.trim()))?;
    ensure!(health.trim() == "ok", "{health}");
    case.line("delete service shown")?;
    case.remove(&["shown"])
}
