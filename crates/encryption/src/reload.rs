//! The configuration is read again when its file changes. One that is wrong, or whose plugins are not well, changes
//! nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use component_base::ShutdownSignal;
use futures::StreamExt;
use inotify::{Inotify, WatchMask};

use crate::{EncryptedStore, State, config, read};

/// How many bytes of news of the file system are read at once.
const NEWS_BYTES: usize = 4096;

impl EncryptedStore {
    /// Follows the file until the stop.
    ///
    /// # Errors
    /// When its directory cannot be watched.
    pub fn follow(&self, file: &Path, stop: ShutdownSignal) -> std::io::Result<()> {
        let directory = match file.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let inotify = Inotify::init()?;
        // The directory: files are replaced by others, and links to them too.
        let changes = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
        inotify.watches().add(directory, changes)?;
        let mut news = inotify.into_event_stream(vec![0; NEWS_BYTES])?;
        let (store, file) = (self.clone(), file.to_owned());
        let mut last = read(&file).ok();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = news.next() => event,
                    () = stop.requested() => return,
                };
                let Some(Ok(event)) = event else { return };
                if !concerns(event.name.as_deref(), &file) {
                    continue;
                }
                match read(&file) {
                    Ok(text) if last.as_ref() == Some(&text) => {}
                    Ok(text) => {
                        store.reload(&text).await;
                        last = Some(text);
                    }
                    // It is being replaced, or will be: there will be news of that.
                    Err(error) => tracing::debug!(error, "no encryption configuration now"),
                }
            }
        });
        Ok(())
    }

    async fn reload(&self, text: &[u8]) {
        let done = self.replace(text).await;
        #[allow(clippy::cast_precision_loss, reason = "a time has far fewer seconds than 2^53")]
        let now = self.0.parts.clock.now().as_second() as f64;
        self.0.metrics.reloaded(done.is_ok(), now);
        if done.is_ok() {
            self.0.metrics.configured(text);
        }
        match done {
            Ok(()) => tracing::info!("the encryption configuration was read again"),
            Err(error) => tracing::error!(
                error,
                "the changed encryption configuration is no good: the one before stays"
            ),
        }
    }

    async fn replace(&self, text: &[u8]) -> Result<(), String> {
        let mut state = State::of(config::parse(text)?, &self.0.setup())?;
        state.prime().await?;
        state.follow();
        self.0.state.store(Arc::new(state));
        Ok(())
    }
}

/// Whether news may be of the file: of itself, or of the link by which mounted configurations are replaced.
fn concerns(name: Option<&OsStr>, file: &Path) -> bool {
    name.is_none_or(|it| Some(it) == file.file_name() || it == "..data")
}
