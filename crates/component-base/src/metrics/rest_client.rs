//! What a client of servers counts of its requests, in the names of upstream's client library.
//!
//! Requests go over the network, so that looking up what they count is nothing beside them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Histogram;

/// Upstream's buckets of how long requests take, and of how large they and their answers are.
const DURATIONS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
const SIZES: [f64; 11] = [
    64.0,
    256.0,
    512.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];
/// The code of a request that has no answer.
const NO_ANSWER: &str = "<error>";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    code: String,
    host: String,
    method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    host: String,
    verb: String,
}

type Histograms = Family<Asked, Histogram, fn() -> Histogram>;

/// What is counted; clones count together.
#[derive(Debug, Clone)]
pub struct RestClient {
    ended: Family<Ended, Counter>,
    took: Histograms,
    sent: Histograms,
    received: Histograms,
}

/// A request: the host that it is sent to, and its method.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// `host:port`
    pub host: &'r str,
    /// `GET`
    pub method: &'r str,
}

impl Default for RestClient {
    fn default() -> Self {
        let sizes = || Histograms::new_with_constructor(|| Histogram::numbers(&SIZES));
        Self {
            ended: Family::default(),
            took: Family::new_with_constructor(|| Histogram::seconds(&DURATIONS)),
            sent: sizes(),
            received: sizes(),
        }
    }
}

impl Request<'_> {
    fn asked(self) -> Asked {
        Asked { host: self.host.to_owned(), verb: self.method.to_owned() }
    }
}

impl RestClient {
    /// Tells a registry of all of it.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests to servers";
        registry.register("rest_client_requests", help, self.ended.clone());
        let help = "How long requests to servers took";
        registry.register("rest_client_request_duration_seconds", help, self.took.clone());
        let help = "How many bytes the bodies of requests to servers have";
        registry.register("rest_client_request_size_bytes", help, self.sent.clone());
        let help = "How many bytes the answers of servers have";
        registry.register("rest_client_response_size_bytes", help, self.received.clone());
    }

    /// A request was sent with a body of so many bytes.
    pub fn sent(&self, request: Request<'_>, bytes: usize) {
        self.sent.get_or_create(&request.asked()).observe_number(bytes);
    }

    /// It has this answer, or none.
    pub fn ended(&self, request: Request<'_>, code: Option<u16>) {
        let code = code.map_or_else(|| NO_ANSWER.to_owned(), |code| code.to_string());
        let (host, method) = (request.host.to_owned(), request.method.to_owned());
        self.ended.get_or_create(&Ended { code, host, method }).inc();
    }

    /// It took so long.
    pub fn took(&self, request: Request<'_>, took: Duration) {
        self.took.get_or_create(&request.asked()).observe(took);
    }

    /// All of its answer has come, so many bytes.
    pub fn received(&self, request: Request<'_>, bytes: usize) {
        self.received.get_or_create(&request.asked()).observe_number(bytes);
    }
}
