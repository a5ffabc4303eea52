//! Controllers at work, on nodes without machines (`--fake-nodes`): workloads that come and go, what they cost when nothing
//! happens, and how soon they answer a change.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Options;
use crate::load::{Ask, Clients, IN_FLIGHT, percentile};
use crate::server::Server;
use crate::table::{Bar, Figure};

/// The nodes of what is measured, but for the large cluster.
const NODES: u32 = 1_000;
/// Pods of the Deployment and completions of the Job.
const PODS: usize = 10_000;
const DEPENDENTS: usize = 50_000;
/// The large cluster.
const MANY_NODES: u32 = 5_000;
const MANY_PODS: usize = 150_000;
/// How long it is watched doing nothing.
const QUIET: Duration = Duration::from_secs(60);
/// After how long a start is over.
const SETTLED: Duration = Duration::from_secs(30);
/// Changes that are answered, one every 10 ms.
const CHANGES: usize = 1_000;
const PACE: Duration = Duration::from_millis(10);
/// How often is looked whether something is done.
const LOOK: Duration = Duration::from_millis(50);
/// No step takes longer, unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(600);

const NAMESPACE: &str = "/api/v1/namespaces/ctl";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/ctl/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/ctl/replicasets";
const JOBS: &str = "/apis/batch/v1/namespaces/ctl/jobs";

async fn cluster(options: &Options, nodes: u32) -> Result<Server> {
    let flags =
        ["--disable".to_owned(), "agent,proxy,dns".to_owned(), format!("--fake-nodes={nodes}")];
    let server = Server::start(&options.binary, tempfile::tempdir()?, &flags).await?;
    let nodes = usize::try_from(nodes)?;
    until(&server.clients, "/api/v1/nodes?resourceVersion=0", |list| {
        let all = list["items"].as_array().map_or(0, Vec::len);
        all >= nodes
    })
    .await?;
    prepare(&server.clients).await?;
    Ok(server)
}

/// The namespace, once pods can be made in it.
async fn prepare(clients: &Clients) -> Result<()> {
    let namespace = json!({"metadata": {"name": "ctl"}});
    post(clients, "/api/v1/namespaces", &namespace).await?;
    until(clients, &format!("{NAMESPACE}/serviceaccounts"), |list| {
        list["items"].as_array().is_some_and(|it| !it.is_empty())
    })
    .await
}

async fn post(clients: &Clients, path: &str, object: &Value) -> Result<Value> {
    let text = clients.read(&Ask::json(Method::POST, path, object.to_string())).await?;
    Ok(serde_json::from_str(&text)?)
}

/// Waits until something holds of what is there.
async fn until(clients: &Clients, path: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let object = serde_json::from_str(&clients.read(&Ask::get(path)).await?)?;
        if holds(&object) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{path} is still {}", object["status"]);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until nothing is there.
async fn until_gone(clients: &Clients, path: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match clients.send(0, &Ask::get(path)).await {
            Err(gone) if gone.to_string().contains(": 404") => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) if begun.elapsed() > PATIENCE => bail!("{path} is still there"),
            Ok(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn template(more: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "registry.example/pause:1",
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    json!({"metadata": {"labels": {"app": "web"}}, "spec": spec})
}

fn deployment(name: &str, replicas: usize) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}}, "template": template(json!({}))}})
}

fn at_least(object: &Value, pointer: &str, count: usize) -> bool {
    object.pointer(pointer).and_then(Value::as_u64).is_some_and(|it| it >= count as u64)
}

async fn deploy(clients: &Clients) -> Result<Duration> {
    let begun = Instant::now();
    post(clients, DEPLOYMENTS, &deployment("web", PODS)).await?;
    let path = format!("{DEPLOYMENTS}/web");
    until(clients, &path, |it| at_least(it, "/status/readyReplicas", PODS)).await?;
    Ok(begun.elapsed())
}

async fn delete(clients: &Clients, path: &str) -> Result<Duration> {
    let begun = Instant::now();
    clients.send(0, &Ask::json(Method::DELETE, path, "{}")).await?;
    until_gone(clients, path).await?;
    Ok(begun.elapsed())
}

async fn work_off(clients: &Clients) -> Result<Duration> {
    let job = json!({"metadata": {"name": "many"}, "spec": {"completions": PODS, "parallelism": 1_000,
        "template": template(json!({"restartPolicy": "Never"}))}});
    let begun = Instant::now();
    post(clients, JOBS, &job).await?;
    let path = format!("{JOBS}/many");
    until(clients, &path, |it| at_least(it, "/status/succeeded", PODS)).await?;
    Ok(begun.elapsed())
}

/// An owner with many dependents, and how long all take to go with it.
async fn collect(clients: &Clients) -> Result<Duration> {
    let path = format!("{NAMESPACE}/configmaps");
    let owner = post(clients, &path, &json!({"metadata": {"name": "owner"}})).await?;
    let uid = owner["metadata"]["uid"].as_str().context("an object without uid")?.to_owned();
    let maps = path.clone();
    let dependent = move |nth: usize| {
        let object = json!({"metadata": {"name": format!("d-{nth}"), "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]}});
        Ask::json(Method::POST, maps.as_str(), object.to_string())
    };
    clients.load(DEPENDENTS, IN_FLIGHT, dependent).await?;
    let begun = Instant::now();
    clients.send(0, &Ask::json(Method::DELETE, format!("{path}/owner"), "{}")).await?;
    // What every namespace has stays.
    until(clients, &format!("{path}?limit=3"), |list| {
        let names = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        !names
            .iter()
            .any(|it| it["metadata"]["name"].as_str().is_some_and(|it| it.starts_with("d-")))
    })
    .await?;
    Ok(begun.elapsed())
}

/// How soon after a set was made its pod is, at a hundred sets a second.
async fn answer(clients: &Clients) -> Result<Duration> {
    let path = format!("{NAMESPACE}/pods?watch=true&resourceVersion=0");
    let mut watch = clients.open(1, &Ask::get(path)).await?.into_body();
    let seen = tokio::spawn(async move {
        let (mut seen, mut rest) = (HashMap::new(), Vec::new());
        while seen.len() < CHANGES {
            let frame = watch.frame().await.context("the watch ended")??;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], AsRef::as_ref));
            while let Some(end) = rest.iter().position(|it| *it == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line)?;
                let owner = &event["object"]["metadata"]["ownerReferences"][0]["name"];
                if let Some(owner) = owner.as_str().filter(|it| it.starts_with("set-")) {
                    seen.entry(owner.to_owned()).or_insert_with(Instant::now);
                }
            }
        }
        anyhow::Ok(seen)
    });
    let mut made = HashMap::new();
    let mut ticks = tokio::time::interval(PACE);
    for nth in 0..CHANGES {
        ticks.tick().await;
        let (name, label) = (format!("set-{nth}"), format!("l{nth}"));
        let labels = json!({"set": label});
        let mut template = template(json!({}));
        template["metadata"]["labels"] = labels.clone();
        let set = json!({"metadata": {"name": name}, "spec": {"replicas": 1,
            "selector": {"matchLabels": labels}, "template": template}});
        clients.send(0, &Ask::json(Method::POST, SETS, set.to_string())).await?;
        made.insert(name, Instant::now());
    }
    let seen = tokio::time::timeout(PATIENCE, seen).await.context("pods never came")???;
    let mut took: Vec<Duration> = seen
        .iter()
        .filter_map(|(name, at)| Some(at.saturating_duration_since(*made.get(name)?)))
        .collect();
    Ok(percentile(&mut took, 99))
}

/// Workloads that come and go.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figure>> {
    let server = cluster(options, NODES).await?;
    let clients = &server.clients;
    let deployed = deploy(clients).await?;
    let deleted = delete(clients, NAMESPACE).await?;
    prepare(clients).await?;
    let worked = work_off(clients).await?;
    delete(clients, NAMESPACE).await?;
    prepare(clients).await?;
    let collected = collect(clients).await?;
    let answered = answer(clients).await?;
    Ok(vec![
        Figure::seconds("a Deployment's 10,000 pods all running", deployed, 10.0),
        Figure::seconds("the namespace with them deleted", deleted, 10.0),
        Figure::seconds("a Job of 10,000 completions, 1,000 at once", worked, 20.0),
        Figure::seconds("50,000 dependents collected", collected, 15.0),
        Figure::ms("99 of 100 sets have their pod within, at 100 sets a second", answered, 20.0),
    ])
}

/// 5,000 nodes and 150,000 pods: how fast they come, and what they cost when nothing happens.
pub(crate) async fn many(options: &Options) -> Result<Vec<Figure>> {
    let begun = Instant::now();
    let server = cluster(options, MANY_NODES).await?;
    let registered = begun.elapsed();
    let clients = &server.clients;
    let begun = Instant::now();
    let each = MANY_PODS / 30;
    for nth in 0..30 {
        let mut deployment = deployment(&format!("d{nth}"), each);
        for pointer in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
            *deployment.pointer_mut(pointer).context("no labels")? =
                json!({"app": format!("d{nth}")});
        }
        post(clients, DEPLOYMENTS, &deployment).await?;
    }
    for nth in 0..30 {
        let path = format!("{DEPLOYMENTS}/d{nth}");
        until(clients, &path, |it| at_least(it, "/status/readyReplicas", each)).await?;
    }
    let running = begun.elapsed();
    let grown = server.memory_mb("VmRSS")?;
    // The same objects, read from disk: with everything that looks at them, and without.
    let directory = server.stop()?;
    let whole = restarted(options, directory, "agent,proxy,dns").await?;
    let alone =
        restarted(options, whole.directory, "agent,proxy,dns,scheduler,controllers").await?;
    #[allow(clippy::cast_precision_loss, reason = "a hundred and fifty thousand")]
    let rate = MANY_PODS as f64 / running.as_secs_f64();
    Ok(vec![
        Figure::new("5,000 fake nodes registered", registered.as_secs_f64(), "s", Bar::None),
        Figure::new("150,000 pods of 30 Deployments, until all run", rate, "/s", Bar::None),
        Figure::new("memory of the whole process then", grown, "MB", Bar::None),
        Figure::new("after a restart", whole.memory, "MB", Bar::None),
        Figure::new(
            "of which scheduler and controllers",
            whole.memory - alone.memory,
            "MB",
            Bar::AtMost(300.0),
        ),
        Figure::new(
            "CPU when nothing happens, leases of the nodes too",
            whole.used,
            "% of a core",
            Bar::None,
        ),
        Figure::new(
            "of which scheduler and controllers",
            whole.used - alone.used,
            "% of a core",
            Bar::AtMost(1.0),
        ),
    ])
}

/// What a server takes that does nothing.
struct Quiet {
    directory: tempfile::TempDir,
    memory: f64,
    /// Share of a processor, in percent.
    used: f64,
}

async fn restarted(
    options: &Options,
    directory: tempfile::TempDir,
    disabled: &str,
) -> Result<Quiet> {
    let flags = ["--disable".to_owned(), disabled.to_owned(), format!("--fake-nodes={MANY_NODES}")];
    let server = Server::start(&options.binary, directory, &flags).await?;
    tokio::time::sleep(SETTLED).await;
    let before = server.cpu_seconds()?;
    tokio::time::sleep(QUIET).await;
    let used = (server.cpu_seconds()? - before) / QUIET.as_secs_f64() * 100.0;
    let memory = server.memory_mb("VmRSS")?;
    Ok(Quiet { directory: server.stop()?, memory, used })
}
