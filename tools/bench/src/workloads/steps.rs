//! What workloads do, step by step, as upstream's operations do it, and how fast the scheduler is meanwhile.
//!
//! Knows no workload.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::objects;
use crate::load::{Ask, Clients, IN_FLIGHT};

/// How often is looked how many pods have a node.
const LOOK: Duration = Duration::from_millis(20);
/// How long nothing may happen before a workload counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many bytes of a watch may wait for the end of their line.
const LINE_MAX: usize = 1 << 20;

/// A step.
pub(super) enum Step {
    /// Upstream's `createNodes`.
    Nodes(usize, Numbered),
    /// `createNamespaces`: `PREFIX-0` and so on, with the label that selectors of namespaces ask for.
    Namespaces(usize, &'static str),
    /// `createAny`: so many objects, by the path of their resource.
    Any(usize, &'static str, Numbered),
    /// `allocResourceClaims`: a patch of the status of each of so many objects, which it names.
    Status(usize, &'static str, fn(usize) -> (String, Value)),
    /// `createPods`, until all have a node.
    Pods(Pods),
    /// `createPodSets`: the same in each of so many namespaces.
    PodsInEach(usize, Pods),
    /// `createPods` and a barrier: until the scheduler holds all of them back.
    Gated(Pods),
    /// `churn`: from now on, while pods are measured.
    Churn(Churn),
    /// `deletePods`: from now on, while pods are measured, so many in a second.
    Delete(&'static str, u32),
    /// `createPods` that are measured.
    Measure(Pods),
    /// The same with `steadyState`: so many at once, which go when all have a node, again and again.
    Steady(Pods, Duration),
}

/// Makes the nth object.
pub(super) type Numbered = fn(usize) -> Value;

/// Pods to be made.
#[derive(Clone, Copy)]
pub(super) struct Pods {
    count: usize,
    namespace: &'static str,
    make: fn() -> Value,
    /// Makes a volume for each.
    volume: Option<fn(&str) -> Value>,
}

impl Pods {
    /// So many pods in a namespace, or in those that begin so.
    pub(super) const fn of(count: usize, namespace: &'static str, make: fn() -> Value) -> Self {
        Self { count, namespace, make, volume: None }
    }

    /// Each with a volume of its own.
    pub(super) const fn with(self, volume: fn(&str) -> Value) -> Self {
        Self { volume: Some(volume), ..self }
    }
}

/// Objects that come (`mode: create`), or come and go by turns (`recreate`), one of each at a time.
pub(super) struct Churn {
    pub(super) every: Duration,
    pub(super) go: bool,
    pub(super) objects: &'static [Comer],
}

/// The path of a resource, and what makes an object of it.
pub(super) type Comer = (&'static str, fn() -> Value);

/// A workload that is under way.
pub(super) struct Run<'s> {
    clients: &'s Clients,
    /// The namespaces there are.
    namespaces: BTreeSet<String>,
    /// How many pods have a node, but for those that churn brings.
    placed: usize,
    /// What goes on besides.
    background: JoinSet<Result<()>>,
}

fn post(path: impl Into<String>, object: &Value) -> Ask {
    Ask::json(Method::POST, path, object.to_string())
}

fn merge(path: impl Into<String>, patch: &Value) -> Ask {
    let ask = Ask::json(Method::PATCH, path, patch.to_string());
    Ask { media_type: "application/merge-patch+json", ..ask }
}

fn pods_in(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

impl<'s> Run<'s> {
    pub(super) fn new(clients: &'s Clients) -> Self {
        let (namespaces, background) = (BTreeSet::new(), JoinSet::new());
        Self { clients, namespaces, placed: 0, background }
    }

    /// Does a step; what was measured in it, in pods a second.
    ///
    /// # Errors
    /// When the server refuses something, or nothing happens any more.
    pub(super) async fn step(&mut self, step: &'static Step) -> Result<Option<f64>> {
        match step {
            Step::Nodes(count, make) => self.nodes(*count, *make).await?,
            Step::Namespaces(count, prefix) => {
                for nth in 0..*count {
                    self.namespace(&format!("{prefix}-{nth}")).await?;
                }
            }
            Step::Any(count, path, make) => {
                if let Some((_, rest)) = path.split_once("/namespaces/") {
                    self.namespace(rest.split('/').next().unwrap_or_default()).await?;
                }
                let make = *make;
                let ask = move |nth| vec![post(*path, &make(nth))];
                self.clients.load_in_order(*count, IN_FLIGHT, ask).await?;
            }
            Step::Status(count, path, make) => {
                let ask = move |nth| {
                    let (name, patch) = make(nth);
                    vec![merge(format!("{path}/{name}/status"), &patch)]
                };
                self.clients.load_in_order(*count, IN_FLIGHT, ask).await?;
            }
            Step::Pods(pods) => drop(self.pods(pods, pods.namespace).await?),
            Step::PodsInEach(namespaces, pods) => {
                for nth in 0..*namespaces {
                    self.pods(pods, &format!("{}-{nth}", pods.namespace)).await?;
                }
            }
            Step::Gated(pods) => {
                self.create(pods, pods.namespace).await?;
                let gated = || metric(self.clients, "scheduler_pending_pods{", "\"gated\"");
                until(pods.count, gated).await?;
            }
            Step::Churn(churn) => self.churn(churn).await?,
            Step::Delete(namespace, per_second) => self.delete(namespace, *per_second).await?,
            Step::Measure(pods) => return Ok(Some(self.pods(pods, pods.namespace).await?)),
            Step::Steady(pods, duration) => return Ok(Some(self.steady(pods, *duration).await?)),
        }
        Ok(None)
    }

    async fn nodes(&self, count: usize, make: Numbered) -> Result<()> {
        // New nodes have taints until a controller finds them ready.
        let ask = move |nth| {
            let node = make(nth);
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let taints = json!({"spec": {"taints": node["spec"]["taints"]}});
            let path = "/api/v1/nodes";
            vec![post(path, &node), merge(format!("{path}/{name}"), &taints)]
        };
        self.clients.load_in_order(count, IN_FLIGHT, ask).await
    }

    /// Makes a namespace where it is missing, with the account that pods in it use.
    async fn namespace(&mut self, name: &str) -> Result<()> {
        if !self.namespaces.insert(name.to_owned()) {
            return Ok(());
        }
        let namespace = json!({"metadata": {"name": name, "labels": {"team": "devops"}}});
        self.clients.send(0, &post("/api/v1/namespaces", &namespace)).await?;
        let account = json!({"metadata": {"name": "default"}});
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
        self.clients.send(0, &post(path, &account)).await?;
        Ok(())
    }

    async fn create(&mut self, pods: &Pods, namespace: &str) -> Result<()> {
        self.namespace(namespace).await?;
        let (pods, namespace): (Pods, Arc<str>) = (*pods, namespace.into());
        let ask = move |nth| asks_for(&pods, &namespace, nth);
        self.clients.load_in_order(pods.count, IN_FLIGHT, ask).await
    }

    /// Makes pods and waits until all have a node; how many had one in a second.
    async fn pods(&mut self, pods: &Pods, namespace: &str) -> Result<f64> {
        self.placed += pods.count;
        let (clients, wanted) = (self.clients.clone(), self.placed);
        let begun = Instant::now();
        let placed = async {
            until(wanted, || placed(&clients)).await?;
            // Pods that churn brought may be among those that were counted.
            until_all_have_nodes(&clients, namespace).await
        };
        tokio::try_join!(self.create(pods, namespace), placed)?;
        Ok(rate(pods.count, begun.elapsed()))
    }

    async fn churn(&mut self, churn: &'static Churn) -> Result<()> {
        self.namespace("churn").await?;
        let clients = self.clients.clone();
        let mut ticks = tokio::time::interval(churn.every);
        self.background.spawn(async move {
            let mut there: Vec<String> = Vec::new();
            loop {
                ticks.tick().await;
                if churn.go && !there.is_empty() {
                    for path in there.drain(..) {
                        clients.send(0, &Ask::json(Method::DELETE, path, "{}")).await?;
                    }
                    continue;
                }
                for (path, make) in churn.objects {
                    let made: Value =
                        serde_json::from_str(&clients.read(&post(*path, &make())).await?)?;
                    let name = made["metadata"]["name"].as_str().context("it has no name")?;
                    there.push(format!("{path}/{name}"));
                }
            }
        });
        Ok(())
    }

    async fn delete(&mut self, namespace: &'static str, per_second: u32) -> Result<()> {
        let path = pods_in(namespace);
        let list: Value = serde_json::from_str(&self.clients.read(&Ask::get(path.clone())).await?)?;
        let items = list["items"].as_array().context("a list without items")?;
        let names = items.iter().filter_map(|it| it["metadata"]["name"].as_str());
        let names: Vec<String> = names.map(str::to_owned).collect();
        let clients = self.clients.clone();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        self.background.spawn(async move {
            for name in names {
                ticks.tick().await;
                let ask = Ask::json(Method::DELETE, format!("{path}/{name}"), "{}");
                clients.send(0, &ask).await?;
            }
            Ok(())
        });
        Ok(())
    }

    async fn steady(&mut self, pods: &Pods, duration: Duration) -> Result<f64> {
        let namespace = pods.namespace;
        let path = pods_in(namespace);
        let watch = Ask::get(format!("{path}?watch=true"));
        let mut watch = Watch::new(self.clients.open(0, &watch).await?.into_body());
        let (tell, mut seen) = mpsc::channel(pods.count);
        // Read meanwhile: what is not read of one answer holds up the others on its connection.
        self.background.spawn(async move {
            loop {
                for name in watch.placed().await? {
                    if tell.send(name).await.is_err() {
                        return Ok(());
                    }
                }
            }
        });
        let begun = Instant::now();
        let mut placed = 0;
        while begun.elapsed() < duration {
            self.create(pods, namespace).await?;
            let mut names = Vec::new();
            while names.len() < pods.count {
                let next = tokio::time::timeout(PATIENCE, seen.recv()).await;
                names.push(next.context("pods have no node")?.context("the watch ended")?);
            }
            placed += names.len();
            let (path, names) = (path.clone(), Arc::new(names));
            let gone = move |nth: usize| {
                let at = format!("{path}/{}", names[nth]);
                vec![Ask::json(Method::DELETE, at, r#"{"gracePeriodSeconds":0}"#)]
            };
            self.clients.load_in_order(pods.count, IN_FLIGHT, gone).await?;
        }
        Ok(rate(placed, begun.elapsed()))
    }

    /// Whether all that goes on besides went well.
    ///
    /// # Errors
    /// What did not.
    pub(super) async fn end(mut self) -> Result<()> {
        let ended = std::iter::from_fn(|| self.background.try_join_next());
        let failed = ended.map(|it| it?).find_map(Result::err);
        self.background.shutdown().await;
        failed.map_or(Ok(()), |it| Err(it).context("what goes on besides"))
    }
}

#[allow(clippy::cast_precision_loss, reason = "there are few pods")]
fn rate(pods: usize, took: Duration) -> f64 {
    pods as f64 / took.as_secs_f64()
}

/// The requests that make the nth pod: first its volume, bound as upstream's are.
fn asks_for(pods: &Pods, namespace: &str, nth: usize) -> Vec<Ask> {
    let mut pod = (pods.make)();
    let mut asks = Vec::with_capacity(1);
    if let Some(make) = pods.volume {
        let (claim, name) = (format!("pvc-{nth}"), format!("{namespace}-pv-{nth}"));
        let mut wants = objects::volume_claim(&claim);
        wants["spec"]["volumeName"] = json!(name);
        let mut volume = make(&name);
        volume["metadata"] = json!({"name": name});
        volume["spec"]["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": namespace, "name": claim});
        let bound = json!({"status": {"phase": "Bound"}});
        let claims = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        let volumes = "/api/v1/persistentvolumes";
        asks.push(post(claims.clone(), &wants));
        asks.push(post(volumes, &volume));
        asks.push(merge(format!("{volumes}/{name}/status"), &bound));
        asks.push(merge(format!("{claims}/{claim}/status"), &bound));
        let vol = json!({"name": "vol", "persistentVolumeClaim": {"claimName": claim}});
        pod["spec"]["volumes"] = json!([vol]);
    }
    asks.push(post(pods_in(namespace), &pod));
    asks
}

/// Waits until a number is reached.
async fn until<F: Future<Output = Result<usize>>>(
    wanted: usize,
    number: impl Fn() -> F,
) -> Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let now = number().await?;
        if now >= wanted {
            return Ok(());
        }
        if now > last {
            (last, moved) = (now, Instant::now());
        } else if moved.elapsed() > PATIENCE {
            bail!("only {now} of {wanted} pods are where they should be");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many pods have been placed, as the scheduler counts them.
async fn placed(clients: &Clients) -> Result<usize> {
    metric(clients, "scheduler_schedule_attempts_total{", "\"scheduled\"").await
}

/// A number among the server's, by the beginning of its line and a word in it; none is zero.
async fn metric(clients: &Clients, begins: &str, word: &str) -> Result<usize> {
    let text = clients.read(&Ask::get("/metrics")).await?;
    let line = text.lines().find(|it| it.starts_with(begins) && it.contains(word));
    let Some(line) = line else { return Ok(0) };
    let number = line.rsplit(' ').next().context("a metric without a number")?;
    Ok(number.parse()?)
}

async fn until_all_have_nodes(clients: &Clients, namespace: &str) -> Result<()> {
    let path = format!("{}?fieldSelector=spec.nodeName%3D&limit=1", pods_in(namespace));
    let begun = Instant::now();
    loop {
        let list: Value = serde_json::from_str(&clients.read(&Ask::get(path.clone())).await?)?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("some pods in {namespace} have no node");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Pods as they change.
struct Watch {
    body: hyper::body::Incoming,
    /// What was read after the last whole line.
    rest: Vec<u8>,
    /// The uids of pods that were seen with a node.
    seen: BTreeSet<String>,
}

impl Watch {
    fn new(body: hyper::body::Incoming) -> Self {
        Self { body, rest: Vec::new(), seen: BTreeSet::new() }
    }

    /// The names of the next pods that have a node: one at least.
    async fn placed(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        while names.is_empty() {
            let frame = self.body.frame().await.context("the watch ended")??;
            self.rest.extend_from_slice(frame.data_ref().map_or(&[], |it| it));
            while let Some(end) = memchr::memchr(b'\n', &self.rest) {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if memchr::memmem::find(&line, b"\"nodeName\":").is_none() {
                    continue;
                }
                let event: Value = serde_json::from_slice(&line)?;
                let metadata = &event["object"]["metadata"];
                let text = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
                let has_node = event["object"]["spec"]["nodeName"].is_string();
                if event["type"] == "DELETED" {
                    self.seen.remove(&text("uid"));
                } else if has_node && self.seen.insert(text("uid")) {
                    names.push(text("name"));
                }
            }
            if self.rest.len() > LINE_MAX {
                bail!("an event of a watch has more than {LINE_MAX} bytes");
            }
        }
        Ok(names)
    }
}
