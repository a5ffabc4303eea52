//! Parts of answers: quantities, times, selectors, and upstream's refusals.

use apimachinery::labels::Selector;
use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Status, time};
use jiff::Timestamp;

/// A value as upstream writes it: in thousandths, what is no number as zero.
#[expect(clippy::cast_possible_truncation, reason = "saturates: no metric is read beyond that")]
pub(crate) fn quantity(value: f64) -> String {
    let milli = if value.is_nan() { 0 } else { (value * 1000.0) as i64 };
    Quantity::from_milli(milli, Format::DecimalSI).to_text().to_string()
}

/// A time of Prometheus, in seconds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "saturates, and what is no time is refused below"
)]
pub(crate) fn moment(seconds: f64, now: Timestamp) -> String {
    let millis = (seconds * 1000.0) as i64;
    time::format_time(Timestamp::from_millisecond(millis).unwrap_or(now)).to_string()
}

/// Reads a selector of the query.
///
/// # Errors
/// 400 where it is none.
pub(crate) fn selector(text: &str) -> Result<Selector, Status> {
    Selector::parse(text).map_err(|error| Status::bad_request(error.to_string()))
}

/// 404 without details, as upstream's library of metric servers tells.
pub(crate) fn not_found(metric: &str, of: &str) -> Status {
    Status {
        code: 404,
        reason: "NotFound",
        message: format!("the server could not find the metric {metric} for {of}"),
        details: None,
        success: false,
    }
}

/// 500: what exactly went wrong is in the log, and no client's business.
pub(crate) fn unable(metric: &str, why: &str) -> Status {
    tracing::warn!(metric, why, "a metric could not be fetched");
    Status::internal("unable to fetch metrics")
}
