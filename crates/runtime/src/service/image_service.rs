//! `cri::ImageService` over the image store and registries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use cri::{
    AuthConfig, CriError, FilesystemUsage, Image, ImageFsInfo, ImageService, ImageSpec,
    ProgressSink,
};

use super::{EmbeddedRuntime, Inner, image_error, stats, unknown};
use crate::images::import::import;
use crate::images::pull::{Puller, pull};
use crate::images::reference::Reference;
use crate::images::registries::Registries;

/// What fetches images. Pulls of one name wait for each other: the later finds what the earlier fetched.
#[derive(Debug)]
pub(super) struct Pulls {
    puller: Arc<Puller>,
    turns: parking_lot::Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Pulls {
    pub(super) fn new(registries: Registries) -> Self {
        Self { puller: Arc::new(Puller::new(registries)), turns: parking_lot::Mutex::default() }
    }

    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(name.to_owned()).or_default())
    }
}

impl Inner {
    pub(super) async fn import(
        self: &Arc<Self>,
        archive: PathBuf,
        name: Option<String>,
    ) -> Result<Vec<String>, CriError> {
        let _layers = self.layers.read().await;
        let store = Arc::clone(&self.store);
        let records = self
            .block(move || {
                let file = File::open(&archive)
                    .map_err(|e| unknown(&format!("open {}", archive.display()), &e))?;
                import(&store, file, name.as_deref()).map_err(image_error)
            })
            .await??;
        Ok(records.into_iter().map(|r| r.image.id).collect())
    }

    pub(super) async fn collect_layers(&self) -> Result<usize, CriError> {
        let _alone = self.layers.write().await;
        let in_use: BTreeSet<String> =
            self.containers.lock().values().flat_map(|c| c.record.lock().layers.clone()).collect();
        let store = Arc::clone(&self.store);
        self.block(move || store.collect(&in_use)).await?.map_err(image_error)
    }

    async fn pull(
        &self,
        image: &ImageSpec,
        auth: Option<&AuthConfig>,
        progress: Option<ProgressSink>,
    ) -> Result<String, CriError> {
        let reference = Reference::parse(&image.image).map_err(|e| {
            CriError::invalid(format!("failed to parse image reference {:?}: {e}", image.image))
        })?;
        let _layers = self.layers.read().await;
        let turn = self.pulls.turn(&reference.to_string());
        let _turn = turn.lock().await;
        let record = pull(
            &self.pulls.puller,
            &self.store,
            &self.blocking,
            &reference,
            (auth.cloned(), progress),
        )
        .await
        .map_err(|error| {
            let error = image_error(error);
            let text = format!(
                "failed to pull and unpack image {:?}: {}",
                reference.to_string(),
                error.message
            );
            CriError::new(error.code, text)
        })?;
        Ok(record.image.id)
    }
}

#[async_trait]
impl ImageService for EmbeddedRuntime {
    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>, CriError> {
        Ok(match filter.filter(|spec| !spec.image.is_empty()) {
            Some(spec) => self.inner.store.find(&spec.image).into_iter().map(|r| r.image).collect(),
            None => self.inner.store.list().into_iter().map(|r| r.image).collect(),
        })
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, CriError> {
        Ok(self.inner.store.find(&image.image).map(|record| record.image))
    }

    async fn pull_image(
        &self,
        image: &ImageSpec,
        auth: Option<&AuthConfig>,
        progress: Option<ProgressSink>,
    ) -> Result<String, CriError> {
        Box::pin(self.inner.pull(image, auth, progress)).await
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<(), CriError> {
        let (store, name) = (Arc::clone(&self.inner.store), image.image.clone());
        self.inner.block(move || store.remove(&name)).await?.map_err(image_error)?;
        self.inner.collect_layers().await.map(drop)
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo, CriError> {
        let (images, containers) =
            (self.inner.store.layers_dir(), self.inner.root_dir.join("containers"));
        let timestamp = self.inner.now();
        self.inner
            .block(move || {
                let usage = |dir: PathBuf| {
                    let (used_bytes, inodes_used) = stats::usage(&dir);
                    let mountpoint = dir.display().to_string();
                    vec![FilesystemUsage { timestamp, mountpoint, used_bytes, inodes_used }]
                };
                ImageFsInfo {
                    image_filesystems: usage(images),
                    container_filesystems: usage(containers),
                }
            })
            .await
    }
}
