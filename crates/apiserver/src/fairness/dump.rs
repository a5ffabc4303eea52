//! `/debug/api_priority_and_fairness/`: who waits and who is served, as tables of text.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use apimachinery::time;
use flowcontrol::Work;
use http::Response;
use jiff::SignedDuration;

use super::executing::About;
use super::{Fairness, LevelState};
use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::respond;

const PREFIX: &str = "/debug/api_priority_and_fairness/";
/// The least width of a column.
const MIN_WIDTH: usize = 8;

/// The table at a path; `None` where there is none.
pub(crate) fn answer(server: &Server, exchange: &Exchange) -> Option<Response<Body>> {
    let fairness = server.fairness.as_ref()?;
    let rows = match exchange.info.path.strip_prefix(PREFIX)? {
        "dump_priority_levels" => levels(fairness),
        "dump_queues" => queues(fairness),
        "dump_requests" => {
            let details =
                exchange.query.get("includeRequestDetails").is_some_and(|it| !it.is_empty());
            requests(server, fairness, details)
        }
        _ => return None,
    };
    Some(respond::text(200, table(&rows)))
}

type Row = Vec<String>;

/// Columns of requests.
const QUEUE: usize = 2;
const ARRIVED: usize = 5;
/// The place of who is in no queue any more.
const NOWHERE: &str = "-1";
/// When who waits is served.
const NOT_YET: &str = "0001-01-01T00:00:00Z";

fn headers(names: &[&str]) -> Row {
    names.iter().map(|it| (*it).to_owned()).collect()
}

/// Columns that stand one below the other, as Go's `tabwriter` sets them.
fn table(rows: &[Row]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter(|it| column + 1 < it.len()).map(|it| it[column].len() + 1);
        cells.max().map_or(0, |it| (it + 1).max(MIN_WIDTH))
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 < row.len() {
                let cell = format!("{cell},");
                let _ = write!(text, "{cell:<width$}", width = widths[column]);
            } else {
                text.push_str(cell);
            }
        }
        text.push('\n');
    }
    text
}

fn levels(fairness: &Fairness) -> Vec<Row> {
    let mut rows = vec![headers(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for level in &fairness.config.load().levels {
        let quiescing = level.rules.lock().quiescing;
        let set = level.set.lock();
        let (waiting, running) = set.counts();
        let active = set.queues().filter(|it| it.waiting().next().is_some()).count();
        let tally = &level.tally;
        let mut row = vec![
            level.name.to_string(),
            active.to_string(),
            set.is_idle().to_string(),
            quiescing.to_string(),
            waiting.to_string(),
            running.to_string(),
        ];
        let counts = [&tally.dispatched, &tally.rejected, &tally.timed_out, &tally.cancelled];
        row.extend(counts.map(|it| it.load(Ordering::Relaxed).to_string()));
        rows.push(row);
    }
    rows
}

fn queues(fairness: &Fairness) -> Vec<Row> {
    let names = [
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ];
    let mut rows = vec![headers(&names)];
    for level in &fairness.config.load().levels {
        if level.exempt {
            let mut row = vec![level.name.to_string()];
            row.resize(names.len(), "<none>".into());
            rows.push(row);
            continue;
        }
        rows.extend(queues_of(level));
    }
    rows
}

fn queues_of(level: &LevelState) -> Vec<Row> {
    let set = level.set.lock();
    let row = |(index, queue): (usize, flowcontrol::QueueState<'_, _>)| {
        let (running, seats) = queue.running();
        let (initial, most, work) = queue.sums();
        vec![
            level.name.to_string(),
            index.to_string(),
            queue.waiting().count().to_string(),
            running.to_string(),
            seats.to_string(),
            seat_seconds(queue.next_start()),
            initial.to_string(),
            most.to_string(),
            seat_seconds(work),
        ]
    };
    set.queues().enumerate().map(row).collect()
}

fn seat_seconds(amount: f64) -> String {
    format!("{amount:.8}ss")
}

fn requests(server: &Server, fairness: &Fairness, details: bool) -> Vec<Row> {
    let mut names = headers(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    if details {
        names.extend(headers(&[
            "UserName",
            "Verb",
            "APIPath",
            "Namespace",
            "Name",
            "APIVersion",
            "Resource",
            "SubResource",
        ]));
    }
    let mut rows = vec![names];
    let (now, wall) = (fairness.now(), server.clock.now());
    let at = |nanos: u128| {
        let ago = i64::try_from(nanos).unwrap_or(i64::MAX);
        let then = wall.checked_sub(SignedDuration::from_nanos(ago)).unwrap_or(wall);
        time::format_micro_time(then).to_string()
    };
    for level in &fairness.config.load().levels {
        let first = rows.len();
        let set = level.set.lock();
        for (index, queue) in set.queues().enumerate() {
            for (place, it) in queue.waiting().enumerate() {
                let came = at(now.saturating_sub(it.arrived).into());
                let places = [index.to_string(), place.to_string()];
                let times = [came, NOT_YET.to_owned()];
                rows.push(request(level, &it.waiter.about, places, (it.work, times), details));
            }
        }
        drop(set);
        level.executing.for_each(|it| {
            let queue = it.queue.map_or_else(|| NOWHERE.to_owned(), |it| it.to_string());
            let times = [it.came, it.began].map(|it| at(it.elapsed().as_nanos()));
            let places = [queue, NOWHERE.to_owned()];
            rows.push(request(level, &it.about, places, (it.work, times), details));
        });
        // Queue by queue, who is served after who waits; and last who went through none.
        rows[first..].sort_by_cached_key(|row| {
            let place = |cell: &str| cell.parse().unwrap_or(usize::MAX);
            (place(&row[QUEUE]), place(&row[QUEUE + 1]), row[ARRIVED].clone())
        });
    }
    rows
}

/// What is told of a request.
fn request(
    level: &LevelState,
    about: &About,
    places: [String; 2],
    (work, [came, began]): (Work, [String; 2]),
    details: bool,
) -> Row {
    let [queue, place] = places;
    let mut row = vec![
        level.name.to_string(),
        about.schema.flow.name.to_string(),
        queue,
        place,
        about.distinguisher().to_owned(),
        came,
        work.initial_seats.to_string(),
        work.final_seats.to_string(),
        latency(work.additional_nanos),
        began,
    ];
    if details {
        let info = &about.info;
        let version = match info.group.as_str() {
            "" => info.version.to_string(),
            group => format!("{group}/{}", info.version),
        };
        row.extend([about.user.name.clone(), info.verb.to_owned(), info.path.to_string()]);
        row.extend([info.namespace.to_string(), info.name.to_string(), version]);
        row.extend([info.resource.to_string(), info.subresource.to_string()]);
    }
    row
}

/// As Go shows it; these are whole milliseconds.
fn latency(nanos: u64) -> String {
    match nanos / 1_000_000 {
        0 => "0s".to_owned(),
        millis @ 1..1000 => format!("{millis}ms"),
        #[allow(clippy::cast_precision_loss, reason = "milliseconds have far fewer than 53 bits")]
        millis => format!("{}s", millis as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_does() {
        let shown = [0, 5_000_000, 1_000_000_000, 1_255_000_000].map(latency);
        assert_eq!(shown, ["0s", "5ms", "1s", "1.255s"]);
    }

    #[test]
    fn columns_stand_one_below_the_other() {
        let rows = [headers(&["A", "LongName", "C"]), headers(&["workload-low", "1", "x"])];
        assert_eq!(table(&rows), "A,            LongName, C\nworkload-low, 1,        x\n");
    }
}
