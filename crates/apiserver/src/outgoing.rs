//! Answers on their way to a socket: a bounded part of each waits to be sent, and no answer waits for ever.
//!
//! A piece counts until the connection has written all of it and lets go of it. As long as too much waits no further piece is made;
//! a client that takes none for too long has its answer broken off. Upstream closes a watch at once whose client does not keep
//! up ("unresponsive"), and breaks off every other answer when the request's time is over
//! (`WithTimeoutForNonLongRunningRequests`). Does not know how connections write, or what is in the pieces.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use api::ResourceFacts;
use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use futures::task::AtomicWaker;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::Server;
use crate::body::{Body, BodyError};
use crate::connections::Cut;
use crate::idle::Running;
use crate::listing::PIECE_BYTES;
use crate::memory::MemoryBudget;
use crate::metrics::About;

/// How much of an answer may wait to be sent before no further piece is made, in bytes. A piece more may wait, which has an
/// object more at most than [`PIECE_BYTES`].
const MAX_UNSENT: usize = PIECE_BYTES;
/// Answers at hand of no more than this many bytes need no looking after: streams and connections have a number.
const SMALL_BYTES: usize = 16 << 10;
/// How long a client may take nothing while the server is short of memory.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);
/// How often is looked whether the server is short of memory.
const LOOK: Duration = Duration::from_millis(crate::memory::LOOK_EVERY_MS);

/// How long an answer may take.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// When it has to be sent whole.
    pub(crate) until: Option<Instant>,
    /// How long the client may take nothing of it.
    pub(crate) patience: Duration,
    /// Whether it is sent also where the server is short of memory.
    pub(crate) is_exempt: bool,
    /// Whether it lasts, and may be left unread, as long as its client likes.
    pub(crate) lasts: bool,
    /// What is watched.
    pub(crate) watched: Option<&'static ResourceFacts>,
    /// What it is counted as.
    pub(crate) about: Option<About>,
}

/// The body of an answer on its way to a socket.
#[derive(Debug)]
pub(crate) struct Outgoing {
    content: Content,
    /// The request goes on as long as there is something to be sent; of HTTP/1.1.
    _running: Option<Running>,
}

#[derive(Debug)]
enum Content {
    /// So little that it needs no looking after.
    Small(Option<Bytes>),
    Metered(Box<Metered>),
}

/// A larger answer, or one of unknown size.
pub(crate) struct Metered {
    server: Arc<Server>,
    pieces: Pieces,
    terms: Terms,
    unsent: Arc<Unsent>,
    /// Since when nothing could be made.
    stalled_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum Pieces {
    /// As they come.
    Stream(BoxStream<'static, Bytes>),
    /// What is left of what is at hand.
    Whole(Bytes),
}

/// How much of an answer waits to be sent.
#[derive(Debug, Default)]
struct Unsent {
    bytes: AtomicUsize,
    less: AtomicWaker,
    budget: Option<Arc<MemoryBudget>>,
}

/// A piece that counts until it is let go of.
struct Piece {
    bytes: Bytes,
    unsent: Arc<Unsent>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let bytes = self.bytes.len();
        self.unsent.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(budget) = &self.unsent.budget {
            budget.let_go(bytes as u64);
        }
        self.unsent.less.wake();
    }
}

impl Unsent {
    fn is_too_much(&self) -> bool {
        self.bytes.load(Ordering::Acquire) >= MAX_UNSENT
    }

    fn count(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        if let Some(budget) = &self.budget {
            budget.hold(bytes.len() as u64);
        }
        Bytes::from_owner(Piece { bytes, unsent: Arc::clone(self) })
    }
}

impl Outgoing {
    /// An answer as the socket takes it, under the terms that its request has left with it.
    pub(crate) fn of(server: &Arc<Server>, answer: Response<Body>) -> Response<Self> {
        let (mut parts, body) = answer.into_parts();
        let terms = parts.extensions.remove::<Terms>();
        let pieces = match body {
            Body::Full(Some(bytes)) if bytes.len() > SMALL_BYTES => Pieces::Whole(bytes),
            Body::Full(bytes) => {
                return Response::from_parts(parts, Self::small(bytes));
            }
            Body::Stream(pieces) => Pieces::Stream(pieces),
        };
        let patience = server.operating.request_timeout;
        let (until, is_exempt, lasts, watched) = (None, false, false, None);
        let about = None;
        let terms = terms.unwrap_or(Terms { until, patience, is_exempt, lasts, watched, about });
        let budget = server.operating.memory.clone();
        let metered = Metered {
            server: Arc::clone(server),
            pieces,
            terms,
            unsent: Arc::new(Unsent { budget, ..Unsent::default() }),
            stalled_since: None,
            timer: None,
        };
        let content = Content::Metered(Box::new(metered));
        Response::from_parts(parts, Self { content, _running: None })
    }

    fn small(bytes: Option<Bytes>) -> Self {
        Self { content: Content::Small(bytes), _running: None }
    }

    /// The request goes on until this is sent.
    pub(crate) fn of_running(mut self, running: Running) -> Self {
        if let Content::Metered(metered) = &self.content
            && metered.terms.lasts
        {
            running.lasts();
        }
        self._running = Some(running);
        self
    }

    /// All of it, or pieces as they come.
    pub(crate) fn into_parts(self) -> Result<Bytes, Box<Metered>> {
        match self.content {
            Content::Small(bytes) => Ok(bytes.unwrap_or_default()),
            Content::Metered(metered) => Err(metered),
        }
    }
}

impl Metered {
    /// Whether it lasts as long as its client likes.
    pub(crate) fn lasts(&self) -> bool {
        self.terms.lasts
    }

    /// Waits until the connection has written all that was made; an error where that takes too long.
    pub(crate) async fn sent(&mut self) -> Result<(), Cut> {
        self.stalled_since = None;
        std::future::poll_fn(|cx| {
            self.unsent.less.register(cx.waker());
            if self.unsent.bytes.load(Ordering::Acquire) == 0 {
                return Poll::Ready(Ok(()));
            }
            self.poll_stalled(cx, false).map(Err)
        })
        .await
    }

    /// Waits until less is unsent, or there is memory again; an error where that takes too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>, for_memory: bool) -> Poll<Cut> {
        loop {
            let now = Instant::now();
            let since = *self.stalled_since.get_or_insert(now);
            let is_short = self.is_short();
            let patience = match is_short && !for_memory {
                true => SHORT_PATIENCE.min(self.terms.patience),
                false => self.terms.patience,
            };
            let end = since + patience;
            if self.terms.until.is_some_and(|until| until <= now) {
                return Poll::Ready(self.cut(Cut::Deadline));
            }
            if end <= now {
                let why = if is_short { Cut::Memory } else { Cut::Unread };
                return Poll::Ready(self.cut(why));
            }
            let mut wake = self.terms.until.map_or(end, |until| until.min(end));
            if for_memory {
                wake = wake.min(now + LOOK);
            } else if self.unsent.budget.is_some() {
                wake = wake.min(now + SHORT_PATIENCE);
            }
            if self.poll_timer(cx, wake).is_pending() {
                return Poll::Pending;
            }
            if for_memory && !self.is_short() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }

    /// Whether nothing more should be made for want of memory.
    fn is_short(&self) -> bool {
        self.unsent.budget.as_ref().is_some_and(|it| !self.terms.is_exempt && it.is_full())
    }

    fn cut(&mut self, why: Cut) -> Cut {
        self.server.connections.cut(why);
        if let (Some(facts), Cut::Unread | Cut::Memory) = (self.terms.watched, why) {
            self.server.metrics.terminated(facts);
        }
        if let Some(about) = self.terms.about.filter(|_| self.terms.watched.is_none()) {
            self.server.metrics.aborted(about);
        }
        // Whoever asks on is told nothing more.
        self.pieces = Pieces::Whole(Bytes::new());
        why
    }

    fn poll_pieces(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.pieces {
            Pieces::Stream(pieces) => pieces.as_mut().poll_next(cx),
            Pieces::Whole(rest) if rest.is_empty() => Poll::Ready(None),
            Pieces::Whole(rest) => {
                let length = rest.len().min(PIECE_BYTES);
                Poll::Ready(Some(rest.split_to(length)))
            }
        }
    }
}

impl Stream for Metered {
    type Item = Result<Bytes, Cut>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.unsent.is_too_much() {
            this.unsent.less.register(cx.waker());
            // What was sent in between wakes nobody.
            if this.unsent.is_too_much() {
                return this.poll_stalled(cx, false).map(|why| Some(Err(why)));
            }
        }
        if this.is_short() {
            return this.poll_stalled(cx, true).map(|why| Some(Err(why)));
        }
        this.stalled_since = None;
        match this.poll_pieces(cx) {
            Poll::Ready(Some(piece)) => Poll::Ready(Some(Ok(this.unsent.count(piece)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let Some(until) = this.terms.until else { return Poll::Pending };
                this.poll_timer(cx, until).map(|()| Some(Err(this.cut(Cut::Deadline))))
            }
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().content {
            Content::Small(bytes) => Poll::Ready(bytes.take().map(|it| Ok(Frame::data(it)))),
            Content::Metered(metered) => Pin::new(metered.as_mut()).poll_next(cx).map(|next| {
                next.map(|piece| piece.map(Frame::data).map_err(|why| Box::new(why) as BodyError))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Small(bytes) => bytes.is_none(),
            Content::Metered(metered) => {
                matches!(&metered.pieces, Pieces::Whole(rest) if rest.is_empty())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Small(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Content::Metered(metered) => match &metered.pieces {
                Pieces::Whole(rest) => SizeHint::with_exact(rest.len() as u64),
                Pieces::Stream(_) => SizeHint::default(),
            },
        }
    }
}

impl std::fmt::Debug for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metered({:?}, {:?})", self.terms, self.unsent)
    }
}

/// Whether an answer is so little that it needs no terms.
pub(crate) fn is_small(body: &Body) -> bool {
    matches!(body, Body::Full(bytes) if bytes.as_ref().map_or(0, Bytes::len) <= SMALL_BYTES)
}

/// How many bytes an answer has, where that is known.
pub(crate) fn length(answer: &Outgoing) -> Option<u64> {
    answer.size_hint().exact()
}
