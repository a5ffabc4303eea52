//! What many objects cost the API server: what they take in memory, and a list of all of them.

use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::Instant;

use crate::Options;
use crate::api::server_without;
use crate::load::{Ask, IN_FLIGHT};
use crate::table::{Bar, Figure};

/// As many as a cluster may have, of the size that pods have when they run.
const PODS: usize = 150_000;
const POD_BYTES: f64 = 3e3;
/// How much of a pod is annotations here: the rest is what every pod has.
const PADDING: usize = 1_250;
/// How long the server rests before what it holds is measured.
const REST: Duration = Duration::from_secs(15);
const PATH: &str = "/api/v1/namespaces/bench/pods";

fn pod(nth: usize) -> Ask {
    let pod = json!({"metadata": {"name": format!("pod-{nth}"), "labels": {"app": "bench"},
            "annotations": {"example.com/what": "x".repeat(PADDING)}},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "registry.example/pause:1",
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}});
    Ask::json(Method::POST, PATH, pod.to_string())
}

/// 150,000 pods in an API server without other parts.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figure>> {
    let server = server_without(options, "agent,proxy,dns,scheduler,controllers").await?;
    let account = json!({"metadata": {"name": "default"}}).to_string();
    let accounts = "/api/v1/namespaces/bench/serviceaccounts";
    server.clients.send(0, &Ask::json(Method::POST, accounts, account)).await?;
    let made = server.clients.load(PODS, IN_FLIGHT, pod).await?;
    // What was freed last goes back to the system within ten seconds.
    tokio::time::sleep(REST).await;
    let resident = server.memory_mb("VmRSS")?;
    server.forget_peak()?;
    // Not timed: a host may have taken memory back while the server rested (`/version` takes as long then).
    server.clients.send(0, &Ask::get(PATH)).await?;
    let begun = Instant::now();
    let mut body = server.clients.open(0, &Ask::get(PATH)).await?.into_body();
    let (mut first, mut bytes) = (None, 0);
    while let Some(frame) = body.frame().await {
        let length = frame?.data_ref().map_or(0, bytes::Bytes::len);
        first = first.or_else(|| (length > 0).then(|| begun.elapsed()));
        bytes += length;
    }
    let whole = begun.elapsed();
    let more = server.memory_mb("VmHWM")? - resident;
    #[allow(clippy::cast_precision_loss, reason = "half a gigabyte")]
    let encoded = bytes as f64 / f64::from(1 << 20);
    #[allow(clippy::cast_precision_loss, reason = "a hundred and fifty thousand")]
    let share = encoded * f64::from(1 << 20) / PODS as f64 / POD_BYTES;
    Ok(vec![
        Figure::new("150,000 Pods created, API server alone", made.per_second, "/s", Bar::None),
        Figure::new("size of each, of 3,000 bytes", share, "x", Bar::None),
        Figure::new("their encoded size", encoded, "MB", Bar::None),
        Figure::new("memory then", resident, "MB", Bar::AtMost(1.2 * encoded + 60.0)),
        Figure::ms("first byte of a list of all", first.context("the list is empty")?, 10.0),
        Figure::seconds("the whole list", whole, 2.0),
        Figure::new("more memory meanwhile", more, "MB", Bar::AtMost(30.0)),
    ])
}
