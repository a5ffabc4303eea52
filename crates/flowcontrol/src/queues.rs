//! The requests of one level: who has seats, who waits, and whose turn it is. Upstream: `fairqueuing/queueset`.
//!
//! Fair queuing by virtual time: it passes as fast as each busy queue could be served if all were served at once, in
//! seats times seconds. Each queue knows the virtual time at which its next request would begin; the request that would
//! end first goes first.

mod usage;

use std::collections::VecDeque;

use crate::deal::hand;
use crate::demand::{Demand, Observed};
use crate::spec::Kind;
use usage::Usage;
pub use usage::Use;

/// How long a request is thought to take before it is known (upstream: 3 ms), in seconds.
const ESTIMATED_SECONDS: f64 = 0.003;
const NANOS_PER_SECOND: f64 = 1e9;

/// The seats that a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// While it is served.
    pub initial_seats: u32,
    /// Afterwards, while others are told of it.
    pub final_seats: u32,
    /// How long that takes, in nanoseconds.
    pub additional_nanos: u64,
}

impl Work {
    /// A request that is done when it is answered.
    #[must_use]
    pub fn seats(seats: u32) -> Self {
        Self { initial_seats: seats, final_seats: 0, additional_nanos: 0 }
    }

    /// The seats that it needs at once.
    #[must_use]
    pub fn max_seats(&self) -> u32 {
        self.initial_seats.max(self.final_seats)
    }

    /// In seats times seconds.
    fn total(&self) -> f64 {
        f64::from(self.initial_seats) * ESTIMATED_SECONDS
            + f64::from(self.final_seats) * seconds(self.additional_nanos)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a time has far fewer nanoseconds than 2^53")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_SECOND
}

/// A request that has seats; to be given back to [`QueueSet::finish`].
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Running {
    queue: Option<usize>,
    work: Work,
    began: u64,
}

impl Running {
    /// Whether it went through a queue, if only for a moment.
    #[must_use]
    pub fn was_queued(&self) -> bool {
        self.queue.is_some()
    }

    /// The queue that it went through.
    #[must_use]
    pub fn queue(&self) -> Option<usize> {
        self.queue
    }
}

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    queue: usize,
    id: u64,
    length: usize,
}

impl Ticket {
    /// How many were in its queue, itself included, when it came.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

/// Who waits.
pub trait Waiter {
    /// It was its turn, and there was not enough room.
    fn unaccommodated(&self) {}
}

/// The virtual times of a dispatch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Dispatch {
    /// When it was.
    pub at: f64,
    /// When the request begins.
    pub start: f64,
    /// When the next requests of queues would have begun, the first and the last.
    pub starts: (f64, f64),
    /// The same, less the work of those who are served.
    pub discounted: (f64, f64),
}

impl Dispatch {
    const NONE: (f64, f64) = (f64::INFINITY, f64::NEG_INFINITY);

    /// Takes the next request of a queue into account.
    fn add(&mut self, start: f64, in_progress: f64) {
        let wider = |(least, most): (f64, f64), it: f64| (least.min(it), most.max(it));
        self.starts = wider(self.starts, start);
        self.discounted = wider(self.discounted, start - in_progress);
    }
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many wait already.
    QueueFull,
    /// There is no seat, and no queue.
    ConcurrencyLimit,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Arrival {
    /// It is served now.
    Now(Running),
    /// It waits.
    Waits(Ticket),
    /// It is not served.
    Refused(Refusal),
}

/// Those whose turn it is now.
pub type Dispatched<W> = Vec<(W, Running)>;

/// The requests of one level.
#[derive(Debug)]
pub struct QueueSet<W> {
    kind: Kind,
    limit: u32,
    now: u64,
    virtual_now: f64,
    queues: Vec<Queue<W>>,
    /// Where the search for the next request begins, so that equals take turns.
    robin: usize,
    /// Queues with requests that wait or are served.
    busy: usize,
    waiting: usize,
    seats_waiting: u32,
    running: usize,
    seats_in_use: u32,
    /// Requests that are answered, and whose last seats are not given back.
    lingering: usize,
    demand: Demand,
    usage: Usage,
    last: Option<Dispatch>,
    next_id: u64,
}

#[derive(Debug)]
struct Queue<W> {
    waiting: VecDeque<Waiting<W>>,
    /// The virtual time at which its next request would begin.
    next_start: f64,
    running: usize,
    seats_in_use: u32,
    /// The work of those who wait.
    work: f64,
}

#[derive(Debug)]
struct Waiting<W> {
    id: u64,
    arrived: u64,
    virtual_arrival: f64,
    work: Work,
    waiter: W,
}

impl<W> Queue<W> {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), next_start: 0.0, running: 0, seats_in_use: 0, work: 0.0 }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }

    /// The work that those who are served have still to do, as far as anybody knows.
    fn in_progress(&self) -> f64 {
        f64::from(self.seats_in_use) * ESTIMATED_SECONDS
    }
}

impl<W: Waiter> QueueSet<W> {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(kind: Kind, limit: u32) -> Self {
        let mut set = Self {
            kind,
            limit,
            now: 0,
            virtual_now: 0.0,
            queues: Vec::new(),
            robin: 0,
            busy: 0,
            waiting: 0,
            seats_waiting: 0,
            running: 0,
            seats_in_use: 0,
            lingering: 0,
            demand: Demand::default(),
            usage: Usage::new(),
            last: None,
            next_id: 0,
        };
        set.resize();
        set
    }

    /// What the use of a level without seats of its own is compared with.
    #[must_use]
    pub fn compared_with(mut self, seats: u32) -> Self {
        self.usage.fallback = seats;
        self
    }

    /// Other rules from now on; those who are there stay where they are.
    pub fn configure(&mut self, now: u64, kind: Kind, limit: u32) -> Dispatched<W> {
        self.advance(now);
        self.kind = kind;
        self.limit = limit;
        self.resize();
        let mut dispatched = Vec::new();
        self.dispatch(&mut dispatched);
        self.note();
        dispatched
    }

    fn resize(&mut self) {
        let wanted = match self.kind {
            Kind::Queue { queues, .. } => queues,
            Kind::Exempt | Kind::Reject => 0,
        };
        while self.queues.len() > wanted && self.queues.last().is_some_and(Queue::is_idle) {
            self.queues.pop();
        }
        while self.queues.len() < wanted {
            self.queues.push(Queue::new());
        }
    }

    fn advance(&mut self, now: u64) {
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        if self.busy > 0 {
            let served = self.seats_in_use.saturating_add(self.seats_waiting).min(self.limit);
            #[allow(clippy::cast_precision_loss, reason = "queues are few")]
            let busy = self.busy as f64;
            self.virtual_now += seconds(passed) * f64::from(served) / busy;
        }
    }

    /// Writes down how much is used and wanted from now on.
    fn note(&mut self) {
        let seats = self.seats_in_use.saturating_add(self.seats_waiting);
        self.demand.set(self.now, f64::from(seats));
        let served = self.running - self.lingering;
        let limits = (self.kind, self.limit);
        self.usage.set(self.now, limits, (self.waiting, served), (self.seats_in_use, seats));
    }

    /// A request comes. Where it has to wait, `waiter` is kept, and comes back when it is its turn, which may be at once:
    /// those whose turn it is are added to `dispatched`.
    pub fn arrive(
        &mut self,
        now: u64,
        hash: u64,
        work: Work,
        (waiter, dispatched): (impl FnOnce() -> W, &mut Dispatched<W>),
    ) -> Arrival {
        self.advance(now);
        let arrival = match self.kind {
            Kind::Exempt => Arrival::Now(self.begin(None, work)),
            Kind::Reject if self.has_room(work.max_seats()) => Arrival::Now(self.begin(None, work)),
            Kind::Reject => Arrival::Refused(Refusal::ConcurrencyLimit),
            Kind::Queue { queues, hand_size, length_limit } => {
                let queue = self.choose(hash, queues, hand_size);
                if self.waiting == 0 && self.has_room(work.max_seats()) {
                    Arrival::Now(self.begin_at_once(queue, work))
                } else if self.seats_in_use >= self.limit
                    && self.queues[queue].waiting.len() >= length_limit
                {
                    Arrival::Refused(Refusal::QueueFull)
                } else {
                    let ticket = self.enqueue(queue, work, waiter());
                    self.dispatch(dispatched);
                    Arrival::Waits(ticket)
                }
            }
        };
        self.note();
        arrival
    }

    /// Whether so many seats can be given. A request that wants more than there are may have all.
    fn has_room(&self, seats: u32) -> bool {
        if self.kind == Kind::Exempt {
            return true;
        }
        if seats > self.limit {
            return self.seats_in_use == 0;
        }
        self.seats_in_use.saturating_add(seats) <= self.limit
    }

    /// The queue of a flow with the least to do.
    fn choose(&self, hash: u64, deck: usize, hand_size: usize) -> usize {
        let (mut chosen, mut least) = (0, f64::INFINITY);
        hand(hash, deck, hand_size, |card| {
            let queue = &self.queues[card];
            let work = queue.work + queue.in_progress();
            if work < least {
                (chosen, least) = (card, work);
            }
        });
        chosen
    }

    fn begin(&mut self, queue: Option<usize>, work: Work) -> Running {
        self.running += 1;
        self.seats_in_use = self.seats_in_use.saturating_add(work.max_seats());
        if let Some(queue) = queue.map(|it| &mut self.queues[it]) {
            queue.running += 1;
            queue.seats_in_use = queue.seats_in_use.saturating_add(work.max_seats());
            queue.next_start += work.total();
        }
        Running { queue, work, began: self.now }
    }

    fn begin_at_once(&mut self, place: usize, work: Work) -> Running {
        self.wake(place);
        self.keep_up(place);
        let queue = &self.queues[place];
        let (start, in_progress) = (queue.next_start, queue.in_progress());
        let mut last = self.dispatch_at(start);
        last.add(start, in_progress);
        self.last = Some(last);
        self.begin(Some(place), work)
    }

    fn dispatch_at(&self, start: f64) -> Dispatch {
        let (starts, discounted) = (Dispatch::NONE, Dispatch::NONE);
        Dispatch { at: self.virtual_now, start, starts, discounted }
    }

    /// A queue that had nothing to do begins now.
    fn wake(&mut self, place: usize) {
        let queue = &mut self.queues[place];
        if queue.is_idle() {
            queue.next_start = self.virtual_now;
            self.busy += 1;
        }
    }

    /// Nobody's next request begins in the past.
    fn keep_up(&mut self, place: usize) {
        let queue = &mut self.queues[place];
        queue.next_start = queue.next_start.max(self.virtual_now + queue.in_progress());
    }

    fn enqueue(&mut self, place: usize, work: Work, waiter: W) -> Ticket {
        self.wake(place);
        let id = self.next_id;
        self.next_id += 1;
        let (arrived, virtual_arrival) = (self.now, self.virtual_now);
        let queue = &mut self.queues[place];
        queue.waiting.push_back(Waiting { id, arrived, virtual_arrival, work, waiter });
        queue.work += work.total();
        let length = queue.waiting.len();
        self.waiting += 1;
        self.seats_waiting = self.seats_waiting.saturating_add(work.max_seats());
        Ticket { queue: place, id, length }
    }

    /// Serves those whose turn it is, as long as there are seats.
    fn dispatch(&mut self, dispatched: &mut Dispatched<W>) {
        while self.waiting > 0 && (self.seats_in_use < self.limit || self.kind == Kind::Exempt) {
            let Some((place, mut last)) = self.next() else { return };
            let Some(first) = self.queues[place].waiting.front() else { return };
            // Who is next waits for seats, and nobody smaller goes before: else it would wait for ever.
            if !self.has_room(first.work.max_seats()) {
                first.waiter.unaccommodated();
                return;
            }
            self.robin = place;
            self.keep_up(place);
            last.start = self.queues[place].next_start;
            self.last = Some(last);
            let Some(first) = self.remove(place, 0) else { return };
            let running = self.begin(Some(place), first.work);
            dispatched.push((first.waiter, running));
        }
    }

    /// The queue whose first request would end first; among equals the one after the last that was served.
    fn next(&self) -> Option<(usize, Dispatch)> {
        let many = self.queues.len();
        let (mut found, mut earliest) = (None, f64::INFINITY);
        let mut seen = self.dispatch_at(0.0);
        for step in 1..=many {
            let place = (self.robin + step) % many;
            let queue = &self.queues[place];
            let Some(first) = queue.waiting.front() else { continue };
            seen.add(queue.next_start, queue.in_progress());
            let end = queue.next_start + first.work.total();
            if end < earliest {
                (found, earliest) = (Some(place), end);
            }
        }
        found.map(|place| (place, seen))
    }

    fn remove(&mut self, place: usize, index: usize) -> Option<Waiting<W>> {
        let queue = &mut self.queues[place];
        let removed = queue.waiting.remove(index)?;
        queue.work = if queue.waiting.is_empty() { 0.0 } else { queue.work - removed.work.total() };
        self.waiting -= 1;
        self.seats_waiting = self.seats_waiting.saturating_sub(removed.work.max_seats());
        Some(removed)
    }

    /// A request waits no longer; `None` where it does not wait any more.
    pub fn cancel(&mut self, now: u64, ticket: Ticket) -> Option<W> {
        self.advance(now);
        let queue = self.queues.get(ticket.queue)?;
        let index = queue.waiting.iter().position(|it| it.id == ticket.id)?;
        let removed = self.remove(ticket.queue, index)?;
        self.bound(ticket.queue);
        self.rest(ticket.queue);
        self.note();
        Some(removed.waiter)
    }

    /// A queue that has nothing to do any more.
    fn rest(&mut self, place: usize) {
        if self.queues[place].is_idle() {
            self.busy -= 1;
            self.resize();
        }
    }

    /// A queue does not go ahead of the time at which its first request came.
    fn bound(&mut self, place: usize) {
        let queue = &mut self.queues[place];
        if let Some(first) = queue.waiting.front() {
            queue.next_start = queue.next_start.max(first.virtual_arrival);
        }
    }

    /// A request was answered. What comes back is when the last of its seats are to be given back with
    /// [`Self::release`]; nothing, where that is done.
    pub fn finish(
        &mut self,
        now: u64,
        running: Running,
        dispatched: &mut Dispatched<W>,
    ) -> Option<u64> {
        self.advance(now);
        let work = running.work;
        let lasts = work.final_seats > 0 && work.additional_nanos > 0;
        let kept = if lasts { work.final_seats } else { 0 };
        self.give_back(running.queue, work.max_seats() - kept);
        if let Some(place) = running.queue {
            let took = seconds(self.now.saturating_sub(running.began));
            let queue = &mut self.queues[place];
            queue.next_start -= f64::from(work.initial_seats) * (ESTIMATED_SECONDS - took);
            self.bound(place);
        }
        if lasts {
            self.lingering += 1;
        } else {
            self.leave(running.queue);
        }
        self.dispatch(dispatched);
        self.note();
        lasts.then(|| self.now + work.additional_nanos)
    }

    /// The last seats of a request are given back.
    pub fn release(&mut self, now: u64, running: Running, dispatched: &mut Dispatched<W>) {
        self.advance(now);
        self.give_back(running.queue, running.work.final_seats);
        self.lingering -= 1;
        self.leave(running.queue);
        self.dispatch(dispatched);
        self.note();
    }

    fn give_back(&mut self, queue: Option<usize>, seats: u32) {
        self.seats_in_use = self.seats_in_use.saturating_sub(seats);
        if let Some(queue) = queue.map(|it| &mut self.queues[it]) {
            queue.seats_in_use = queue.seats_in_use.saturating_sub(seats);
        }
    }

    fn leave(&mut self, queue: Option<usize>) {
        self.running -= 1;
        if let Some(place) = queue {
            self.queues[place].running -= 1;
            self.rest(place);
        }
    }

    /// What was wanted since the last time.
    pub fn take_demand(&mut self, now: u64) -> Observed {
        self.advance(now);
        self.demand.take(self.now)
    }

    /// Whether nobody waits or is served.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }

    /// How many wait, and how many are served.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.waiting, self.running)
    }

    /// The seats in use, and those that are waited for.
    #[must_use]
    pub fn seats(&self) -> (u32, u32) {
        (self.seats_in_use, self.seats_waiting)
    }

    /// How many seats there are.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The last time that a request left a queue.
    #[must_use]
    pub fn last_dispatch(&self) -> Option<Dispatch> {
        self.last
    }

    /// How much was used over all the time.
    #[must_use]
    pub fn used(&self, now: u64) -> [(Use, crate::Timed); 4] {
        self.usage.shown(now)
    }

    /// The virtual time.
    #[must_use]
    pub fn virtual_now(&self) -> f64 {
        self.virtual_now
    }

    /// The queues as they are.
    pub fn queues(&self) -> impl Iterator<Item = QueueState<'_, W>> {
        self.queues.iter().map(|queue| QueueState { queue })
    }
}

/// A queue as it is.
#[derive(Debug)]
pub struct QueueState<'q, W> {
    queue: &'q Queue<W>,
}

/// A request that waits, as it is.
#[derive(Debug)]
pub struct WaitingState<'q, W> {
    /// Who waits.
    pub waiter: &'q W,
    /// When it came.
    pub arrived: u64,
    /// What it takes.
    pub work: Work,
}

impl<W> QueueState<'_, W> {
    /// Those who wait, in their order.
    pub fn waiting(&self) -> impl Iterator<Item = WaitingState<'_, W>> {
        self.queue.waiting.iter().map(|it| WaitingState {
            waiter: &it.waiter,
            arrived: it.arrived,
            work: it.work,
        })
    }

    /// How many are served, and with how many seats.
    #[must_use]
    pub fn running(&self) -> (usize, u32) {
        (self.queue.running, self.queue.seats_in_use)
    }

    /// The virtual time at which its next request would begin.
    #[must_use]
    pub fn next_start(&self) -> f64 {
        self.queue.next_start
    }

    /// Seats at first, at most, and work of those who wait.
    #[must_use]
    pub fn sums(&self) -> (u32, u32, f64) {
        let of =
            |seats: fn(&Work) -> u32| self.queue.waiting.iter().map(|it| seats(&it.work)).sum();
        (of(|it| it.initial_seats), of(Work::max_seats), self.queue.work)
    }
}

#[cfg(test)]
mod tests;
