//! The way of a component to the API server, and what goes wrong on it.
//!
//! Nothing is made up behind the API: a request is carried out by the real server, or not at all. What a link adds is
//! what networks and servers under load add: time, refusals, answers that get lost after the work was done, watches that
//! lag or end or have to begin anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use apimachinery::{json, value};
use apiserver::{Body, Peer, RequestBody};
use async_trait::async_trait;
use auth::UserInfo;
use bytes::Bytes;
use client::transport::{Objects, ResponseStream, Transport, TransportError, WantsObjects};
use client::watch::WatchEvent;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http::{Method, Request, Response};
use http_body_util::BodyStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::server::{Incarnation, Slot};

/// How long nothing may come of a watch that stalls, at most.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(4);
/// How long a request takes that is slow.
const SLOW_MS: (u64, u64) = (50, 1_500);
/// How long one takes ordinarily.
const QUICK_MS: (u64, u64) = (0, 8);
/// What every answer that no server gave has in its message.
pub(crate) const INJECTED: &str = "injected";

/// How often things go wrong, in a thousand requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    /// Not sent.
    pub(crate) lost_before: u32,
    /// Carried out, and the answer lost.
    pub(crate) lost_after: u32,
    /// Refused with 429, 500 or 503, not carried out.
    pub(crate) refused: u32,
    /// A write refused as if somebody else had been faster.
    pub(crate) conflict: u32,
    /// Slow.
    pub(crate) slow: u32,
}

impl Rates {
    /// As it mostly is in a fault phase.
    pub(crate) const BAD: Self =
        Self { lost_before: 10, lost_after: 12, refused: 15, conflict: 15, slow: 40 };
    /// For the clients whose answers are checked: some answers get lost, little else.
    pub(crate) const FAIR: Self =
        Self { lost_before: 3, lost_after: 5, refused: 0, conflict: 0, slow: 5 };
}

/// The state of one component's way to the server. Clones of the `Arc` share it.
#[derive(Debug)]
pub(crate) struct Link {
    dice: Dice,
    rates: Rates,
    /// Whether faults happen at all.
    bad: Arc<AtomicBool>,
    cut: AtomicBool,
    /// How many times the component was cut off: streams of before are over.
    cuts: AtomicU32,
    changed: Notify,
}

impl Link {
    /// A link that is as it should be unless `bad` says otherwise.
    pub(crate) fn new(seed: u64, name: &str, rates: Rates, bad: &Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            dice: Dice::new(seed, &format!("link {name}")),
            rates,
            bad: Arc::clone(bad),
            cut: AtomicBool::new(false),
            cuts: AtomicU32::new(0),
            changed: Notify::new(),
        })
    }

    /// Cuts the component off, or gives it its way back.
    pub(crate) fn set_cut(&self, cut: bool) {
        if self.cut.swap(cut, Ordering::Relaxed) != cut && cut {
            self.cuts.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Whether faults happen now.
    pub(crate) fn is_bad(&self) -> bool {
        self.bad.load(Ordering::Relaxed)
    }

    /// Resolves once the component is cut off.
    async fn broken(&self, since: u32) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.cuts.load(Ordering::Relaxed) != since {
                return;
            }
            changed.await;
        }
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    LostBefore,
    LostAfter,
    Refused(u16),
}

/// A component's transport: one user, one link, to whichever server is there.
#[derive(Debug)]
pub(crate) struct FaultyTransport {
    slot: Arc<Slot>,
    user: Arc<UserInfo>,
    link: Arc<Link>,
    /// Watches are read as text, as over a socket, instead of as the server's own objects.
    text: bool,
}

impl FaultyTransport {
    pub(crate) fn new(slot: &Arc<Slot>, user: UserInfo, link: &Arc<Link>, text: bool) -> Arc<Self> {
        let (slot, link) = (Arc::clone(slot), Arc::clone(link));
        Arc::new(Self { slot, user: Arc::new(user), link, text })
    }

    fn fate(&self, request: &Request<Bytes>) -> Fate {
        if !self.link.is_bad() {
            return Fate::Answered;
        }
        let (dice, rates) = (&self.link.dice, self.link.rates);
        let writes = *request.method() != Method::GET;
        let mut point = u32::try_from(dice.below(1_000)).unwrap_or(0);
        let updates = matches!(*request.method(), Method::PUT | Method::PATCH);
        let conflict = if updates { rates.conflict } else { 0 };
        let codes = [429, 500, 503];
        let refused = codes[dice.below(codes.len())];
        let parts = [
            (rates.lost_before, Fate::LostBefore),
            (if writes { rates.lost_after } else { 0 }, Fate::LostAfter),
            (rates.refused, Fate::Refused(refused)),
            (conflict, Fate::Refused(409)),
        ];
        for (share, fate) in parts {
            if point < share {
                return fate;
            }
            point -= share;
        }
        Fate::Answered
    }

    fn latency(&self) -> Duration {
        let dice = &self.link.dice;
        let (low, high) = if self.link.is_bad() && dice.chance(self.link.rates.slow) {
            SLOW_MS
        } else {
            QUICK_MS
        };
        dice.millis(low, high)
    }

    async fn carry_out(
        &self,
        incarnation: &Arc<Incarnation>,
        request: Request<Bytes>,
        since: u32,
    ) -> Result<Response<Body>, TransportError> {
        if crate::usage::is_told(request.uri().path()) {
            return Ok(self.usage(&request));
        }
        let peer = Peer { user: Some(Arc::clone(&self.user)), ..Peer::default() };
        let mut request = request.map(RequestBody::Bytes);
        if !self.text {
            request.extensions_mut().insert(WantsObjects);
        }
        tokio::select! {
            biased;
            () = self.link.broken(since) => Err(TransportError::NoAnswer("cut off".into())),
            () = incarnation.crashed() => Err(TransportError::NoAnswer("the server crashed".into())),
            response = incarnation.server.serve(request, peer).boxed() => Ok(response),
        }
    }
}

#[async_trait]
impl Transport for FaultyTransport {
    async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseStream>, TransportError> {
        let since = self.link.cuts.load(Ordering::Relaxed);
        let fate = self.fate(&request);
        let (before, after) = (self.latency(), self.latency());
        tokio::time::sleep(before).await;
        if self.link.is_cut() || self.link.cuts.load(Ordering::Relaxed) != since {
            return Err(TransportError::NotSent("cut off".into()));
        }
        let Some(incarnation) = self.slot.current() else {
            return Err(TransportError::NotSent("connection refused".into()));
        };
        match fate {
            Fate::LostBefore => return Err(TransportError::NoAnswer("lost on its way".into())),
            Fate::Refused(code) => return Ok(refusal(code)),
            Fate::Answered | Fate::LostAfter => {}
        }
        let response = self.carry_out(&incarnation, request, since).await?;
        tokio::time::sleep(after).await;
        if fate == Fate::LostAfter {
            return Err(TransportError::NoAnswer("the answer was lost".into()));
        }
        if self.link.cuts.load(Ordering::Relaxed) != since {
            return Err(TransportError::NoAnswer("cut off".into()));
        }
        Ok(self.answer(response, &incarnation, since))
    }
}

impl FaultyTransport {
    /// What a metrics server would answer.
    fn usage(&self, request: &Request<Bytes>) -> Response<Body> {
        let uri = request.uri();
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let (observer, now) = (self.slot.observer(), self.slot.now());
        let told = crate::usage::told(observer, path, query, now, self.link.is_bad());
        Response::new(Body::Full(Some(Bytes::from(json::to_vec(&told)))))
    }

    fn answer(
        &self,
        response: Response<Body>,
        incarnation: &Arc<Incarnation>,
        since: u32,
    ) -> Response<ResponseStream> {
        let (mut parts, body) = response.into_parts();
        let way = || Way {
            link: Arc::clone(&self.link),
            incarnation: Arc::clone(incarnation),
            since,
            mood: Mood::new(&self.link),
        };
        if let Some(events) = parts.extensions.get::<Objects>().and_then(Objects::take) {
            parts.extensions.insert(Objects::new(way().events(events)));
            return Response::from_parts(parts, futures::stream::empty().boxed());
        }
        let stream = match body {
            Body::Full(bytes) => futures::stream::iter(bytes.map(Ok)).boxed(),
            Body::Stream(_) => way().pieces(pieces_of(body)),
        };
        Response::from_parts(parts, stream)
    }
}

fn pieces_of(body: Body) -> ResponseStream {
    let frames = BodyStream::new(body);
    let data = frames.filter_map(|frame| async move {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(TransportError::Body(error.to_string()))),
        }
    });
    data.boxed()
}

/// An answer that no server gave.
fn refusal(code: u16) -> Response<ResponseStream> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let status = value!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": (format!("{INJECTED}: {reason}")), "reason": reason, "code": (u32::from(code))});
    let body = Bytes::from(json::to_vec(&status));
    let mut response = Response::new(futures::stream::iter([Ok(body)]).boxed());
    *response.status_mut() =
        http::StatusCode::from_u16(code).expect("because the codes above are those of HTTP");
    response
}

/// When a stream stalls next, and when it ends.
#[derive(Debug, Clone, Copy)]
struct Mood {
    stalls_at: Instant,
    stalled_until: Instant,
    ends_at: Instant,
}

impl Mood {
    fn new(link: &Link) -> Self {
        let now = Instant::now();
        Self {
            stalls_at: now + link.dice.millis(100, 8_000),
            stalled_until: now,
            ends_at: now + link.dice.millis(2_000, 90_000),
        }
    }
}

/// How a stream of pieces ends.
enum End {
    /// As servers end them.
    Plainly,
    /// In the middle.
    Broken,
    /// The version is not kept any more: everything is read again.
    Expired,
}

/// The way of one stream.
struct Way {
    link: Arc<Link>,
    incarnation: Arc<Incarnation>,
    since: u32,
    mood: Mood,
}

impl Way {
    /// Waits as long as the stream stalls, and says whether it is over.
    async fn pass(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.link.cuts.load(Ordering::Relaxed) != self.since || self.incarnation.has_crashed() {
            return Some(End::Broken);
        }
        if !self.link.is_bad() {
            return None;
        }
        let dice = &self.link.dice;
        if now >= self.mood.ends_at {
            return Some(match dice.below(4) {
                0 => End::Broken,
                1 => End::Expired,
                _ => End::Plainly,
            });
        }
        if now >= self.mood.stalls_at {
            let longest = u64::try_from(STALL_MAX.as_millis()).unwrap_or(u64::MAX);
            self.mood.stalled_until = now + dice.millis(20, longest);
            self.mood.stalls_at = self.mood.stalled_until + dice.millis(200, 12_000);
        }
        tokio::time::sleep_until(self.mood.stalled_until).await;
        None
    }

    /// The next piece, or how the stream ends.
    async fn next<T: Send>(&mut self, stream: &mut BoxStream<'static, T>) -> Result<T, End> {
        let (link, incarnation) = (Arc::clone(&self.link), Arc::clone(&self.incarnation));
        let bad = link.is_bad();
        let next = tokio::select! {
            biased;
            () = link.broken(self.since) => return Err(End::Broken),
            () = incarnation.crashed() => return Err(End::Broken),
            next = stream.next() => next,
            () = tokio::time::sleep_until(self.mood.ends_at), if bad => None,
        };
        match (self.pass().await, next) {
            (Some(end), _) => Err(end),
            (None, Some(next)) => Ok(next),
            (None, None) => Err(End::Plainly),
        }
    }

    fn events(self, events: BoxStream<'static, WatchEvent>) -> BoxStream<'static, WatchEvent> {
        let state = Some((self, events));
        futures::stream::unfold(state, |state| async move {
            let (mut way, mut events) = state?;
            match way.next(&mut events).await {
                Ok(event) => Some((event, Some((way, events)))),
                Err(End::Expired) => Some((expired(), None)),
                Err(End::Plainly | End::Broken) => None,
            }
        })
        .boxed()
    }

    fn pieces(self, pieces: ResponseStream) -> ResponseStream {
        let state = Some((self, pieces));
        futures::stream::unfold(state, |state| async move {
            let (mut way, mut pieces) = state?;
            match way.next(&mut pieces).await {
                Ok(piece) => Some((piece, Some((way, pieces)))),
                Err(End::Broken | End::Expired) => {
                    Some((Err(TransportError::Body("the connection broke".into())), None))
                }
                Err(End::Plainly) => None,
            }
        })
        .boxed()
    }
}

fn expired() -> WatchEvent {
    let status = value!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired",
        "message": (format!("{INJECTED}: too old resource version")), "code": 410});
    WatchEvent::Error(Box::new(client::error::ApiStatus::of_value(status)))
}
