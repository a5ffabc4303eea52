//! Images on disk: one record a file, layers as directories, shared by all images that have them.
//!
//! A record is written after everything it names is durable, so what is recorded is whole. What nothing names is
//! left over from a crash or a removal, and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sys::fs::Root;

use super::manifest::{ConfigFile, MAX_LAYERS};
use super::reference::Reference;
use super::unpack::unpack;

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// A name that is none.
    #[error("{0}")]
    Reference(String),
    /// Not here, or not there.
    #[error("{0}")]
    NotFound(String),
    /// The registry said no.
    #[error("{0}")]
    Denied(String),
    /// Broken, too large, or not what its digest says.
    #[error("{0}")]
    Invalid(String),
    /// The registry could not be reached.
    #[error("{0}")]
    Unavailable(String),
    /// The disk.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// An image as it is recorded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// What others see.
    pub image: cri::Image,
    /// Directories of its layers, the lowest first.
    pub layers: Vec<String>,
    /// Digest of its manifest.
    pub manifest: String,
}

impl Record {
    /// Directories of its layers, the uppermost first.
    #[must_use]
    pub(crate) fn lower(&self) -> Vec<String> {
        self.layers.iter().rev().cloned().collect()
    }
}

/// What an image is made of, before it is here.
#[derive(Debug)]
pub(crate) struct NewImage<'a> {
    /// Its configuration.
    pub config: &'a [u8],
    /// Digest of its manifest, when it has one.
    pub manifest: String,
    /// What it is called.
    pub names: Vec<Reference>,
    /// Bytes of manifest, configuration and layers as they came.
    pub size: u64,
    /// Never collected as garbage: nobody could fetch it again.
    pub pinned: bool,
}

/// The images of a node.
#[derive(Debug)]
pub(crate) struct Store {
    top: PathBuf,
    records: Mutex<BTreeMap<String, Record>>,
    /// Layers that somebody fetches: one at a time, others wait and find them here.
    arriving: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Unpackings begun: each has a directory of its own.
    unpackings: AtomicU64,
}

impl Store {
    /// Opens it, making it where it is not there; what a crash left half-made is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or a record cannot be read.
    pub(crate) fn open(top: &Path) -> Result<Self, ImageError> {
        for name in ["images", "layers", "ingest"] {
            let dir = top.join(name);
            fs::create_dir_all(&dir).map_err(ImageError::io(format!("make {}", dir.display())))?;
        }
        let mut records = BTreeMap::new();
        let dir = top.join("images");
        let entries =
            fs::read_dir(&dir).map_err(ImageError::io(format!("list {}", dir.display())))?;
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text =
                fs::read(&path).map_err(ImageError::io(format!("read {}", path.display())))?;
            let record: Record = serde_json::from_slice(&text)
                .map_err(|e| ImageError::Invalid(format!("decode {}: {e}", path.display())))?;
            records.insert(record.image.id.clone(), record);
        }
        Ok(Self {
            top: top.to_owned(),
            records: Mutex::new(records),
            arriving: Mutex::default(),
            unpackings: AtomicU64::new(0),
        })
    }

    /// Where layers are, by name.
    #[must_use]
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.top.join("layers")
    }

    /// A place for what is being fetched.
    #[must_use]
    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.top.join("ingest")
    }

    /// All images.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<Record> {
        self.records.lock().values().cloned().collect()
    }

    /// The image with this id or name.
    #[must_use]
    pub(crate) fn find(&self, name: &str) -> Option<Record> {
        let records = self.records.lock();
        if let Some(record) = records.get(name) {
            return Some(record.clone());
        }
        if name.len() == 64
            && let Some(record) = records.get(&format!("sha256:{name}"))
        {
            return Some(record.clone());
        }
        let reference = Reference::parse(name).ok()?;
        let digest = reference.digest.as_ref().map(|d| format!("{}@{d}", reference.name()));
        let named = |record: &&Record| match &digest {
            Some(digest) => record.image.repo_digests.contains(digest),
            None => reference.tagged().is_some_and(|tag| record.image.repo_tags.contains(&tag)),
        };
        records.values().find(named).cloned()
    }

    /// Whether a layer is here.
    #[must_use]
    pub(crate) fn has_layer(&self, name: &str) -> bool {
        self.layers_dir().join(name).is_dir()
    }

    /// The turn of whoever fetches a layer. Whoever holds it looks again whether the layer is here.
    #[must_use]
    pub(crate) fn arrival(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut arriving = self.arriving.lock();
        arriving.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = arriving.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        arriving.insert(name.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Unpacks the layer that lies above `below` (lowest first) and must have the digest `diff_id`. Its name.
    ///
    /// # Errors
    /// When the archive is broken or another one.
    pub(crate) fn add_layer(
        &self,
        below: &[String],
        name: &str,
        diff_id: &str,
        archive: File,
    ) -> Result<(), ImageError> {
        if self.has_layer(name) {
            return Ok(());
        }
        let number = self.unpackings.fetch_add(1, Ordering::Relaxed);
        let temporary = self.ingest_dir().join(format!("{name}-{number}.dir"));
        let what = || format!("unpack layer {diff_id}");
        sys::fs::remove_tree(&temporary).map_err(ImageError::io(what()))?;
        fs::create_dir(&temporary).map_err(ImageError::io(what()))?;
        let lower = below
            .iter()
            .rev()
            .map(|name| Root::open(&self.layers_dir().join(name)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(ImageError::io(what()))?;
        let done = unpack(archive, &temporary, &lower).map_err(ImageError::io(what()));
        let placed = done.and_then(|unpacked| {
            if unpacked.diff_id != diff_id {
                let got = unpacked.diff_id;
                return Err(ImageError::Invalid(format!("layer {diff_id} unpacked to {got}")));
            }
            // Made durable with the record, by `add`.
            fs::rename(&temporary, self.layers_dir().join(name)).map_err(ImageError::io(what()))
        });
        if placed.is_err() {
            // The next start removes it when this fails.
            let _ = sys::fs::remove_tree(&temporary);
        }
        match placed {
            // An import unpacked the same one meanwhile.
            Err(ImageError::Io { .. }) if self.has_layer(name) => Ok(()),
            other => other,
        }
    }

    /// Records an image whose layers are all here. Its id.
    ///
    /// # Errors
    /// When a layer is not here, or the disk fails.
    pub(crate) fn add(&self, new: &NewImage<'_>) -> Result<Record, ImageError> {
        let config: ConfigFile = serde_json::from_slice(new.config)
            .map_err(|e| ImageError::Invalid(format!("decode image configuration: {e}")))?;
        let layers = layer_names(&config.rootfs.diff_ids)?;
        if let Some(missing) = layers.iter().find(|name| !self.has_layer(name)) {
            return Err(ImageError::Invalid(format!("layer {missing} is not here")));
        }
        let id = digest_of(new.config);
        let mut records = self.records.lock();
        let mut record = records.get(&id).cloned().unwrap_or_default();
        record.layers = layers;
        record.manifest.clone_from(&new.manifest);
        record.image.id.clone_from(&id);
        record.image.size = new.size;
        record.image.pinned |= new.pinned;
        let run: cri::ImageConfig = config.config.into();
        let user = run.user.split(':').next().unwrap_or_default();
        record.image.uid = user.parse().ok();
        if record.image.uid.is_none() {
            user.clone_into(&mut record.image.username);
        }
        record.image.config = run;
        let mut moved = Vec::new();
        for name in &new.names {
            if let Some(tag) = name.tagged() {
                // A tag is one image's only.
                for other in records.values_mut().filter(|r| r.image.id != id) {
                    if let Some(at) = other.image.repo_tags.iter().position(|t| *t == tag) {
                        other.image.repo_tags.remove(at);
                        moved.push(other.clone());
                    }
                }
                push_new(&mut record.image.repo_tags, tag);
            }
            if !new.manifest.is_empty() {
                let digest = format!("{}@{}", name.name(), new.manifest);
                push_new(&mut record.image.repo_digests, digest);
            }
            if let Some(asked) = &name.digest {
                // The digest of an index that led here.
                push_new(&mut record.image.repo_digests, format!("{}@{asked}", name.name()));
            }
        }
        self.sync()?;
        self.write(&record)?;
        moved.iter().try_for_each(|other| self.write(other))?;
        records.insert(id, record.clone());
        Ok(record)
    }

    /// Everything written so far survives a loss of power.
    fn sync(&self) -> Result<(), ImageError> {
        let dir = File::open(self.layers_dir()).map_err(ImageError::io("open layers"))?;
        rustix::fs::syncfs(&dir).map_err(|e| ImageError::io("sync layers")(e.into()))
    }

    fn write(&self, record: &Record) -> Result<(), ImageError> {
        let path = self.record_path(&record.image.id);
        let text = serde_json::to_vec(record)
            .map_err(|e| ImageError::Invalid(format!("encode image: {e}")))?;
        sys::fs::write_atomic(&path, &text)
            .map_err(ImageError::io(format!("write {}", path.display())))
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.top.join("images").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    /// Forgets an image with all its names. Its layers go with [`Store::collect`].
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn remove(&self, name: &str) -> Result<(), ImageError> {
        let Some(record) = self.find(name) else { return Ok(()) };
        let path = self.record_path(&record.image.id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::io(format!("remove {}", path.display()))(e));
            }
            _ => {}
        }
        self.records.lock().remove(&record.image.id);
        Ok(())
    }

    /// Removes layers that neither an image nor `in_use` names. Must not run beside an unpacking.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn collect(&self, in_use: &BTreeSet<String>) -> Result<usize, ImageError> {
        let named: BTreeSet<String> =
            self.records.lock().values().flat_map(|r| r.layers.clone()).collect();
        let mut removed = 0;
        let dir = self.layers_dir();
        for entry in fs::read_dir(&dir).map_err(ImageError::io("list layers"))? {
            let entry = entry.map_err(ImageError::io("list layers"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if named.contains(&name) || in_use.contains(&name) {
                continue;
            }
            // First out of sight: a crash in between leaves no half of a layer.
            let aside = self.ingest_dir().join(format!("{name}.gone"));
            let what = || format!("remove layer {name}");
            sys::fs::remove_tree(&aside).map_err(ImageError::io(what()))?;
            fs::rename(entry.path(), &aside).map_err(ImageError::io(what()))?;
            sys::fs::remove_tree(&aside).map_err(ImageError::io(what()))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes what was being fetched when the last process ended, except what can be gone on with.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn clear_ingest(&self) -> Result<(), ImageError> {
        for entry in fs::read_dir(self.ingest_dir()).map_err(ImageError::io("list ingest"))? {
            let path = entry.map_err(ImageError::io("list ingest"))?.path();
            if path.is_dir() {
                sys::fs::remove_tree(&path)
                    .map_err(ImageError::io(format!("remove {}", path.display())))?;
            }
        }
        Ok(())
    }
}

fn push_new(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// `sha256:` and the digest of some bytes.
#[must_use]
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The directory names of the layers with these digests, lowest first. A name stands for the layer and all below
/// it, as the chain of digests does.
///
/// # Errors
/// When there are none, or too many.
pub(crate) fn layer_names(diff_ids: &[String]) -> Result<Vec<String>, ImageError> {
    if diff_ids.is_empty() || diff_ids.len() > MAX_LAYERS {
        let text = format!("an image has 1 to {MAX_LAYERS} layers, not {}", diff_ids.len());
        return Err(ImageError::Invalid(text));
    }
    let mut names = Vec::new();
    let mut chain = String::new();
    for id in diff_ids {
        if !super::reference::is_digest(id) {
            return Err(ImageError::Invalid(format!("layer {id:?} is not a digest")));
        }
        chain = if chain.is_empty() {
            id.clone()
        } else {
            digest_of(format!("{chain} {id}").as_bytes())
        };
        // 128 bits keep names short, for the sake of overlay's options.
        names.push(chain["sha256:".len()..][..32].to_owned());
    }
    Ok(names)
}
