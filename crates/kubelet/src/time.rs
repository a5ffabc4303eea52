//! Between the times of this process and those inside API types, which are of another version of the library.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp as ApiTimestamp;

fn api(at: Timestamp) -> ApiTimestamp {
    ApiTimestamp::from_nanosecond(at.as_nanosecond()).unwrap_or(ApiTimestamp::UNIX_EPOCH)
}

/// As an object holds it.
pub(crate) fn to_time(at: Timestamp) -> Time {
    Time(api(at))
}

/// From an object.
pub(crate) fn from_time(time: &Time) -> Timestamp {
    Timestamp::from_nanosecond(time.0.as_nanosecond()).unwrap_or(Timestamp::UNIX_EPOCH)
}
