//! Parts of a request that is followed. Whoever does a part of it begins one ([`begin`]) and runs it ([`run`]); parts that
//! begin meanwhile are parts of that one, and a server that is called is told by the header [`TRACEPARENT`].
//!
//! Knows nothing of who follows: that is a [`Recorder`]'s business, which a task carries along. Where there is none,
//! nothing is done but to look.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

/// The header by which it is told which trace a request is of (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// The number of a span.
pub type SpanId = [u8; 8];

/// What is told of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// OTLP's kinds of spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something that is done here.
    Internal = 1,
    /// A request that is answered.
    Server = 2,
    /// A request of another server.
    Client = 3,
}

/// A part that is over.
#[derive(Debug)]
pub struct Span {
    /// Its number.
    pub id: SpanId,
    /// Of what it is a part; all zeros where there is none.
    pub parent: SpanId,
    /// What was done.
    pub name: Cow<'static, str>,
    /// What sort of thing that is.
    pub kind: Kind,
    /// When it began and ended, in nanoseconds since 1970.
    pub begun: u64,
    /// See `begun`.
    pub ended: u64,
    /// What else is told.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it failed.
    pub failed: bool,
}

/// Follows one request.
pub trait Recorder: Send + Sync + Debug {
    /// Nanoseconds since 1970.
    fn now(&self) -> u64;
    /// A number for a new span.
    fn span_id(&self) -> SpanId;
    /// The number of the trace as far as it is known, and whether it is told to collectors.
    fn trace(&self) -> ([u8; 16], bool);
    /// A part is over.
    fn record(&self, span: Span);
}

#[derive(Clone)]
struct Current {
    recorder: Arc<dyn Recorder>,
    span: SpanId,
}

tokio::task_local! {
    /// What is being done.
    static CURRENT: Current;
}

/// Carries out what a recorder follows; `root` is its own span.
pub async fn within<T>(
    recorder: Arc<dyn Recorder>,
    root: SpanId,
    work: impl Future<Output = T>,
) -> T {
    CURRENT.scope(Current { recorder, span: root }, work).await
}

/// A part that goes on until this is dropped.
#[derive(Debug)]
pub struct Part {
    recorder: Arc<dyn Recorder>,
    /// What is told of it; taken when it is over.
    span: Option<Span>,
}

/// Begins a part of what is being done, where that is followed.
#[must_use]
pub fn begin(name: impl Into<Cow<'static, str>>, kind: Kind) -> Option<Part> {
    let Current { recorder, span: parent } = CURRENT.try_with(Clone::clone).ok()?;
    let (id, begun) = (recorder.span_id(), recorder.now());
    let (name, attributes) = (name.into(), Vec::new());
    let span = Span { id, parent, name, kind, begun, ended: begun, attributes, failed: false };
    Some(Part { recorder, span: Some(span) })
}

impl Part {
    /// Tells something of it.
    pub fn tell(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.attributes.push((name, value.into()));
        }
    }

    /// The same, as it is begun.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.tell(name, value);
        self
    }

    /// It did not do what it should.
    pub fn fail(&mut self) {
        if let Some(span) = &mut self.span {
            span.failed = true;
        }
    }

    /// What the header [`TRACEPARENT`] is to say to who is asked in this part.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let (trace, is_sampled) = self.recorder.trace();
        let id = self.span.as_ref().map_or([0; 8], |it| it.id);
        let hex = |bytes: &[u8]| bytes.iter().map(|it| format!("{it:02x}")).collect::<String>();
        format!("00-{}-{}-{:02x}", hex(&trace), hex(&id), u8::from(is_sampled))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(mut span) = self.span.take() {
            span.ended = self.recorder.now();
            self.recorder.record(span);
        }
    }
}

/// Does a part: what begins meanwhile is a part of it. Where it fails it says so.
///
/// # Errors
/// Those of the work.
pub async fn run<T, E>(
    part: &mut Option<Part>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    // Once, whatever is done with it: such work is large.
    let work = std::pin::pin!(work);
    let Some(part) = part else { return work.await };
    let id = part.span.as_ref().map_or([0; 8], |it| it.id);
    let current = Current { recorder: Arc::clone(&part.recorder), span: id };
    let done = CURRENT.scope(current, work).await;
    if done.is_err() {
        part.fail();
    }
    done
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Noted {
        next: AtomicU64,
        spans: Mutex<Vec<Span>>,
    }

    impl Recorder for Noted {
        fn now(&self) -> u64 {
            self.next.fetch_add(1, Ordering::Relaxed)
        }

        fn span_id(&self) -> SpanId {
            self.now().to_be_bytes()
        }

        fn trace(&self) -> ([u8; 16], bool) {
            ([10; 16], true)
        }

        fn record(&self, span: Span) {
            self.spans.lock().unwrap().push(span);
        }
    }

    async fn part(name: &'static str, inner: impl Future<Output = Result<(), ()>>) {
        let mut part = begin(name, Kind::Internal).map(|it| it.with("n", 1_u16));
        let _ = run(&mut part, inner).await;
    }

    #[tokio::test]
    async fn parts_are_in_each_other_also_where_they_go_on_side_by_side() {
        assert!(begin("nothing", Kind::Client).is_none());
        let noted = Arc::new(Noted::default());
        let root = [9; 8];
        let leaf = async |name| {
            part(name, async {
                tokio::task::yield_now().await;
                Err(())
            })
            .await;
            Ok(())
        };
        let both = async {
            futures::join!(part("a", leaf("a1")), part("b", leaf("b1")));
            let told = begin("last", Kind::Client).unwrap().traceparent();
            let (head, tail) = told.split_at(36);
            assert_eq!(head, format!("00-{}-", "0a".repeat(16)));
            assert!(tail.len() == 19 && tail.ends_with("-01"), "{told}");
        };
        within(Arc::clone(&noted) as _, root, both).await;
        let spans = noted.spans.lock().unwrap();
        let find = |name: &str| spans.iter().find(|it| it.name == name).unwrap();
        for (outer, inner) in [("a", "a1"), ("b", "b1")] {
            let (outer, inner) = (find(outer), find(inner));
            assert_eq!((outer.parent, inner.parent), (root, outer.id));
            assert!((outer.failed, inner.failed) == (false, true) && outer.ended > inner.ended);
            assert_eq!(outer.attributes, [("n", Value::Number(1))]);
        }
        assert_eq!(find("last").parent, root);
    }
}
