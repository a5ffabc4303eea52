//! Images from an archive: an OCI layout, or what `docker save` writes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use sys::fs::Root;

use super::manifest::{ConfigFile, Descriptor, Document, MAX_DOCUMENT_BYTES, Platform};
use super::reference::Reference;
use super::store::{ImageError, NewImage, Record, Store, digest_of, layer_names};
use super::unpack::unpack;

/// How deep indexes point to indexes.
const MAX_INDEX_DEPTH: usize = 4;

/// An entry of `docker save`'s list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Imports all images of an archive (compressed or not). `name` is for an image that has none in it.
///
/// # Errors
/// When the archive is broken or holds no image for this machine.
pub(crate) fn import(
    store: &Store,
    archive: File,
    name: Option<&str>,
) -> Result<Vec<Record>, ImageError> {
    let number = rustix::process::getpid().as_raw_nonzero();
    let place =
        store.ingest_dir().join(format!("import-{number}-{:?}.dir", std::thread::current().id()));
    sys::fs::remove_tree(&place).map_err(ImageError::io("clear import"))?;
    fs::create_dir(&place).map_err(ImageError::io("make import"))?;
    let done = import_at(store, &place, archive, name);
    sys::fs::remove_tree(&place).map_err(ImageError::io("clear import"))?;
    done
}

fn import_at(
    store: &Store,
    place: &Path,
    archive: File,
    name: Option<&str>,
) -> Result<Vec<Record>, ImageError> {
    unpack(archive, place, &[]).map_err(ImageError::io("read archive"))?;
    let root = Root::open(place).map_err(ImageError::io("open import"))?;
    let source = Source { store, root: &root };
    if let Ok(list) = source.read("manifest.json") {
        let list: Vec<Saved> = decode(&list, "manifest.json")?;
        return list.iter().map(|saved| source.saved(saved, name)).collect();
    }
    let index = source.read("index.json")?;
    let index = Document::parse(&index)
        .map_err(|e| ImageError::Invalid(format!("decode index.json: {e}")))?;
    index.manifests.iter().map(|descriptor| source.layout(descriptor, name)).collect()
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Invalid(format!("decode {what}: {e}")))
}

struct Source<'a> {
    store: &'a Store,
    root: &'a Root,
}

impl Source<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let what = ImageError::io(format!("read {path} of archive"));
        self.root.read(Path::new(path), MAX_DOCUMENT_BYTES).map_err(what)
    }

    fn open(&self, path: &str) -> Result<File, ImageError> {
        let what = ImageError::io(format!("open {path} of archive"));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        self.root.open_at(Path::new(path), flags, Mode::empty()).map(File::from).map_err(what)
    }

    fn saved(&self, saved: &Saved, name: Option<&str>) -> Result<Record, ImageError> {
        let config = self.read(&saved.config)?;
        let tags = saved.repo_tags.clone().unwrap_or_default();
        let names = tags.iter().map(String::as_str).chain(name.filter(|_| tags.is_empty()));
        self.take(&config, String::new(), &saved.layers, names)
    }

    fn layout(&self, descriptor: &Descriptor, name: Option<&str>) -> Result<Record, ImageError> {
        let given = name_of(&descriptor.annotations);
        let mut digest = descriptor.digest.clone();
        for _ in 0..MAX_INDEX_DEPTH {
            let bytes = self.blob(&digest)?;
            let document = Document::parse(&bytes)
                .map_err(|e| ImageError::Invalid(format!("decode {digest}: {e}")))?;
            let Some(config) = &document.config else {
                let chosen = document.choose(&Platform::here()).ok_or_else(|| {
                    ImageError::NotFound(format!("no match for platform in {digest}"))
                })?;
                digest.clone_from(&chosen.digest);
                continue;
            };
            let config = self.blob(&config.digest)?;
            let layers: Vec<String> =
                document.layers.iter().map(|l| blob_path(&l.digest)).collect::<Result<_, _>>()?;
            let names = given.as_deref().into_iter().chain(name.filter(|_| given.is_none()));
            return self.take(&config, digest, &layers, names);
        }
        Err(ImageError::Invalid(format!("{} leads from index to index", descriptor.digest)))
    }

    fn blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read(&blob_path(digest)?)?;
        if digest_of(&bytes) != digest {
            return Err(ImageError::Invalid(format!("blob {digest} of archive is another one")));
        }
        Ok(bytes)
    }

    fn take<'a>(
        &self,
        config: &[u8],
        manifest: String,
        layers: &[String],
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Record, ImageError> {
        let decoded: ConfigFile = decode(config, "image configuration")?;
        let diff_ids = decoded.rootfs.diff_ids;
        let stored = layer_names(&diff_ids)?;
        if layers.len() != diff_ids.len() {
            let (a, b) = (layers.len(), diff_ids.len());
            return Err(ImageError::Invalid(format!("{a} layers for {b} digests")));
        }
        let mut size = config.len() as u64;
        for (index, (path, diff_id)) in layers.iter().zip(&diff_ids).enumerate() {
            let archive = self.open(path)?;
            size += archive.metadata().map_err(ImageError::io(format!("stat {path}")))?.len();
            self.store.add_layer(&stored[..index], &stored[index], diff_id, archive)?;
        }
        let names =
            names.map(Reference::parse).collect::<Result<_, _>>().map_err(ImageError::Reference)?;
        self.store.add(&NewImage { config, manifest, names, size, pinned: true })
    }
}

fn blob_path(digest: &str) -> Result<String, ImageError> {
    if !super::reference::is_digest(digest) {
        return Err(ImageError::Invalid(format!("{digest:?} is not a digest")));
    }
    Ok(format!("blobs/{}", digest.replace(':', "/")))
}

/// A whole name where there is one; a bare tag names nothing.
fn name_of(annotations: &BTreeMap<String, String>) -> Option<String> {
    annotations.get("io.containerd.image.name").cloned().or_else(|| {
        annotations
            .get("org.opencontainers.image.ref.name")
            .filter(|name| name.contains(['/', ':']))
            .cloned()
    })
}
