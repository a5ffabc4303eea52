//! Reads and writes of single objects, and lists.

use anyhow::Result;
use http::Method;
use serde_json::json;

use crate::Options;
use crate::load::{Ask, Clients, IN_FLIGHT, Load};
use crate::reference;
use crate::server::Server;
use crate::table::{Bar, Figure};

/// Where the objects of all scenarios are.
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/bench/configmaps";
/// How many objects there are.
pub(crate) const OBJECTS: usize = 5_000;
/// How many lists are read, and how many at once.
const LISTS: usize = 200;
const LISTS_AT_ONCE: usize = 4;

/// A server without node, with a namespace to work in.
pub(crate) async fn plain_server(options: &Options) -> Result<Server> {
    server_without(options, "agent,proxy,dns").await
}

/// The same without other parts.
pub(crate) async fn server_without(options: &Options, disabled: &str) -> Result<Server> {
    let flags = ["--disable".to_owned(), disabled.to_owned()];
    let server = Server::start(&options.binary, tempfile::tempdir()?, &flags).await?;
    prepare(&server.clients).await?;
    Ok(server)
}

/// The namespace of all objects.
pub(crate) async fn prepare(clients: &Clients) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    let namespace = namespace.to_string();
    clients.send(0, &Ask::json(Method::POST, "/api/v1/namespaces", namespace)).await?;
    Ok(())
}

/// A ConfigMap of about 1 KiB.
pub(crate) fn config_map(nth: usize, generation: usize) -> String {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("cm-{nth}"), "labels": {"app": "bench"}},
        "data": {"payload": "x".repeat(1024), "generation": generation.to_string()}
    })
    .to_string()
}

/// Creates this many objects.
pub(crate) async fn fill(clients: &Clients, count: usize) -> Result<Load> {
    clients
        .load(count, IN_FLIGHT, |nth| Ask::json(Method::POST, CONFIG_MAPS, config_map(nth, 0)))
        .await
}

/// The trivial server, asked the same.
async fn trivial(ask: impl Fn(usize) -> Ask + Send + Sync + 'static) -> Result<Load> {
    reference::start().await?.load(4 * OBJECTS, IN_FLIGHT, ask).await
}

fn rate(what: &str, ours: Load, bar: f64, trivial: Load) -> Figure {
    Figure::new(what, ours.per_second, "/s", Bar::AtLeast(bar)).beside(trivial.per_second)
}

fn update_of(nth: usize) -> Ask {
    Ask::json(Method::PUT, format!("{CONFIG_MAPS}/cm-{nth}"), config_map(nth, 1))
}

fn patch_of(nth: usize) -> Ask {
    Ask {
        media_type: "application/merge-patch+json",
        ..Ask::json(Method::PATCH, format!("{CONFIG_MAPS}/cm-{nth}"), r#"{"data":{"patched":"1"}}"#)
    }
}

pub(crate) async fn create(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    let ours = fill(&server.clients, OBJECTS).await?;
    drop(server);
    let trivial = trivial(|nth| Ask::json(Method::POST, CONFIG_MAPS, config_map(nth, 0))).await?;
    Ok(vec![
        rate("ConfigMaps of 1 KiB created", ours, 10_000.0, trivial),
        Figure::ms("99 of 100 creates within", ours.p99, 15.0),
    ])
}

pub(crate) async fn get(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, OBJECTS).await?;
    let ask = |nth: usize| Ask::get(format!("{CONFIG_MAPS}/cm-{}", nth % OBJECTS));
    let ours = server.clients.load(4 * OBJECTS, IN_FLIGHT, ask).await?;
    drop(server);
    let trivial = trivial(ask).await?;
    Ok(vec![rate("ConfigMaps read", ours, 25_000.0, trivial)])
}

pub(crate) async fn update(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, OBJECTS).await?;
    let ours = server.clients.load(OBJECTS, IN_FLIGHT, update_of).await?;
    drop(server);
    Ok(vec![rate("ConfigMaps updated", ours, 8_000.0, trivial(update_of).await?)])
}

pub(crate) async fn patch(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, OBJECTS).await?;
    let ours = server.clients.load(OBJECTS, IN_FLIGHT, patch_of).await?;
    drop(server);
    Ok(vec![rate("ConfigMaps patched (merge patch)", ours, 8_000.0, trivial(patch_of).await?)])
}

/// A pod that nobody will run.
fn pod(nth: usize) -> Ask {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{nth}"), "labels": {"app": "bench"}},
        "spec": {"automountServiceAccountToken": false, "containers": [{
            "name": "c", "image": "registry.example/pause:1",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 80}}
        }]}
    });
    Ask::json(Method::POST, "/api/v1/namespaces/bench/pods", pod.to_string())
}

/// Pods a second where these parts are not there.
async fn pods_without(options: &Options, disabled: &str) -> Result<Load> {
    let server = server_without(options, disabled).await?;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let account =
        Ask::json(Method::POST, "/api/v1/namespaces/bench/serviceaccounts", account.to_string());
    // The controller may have been faster.
    let _ = server.clients.send(0, &account).await;
    server.clients.load(OBJECTS, IN_FLIGHT, pod).await
}

pub(crate) async fn pods(options: &Options) -> Result<Vec<Figure>> {
    let alone = pods_without(options, "agent,proxy,dns,scheduler,controllers").await?;
    let whole = pods_without(options, "agent,proxy,dns").await?;
    let trivial = trivial(pod).await?;
    Ok(vec![
        rate("Pods created, through admission, API server alone", alone, 8_000.0, trivial),
        rate("the same, each looked at by scheduler and controllers", whole, 8_000.0, trivial),
    ])
}

pub(crate) async fn list(options: &Options) -> Result<Vec<Figure>> {
    let server = plain_server(options).await?;
    fill(&server.clients, OBJECTS).await?;
    let before = server.memory_mb("VmRSS")?;
    let all = Ask::get(format!("{CONFIG_MAPS}?resourceVersion=0"));
    let bytes = server.clients.send(0, &all).await?;
    let ask = move |_| all.clone();
    let ours = server.clients.load(LISTS, LISTS_AT_ONCE, ask.clone()).await?;
    let more = server.memory_mb("VmHWM")? - before;
    drop(server);
    let trivial = reference::answering(bytes).await?.load(LISTS, LISTS_AT_ONCE, ask).await?;
    #[allow(clippy::cast_precision_loss, reason = "a list has far fewer bytes")]
    let megabytes = bytes as f64 * ours.per_second / 1e6;
    Ok(vec![
        rate("lists of 5,000 ConfigMaps", ours, 150.0, trivial),
        Figure::new("the same in bytes", megabytes, "MB/s", Bar::None),
        Figure::new("more memory during lists", more, "MB", Bar::AtMost(20.0)),
    ])
}
