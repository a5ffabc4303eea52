//! A network namespace, and work done inside it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::NetlinkError;

/// A network namespace: the process's own, or one that has a path.
#[derive(Debug, Clone, Default)]
pub struct Netns(Option<Arc<Foreign>>);

#[derive(Debug)]
struct Foreign {
    path: PathBuf,
    file: File,
}

impl Netns {
    /// The namespace this process runs in.
    #[must_use]
    pub fn own() -> Self {
        Self(None)
    }

    /// The namespace at `path`, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened.
    pub fn at(path: &Path) -> Result<Self, NetlinkError> {
        let file = File::open(path).map_err(|source| NetlinkError::System {
            doing: format!("open network namespace {}", path.display()),
            source,
        })?;
        Ok(Self(Some(Arc::new(Foreign { path: path.to_owned(), file }))))
    }

    /// A new namespace without a path. It ends with the last holder of it and of the sockets in it.
    ///
    /// # Errors
    /// When this process may not make namespaces.
    pub fn anonymous() -> Result<Self, NetlinkError> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let make = || {
            // SAFETY: only the network namespace is left; no file descriptor table or memory is unshared, so that
            // nothing this thread shares with others changes for them.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open(&path)
        };
        let made = thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, make)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let file = made.map_err(|source: io::Error| NetlinkError::System {
            doing: "make a network namespace".to_owned(),
            source,
        })?;
        Ok(Self(Some(Arc::new(Foreign { path: PathBuf::from("(anonymous)"), file }))))
    }

    /// An open descriptor of the namespace, where it is not the process's own.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.0.as_deref().map(|foreign| &foreign.file)
    }

    /// Runs `work` inside the namespace: on a thread of its own that ends with it, unless the namespace is
    /// the process's own.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetlinkError> {
        let Some(foreign) = self.0.as_deref() else { return Ok(work()) };
        let doing = || format!("enter network namespace {}", foreign.path.display());
        let enter = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(foreign.file.as_fd(), kind)?;
            Ok(work())
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(|source: io::Error| NetlinkError::System { doing: doing(), source })
    }
}
