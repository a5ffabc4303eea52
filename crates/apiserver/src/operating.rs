//! How a server is operated: how long things may take, how it ends, and what it tells of itself. Upstream's flags of the
//! same names say more.

use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use component_base::feature_gates::FeatureGates;
use http::HeaderValue;

use crate::cors::Cors;
use crate::memory::MemoryBudget;
use crate::traces::Tracer;

/// Streams of one HTTP/2 connection where nothing else is said (upstream: 100). A client that holds many watches on one
/// connection still gets its writes through; what a stream may buffer is bounded by its window.
const HTTP2_STREAMS: u32 = 1_000;

/// How many connections there may be where nothing else is said: the files that a process may have open.
const MAX_CONNECTIONS: usize = 20_000;

/// What an operator may say of a server.
#[derive(Debug, Clone)]
pub struct Operating {
    /// How long a request may take, watches and other streams aside (`--request-timeout`).
    pub request_timeout: Duration,
    /// How long a watch without a timeout of its own lives at least, in seconds; at most twice as long
    /// (`--min-request-timeout`).
    pub min_request_timeout_seconds: u64,
    /// The part of requests after which an HTTP/2 connection is to be made anew (`--goaway-chance`).
    pub goaway_chance: f64,
    /// Streams of one HTTP/2 connection (`--http2-max-streams-per-connection`).
    pub http2_max_streams: u32,
    /// How many connections there may be at once. For a further one that without a request ends that has been so for
    /// longest; where each has one, it waits.
    pub max_connections: usize,
    /// How the server ends.
    pub shutdown: ShutdownPlan,
    /// How long events are kept (`--event-ttl`).
    pub event_ttl: Duration,
    /// The ports of nodes that services may have (`--service-node-port-range`).
    pub node_ports: RangeInclusive<u16>,
    /// Whether containers may be privileged (`--allow-privileged`).
    pub allow_privileged: bool,
    /// Whether profiles may be asked for (`--profiling`).
    pub profiling: bool,
    /// Which pages of other sites may ask (`--cors-allowed-origins`).
    pub cors: Option<Cors>,
    /// What every answer says of `Strict-Transport-Security`.
    pub transport_security: Option<HeaderValue>,
    /// Follows requests, and tells a collector of them.
    pub tracer: Option<Arc<Tracer>>,
    /// How much memory the server may have (`--memory-budget`); without it there is no limit.
    pub memory: Option<Arc<MemoryBudget>>,
    /// What `/statusz` and `/flagz` tell.
    pub component: Component,
    /// How often the store is asked how large it is (`--etcd-db-metric-poll-interval`); never where it is 0.
    pub size_poll_interval: Duration,
    /// How many bytes a second each direction of an upgraded connection to a node or pod may carry
    /// (`--max-connection-bytes-per-sec`).
    pub stream_bytes_per_second: Option<NonZeroU64>,
    /// What `/logs` shows, where it is asked for (`--enable-logs-handler`).
    pub logs: Option<PathBuf>,
    /// Which of upstream's features are on.
    pub features: Arc<FeatureGates>,
}

/// How a server ends that is asked to.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShutdownPlan {
    /// How long it goes on as before, while `/readyz` says that it ends (`--shutdown-delay-duration`).
    pub delay: Duration,
    /// Whether it answers 429 to who comes then, instead of not listening (`--shutdown-send-retry-after`).
    pub sends_retry_after: bool,
    /// Over how long the ends of watches are spread (`--shutdown-watch-termination-grace-period`).
    pub watch_grace: Duration,
}

/// What a program tells of itself.
#[derive(Debug, Clone, Default)]
pub struct Component {
    /// Its flags with their values, by name.
    pub flags: Vec<(String, String)>,
}

impl Default for Operating {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            min_request_timeout_seconds: 1800,
            goaway_chance: 0.0,
            http2_max_streams: HTTP2_STREAMS,
            max_connections: MAX_CONNECTIONS,
            shutdown: ShutdownPlan::default(),
            event_ttl: Duration::from_secs(3600),
            node_ports: 30_000..=32_767,
            allow_privileged: true,
            profiling: true,
            cors: None,
            transport_security: None,
            tracer: None,
            memory: None,
            component: Component::default(),
            size_poll_interval: Duration::from_secs(30),
            stream_bytes_per_second: None,
            logs: None,
            features: Arc::default(),
        }
    }
}
