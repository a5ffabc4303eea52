//! What a log is asked for by: read and judged before anybody looks for the pod. Upstream: `ValidatePodLogOptions`.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::{Status, Value, time};

use crate::options;
use crate::query::Query;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const POSITIVE: &str = "must be greater than 0";

/// Judges the options of a pod's log.
///
/// # Errors
/// 400 for what is no number or time, 422 for what is none that can be.
pub(super) fn check(query: &Query, pod: &str) -> Result<(), Status> {
    let number = |name| options::given_number(query, name);
    let since_time = query.get("sinceTime");
    if let Some(text) = since_time.filter(|it| !it.is_empty()) {
        time::parse_time(text).map_err(Status::bad_request)?;
    }
    let (since, tail, limit) =
        (number("sinceSeconds")?, number("tailLines")?, number("limitBytes")?);
    let mut errors = FieldErrors::new();
    let mut at_least = |name: &str, number: Option<i64>, least: i64, why: &str| {
        if let Some(number) = number.filter(|it| *it < least) {
            errors.invalid(&Path::new(name), &Value::Int(number), why);
        }
    };
    at_least("tailLines", tail, 0, NOT_NEGATIVE);
    at_least("limitBytes", limit, 1, POSITIVE);
    match (since, since_time) {
        (Some(_), Some(_)) => errors.forbidden(
            &Path::new(""),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ),
        (since, _) => at_least("sinceSeconds", since, 1, POSITIVE),
    }
    // Upstream's gate PodLogsQuerySplitStreams, which is off.
    if query.get("stream").is_some() {
        errors.forbidden(&Path::new("stream"), "may not be specified");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid("", "PodLogOptions", pod, &errors))
}
