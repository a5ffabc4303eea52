//! How much of levels and of the server was used over time, in upstream's names. Counts are nanoseconds, sums numbers
//! times nanoseconds.

use std::fmt::Write as _;

use flowcontrol::{Timed, TimedHistogram, Use};
use parking_lot::Mutex;

use super::Fairness;

/// Upstream's buckets of `read_vs_write_current_requests`.
const CURRENT: [f64; 15] =
    [0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const LEVEL: &str = "priority_level";

/// What a request is, as far as counting it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sort {
    pub(super) watch: bool,
    /// Whether it changes something.
    pub(super) writes: bool,
}

impl Sort {
    pub(super) fn of(verb: &str) -> Self {
        let watch = verb == "watch";
        Self { watch, writes: !watch && !matches!(verb, "get" | "list") }
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    Executing,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Executing => "executing",
        }
    }
}

/// Requests that read and that write, as they wait and as they are served.
#[derive(Debug)]
pub(super) struct Current([Mutex<Count>; 4]);

#[derive(Debug)]
struct Count {
    requests: i32,
    over_time: TimedHistogram,
}

impl Default for Current {
    fn default() -> Self {
        let count = || {
            let mut over_time = TimedHistogram::new(&CURRENT);
            over_time.set(0, 0.0);
            Mutex::new(Count { requests: 0, over_time })
        };
        Self([count(), count(), count(), count()])
    }
}

impl Current {
    fn place(phase: Phase, writes: bool) -> usize {
        usize::from(phase == Phase::Executing) * 2 + usize::from(writes)
    }

    /// Upstream's limit is one, so that what is told is how many there are.
    pub(super) fn add(&self, now: u64, (phase, sort): (Phase, Sort), by: i32) {
        let mut count = self.0[Self::place(phase, sort.writes)].lock();
        count.requests += by;
        let requests = f64::from(count.requests);
        count.over_time.set(now, requests);
    }
}

impl Fairness {
    /// How many requests wait that change something, and how many that do not.
    pub(crate) fn waiting(&self) -> (i32, i32) {
        let count = |writes| self.current.0[Current::place(Phase::Waiting, writes)].lock().requests;
        (count(true), count(false))
    }

    /// The histograms over time, as `/metrics` shows them.
    pub(crate) fn text(&self, out: &mut String) {
        let now = self.now();
        let config = self.config.load();
        let used: Vec<_> =
            config.levels.iter().map(|it| (it.name.as_str(), it.set.lock().used(now))).collect();
        let mut family = |name: &str, help: &str, shown: &[(Use, &str)]| {
            begin(out, name, help);
            for (level, used) in &used {
                for (what, labels) in shown {
                    let timed = used.iter().filter(|(of, _)| of == what);
                    timed.for_each(|(_, timed)| {
                        let labels = format!("{labels}{LEVEL}=\"{level}\"");
                        write(out, name, &labels, timed);
                    });
                }
            }
        };
        let help =
            "Seats that a level could use, as part of its own, at the end of each nanosecond";
        family("demand_seats", help, &[(Use::Wanted, "")]);
        let help = "Seats in use, as part of a level's own, at the end of each nanosecond";
        family("priority_level_seat_utilization", help, &[(Use::Seats, "phase=\"executing\",")]);
        let help =
            "Requests that wait or are served, as part of the limit, at the end of each nanosecond";
        let phases = [(Use::Waiting, "phase=\"waiting\","), (Use::Served, "phase=\"executing\",")];
        family("priority_level_request_utilization", help, &phases);
        let name = "read_vs_write_current_requests";
        begin(out, name, "Requests that wait or are served, at the end of each nanosecond");
        for phase in [Phase::Waiting, Phase::Executing] {
            for (kind, writes) in [("mutating", true), ("readOnly", false)] {
                let timed = self.current.0[Current::place(phase, writes)].lock();
                let timed = timed.over_time.shown(now);
                let labels = format!("phase=\"{}\",request_kind=\"{kind}\"", phase.name());
                write(out, name, &labels, &timed);
            }
        }
    }
}

fn begin(out: &mut String, name: &str, help: &str) {
    let name = format!("apiserver_flowcontrol_{name}");
    let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} histogram");
}

fn write(out: &mut String, name: &str, labels: &str, timed: &Timed) {
    let Timed { buckets, count, sum } = timed;
    let name = format!("apiserver_flowcontrol_{name}");
    for (bound, nanos) in buckets {
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {nanos}");
    }
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
}
