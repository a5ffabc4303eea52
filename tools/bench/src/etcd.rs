//! Creates through the server onto etcd, beside puts of as much by etcd's own client, and by ours, on the same etcd.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use storage::{Expect, Key, Store as _};
use storage_etcd::EtcdStore;
use tokio::time::Instant;

use crate::Options;
use crate::api::{CONFIG_MAPS, config_map, prepare};
use crate::load::{Ask, IN_FLIGHT};
use crate::server::Server;
use crate::table::{Bar, Figure};

/// How many objects.
const OBJECTS: usize = 5_000;
/// What part of etcd's own rate the server is to reach.
const SHARE: f64 = 0.6;
/// Where etcd listens in the measurement's network.
const CLIENT: &str = "http://127.0.0.1:22379";
const PEER: &str = "http://127.0.0.1:22380";

/// A running etcd; it ends when dropped.
struct Etcd(Child);

impl Etcd {
    fn start(directory: &Path) -> Result<Self> {
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.join("etcd"))
            .args(["--listen-client-urls", CLIENT, "--advertise-client-urls", CLIENT])
            .args(["--listen-peer-urls", PEER, "--initial-advertise-peer-urls", PEER])
            .args(["--initial-cluster", &format!("default={PEER}"), "--logger", "zap"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start etcd: cargo xtask install")?;
        Ok(Self(child))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn create(options: &Options) -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir()?;
    let _etcd = Etcd::start(directory.path())?;
    let store = EtcdStore::open(&storage_etcd::Options::new(vec![CLIENT.to_owned()])).await?;
    let before = puts(&store, "before").await?;
    let flags = ["--disable", "agent,proxy,dns", "--etcd-servers", CLIENT].map(str::to_owned);
    let server = Server::start(&options.binary, tempfile::tempdir()?, &flags).await?;
    prepare(&server.clients).await?;
    let ours = server
        .clients
        .load(OBJECTS, IN_FLIGHT, |nth| {
            Ask::json(http::Method::POST, CONFIG_MAPS, config_map(nth, 0))
        })
        .await?;
    drop(server);
    // Once more: what the machine gives changes by the minute.
    let after = puts(&store, "after").await?;
    let bare = f64::midpoint(before, after);
    let theirs = puts_of_etcdctl()?;
    let what = "creates of 1 KiB on etcd, 64 at once; reference: puts by etcdctl, 1,000 at once";
    Ok(vec![
        Figure::new(what, ours.per_second, "/s", Bar::AtLeast(SHARE * theirs)).beside(theirs),
        Figure::new("the same; reference: puts by our client", ours.per_second, "/s", Bar::None)
            .beside(bare),
        Figure::ms("p99 of a create on etcd", ours.p99, 50.0),
    ])
}

/// Puts of 1 KiB by etcd's own client within a minute, of at most 15,000 a second; how many a second it reached.
fn puts_of_etcdctl() -> Result<f64> {
    let check = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", CLIENT, "check", "perf", "--load=xl"])
        .stdin(Stdio::null())
        .output()
        .context("could not start etcdctl: cargo xtask install")?;
    // "Throughput is 15000 writes/s" or "Throughput too low: 8193 writes/s", whatever it exits with.
    let text = String::from_utf8_lossy(&check.stdout);
    let rate = text.lines().find_map(|line| {
        let rate = line.split_once("Throughput")?.1.strip_suffix(" writes/s")?;
        rate.rsplit(' ').next()?.parse().ok()
    });
    rate.with_context(|| format!("etcdctl told no rate: {text}"))
}

/// Puts of the same size, as many at once; how many a second.
async fn puts(store: &EtcdStore, name: &'static str) -> Result<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let workers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= OBJECTS {
                        return anyhow::Ok(());
                    }
                    let key = Key::from(format!("/bench/{name}/{nth}"));
                    let value = config_map(nth, 0).into();
                    store.put(key, value, Expect::Any, None).await?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of requests are small")]
    let count = OBJECTS as f64;
    Ok(count / begun.elapsed().max(Duration::from_millis(1)).as_secs_f64())
}
