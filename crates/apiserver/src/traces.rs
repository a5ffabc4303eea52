//! Traces: which requests are followed, what is remembered of them, and how collectors are told (OTLP over gRPC).
//!
//! Upstream: `k8s.io/component-base/tracing` and `filters.WithTracing`. Where no request is followed nothing is done for
//! it but to look; where there is no configuration, not even that.

mod configuration;
mod export;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use api::ResourceFacts;
use auth::UserInfo;
use component_base::{Clock, Random, ShutdownSignal};
use http::HeaderMap;
use parking_lot::Mutex;
use spans::{Kind, Part, Recorder, Span, SpanId, TRACEPARENT};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::exchange::Exchange;
use crate::target::Target;

pub use configuration::TracingConfiguration;

/// How many spans wait to be sent; further ones are lost (OpenTelemetry's own limit).
const QUEUE_MAX: usize = 2_048;
/// How many spans a request may have besides its own.
const SPANS_MAX: usize = 128;
/// A sampling rate is so many of a million.
const MILLION: u64 = 1_000_000;
/// Whose word about traces counts; others' requests begin traces of their own.
const BELIEVED: [&str; 2] = [auth::user::MASTERS, "system:monitoring"];

tokio::task_local! {
    /// The request that is being carried out, where it is followed.
    static CURRENT: Arc<Trace>;
}

/// Decides which requests are followed, and sends what is remembered of them.
#[derive(Debug)]
pub struct Tracer {
    /// Of 2^63.
    threshold: u64,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    queue: mpsc::Sender<Sent>,
}

/// A part of a request, or all of it, as collectors are told.
#[derive(Debug)]
struct Sent {
    trace: [u8; 16],
    span: Span,
    /// Where the client says the request comes from, and is not believed.
    link: Option<Remote>,
}

/// What a client says of a request's trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remote {
    trace: [u8; 16],
    span: [u8; 8],
    is_sampled: bool,
}

/// A request that is followed, or may turn out to be: who asks is known later.
#[derive(Debug)]
pub(crate) struct Trace {
    tracer: Arc<Tracer>,
    id: [u8; 16],
    root: [u8; 8],
    is_sampled: bool,
    remote: Option<Remote>,
    begun: u64,
    /// Whether the client's word about the trace counts; known once it is known who asks.
    is_believed: OnceLock<bool>,
    spans: Mutex<Vec<Span>>,
}

impl Tracer {
    /// Sends spans to the configuration's endpoint until `stop`; the task is over when the last are sent.
    pub fn start(
        configuration: &TracingConfiguration,
        (clock, random): (Arc<dyn Clock>, Arc<dyn Random>),
        instance: &str,
        stop: ShutdownSignal,
    ) -> (Arc<Self>, JoinHandle<()>) {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let rate = u64::from(configuration.sampling_rate_per_million);
        let threshold = (1_u64 << 63) / MILLION * rate.min(MILLION);
        let threshold = if rate >= MILLION { 1 << 63 } else { threshold };
        let sending = export::run(configuration.place.clone(), instance.to_owned(), spans, stop);
        let sending = tokio::spawn(sending);
        (Arc::new(Self { threshold, random, clock, queue }), sending)
    }

    /// Follows a request, where it may have to be.
    pub(crate) fn begin(self: &Arc<Self>, headers: &HeaderMap) -> Option<Arc<Trace>> {
        let remote = headers.get(TRACEPARENT).and_then(|it| parse(it.to_str().ok()?));
        let mut id = [0; 16];
        self.random.fill(&mut id);
        let [_, _, _, _, _, _, _, _, low @ ..] = id;
        let is_sampled = u64::from_be_bytes(low) >> 1 < self.threshold;
        if !is_sampled && !remote.is_some_and(|it| it.is_sampled) {
            return None;
        }
        Some(Arc::new(Trace {
            root: self.span_id(),
            begun: self.now(),
            tracer: Arc::clone(self),
            id,
            is_sampled,
            remote,
            is_believed: OnceLock::new(),
            spans: Mutex::default(),
        }))
    }

    fn span_id(&self) -> [u8; 8] {
        let mut id = [0; 8];
        self.random.fill(&mut id);
        id
    }

    /// Nanoseconds since 1970.
    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_nanosecond()).unwrap_or_default()
    }
}

impl Trace {
    /// What the client says, where that counts.
    fn believed(&self) -> Option<Remote> {
        self.remote.filter(|_| self.is_believed.get().copied().unwrap_or_default())
    }

    /// The request was answered.
    pub(crate) fn end(&self, exchange: &Exchange, code: u16) {
        let (trace, is_sampled) = self.trace();
        if !is_sampled {
            return;
        }
        let remote = self.believed();
        let target = exchange.parts.uri.path_and_query().map_or("", |it| it.as_str());
        let root = Span {
            id: self.root,
            parent: remote.map_or([0; 8], |it| it.span),
            name: "KubernetesAPI".into(),
            kind: Kind::Server,
            begun: self.begun,
            ended: self.tracer.now(),
            attributes: vec![
                ("http.request.method", exchange.parts.method.to_string().into()),
                ("url.path", target.to_owned().into()),
                ("http.response.status_code", code.into()),
                ("audit-id", exchange.audit_id().to_owned().into()),
            ],
            failed: code >= 500,
        };
        let parts = std::mem::take(&mut *self.spans.lock());
        // What cannot be sent fast enough is lost.
        for span in parts {
            let _ = self.tracer.queue.try_send(Sent { trace, span, link: None });
        }
        let link = self.remote.filter(|_| remote.is_none());
        let _ = self.tracer.queue.try_send(Sent { trace, span: root, link });
    }
}

impl Recorder for Trace {
    fn now(&self) -> u64 {
        self.tracer.now()
    }

    fn span_id(&self) -> SpanId {
        self.tracer.span_id()
    }

    fn trace(&self) -> ([u8; 16], bool) {
        self.believed().map_or((self.id, self.is_sampled), |it| (it.trace, it.is_sampled))
    }

    fn record(&self, span: Span) {
        let mut spans = self.spans.lock();
        if spans.len() < SPANS_MAX {
            spans.push(span);
        }
    }
}

/// Carries a request out, followed where there is a trace.
pub(crate) async fn within<T>(
    trace: Option<&Arc<Trace>>,
    work: Pin<&mut impl Future<Output = T>>,
) -> T {
    let Some(trace) = trace else { return work.await };
    let followed = spans::within(Arc::clone(trace) as _, trace.root, work);
    CURRENT.scope(Arc::clone(trace), followed).await
}

/// It is known who asks: they may say which trace the request is of, or not.
pub(crate) fn asks(user: &UserInfo) {
    let _ = CURRENT.try_with(|trace| {
        let is_believed = BELIEVED.iter().any(|it| user.is_in(it));
        let _ = trace.is_believed.set(is_believed);
    });
}

/// Begins a part of the request that is being carried out, where that is followed.
pub(crate) fn part(name: &'static str, operation: &'static str) -> Option<Part> {
    spans::begin(name, Kind::Internal).map(|it| it.with("operation", operation))
}

/// The same for what is done with the store.
pub(crate) fn storage(operation: &'static str, target: &Target) -> Option<Part> {
    let ResourceFacts { group, resource, .. } = *target.served.facts;
    part("storage", operation).map(|it| it.with("group", group).with("resource", resource))
}

/// `00-TRACE-SPAN-FLAGS`, in hexadecimal.
fn parse(text: &str) -> Option<Remote> {
    let mut parts = text.split('-');
    let (version, trace) = (bytes::<1>(parts.next()?)?, bytes::<16>(parts.next()?)?);
    let (span, flags) = (bytes::<8>(parts.next()?)?, bytes::<1>(parts.next()?)?);
    // Later versions may have more parts; the first has these.
    let is_whole = version[0] != 0 || parts.next().is_none();
    let is_good = is_whole && version[0] != 0xff && trace != [0; 16] && span != [0; 8];
    is_good.then_some(Remote { trace, span, is_sampled: flags[0] & 1 == 1 })
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |it: u8| match it {
        b'0'..=b'9' => Some(it - b'0'),
        b'a'..=b'f' => Some(it - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_told_in_four_parts() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let remote = parse(good).unwrap();
        assert!(remote.is_sampled && remote.trace[0] == 0x0a && remote.span[7] == 0x31);
        assert!(!parse(&good.replace("-01", "-00")).unwrap().is_sampled);
        assert_eq!(parse(&good.replace("00-0", "01-0").replace("-01", "-01-x")), Some(remote));
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
