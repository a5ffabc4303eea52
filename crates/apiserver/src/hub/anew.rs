//! Everything read anew, where the store has forgotten changes before they were read: the caches go on with what is there now.
//!
//! Upstream: a reflector lists again, and its cache ends all watches. Here they fall out of the log, and are answered as those
//! of clients that come too late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::obj::Obj;
use compact_str::CompactString;
use component_base::ShutdownSignal;
use storage::{At, Kv, StorageError};

use super::{Hub, Route, everything, hide, object_of, unread};
use crate::cache::Cache;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// What there is of a resource, by the keys of its cache.
type Objects = Vec<(CompactString, Arc<Obj>)>;

/// What is there now.
#[derive(Debug, Default)]
struct Found {
    /// By the caches' places in memory.
    caches: BTreeMap<usize, (Arc<Cache>, Objects)>,
    /// What cannot be read, and why.
    hidden: Vec<(Arc<Cache>, CompactString, String)>,
}

fn place(cache: &Arc<Cache>) -> usize {
    Arc::as_ptr(cache).addr()
}

impl Hub {
    /// Reads everything anew, as often as it takes while the store cannot be reached; less where the server stops.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what is not an object.
    pub(super) async fn read_until_it_is_read(
        &self,
        stop: &ShutdownSignal,
    ) -> Result<(), StorageError> {
        loop {
            let error = match self.read_anew().await {
                Err(error @ (StorageError::Unavailable(_) | StorageError::Compacted { .. })) => {
                    error
                }
                read => return read,
            };
            tracing::warn!(%error, "not everything could be read");
            tokio::select! {
                biased;
                () = stop.requested() => return Ok(()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn read_anew(&self) -> Result<(), StorageError> {
        let mut request = everything();
        let mut page = self.store.range(request.clone()).await?;
        // After the first page: a cache that comes from here on reads its objects itself, as they are then.
        let mut found = Found::of(self);
        loop {
            for kv in &page.kvs {
                if let Some((route, key)) = self.route(&kv.key) {
                    found.take(&route, &key, kv)?;
                }
            }
            if !page.more {
                break;
            }
            request.after = page.kvs.last().map(|kv| kv.key.clone());
            request.at = At::Exactly(page.rev);
            page = self.store.range(request.clone()).await?;
        }
        let revision = page.rev.0;
        for (cache, objects) in found.caches.into_values() {
            cache.replace(objects, revision);
        }
        for (cache, key, why) in found.hidden {
            hide(&cache, key, &why);
        }
        // Last: whoever hears of this revision finds it in every cache.
        self.progress.advance(revision);
        Ok(())
    }
}

impl Found {
    fn of(hub: &Hub) -> Self {
        let custom = hub.custom.load_full();
        let all = hub.caches.iter().chain(custom.values().flatten());
        let caches = all.map(|it| (place(it), (Arc::clone(it), Vec::new()))).collect();
        Self { caches, hidden: Vec::new() }
    }

    fn take(
        &mut self,
        route: &Route<'_>,
        key: &CompactString,
        kv: &Kv,
    ) -> Result<(), StorageError> {
        for cache in route.caches() {
            let Some((_, objects)) = self.caches.get_mut(&place(cache)) else { continue };
            match known_or_read(cache, key, kv) {
                Ok(object) => objects.push((key.clone(), object)),
                Err(error) => {
                    self.hidden.push((Arc::clone(cache), key.clone(), unread(error)?));
                }
            }
        }
        Ok(())
    }
}

/// The object of a stored value, which the cache may have already.
fn known_or_read(cache: &Cache, key: &CompactString, kv: &Kv) -> Result<Arc<Obj>, StorageError> {
    match cache.get(key) {
        Some(known) if known.resource_version == kv.mod_rev.0 => Ok(known),
        _ => object_of(cache.resource().as_ref(), kv),
    }
}
