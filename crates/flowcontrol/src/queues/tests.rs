//! A level under load, in virtual time: one flow that floods and one that asks now and then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::*;
use crate::deal::flow_hash;

const MS: u64 = 1_000_000;
const QUEUES: Kind = Kind::Queue { queues: 16, hand_size: 4, length_limit: 50 };

/// Requests that come and are served; each takes `service` from when it has its seats.
struct Play {
    set: QueueSet<Request>,
    /// What ends when; the number keeps those of one moment in order.
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    running: BTreeMap<u64, (Running, bool)>,
    next: u64,
    service: u64,
    waits: BTreeMap<&'static str, Vec<u64>>,
    refused: BTreeMap<&'static str, usize>,
    most: u32,
    trace: u64,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    flow: &'static str,
    came: u64,
}

impl Waiter for Request {}
impl Waiter for u32 {}

impl Play {
    fn new(kind: Kind, limit: u32, service: u64) -> Self {
        Self {
            set: QueueSet::new(kind, limit),
            ends: BinaryHeap::new(),
            running: BTreeMap::new(),
            next: 0,
            service,
            waits: BTreeMap::new(),
            refused: BTreeMap::new(),
            most: 0,
            trace: 0,
        }
    }

    fn start(&mut self, now: u64, request: Request, running: Running) {
        self.waits.entry(request.flow).or_default().push(now - request.came);
        self.trace = flow_hash(request.flow, &format!("{now}{}", self.trace));
        self.running.insert(self.next, (running, false));
        self.ends.push(Reverse((now + self.service, self.next)));
        self.next += 1;
        self.most = self.most.max(self.set.seats().0);
    }

    fn come(&mut self, now: u64, flow: &'static str, work: Work) {
        self.end_until(now);
        let (request, mut dispatched) = (Request { flow, came: now }, Vec::new());
        match self.set.arrive(now, flow_hash("s", flow), work, (|| request, &mut dispatched)) {
            Arrival::Now(running) => self.start(now, request, running),
            Arrival::Waits(_) => {}
            Arrival::Refused(_) => *self.refused.entry(flow).or_default() += 1,
        }
        dispatched.into_iter().for_each(|(request, running)| self.start(now, request, running));
    }

    fn end_until(&mut self, until: u64) {
        while let Some(Reverse((now, id))) = self.ends.peek().copied().filter(|it| it.0.0 <= until)
        {
            self.ends.pop();
            let Some((running, answered)) = self.running.remove(&id) else { continue };
            let mut dispatched = Vec::new();
            if answered {
                self.set.release(now, running, &mut dispatched);
            } else if let Some(at) = self.set.finish(now, running, &mut dispatched) {
                self.running.insert(id, (running, true));
                self.ends.push(Reverse((at, id)));
            }
            dispatched.into_iter().for_each(|(request, running)| self.start(now, request, running));
        }
    }

    fn worst(&self, flow: &str) -> u64 {
        self.waits[flow].iter().copied().max().unwrap_or_default()
    }
}

/// A little generator, so that a seed is a play.
fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// The elephant sends ten times what can be served; the mouse a tenth of it.
fn elephant_and_mouse(mut seed: u64) -> Play {
    let mut play = Play::new(QUEUES, 10, 10 * MS);
    let mut now = 0;
    for turn in 0..20_000_u64 {
        now += random(&mut seed, MS / 5);
        play.come(now, "elephant", Work::seats(1));
        if turn % 100 == 0 {
            play.come(now, "mouse", Work::seats(1));
        }
    }
    play.end_until(u64::MAX);
    play
}

#[test]
fn a_flood_of_one_flow_does_not_hold_up_another() {
    for seed in 0..10 {
        let play = elephant_and_mouse(seed);
        assert!(play.most <= 10, "{} seats in use", play.most);
        assert!(play.set.is_idle() && play.set.seats() == (0, 0));
        assert!(play.refused["elephant"] > 5_000, "{:?}", play.refused);
        assert_eq!(play.refused.get("mouse"), None, "seed {seed}");
        assert_eq!(play.waits["mouse"].len(), 200);
        // One request of ten milliseconds ends each millisecond.
        assert!(play.worst("mouse") <= 25 * MS, "seed {seed}: {} us", play.worst("mouse") / 1_000);
        assert!(play.worst("elephant") > 100 * MS, "seed {seed}: {}", play.worst("elephant"));
    }
}

#[test]
fn the_same_seed_is_the_same_play() {
    for seed in 0..5 {
        assert_eq!(elephant_and_mouse(seed).trace, elephant_and_mouse(seed).trace);
    }
    assert_ne!(elephant_and_mouse(1).trace, elephant_and_mouse(2).trace);
}

#[test]
fn seats_count_and_not_requests() {
    // Both flows always have requests waiting; those of one are four times as wide.
    let mut play =
        Play::new(Kind::Queue { queues: 64, hand_size: 1, length_limit: 1_000 }, 8, 10 * MS);
    for turn in 0..1_000_u64 {
        play.come(turn * MS / 4, "wide", Work::seats(4));
        play.come(turn * MS / 4, "narrow", Work::seats(1));
    }
    let (wide, narrow) = (play.waits["wide"].len() * 4, play.waits["narrow"].len());
    assert!(wide.abs_diff(narrow) * 10 < wide, "{wide} and {narrow} seats");
    play.end_until(u64::MAX);
    assert!(play.set.is_idle());
}

#[test]
fn what_has_no_queue_is_refused_and_what_is_exempt_never_is() {
    let mut play = Play::new(Kind::Reject, 2, 10 * MS);
    (0..3).for_each(|_| play.come(0, "a", Work::seats(1)));
    assert_eq!(play.refused["a"], 1);
    play.come(10 * MS, "a", Work::seats(5));
    assert_eq!(play.waits["a"].len(), 3, "more than there are is all there are");
    let mut play = Play::new(Kind::Exempt, 0, 10 * MS);
    (0..100).for_each(|_| play.come(0, "a", Work::seats(1)));
    assert_eq!((play.waits["a"].len(), play.refused.len()), (100, 0));
    play.end_until(u64::MAX);
    assert!(play.set.is_idle());
}

#[test]
fn seats_are_held_while_others_are_told() {
    let mut play = Play::new(QUEUES, 3, 10 * MS);
    let work = Work { initial_seats: 1, final_seats: 3, additional_nanos: 5 * MS };
    play.come(0, "a", work);
    play.come(MS, "b", Work::seats(1));
    play.end_until(u64::MAX);
    assert_eq!(play.worst("b"), 14 * MS);
    assert!(play.set.is_idle());
}

#[test]
fn a_full_queue_refuses_and_who_gives_up_makes_room() {
    let mut set: QueueSet<u32> =
        QueueSet::new(Kind::Queue { queues: 1, hand_size: 1, length_limit: 2 }, 1);
    let mut out = Vec::new();
    let mut tickets = Vec::new();
    let Arrival::Now(first) = set.arrive(0, 7, Work::seats(1), (|| 0, &mut out)) else {
        panic!("there is a seat")
    };
    for waiter in 1..=2 {
        match set.arrive(0, 7, Work::seats(1), (|| waiter, &mut out)) {
            Arrival::Waits(ticket) => tickets.push(ticket),
            other => panic!("{other:?}"),
        }
    }
    let refused = set.arrive(0, 7, Work::seats(1), (|| 3, &mut out));
    assert!(matches!(refused, Arrival::Refused(Refusal::QueueFull)), "{refused:?}");
    assert_eq!(set.cancel(MS, tickets[0]), Some(1));
    assert_eq!(set.cancel(MS, tickets[0]), None);
    assert_eq!(set.counts(), (1, 1));
    assert!(out.is_empty());
    assert_eq!(set.finish(2 * MS, first, &mut out), None);
    let served: Vec<u32> = out.iter().map(|it| it.0).collect();
    assert_eq!(served, [2]);
    let observed = set.take_demand(2 * MS);
    assert_eq!((observed.high, observed.average), (3.0, 2.5));
}

#[test]
fn more_seats_and_fewer_queues_are_taken_note_of() {
    let mut play = Play::new(QUEUES, 1, 10 * MS);
    for flow in ["a", "b", "c", "d"] {
        play.come(0, flow, Work::seats(1));
    }
    assert_eq!(play.set.counts(), (3, 1));
    let dispatched =
        play.set.configure(MS, Kind::Queue { queues: 1, hand_size: 1, length_limit: 9 }, 4);
    assert_eq!(dispatched.len(), 3, "those in queues that are to go are served first");
    dispatched.into_iter().for_each(|(request, running)| play.start(MS, request, running));
    play.end_until(u64::MAX);
    assert_eq!(play.set.queues().count(), 1);
    play.come(100 * MS, "e", Work::seats(1));
    play.end_until(u64::MAX);
    assert!(play.set.is_idle());
}

#[test]
fn a_level_knows_how_much_of_it_was_used_and_when_requests_left_queues() {
    let mut play = Play::new(Kind::Queue { queues: 2, hand_size: 1, length_limit: 5 }, 4, 10 * MS);
    assert_eq!(play.set.last_dispatch(), None);
    play.come(0, "a", Work::seats(3));
    let last = play.set.last_dispatch().unwrap();
    assert_eq!((last.at, last.start, last.starts), (0.0, 0.0, (0.0, 0.0)));
    // It waits for the second half of the time: there is one seat only.
    play.come(5 * MS, "a", Work::seats(2));
    play.end_until(30 * MS);
    let last = play.set.last_dispatch().unwrap();
    assert!(last.at > 0.0 && last.start >= last.at && last.starts.0 <= last.starts.1, "{last:?}");
    let nanos = |wanted: Use, at_most: f64| {
        let used = play.set.used(30 * MS);
        let (_, timed) = used.into_iter().find(|it| it.0 == wanted).unwrap();
        assert_eq!(timed.count, 30 * MS);
        timed.buckets.into_iter().find(|it| it.0 == at_most).unwrap().1
    };
    assert_eq!(nanos(Use::Waiting, 0.0), 25 * MS);
    assert_eq!(nanos(Use::Served, 0.0), 10 * MS);
    assert_eq!((nanos(Use::Seats, 0.5), nanos(Use::Seats, 0.8)), (20 * MS, 30 * MS));
    assert_eq!((nanos(Use::Wanted, 1.0), nanos(Use::Wanted, 1.4)), (25 * MS, 30 * MS));
}
