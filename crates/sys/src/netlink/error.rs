//! What went wrong, and with what it did.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// Something the kernel refused, or a reply that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel answered a request with an error.
    #[error("could not {doing}{}", Detail(.detail))]
    Refused {
        /// What was being done, to what.
        doing: String,
        /// What the kernel says beyond the error number.
        detail: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// A system call around the request failed.
    #[error("could not {doing}")]
    System {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// More than the protocol can say, for example a name of 70,000 bytes.
    #[error("could not {doing}: the request does not fit into a netlink message")]
    TooLarge {
        /// What was being done.
        doing: String,
    },
    /// The kernel's reply ended before it was complete.
    #[error("could not {doing}: the kernel's reply is malformed")]
    Malformed {
        /// What was being done.
        doing: String,
    },
}

struct Detail<'a>(&'a Option<String>);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

impl NetlinkError {
    pub(crate) fn system(doing: impl Into<String>, errno: Errno) -> Self {
        Self::System { doing: doing.into(), source: errno.into() }
    }

    /// The error number, where there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::System { source, .. } => source.raw_os_error(),
            Self::TooLarge { .. } | Self::Malformed { .. } => None,
        }
    }

    /// Whether the thing already existed.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.raw_os_error() == Some(libc::EEXIST)
    }

    /// Whether the thing did not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.raw_os_error(),
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL)
        )
    }
}
