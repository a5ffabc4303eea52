//! `/debug/api_priority_and_fairness/`: who waits and who is served, as tables of text.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use apimachinery::time;
use http::Response;
use jiff::SignedDuration;

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
    for level in &fairness.config.load().levels {
        let set = level.set.lock();
        for (index, queue) in set.queues().enumerate() {
            for (place, it) in queue.waiting().enumerate() {
                let about = &it.waiter.about;
                let ago = i64::try_from(now.saturating_sub(it.arrived)).unwrap_or(i64::MAX);
                let came = wall.checked_sub(SignedDuration::from_nanos(ago)).unwrap_or(wall);
                let mut row = vec![
                    level.name.to_string(),
                    about.schema.to_string(),
                    index.to_string(),
                    place.to_string(),
                    about.distinguisher.to_string(),
                    time::format_micro_time(came).to_string(),
                    it.work.initial_seats.to_string(),
                    it.work.final_seats.to_string(),
                    format!("{}ms", it.work.additional_nanos / 1_000_000),
                    "0001-01-01T00:00:00Z".into(),
                ];
                if details {
                    let info = &about.info;
                    let version = match info.group.as_str() {
                        "" => info.version.clone(),
                        group => format!("{group}/{}", info.version),
                    };
                    row.extend([about.user.name.clone(), info.verb.to_owned(), info.path.clone()]);
                    row.extend([info.namespace.clone(), info.name.clone(), version]);
                    row.extend([info.resource.clone(), info.subresource.clone()]);
                }
                rows.push(row);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_one_below_the_other() {
        let rows = [headers(&["A", "LongName", "C"]), headers(&["workload-low", "1", "x"])];
        assert_eq!(table(&rows), "A,            LongName, C\nworkload-low, 1,        x\n");
    }
}
