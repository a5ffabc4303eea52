//! Policies and webhooks of files (`staticManifestsDir`): those that count before the first request, and that nobody takes away
//! by the API. Upstream: KEP-5793, `pkg/admission/plugin/manifest` and its kin.
//!
//! Here: which directories there are, what was read from them last, and that they are read again when they change. What a
//! file may say is [`load`]'s; what is made of it is the plugins'.

mod load;
mod metrics;

pub use metrics::Metrics;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use component_base::{Clock, ShutdownSignal};
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use parking_lot::RwLock;

pub(crate) use load::Loaded;

/// How many bytes of news of the file system are read at once.
const NEWS_BYTES: usize = 4096;
const FIELD: &str = "staticManifestsDir";
const GATE: &str = "ManifestBasedAdmissionControlConfig";

/// A plugin that may be given a directory: its name, its kinds, and the resources of these.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of {
    pub(crate) plugin: &'static str,
    /// What is judged by, and its resource.
    kind: (&'static str, &'static str),
    /// What puts that in force, where something does.
    binding: Option<(&'static str, &'static str)>,
}

/// The plugins that may be given one.
const PLUGINS: [Of; 4] = [
    Of {
        plugin: "MutatingAdmissionPolicy",
        kind: ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
        binding: Some(("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")),
    },
    Of {
        plugin: "MutatingAdmissionWebhook",
        kind: ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        binding: None,
    },
    Of {
        plugin: "ValidatingAdmissionPolicy",
        kind: ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
        binding: Some(("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")),
    },
    Of {
        plugin: "ValidatingAdmissionWebhook",
        kind: ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
        binding: None,
    },
];

/// The directories that plugins are given, and what is in them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manifests {
    /// By plugin, as the configuration names them.
    directories: Vec<(Of, String)>,
    sources: Vec<Arc<Source>>,
    pub(crate) metrics: Metrics,
}

impl Manifests {
    /// Takes note of a plugin's directory; an empty name is none.
    pub(crate) fn note(&mut self, plugin: &str, directory: &str) {
        let of = PLUGINS.iter().find(|it| it.plugin == plugin);
        if let Some(of) = of.filter(|_| !directory.is_empty()) {
            self.directories.push((*of, directory.to_owned()));
        }
    }

    /// Reads all directories.
    ///
    /// # Errors
    /// Where one is none, or holds what it may not, with the plugin's name; where there is one and `allowed` is not.
    pub(crate) fn load(&mut self, allowed: bool) -> Result<(), String> {
        for (of, directory) in &self.directories {
            let invalid = |why: String| {
                format!("{}: {FIELD}: Invalid value: {directory:?}: {why}", of.plugin)
            };
            if !allowed {
                return Err(format!(
                    "{}: {FIELD}: Forbidden: {FIELD} requires the {GATE} feature gate to be enabled",
                    of.plugin
                ));
            }
            let path = Path::new(directory);
            if !path.is_absolute() {
                return Err(invalid("must be an absolute file path".into()));
            }
            let found = std::fs::metadata(path);
            let found = found.map_err(|error| invalid(format!("unable to read: {error}")))?;
            if !found.is_dir() {
                return Err(invalid("must be a directory".into()));
            }
            let loaded = load::directory(*of, path);
            let loaded = loaded.map_err(|why| format!("{}: {why}", of.plugin))?;
            self.sources.push(Arc::new(Source {
                of: *of,
                directory: path.to_owned(),
                loaded: RwLock::new(Arc::new(loaded)),
            }));
        }
        Ok(())
    }

    pub(crate) fn of(&self, plugin: &str) -> Option<Arc<Source>> {
        self.sources.iter().find(|it| it.of.plugin == plugin).cloned()
    }

    /// Tells of what was read, and reads again what changes until the stop. `server` is the hash by which metrics call this server.
    ///
    /// # Errors
    /// When a directory cannot be watched.
    pub(crate) fn follow(
        &self,
        server: &str,
        clock: &Arc<dyn Clock>,
        stop: &ShutdownSignal,
    ) -> std::io::Result<()> {
        for source in &self.sources {
            let plugin = source.of.plugin;
            let hash = source.now().hash.clone();
            tracing::info!(plugin, directory = %source.directory.display(), "admission's manifests were read");
            self.metrics.read((plugin, server), Some(&hash), seconds(clock));
            let inotify = Inotify::init()?;
            let changes = WatchMask::CLOSE_WRITE
                | WatchMask::CREATE
                | WatchMask::DELETE
                | WatchMask::MOVED_FROM
                | WatchMask::MOVED_TO;
            inotify.watches().add(&source.directory, changes)?;
            let mut news = inotify.into_event_stream(vec![0; NEWS_BYTES])?;
            let (source, metrics) = (Arc::clone(source), self.metrics.clone());
            let (server, clock, stop) = (server.to_owned(), Arc::clone(clock), stop.clone());
            tokio::spawn(async move {
                loop {
                    let event = tokio::select! {
                        biased;
                        () = stop.requested() => return,
                        event = news.next() => event,
                    };
                    let Some(Ok(_)) = event else { return };
                    source.reload((&metrics, &server), seconds(&clock));
                }
            });
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a time has far fewer seconds than 2^53")]
fn seconds(clock: &Arc<dyn Clock>) -> f64 {
    clock.now().as_second() as f64
}

/// One plugin's directory, and what was read from it last.
#[derive(Debug)]
pub(crate) struct Source {
    of: Of,
    directory: PathBuf,
    loaded: RwLock<Arc<Loaded>>,
}

impl Source {
    fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read())
    }

    /// Reads the directory again. What is wrong changes nothing.
    fn reload(&self, (metrics, server): (&Metrics, &str), now: f64) {
        let plugin = self.of.plugin;
        match load::directory(self.of, &self.directory) {
            Err(error) => {
                tracing::error!(
                    plugin,
                    error,
                    "changed manifests of admission are no good: those before stay"
                );
                metrics.read((plugin, server), None, now);
            }
            Ok(loaded) if loaded.hash == self.now().hash => {}
            Ok(loaded) => {
                let hash = loaded.hash.clone();
                *self.loaded.write() = Arc::new(loaded);
                tracing::info!(plugin, "admission's manifests were read again");
                metrics.read((plugin, server), Some(&hash), now);
            }
        }
    }
}

/// Those of files, and then the others.
pub(crate) fn both<T>(fixed: &[Arc<T>], others: &[Arc<T>]) -> Arc<[Arc<T>]> {
    fixed.iter().chain(others).cloned().collect()
}

/// What is made of objects of files, from what was made of those before.
type Make<T> = dyn Fn(&Loaded, Option<&T>) -> T + Send + Sync;

/// What a plugin makes of its directory: all of it at once, anew when it was read again.
pub(crate) struct Fixed<T> {
    source: Arc<Source>,
    made: RwLock<Option<(Arc<Loaded>, T)>>,
    make: Box<Make<T>>,
}

impl<T> fmt::Debug for Fixed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fixed({})", self.source.directory.display())
    }
}

impl<T: Clone> Fixed<T> {
    pub(crate) fn new(
        source: Arc<Source>,
        make: impl Fn(&Loaded, Option<&T>) -> T + Send + Sync + 'static,
    ) -> Self {
        Self { source, made: RwLock::new(None), make: Box::new(make) }
    }

    /// What there is now.
    pub(crate) fn now(&self) -> T {
        let loaded = self.source.now();
        if let Some((of, made)) = &*self.made.read()
            && Arc::ptr_eq(of, &loaded)
        {
            return made.clone();
        }
        let mut state = self.made.write();
        let made = (self.make)(&loaded, state.as_ref().map(|it| &it.1));
        *state = Some((loaded, made.clone()));
        made
    }
}
