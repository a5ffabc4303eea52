//! Kernel parameters of the network namespace that the calling thread is in.

use std::fs;

use crate::NetworkError;

/// Sets `name`, written with slashes since link names may hold dots, below `/proc/sys/net`.
pub(crate) fn set(name: &str, value: &'static str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/{name}");
    // A namespace inside a container may show the parameter read-only with the right value already.
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl {
        name: name.to_owned(),
        value,
        source,
    })
}
