//! Pods on a node: how soon they run, and what idle ones cost.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::Options;
use crate::load::{Ask, Clients, percentile};
use crate::server::{Server, data};
use crate::table::{Bar, Figure};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// What the image is called.
pub(crate) const IMAGE: &str = "localhost/bench:1";
/// Pods that are started one after another.
const ONE_BY_ONE: usize = 100;
/// Pods that are started at once.
const AT_ONCE: usize = 30;
/// How long idle pods are looked at.
const IDLE: Duration = Duration::from_secs(10);
/// No state takes longer to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the shims' processes are called.
const SHIM: &str = "kubelith-shim";
/// Ticks of the kernel's clock for processes in a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server with a node, whose image is there from the start.
pub(crate) async fn node_server(options: &Options) -> Result<Server> {
    let directory = tempfile::tempdir()?;
    let images = data(directory.path()).join("images");
    std::fs::create_dir_all(&images)?;
    std::fs::copy(&options.image, images.join("bench.tar")).context("the image")?;
    let flags = flags(options, &directory)?;
    Server::start(&options.binary, directory, &flags).await
}

fn flags(options: &Options, directory: &TempDir) -> Result<Vec<String>> {
    let resolv_conf = directory.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n")?;
    Ok(vec![
        format!("--node-ip={}", options.node_ip),
        format!("--advertise-address={}", options.node_ip),
        format!("--state-dir={}", directory.path().join("run").display()),
        format!("--resolv-conf={}", resolv_conf.display()),
        format!("--cgroup-root=/kubelith-bench-{}", std::process::id()),
        // What else the machine does must not decide what is measured.
        "--eviction-hard=memory.available<0,nodefs.available<0%".to_owned(),
    ])
}

/// A watch that is read event by event.
pub(crate) struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    pub(crate) async fn of(clients: &Clients, path: &str) -> Result<Self> {
        let response = clients.open(1, &Ask::get(format!("{path}?watch=true"))).await?;
        Ok(Self { body: response.into_body(), buffer: BytesMut::new() })
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|it| *it == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(serde_json::from_slice(&line)?);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let Some(frame) = frame.context("nothing happened for long")? else {
                bail!("the watch has ended")
            };
            if let Ok(data) = frame?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// Waits until this many objects, new ones each, have a condition; when the last one had it.
    pub(crate) async fn until(&mut self, condition: &str, count: usize) -> Result<Instant> {
        let mut have = BTreeSet::new();
        while have.len() < count {
            let event = self.next().await?;
            let object = &event["object"];
            let conditions = object["status"]["conditions"].as_array();
            let is_true = |it: &Value| it["type"] == condition && it["status"] == "True";
            if event["type"] != "DELETED" && conditions.into_iter().flatten().any(is_true) {
                have.insert(object["metadata"]["uid"].to_string());
            }
        }
        Ok(Instant::now())
    }

    async fn until_gone(&mut self) -> Result<()> {
        while self.next().await?["type"] != "DELETED" {}
        Ok(())
    }
}

/// A pod that sleeps.
pub(crate) fn pod(name: &str) -> Ask {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": IMAGE, "command": ["/bin/busybox", "sleep", "3600"]}]}
    });
    Ask::json(Method::POST, PODS, pod.to_string())
}

/// Waits until the node is ready, and pods may be created; when the node was.
pub(crate) async fn node_ready(clients: &Clients) -> Result<Instant> {
    let ready = Events::of(clients, "/api/v1/nodes").await?.until("Ready", 1).await?;
    let mut accounts = Events::of(clients, "/api/v1/namespaces/default/serviceaccounts").await?;
    accounts.next().await?;
    Ok(ready)
}

pub(crate) async fn one_by_one(options: &Options) -> Result<Vec<Figure>> {
    let server = node_server(options).await?;
    let clients = &server.clients;
    node_ready(clients).await?;
    let mut took = Vec::with_capacity(ONE_BY_ONE);
    let mut events = Events::of(clients, PODS).await?;
    for nth in 0..ONE_BY_ONE {
        let begun = Instant::now();
        clients.send(0, &pod(&format!("pod-{nth}"))).await?;
        took.push(events.until("Ready", 1).await? - begun);
        let path = format!("{PODS}/pod-{nth}?gracePeriodSeconds=0");
        clients.send(0, &Ask { method: Method::DELETE, ..Ask::get(path) }).await?;
        events.until_gone().await?;
    }
    Ok(vec![
        Figure::ms("half of 100 pods ready within", percentile(&mut took, 50), 60.0),
        Figure::ms("99 of 100 pods ready within", percentile(&mut took, 99), 150.0),
    ])
}

pub(crate) async fn at_once(options: &Options) -> Result<Vec<Figure>> {
    let server = node_server(options).await?;
    let clients = &server.clients;
    node_ready(clients).await?;
    // The kernel still takes apart what the scenario before has left, one network namespace after another.
    tokio::time::sleep(IDLE).await;
    let mut events = Events::of(clients, PODS).await?;
    let begun = Instant::now();
    clients.load(AT_ONCE, AT_ONCE, |nth| pod(&format!("pod-{nth}"))).await?;
    let all = events.until("Ready", AT_ONCE).await? - begun;
    tokio::time::sleep(IDLE).await;
    let before = cpu_seconds(server.process())?;
    tokio::time::sleep(IDLE).await;
    let busy = (cpu_seconds(server.process())? - before) / IDLE.as_secs_f64() * 100.0;
    let memory = server.memory_mb("VmRSS")?;
    let shim = private_mb_a_shim()?;
    let gone = Ask { method: Method::DELETE, ..Ask::get(format!("{PODS}?gracePeriodSeconds=0")) };
    clients.send(0, &gone).await?;
    for _ in 0..AT_ONCE {
        events.until_gone().await?;
    }
    Ok(vec![
        Figure::seconds("30 pods at once all ready within", all, 1.0),
        Figure::new("memory with 30 idle pods", memory, "MB", Bar::AtMost(120.0)),
        Figure::new("share of a core with 30 idle pods", busy, "%", Bar::AtMost(1.0)),
        Figure::new("private memory of a shim", shim, "MB", Bar::AtMost(1.0)),
    ])
}

fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name may hold spaces; what follows the last bracket does not.
    let (_, rest) = stat.rsplit_once(')').context("a process has a name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|it| it.parse::<f64>().ok());
    let (user, kernel) = ticks(11).zip(ticks(12)).context("a process has used time")?;
    Ok((user + kernel) / TICKS_PER_SECOND)
}

/// The memory that a shim shares with nobody, on average.
fn private_mb_a_shim() -> Result<f64> {
    let (mut total, mut shims) = (0.0, 0.0);
    for entry in std::fs::read_dir("/proc")? {
        // A shim's program is sealed, so that no link leads to the server's: it is known by its name.
        let process = entry?.path();
        if std::fs::read_to_string(process.join("comm")).is_ok_and(|it| it.trim() == SHIM) {
            let pages = std::fs::read_to_string(process.join("smaps_rollup"))?;
            let private = pages.lines().filter(|line| line.starts_with("Private_"));
            let sizes =
                private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            total += sizes.sum::<f64>() / 1024.0;
            shims += 1.0;
        }
    }
    anyhow::ensure!(shims > 0.0, "no process is called {SHIM}");
    Ok(total / shims)
}
