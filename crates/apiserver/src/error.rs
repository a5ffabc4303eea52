//! From what the store says to what a client is told: the one place.

use apimachinery::Status;
use apimachinery::status::{Cause, Details, GroupResource};
use storage::StorageError;

/// What an update is told that lost a race.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// The status of a store's error about an object.
pub(crate) fn of_object(error: &StorageError, of: GroupResource<'_>, name: &str) -> Status {
    match error {
        StorageError::Exists { .. } => Status::already_exists(of, name),
        StorageError::NotFound { .. } => Status::not_found(of, name),
        StorageError::Conflict { .. } => Status::conflict(of, name, MODIFIED),
        StorageError::Compacted { .. }
        | StorageError::Future { .. }
        | StorageError::TooLarge { .. }
        | StorageError::Unavailable(_)
        | StorageError::Unknown(_)
        | StorageError::Refused(_)
        | StorageError::Corrupt(_)
        | StorageError::Transform(_) => general(error),
    }
}

/// The status of a store's error that is about no object.
pub(crate) fn general(error: &StorageError) -> Status {
    match error {
        StorageError::Compacted { .. } => too_old(),
        StorageError::Future { asked, current } => too_large(asked.0, current.0),
        StorageError::TooLarge { .. } => Status::too_large(error.to_string()),
        StorageError::Unavailable(_) => Status::service_unavailable(error.to_string()),
        StorageError::Refused(why) => Status::unexplained(why.as_str()),
        StorageError::Unknown(_) => Status::timeout(error.to_string(), 0),
        other => Status::internal(other),
    }
}

/// What failures begin with that are told as plain text, whatever the client accepts: none of the API's own.
const IN_PLAIN: &str = "Internal Server Error: ";

/// 500 where nobody could find out whether a request may be answered (upstream: `responsewriters.InternalError`).
pub(crate) fn in_plain(uri: &http::Uri, why: &str) -> Status {
    let uri = uri.path_and_query().map_or(uri.path(), http::uri::PathAndQuery::as_str);
    let uri = apimachinery::field::quote(uri);
    Status { code: 500, message: format!("{IN_PLAIN}{uri}: {why}"), ..Status::default() }
}

/// Whether a failure is one of [`in_plain`].
pub(crate) fn is_in_plain(status: &Status) -> bool {
    status.code == 500 && status.reason.is_empty() && status.message.starts_with(IN_PLAIN)
}

/// 410: a list at a revision that is not kept any more.
pub(crate) fn too_old() -> Status {
    Status::expired("The resourceVersion for the provided list is too old.")
}

/// 504: a revision that does not exist yet.
pub(crate) fn too_large(asked: u64, current: u64) -> Status {
    let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
    Status {
        details: Some(Box::new(Details {
            causes: vec![Cause {
                reason: "ResourceVersionTooLarge",
                message: "Too large resource version".into(),
                ..Cause::default()
            }],
            retry_after_seconds: 1,
            ..Details::default()
        })),
        ..Status::timeout(message, 1)
    }
}
