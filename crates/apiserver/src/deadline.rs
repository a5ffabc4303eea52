//! How long a request may take. Upstream: `WithRequestDeadline` and `WithTimeoutForNonLongRunningRequests`.

use std::time::Duration;

use apimachinery::Status;
use apimachinery::duration::Duration as Written;

use crate::Server;
use crate::exchange::Exchange;
use crate::filters::is_stream;

/// The parameter by which a client asks for less.
const TIMEOUT: &str = "timeout";

/// Whether a request lasts as long as its client likes.
fn is_unlimited(exchange: &Exchange) -> bool {
    exchange.info.verb == "watch" || is_stream(exchange)
}

/// What the client asks for.
fn asked(exchange: &Exchange) -> Result<Option<Duration>, Status> {
    let Some(text) = exchange.query.get(TIMEOUT).filter(|it| !it.is_empty()) else {
        return Ok(None);
    };
    let written = Written::parse(text).map_err(|why| {
        Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))
    })?;
    // Nothing, and less than nothing, is no limit of the client's.
    let nanos = u64::try_from(written.as_nanos()).unwrap_or_default();
    Ok((nanos > 0).then(|| Duration::from_nanos(nanos)))
}

/// Refuses what is no duration.
pub(crate) fn check(exchange: &Exchange) -> Result<(), Status> {
    if is_unlimited(exchange) { Ok(()) } else { asked(exchange).map(drop) }
}

/// How long the request may take, if that is limited: what it asks for, and the server's limit at most.
pub(crate) fn limit(server: &Server, exchange: &Exchange) -> Option<Duration> {
    let most = server.operating.request_timeout;
    // Who is in this process waits as long as they like.
    if is_unlimited(exchange) || exchange.peer.user.is_some() {
        return None;
    }
    let asked = asked(exchange).ok().flatten();
    Some(asked.map_or(most, |it| it.min(most)))
}

/// 504: the time is over.
pub(crate) fn exceeded() -> Status {
    let what = "Timeout: request did not complete within the allotted timeout";
    Status::timeout(what, 0)
}
