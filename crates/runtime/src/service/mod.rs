//! The two services of `cri`, by zygote, shims and the image store.
//!
//! The agent's part keeps records and asks shims; what runs, runs without it.

mod build;
mod capabilities;
mod channel;
mod containers;
mod image_service;
mod recover;
mod runtime_service;
mod sandboxes;
mod shim_client;
mod state;
mod stats;
mod streams;
mod terminal;
mod zygote_client;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use component_base::task::BlockingPool;
use component_base::{Clock, Random};
use cri::{ContainerEvent, ContainerEventType, CriError, PodNetwork};
use parking_lot::Mutex;
use sys::cgroup::Hierarchies;
use tokio::sync::broadcast;

use crate::images::store::Store;
use crate::images::{ImageError, registries::Registries};
pub(crate) use capabilities::number as capability_number;
use state::{Container, Sandbox};
use zygote_client::ZygoteClient;
pub use zygote_client::ZygoteCommand;

/// Events kept for slow readers; past that they are told to list again.
const EVENT_BACKLOG: usize = 4096;
/// Pieces of blocking work at once: files of containers, stats, unpacking.
const BLOCKING_LIMIT: usize = 16;

/// What a runtime is made with.
#[derive(Debug)]
pub struct Options {
    /// Images, layers, containers. Survives restarts of the machine. No `,`, `:` or `\` in it.
    pub root_dir: PathBuf,
    /// Sockets, pinned namespaces, shared memory. Emptied by a restart of the machine.
    pub state_dir: PathBuf,
    /// How the zygote is started.
    pub zygote: ZygoteCommand,
    /// The cgroup of zygote and shims, outside of all pods' groups.
    pub shim_cgroup: String,
    /// Registries, their mirrors and credentials.
    pub registries: Registries,
    /// Who furnishes network namespaces.
    pub network: Arc<dyn PodNetwork>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub random: Arc<dyn Random>,
}

/// The embedded runtime. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EmbeddedRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root_dir: PathBuf,
    state_dir: PathBuf,
    network: Arc<dyn PodNetwork>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    hierarchies: Hierarchies,
    /// Capabilities that can be given.
    available: u64,
    zygote: ZygoteClient,
    store: Arc<Store>,
    pulls: image_service::Pulls,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    events: broadcast::Sender<ContainerEvent>,
    blocking: BlockingPool,
    /// Unpacking and collecting exclude each other.
    layers: tokio::sync::RwLock<()>,
}

impl EmbeddedRuntime {
    /// Opens the runtime and finds again what runs.
    ///
    /// # Errors
    /// When the directories cannot be made, the machine has no cgroups, or the zygote does not start.
    pub async fn open(options: Options) -> Result<Self, CriError> {
        let hierarchies =
            Hierarchies::detect().map_err(|e| CriError::unknown(format!("find cgroups: {e}")))?;
        for dir in [
            options.root_dir.join("sandboxes"),
            options.root_dir.join("containers"),
            options.state_dir.clone(),
        ] {
            std::fs::create_dir_all(&dir)
                .map_err(|e| CriError::unknown(format!("make {}: {e}", dir.display())))?;
        }
        let store = Store::open(&options.root_dir).map_err(image_error)?;
        store.clear_ingest().map_err(image_error)?;
        let zygote = ZygoteClient::new(options.zygote, hierarchies.clone(), options.shim_cgroup);
        let inner = Inner {
            root_dir: options.root_dir,
            state_dir: options.state_dir,
            network: options.network,
            clock: options.clock,
            random: options.random,
            hierarchies,
            available: sys::process::bounding_set(),
            zygote,
            store: Arc::new(store),
            pulls: image_service::Pulls::new(options.registries),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            blocking: BlockingPool::new("runtime", BLOCKING_LIMIT),
            layers: tokio::sync::RwLock::new(()),
        };
        let runtime = Self { inner: Arc::new(inner) };
        runtime.inner.zygote.warm_up().await.map_err(|e| unknown("start the zygote", &e))?;
        runtime.inner.recover().await;
        // What no image and no container names is left over.
        runtime.inner.collect_layers().await?;
        Ok(runtime)
    }

    /// Imports images from an archive, `docker save`'s or an OCI layout; their ids. `name` is for images that
    /// have none in it.
    ///
    /// # Errors
    /// When the archive is broken.
    pub async fn import_image(
        &self,
        archive: PathBuf,
        name: Option<String>,
    ) -> Result<Vec<String>, CriError> {
        self.inner.import(archive, name).await
    }

    /// Removes layers that no image and no container needs.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn collect_garbage(&self) -> Result<usize, CriError> {
        self.inner.collect_layers().await
    }
}

impl Inner {
    fn now(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// 64 hexadecimal digits.
    fn new_id(&self) -> String {
        let mut bytes = [0; 32];
        self.random.fill(&mut bytes);
        hex::encode(bytes)
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, CriError> {
        self.sandboxes.lock().get(id).cloned().ok_or_else(|| {
            CriError::not_found(format!(
                "an error occurred when try to find sandbox: {id:?} not found"
            ))
        })
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, CriError> {
        self.containers.lock().get(id).cloned().ok_or_else(|| {
            CriError::not_found(format!(
                "an error occurred when try to find container {id:?}: not found"
            ))
        })
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.lock().values().filter(|c| c.sandbox_id() == sandbox).cloned().collect()
    }

    fn announce(&self, container: &str, sandbox: &str, event_type: ContainerEventType) {
        // Nobody listening is no failure.
        let _ = self.events.send(ContainerEvent {
            container_id: container.to_owned(),
            pod_sandbox_id: sandbox.to_owned(),
            event_type,
            created_at: self.now(),
        });
    }

    async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CriError> {
        self.blocking.run(work).await.map_err(|e| CriError::new(cri::Code::Internal, e.to_string()))
    }
}

/// What was being done, and what went wrong.
fn unknown(what: &str, error: &dyn std::fmt::Display) -> CriError {
    CriError::unknown(format!("{what}: {error}"))
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` passes")]
fn image_error(error: ImageError) -> CriError {
    let text = match &error {
        ImageError::Io { what, source } => format!("{what}: {source}"),
        other => other.to_string(),
    };
    let code = match error {
        ImageError::Reference(_) => cri::Code::InvalidArgument,
        ImageError::NotFound(_) => cri::Code::NotFound,
        ImageError::Denied(_) => cri::Code::PermissionDenied,
        ImageError::Unavailable(_) | ImageError::Invalid(_) | ImageError::Io { .. } => {
            cri::Code::Unknown
        }
    };
    CriError::new(code, text)
}
