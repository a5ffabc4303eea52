//! The last two samples of each node, read when somebody asks and what there is has become old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use futures::{FutureExt, StreamExt};
use metrics::Sample;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::handlers::connect::NodeDialer;

/// How many agents are read at once.
const AT_ONCE: usize = 32;
/// How long an agent may take (metrics-server: 10 s).
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes that an agent may answer.
const MAX_BYTES: usize = 16 << 20;
/// Between the two samples that are taken where there is none of late.
const COLD_WINDOW: Duration = Duration::from_secs(1);
/// A sample this many resolutions old says nothing of now.
const OLD_RESOLUTIONS: u32 = 3;
/// Nodes that are remembered at most; upstream's largest clusters have 5,000.
const MAX_NODES: usize = 20_000;

type Both = (Arc<Sample>, Arc<Sample>);

/// Reads agents.
#[derive(Debug)]
pub(super) struct Collector {
    dialer: NodeDialer,
    resolution: Duration,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
}

/// What is known of a node.
#[derive(Debug, Default)]
struct Node {
    /// Held while its agent is read: whoever asks meanwhile waits for that.
    reading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// The annotation of nodes that have no agent to read: kwok's, and those of `--fake-nodes`.
const FAKE: [&str; 3] = ["metadata", "annotations", "kwok.x-k8s.io/node"];

#[derive(Debug, Default)]
struct State {
    before: Option<Arc<Sample>>,
    now: Option<Arc<Sample>>,
    /// When its agent was last read, with success or without.
    tried: Option<Instant>,
}

impl Collector {
    pub(super) fn new(dialer: NodeDialer, resolution: Duration) -> Self {
        Self { dialer, resolution, nodes: Mutex::default() }
    }

    /// The last two samples of a node.
    pub(super) fn samples(&self, node: &str) -> Option<Both> {
        let node = Arc::clone(self.nodes.lock().get(node)?);
        let state = node.state.lock();
        Some((Arc::clone(state.before.as_ref()?), Arc::clone(state.now.as_ref()?)))
    }

    /// Reads the agents of these nodes that were not read of late. A node that cannot be read has no samples then.
    pub(super) async fn refresh(&self, nodes: &[Value]) {
        let real = nodes.iter().filter(|node| node.str_at(&FAKE) != "fake");
        let reads: Vec<_> = real.map(|node| self.refresh_one(node).boxed()).collect();
        futures::stream::iter(reads).buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    fn node(&self, name: &str) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        if nodes.len() >= MAX_NODES && !nodes.contains_key(name) {
            nodes.clear();
        }
        Arc::clone(nodes.entry(name.to_owned()).or_default())
    }

    async fn refresh_one(&self, node: &Value) {
        let name = node.str_at(&["metadata", "name"]);
        let known = self.node(name);
        let _reading = known.reading.lock().await;
        let age = known.state.lock().tried.map(|it| it.elapsed());
        // A reader that comes once a resolution must find a new sample each time, so a little less counts as fresh.
        if age.is_some_and(|age| age < self.resolution * 9 / 10) {
            return;
        }
        let is_warm = age.is_some_and(|age| age < self.resolution * OLD_RESOLUTIONS);
        let before = known.state.lock().now.clone().filter(|_| is_warm);
        let read = self.read(node, before).await;
        let mut state = known.state.lock();
        state.tried = Some(Instant::now());
        match read {
            Ok((before, now)) => (state.before, state.now) = (Some(before), Some(now)),
            Err(why) => {
                tracing::warn!(node = name, why, "could not read what the node uses");
                (state.before, state.now) = (None, None);
            }
        }
    }

    async fn read(&self, node: &Value, before: Option<Arc<Sample>>) -> Result<Both, String> {
        let before = match before {
            Some(before) => before,
            None => {
                let first = self.sample(node).await?;
                tokio::time::sleep(COLD_WINDOW).await;
                first
            }
        };
        Ok((before, self.sample(node).await?))
    }

    async fn sample(&self, node: &Value) -> Result<Arc<Sample>, String> {
        let got = self.dialer.get(node, "/metrics/resource", MAX_BYTES);
        let got = tokio::time::timeout(TIMEOUT, got).await;
        let bytes = got.map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))??;
        Ok(Arc::new(Sample::parse(&String::from_utf8_lossy(&bytes))))
    }
}
