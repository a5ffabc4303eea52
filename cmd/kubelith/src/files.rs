//! Files that are read again when they change, without a restart.
//!
//! The kernel tells of changes in the directories that hold them: files that are mounted into a container are replaced by
//! turning a link. Once a minute they are looked at besides, as upstream does, for file systems that tell nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use component_base::ShutdownSignal;
use futures::StreamExt;
use futures::stream::BoxStream;
use inotify::{Inotify, WatchMask};

/// How often files are looked at that nothing was told of.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long a change may go on: a certificate and its key are two files.
const SETTLE: Duration = Duration::from_millis(100);
/// How many bytes of events are taken at once.
const EVENT_BYTES: usize = 4_096;

/// Calls `changed` with the contents of all files whenever one differs from before, until `stop`.
pub(crate) async fn follow(
    files: Vec<PathBuf>,
    stop: ShutdownSignal,
    mut changed: impl AsyncFnMut(Vec<Vec<u8>>),
) {
    let mut told = watch(&files);
    let mut last = contents(&files);
    loop {
        tokio::select! {
            Some(()) = told.next() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.requested() => return,
        }
        match contents(&files) {
            None => tracing::warn!(
                ?files,
                "files that are followed cannot be read; what was read before counts"
            ),
            now if now != last => {
                changed(now.clone().unwrap_or_default()).await;
                last = now;
            }
            Some(_) => {}
        }
    }
}

/// What is in the files; `None` where one cannot be read, as while it is being replaced.
fn contents(files: &[PathBuf]) -> Option<Vec<Vec<u8>>> {
    files.iter().map(|it| std::fs::read(it).ok()).collect()
}

/// Something each time a directory of a file changes.
fn watch(files: &[PathBuf]) -> BoxStream<'static, ()> {
    let watched = || -> std::io::Result<BoxStream<'static, ()>> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
        for file in files {
            // The directory of a bare name is where the process is.
            let directory = match file.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => Path::new("/"),
            };
            inotify.watches().add(directory, mask)?;
        }
        let events = inotify.into_event_stream(vec![0; EVENT_BYTES])?;
        Ok(events.map(drop).boxed())
    };
    watched().unwrap_or_else(|error| {
        tracing::warn!(%error, ?files, "changes of files are only seen once a minute");
        futures::stream::pending().boxed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::Shutdown;

    #[tokio::test]
    async fn a_file_that_is_replaced_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        std::fs::write(&file, "one").unwrap();
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let stop = Shutdown::new();
        let following = tokio::spawn(follow(vec![file.clone()], stop.signal(), async move |now| {
            sender.send(now).unwrap();
        }));
        // The first change may come before anybody looks: changes are made until one is seen.
        let other = directory.path().join("b");
        let mut count = 0;
        let now = loop {
            count += 1;
            std::fs::write(&other, format!("{count}")).unwrap();
            std::fs::rename(&other, &file).unwrap();
            match tokio::time::timeout(Duration::from_secs(1), seen.recv()).await {
                Ok(now) => break now.unwrap(),
                Err(_) => assert!(count < 20, "no change was seen"),
            }
        };
        assert_eq!(now, [format!("{count}").into_bytes()]);
        stop.request();
        following.await.unwrap();
    }
}
