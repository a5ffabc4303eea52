//! Deployments: rolled out, scaled, undone, behind Services, drained.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::thread;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::case::{Case, condition, message, number, text};
use crate::cluster::NODES;
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
    Test {
        name: "002-2479: a Service by name, address and node port while its pods are replaced",
        run: served,
        alone: false,
    },
    Test { name: "000-0268: a node drained with a budget in the way", run: drained, alone: true },
    Test {
        name: "000-0013 001-2275: three replicas on three nodes, two of which joined",
        run: on_three,
        alone: true,
    },
    Test {
        name: "001-2972 001-3003: caches apart, and web servers beside them, on three nodes",
        run: beside_caches,
        alone: true,
    },
];

fn one_of_three(case: Case<'_>) -> Result<()> {
    let _alone = case.processors();
    let case = case.within("prod")?;
    let document = case.document("000-0013")?;
    // The autoscaler's version is gone; the other two are made.
    let refused = case.refused_input(&["apply", "-f", "-"], &document)?;
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
    let settled = || case.line("rollout status deployment/nginx-deployment --timeout=100s");
    let done = settled()?;
    ensure!(done.ends_with("deployment \"nginx-deployment\" successfully rolled out\n"), "{done}");
    case.line("scale deployment nginx-deployment --replicas=3")?;
    settled()?;
    case.line("set image deployment/nginx-deployment nginx=nginx:1.9.1")?;
    settled()?;
    let history = rollout("history")?;
    ensure!(history.lines().filter(|it| it.starts_with(['1', '2'])).count() == 2, "{history}");
    let undone = rollout("undo")?;
    ensure!(undone == "deployment.apps/nginx-deployment rolled back\n", "{undone}");
    settled()?;
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
    settled()?;
    rollout("restart")?;
    settled()?;
    case.line("delete deployment nginx-deployment").map(drop)
}

/// Asks again and again until a file is there, and twenty times at least however slow the machine is; prints what failed.
fn asking(url: &str, stop: &str) -> String {
    let curl = "curl --silent --fail --max-time 3";
    format!(
        "n=0; while ! [ -e {stop} ] || [ $n -lt 20 ]; do {curl} {url} >/dev/null 2>&1 || echo failed; n=$((n+1)); done; echo asked $n"
    )
}

fn served(case: Case<'_>) -> Result<()> {
    case.apply(&["002-2479"])?;
    // The hook of fragment 000-0225 keeps a pod serving until nobody is sent to it any more.
    let patch = json!({"spec": {"template": {"spec": {"containers": [{
        "name": "nginx",
        "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sleep", "3"]}}},
    }]}}}})
    .to_string();
    case.kubectl(&["patch", "deployment", "nginx-deployment", "--patch", &patch])?;
    case.line("expose deployment nginx-deployment --name=web --port=80 --type=NodePort")?;
    case.line("run client --image=nginx")?;
    case.line("rollout status deployment/nginx-deployment --timeout=90s")?;
    case.ready(&["client"])?;
    let service = case.get("service", "web")?;
    let address = text(&service, "/spec/clusterIP");
    let port = number(&service, "/spec/ports/0/nodePort");
    let directory = tempfile::tempdir()?;
    let stop = directory.path().join("stop").to_string_lossy().into_owned();
    let from_pod = |url: &str| case.exec("client", &["sh", "-c", &asking(url, "/tmp/stop")]);
    let url = format!("http://{}:{port}", case.cluster.address);
    let told = thread::scope(|scope| -> Result<[String; 3]> {
        let by_name = scope.spawn(|| from_pod("http://web"));
        let by_address = scope.spawn(|| from_pod(&format!("http://{address}")));
        let outside = scope.spawn(|| case.cluster.outside("sh", &["-c", &asking(&url, &stop)]));
        let replaced = replace_twice(&case);
        std::fs::write(&stop, "")?;
        case.exec("client", &["touch", "/tmp/stop"])?;
        replaced?;
        Ok([joined(by_name)?, joined(by_address)?, joined(outside)?])
    })?;
    for (way, told) in ["name", "address", "node port"].iter().zip(&told) {
        let (failed, last) =
            (told.matches("failed").count(), told.lines().last().unwrap_or_default());
        ensure!(failed == 0, "by {way}: {failed} failed, {last}");
        let asked: u32 = last.trim_start_matches("asked ").parse().unwrap_or_default();
        ensure!(asked >= 20, "by {way}: {told}");
    }
    case.line("delete deployment nginx-deployment").map(drop)
}

fn joined(thread: thread::ScopedJoinHandle<'_, Result<String>>) -> Result<String> {
    thread.join().unwrap_or_else(|_| bail!("a client panicked"))
}

fn replace_twice(case: &Case<'_>) -> Result<()> {
    case.line("set image deployment/nginx-deployment nginx=nginx:1.9.1")?;
    case.line("rollout status deployment/nginx-deployment --timeout=90s")?;
    case.line("rollout restart deployment/nginx-deployment")?;
    case.line("rollout status deployment/nginx-deployment --timeout=90s").map(drop)
}

fn drained(case: Case<'_>) -> Result<()> {
    let node = NODES[0];
    let budget = case.document("000-0268")?;
    let refused = case.refused_input(&["apply", "-f", "-"], &budget)?;
    let gone = "no matches for kind \"PodDisruptionBudget\" in version \"policy/v1beta1\"";
    ensure!(refused.contains(gone), "{refused}");
    case.apply_text(&budget.replace("policy/v1beta1", "policy/v1"))?;
    case.line("create deployment podinfo --image=nginx")?;
    case.line("rollout status deployment/podinfo --timeout=90s")?;
    case.until("poddisruptionbudgets", "podinfo-pdb", "it counts the pod", |it| {
        number(it, "/status/currentHealthy") == 1
    })?;
    let drain =
        format!("drain {node} --ignore-daemonsets --force --delete-emptydir-data --timeout=12s");
    let words: Vec<&str> = drain.split(' ').collect();
    let refused = case.fails(&words)?;
    let violated = "Cannot evict pod as it would violate the pod's disruption budget.";
    ensure!(refused.contains(violated), "{refused}");
    let cordoned = case.get("node", node)?;
    ensure!(cordoned["spec"]["unschedulable"] == true, "{}", cordoned["spec"]);
    case.line(&format!("uncordon {node}"))?;
    case.line("scale deployment podinfo --replicas=2")?;
    case.line("rollout status deployment/podinfo --timeout=90s")?;
    case.until("poddisruptionbudgets", "podinfo-pdb", "one may go", |it| {
        number(it, "/status/disruptionsAllowed") == 1
    })?;
    // One goes; the one in its place waits for a node, so the last may not.
    case.fails(&words)?;
    let pods = case.line("get pods -l app=podinfo --no-headers")?;
    ensure!(pods.contains("Pending") && pods.contains("Running"), "{pods}");
    case.line("delete poddisruptionbudget podinfo-pdb")?;
    case.kubectl(&words)?;
    case.line(&format!("uncordon {node}"))?;
    case.line("rollout status deployment/podinfo --timeout=90s")?;
    case.line("delete deployment podinfo").map(drop)
}

fn on_three(case: Case<'_>) -> Result<()> {
    case.cluster.join()?;
    let here = format!("namespace: {}", case.namespace);
    let document = case.document("000-0013")?.replace("namespace: prod", &here);
    case.refused_input(&["apply", "-f", "-"], &document)?;
    case.line("rollout status deployment/my-app-v3 --timeout=120s")?;
    let nodes = case.line("get pods --output=jsonpath={.items[*].spec.nodeName}")?;
    let different: BTreeSet<&str> = nodes.split(' ').collect();
    ensure!(different == NODES.into(), "{nodes}");
    // A service reaches the pods of every node, by a port of any.
    case.line("expose deployment my-app-v3 --name=app --port=8080 --type=NodePort")?;
    let service = case.get("service", "app")?;
    let url =
        format!("http://{}:{}/", case.cluster.address, number(&service, "/spec/ports/0/nodePort"));
    let mut answered = BTreeSet::new();
    for _ in 0..60 {
        answered.insert(
            case.cluster.outside("curl", &["--silent", "--fail", "--max-time", "5", &url])?,
        );
    }
    ensure!(answered.len() == NODES.len(), "60 requests were answered by {answered:?}");
    case.apply(&["001-2275"])?;
    case.ready(&["nginx"])?;
    let log = case.line("exec nginx -- hostname")?;
    ensure!(log == "nginx\n", "{log:?}");
    renewed(case)?;
    let log = case.line("exec nginx -- hostname")?;
    ensure!(log == "nginx\n", "{log:?}");
    case.line("delete deployment my-app-v3 --cascade=foreground --timeout=1s --wait=false")?;
    case.kubectl(&["delete", "pods", "--all", "--grace-period=1"]).map(drop)
}

/// The nodes that joined ask for new certificates before the old ones end, for themselves and for their servers.
fn renewed(case: Case<'_>) -> Result<()> {
    for node in &NODES[1..] {
        for (signer, asked) in [("kube-apiserver-client-kubelet", 1), ("kubelet-serving", 2)] {
            let what = format!("{node} has asked {signer} {asked} times for a certificate");
            let given = RefCell::new(BTreeSet::new());
            case.until_any("certificatesigningrequests", &what, |it| {
                if text(it, "/spec/username") == format!("system:node:{node}")
                    && text(it, "/spec/signerName") == format!("kubernetes.io/{signer}")
                    && !text(it, "/status/certificate").is_empty()
                {
                    given.borrow_mut().insert(text(it, "/metadata/name").to_owned());
                }
                given.borrow().len() >= asked
            })?;
        }
    }
    Ok(())
}

/// Runs after the other nodes have joined.
fn beside_caches(case: Case<'_>) -> Result<()> {
    case.apply(&["001-2972", "001-3003"])?;
    for name in ["redis-cache", "web-server"] {
        case.line(&format!("rollout status deployment/{name} --timeout=120s"))?;
        let label = if name == "redis-cache" { "store" } else { "web-store" };
        let nodes = case.line(&format!(
            "get pods -l app={label} --output=jsonpath={{.items[*].spec.nodeName}}"
        ))?;
        let different: BTreeSet<&str> = nodes.split(' ').collect();
        ensure!(different == NODES.into(), "{name}: {nodes}");
    }
    case.line("delete deployment redis-cache web-server").map(drop)
}
