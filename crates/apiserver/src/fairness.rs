//! Priority and fairness: each request belongs to a flow of a priority level, takes seats of that level while it is
//! served, and waits or is refused where there are none. Upstream: `pkg/util/flowcontrol` and its filter.
//!
//! Who is next is the business of the crate `flowcontrol`; here are the locks, one for each level and held for no more
//! than that decision, those who wait, and what is counted. A request that need not wait allocates nothing.

mod digest;
mod dump;
mod estimate;
mod executing;
mod metrics;
mod used;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use apimachinery::Status;
use arc_swap::ArcSwap;
use auth::UserInfo;
use compact_str::CompactString;
use flowcontrol::{
    Arrival, Asked, Dispatched, FlowSchema, Level, Pause, QueueSet, Refusal, Running, Smoothed,
    Ticket, Work, flow_hash,
};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::Response;
use http::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::request::RequestInfo;
use executing::{About, Executing};
use used::{Current, Phase, Sort};

pub(crate) use dump::answer as dump;

/// How long a request may wait for its turn (upstream: a quarter of `RequestTimeout`).
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Flow control as it is now.
#[derive(Debug)]
pub(crate) struct Fairness {
    config: ArcSwap<Config>,
    /// All seats of the server.
    seats: u32,
    began: Instant,
    metrics: metrics::Metrics,
    current: Current,
    /// Held while the configuration is replaced or limits are moved.
    writing: Mutex<()>,
}

/// The schemas in the order in which they are asked, and the levels.
#[derive(Debug, Default)]
struct Config {
    schemas: Vec<Arc<Schema>>,
    levels: Vec<Arc<LevelState>>,
}

/// A schema with its level, and what is counted of its requests.
#[derive(Debug)]
pub(crate) struct Schema {
    flow: FlowSchema,
    level: Arc<LevelState>,
    /// What answers say of it.
    uid: HeaderValue,
    counts: Arc<metrics::Counts>,
}

/// A level with those who are there.
#[derive(Debug)]
pub(crate) struct LevelState {
    name: CompactString,
    uid: HeaderValue,
    exempt: bool,
    set: Mutex<QueueSet<Waiter>>,
    executing: Executing,
    rules: Mutex<Rules>,
    /// The most seats that one request may take.
    max_seats: AtomicU32,
    /// How long who is refused should stay away.
    pause: Mutex<Pause>,
    tally: Tally,
}

/// What became of a level's requests.
#[derive(Debug, Default)]
struct Tally {
    dispatched: AtomicU64,
    rejected: AtomicU64,
    timed_out: AtomicU64,
    cancelled: AtomicU64,
}

/// What limits of a level are made of.
#[derive(Debug)]
struct Rules {
    level: Level,
    bounds: flowcontrol::Bounds,
    demand: Smoothed,
    /// Its object is gone; it goes when nobody is there any more.
    quiescing: bool,
}

/// Somebody who waits.
#[derive(Debug)]
struct Waiter {
    turn: oneshot::Sender<Running>,
    about: About,
}

impl flowcontrol::Waiter for Waiter {
    fn unaccommodated(&self) {
        self.about.schema.counts.unaccommodated.inc();
    }
}

/// The seats of a request that is served; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Seat(Option<Taken>);

#[derive(Debug)]
struct Taken {
    schema: Arc<Schema>,
    fairness: Arc<Fairness>,
    running: Running,
    /// Its place among those that are served.
    place: usize,
    seats: u32,
    began: Instant,
    sort: Sort,
}

/// What the filter says of a request.
pub(crate) enum Step {
    /// It has its seats, or needs none.
    Go(Seat),
    /// It waits for them.
    Wait(BoxFuture<'static, Result<Seat, Status>>),
}

impl Fairness {
    /// Levels and schemas that no server can do without, until [`Self::digest`] is told of others.
    pub(crate) fn new(seats: usize) -> Arc<Self> {
        let fairness = Arc::new(Self {
            config: ArcSwap::default(),
            seats: u32::try_from(seats).unwrap_or(u32::MAX).max(1),
            began: Instant::now(),
            metrics: metrics::Metrics::default(),
            current: Current::default(),
            writing: Mutex::new(()),
        });
        fairness.digest(&[], &[]);
        fairness
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Finds the flow of a request, and seats for it.
///
/// # Errors
/// 429 where there are none and it may not wait.
pub(crate) fn admit(
    server: &Arc<Server>,
    fairness: &Arc<Fairness>,
    exchange: &mut Exchange,
) -> Result<Step, Status> {
    let asked = asked(&exchange.info, &exchange.user);
    let config = fairness.config.load();
    let schema = config.schemas.iter().find(|it| it.flow.matches(&asked));
    // The last one takes everybody; who is not even authenticated is in no group, and is in its level all the same.
    let Some(schema) = schema.or(config.schemas.last()) else { return Ok(Step::Go(Seat(None))) };
    let schema = Arc::clone(schema);
    exchange.flow = Some(Arc::clone(&schema));
    let distinguisher = schema.flow.distinguisher.of(&asked);
    let hash = flow_hash(&schema.flow.name, distinguisher);
    let work = estimate::work(server, exchange, &schema);
    schema.counts.estimated.observe_number(work.max_seats() as usize);
    let about = About {
        schema: Arc::clone(&schema),
        user: Arc::clone(&exchange.user),
        info: Arc::clone(&exchange.info),
    };
    let waits = std::cell::OnceCell::new();
    let waiter = || {
        let (sender, receiver) = oneshot::channel();
        let _ = waits.set(receiver);
        Waiter { turn: sender, about: about.clone() }
    };
    let sort = Sort::of(exchange.info.verb);
    let mut dispatched = Vec::new();
    let arrival = {
        let mut set = schema.level.set.lock();
        let now = fairness.now();
        let arrival = set.arrive(now, hash, work, (waiter, &mut dispatched));
        if matches!(arrival, Arrival::Waits(_)) {
            schema.counts.wait(&work, 1);
            fairness.current.add(now, (Phase::Waiting, sort), 1);
        }
        hand_out(&mut set, now, dispatched);
        arrival
    };
    let turn = (arrival, waits.into_inner());
    decided((fairness, about), turn, work, sort)
}

/// What schemas look at.
fn asked<'a>(info: &'a RequestInfo, user: &'a UserInfo) -> Asked<'a> {
    Asked {
        user: &user.name,
        groups: &user.groups,
        verb: info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        path: &info.path,
    }
}

/// What the filter says where it was decided so.
fn decided(
    (fairness, about): (&Arc<Fairness>, About),
    (arrival, turn): (Arrival, Option<oneshot::Receiver<Running>>),
    work: Work,
    sort: Sort,
) -> Result<Step, Status> {
    let schema = &about.schema;
    match arrival {
        Arrival::Now(running) => {
            schema.counts.waited.observe(Duration::ZERO);
            if running.was_queued() {
                schema.counts.enqueued(1);
            }
            let came = Instant::now();
            Ok(Step::Go(Seat::taken(fairness, about, (running, work), (sort, came))))
        }
        Arrival::Waits(ticket) => {
            let turn = turn.expect("because who waits was made a waiter");
            schema.counts.enqueued(ticket.length());
            let line = Line {
                fairness: Arc::clone(fairness),
                about,
                ticket,
                turn,
                work,
                came: Instant::now(),
                sort,
                done: false,
                timed_out: false,
            };
            Ok(Step::Wait(Box::pin(line.stand())))
        }
        Arrival::Refused(why) => {
            let reason = match why {
                Refusal::QueueFull => "queue-full",
                Refusal::ConcurrencyLimit => "concurrency-limit",
            };
            schema.level.tally.rejected.fetch_add(1, Ordering::Relaxed);
            Err(refuse(fairness, schema, reason))
        }
    }
}

fn refuse(fairness: &Fairness, schema: &Schema, reason: &'static str) -> Status {
    fairness.metrics.rejected(&schema.flow.name, &schema.level.name, reason);
    let pause = schema.level.pause.lock().refused(fairness.began.elapsed().as_secs());
    let seconds = u32::try_from(pause).unwrap_or(u32::MAX);
    Status::too_many_requests("Too many requests, please try again later.", seconds)
}

/// Gives seats to those whose turn it is. Who has gone meanwhile gives them back at once.
fn hand_out(set: &mut QueueSet<Waiter>, now: u64, mut dispatched: Dispatched<Waiter>) {
    while let Some((waiter, running)) = dispatched.pop() {
        if let Err(running) = waiter.turn.send(running)
            && set.finish(now, running, &mut dispatched).is_some()
        {
            set.release(now, running, &mut dispatched);
        }
    }
}

/// A place in a queue; given up when dropped.
struct Line {
    fairness: Arc<Fairness>,
    about: About,
    ticket: Ticket,
    turn: oneshot::Receiver<Running>,
    work: Work,
    came: Instant,
    sort: Sort,
    done: bool,
    timed_out: bool,
}

impl Line {
    async fn stand(mut self) -> Result<Seat, Status> {
        let turn = tokio::time::timeout(MAX_WAIT, &mut self.turn).await;
        let waited = self.came.elapsed();
        if let Ok(Ok(running)) = turn {
            self.done = true;
            self.about.schema.counts.waited.observe(waited);
            let (work, at) = ((running, self.work), (self.sort, self.came));
            return Ok(Seat::taken(&self.fairness, self.about.clone(), work, at));
        }
        self.about.schema.counts.waited_in_vain.observe(waited);
        self.timed_out = true;
        Err(refuse(&self.fairness, &self.about.schema, "time-out"))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let schema = &self.about.schema;
        schema.counts.wait(&self.work, -1);
        self.fairness.current.add(self.fairness.now(), (Phase::Waiting, self.sort), -1);
        if self.done {
            return;
        }
        let mut set = schema.level.set.lock();
        let now = self.fairness.now();
        if set.cancel(now, self.ticket).is_some() {
            let tally = &schema.level.tally;
            let gone = if self.timed_out { &tally.timed_out } else { &tally.cancelled };
            gone.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // It was its turn this very moment: turns are given under the lock.
        if let Ok(running) = self.turn.try_recv() {
            let mut dispatched = Vec::new();
            if set.finish(now, running, &mut dispatched).is_some() {
                set.release(now, running, &mut dispatched);
            }
            hand_out(&mut set, now, dispatched);
        }
    }
}

impl Seat {
    fn taken(
        fairness: &Arc<Fairness>,
        about: About,
        (running, work): (Running, Work),
        (sort, came): (Sort, Instant),
    ) -> Self {
        let schema = Arc::clone(&about.schema);
        let seats = work.max_seats();
        fairness.current.add(fairness.now(), (Phase::Executing, sort), 1);
        schema.counts.execute(seats, 1);
        schema.counts.dispatched.inc();
        schema.level.tally.dispatched.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let place = schema.level.executing.begin(about, (running, work), (came, began));
        let fairness = Arc::clone(fairness);
        Self(Some(Taken { schema, fairness, running, place, seats, began, sort }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(taken) = self.0.take() else { return };
        let (schema, fairness) = (&taken.schema, &taken.fairness);
        schema.counts.execute(taken.seats, -1);
        schema.counts.executed(taken.sort.watch).observe(taken.began.elapsed());
        let mut dispatched = Vec::new();
        let mut set = schema.level.set.lock();
        let now = fairness.now();
        fairness.current.add(now, (Phase::Executing, taken.sort), -1);
        let until = set.finish(now, taken.running, &mut dispatched);
        hand_out(&mut set, now, dispatched);
        drop(set);
        match until {
            Some(until) => taken.release_at(until),
            None => schema.level.executing.end(taken.place),
        }
    }
}

impl Taken {
    /// The last seats are given back when those who watch have been told.
    fn release_at(self, until: u64) {
        let at = self.fairness.began + Duration::from_nanos(until);
        let release = move || {
            let mut dispatched = Vec::new();
            let mut set = self.schema.level.set.lock();
            let now = self.fairness.now();
            set.release(now, self.running, &mut dispatched);
            hand_out(&mut set, now, dispatched);
            drop(set);
            self.schema.level.executing.end(self.place);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    tokio::time::sleep_until(at).await;
                    release();
                });
            }
            Err(_) => release(),
        }
    }
}

/// Holds seats until an answer has been written.
pub(crate) fn hold(seat: Seat, answer: Response<Body>) -> Response<Body> {
    if seat.0.is_none() {
        return answer;
    }
    answer.map(|body| match body {
        Body::Full(_) => body,
        Body::Stream(pieces) => {
            let held = pieces.map(move |piece| {
                let _held = &seat;
                piece
            });
            Body::Stream(held.boxed())
        }
    })
}

impl Schema {
    /// What answers say of the request's schema and level; nothing, where no object made them.
    pub(crate) fn headers(&self) -> [(HeaderName, &HeaderValue); 2] {
        const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
        const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
        [(SCHEMA, &self.uid), (LEVEL, &self.level.uid)]
    }
}
