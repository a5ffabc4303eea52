//! Fetching images: the manifest for this machine, its configuration, the layers that are not here.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use component_base::task::BlockingPool;
use cri::{AuthConfig, ProgressSink, PullProgress};
use futures::StreamExt;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sha2::{Digest, Sha256};

use super::http::{Clients, Session, Wanted};
use super::manifest::{ACCEPTED, ConfigFile, Descriptor, Document, MAX_DOCUMENT_BYTES, Platform};
use super::reference::{Reference, is_digest};
use super::registries::Registries;
use super::store::{ImageError, NewImage, Record, Store, digest_of, layer_names};
use super::unpack::{Limits, leaves_room};

/// The largest layer, as it is sent.
const MAX_LAYER_BYTES: u64 = 32 << 30;
/// Layers fetched at once.
const PARALLEL_LAYERS: usize = 3;
/// How often the fetching of a layer is gone on with.
const MAX_ATTEMPTS: u32 = 5;
/// How long a registry may be silent in the middle.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// What fetches images.
#[derive(Debug)]
pub(crate) struct Puller {
    registries: Registries,
    clients: Clients,
}

impl Puller {
    pub(crate) fn new(registries: Registries) -> Self {
        Self { registries, clients: Clients::default() }
    }
}

/// Fetches an image from the first place that has it.
pub(crate) async fn pull(
    puller: &Puller,
    store: &Arc<Store>,
    blocking: &BlockingPool,
    reference: &Reference,
    (auth, progress): (Option<AuthConfig>, Option<ProgressSink>),
) -> Result<Record, ImageError> {
    let endpoints =
        puller.registries.endpoints(&reference.domain).map_err(ImageError::Unavailable)?;
    let mut last = None;
    for endpoint in &endpoints {
        // What a user gives is for the registry, not for its mirrors.
        let credentials = auth.as_ref().filter(|_| endpoint.namespace.is_none());
        let session = Session::new(&puller.clients, endpoint, &reference.path, credentials);
        let fetch = Fetch { session, store, blocking, reference, progress: progress.clone() };
        match fetch.run().await {
            Ok(record) => return Ok(record),
            Err(error) => {
                tracing::debug!(host = endpoint.host, %error, "a registry did not give an image");
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| ImageError::Unavailable("there is no registry to ask".into())))
}

struct Fetch<'a> {
    session: Session<'a>,
    store: &'a Arc<Store>,
    blocking: &'a BlockingPool,
    reference: &'a Reference,
    progress: Option<ProgressSink>,
}

impl Fetch<'_> {
    async fn run(&self) -> Result<Record, ImageError> {
        let (manifest, document) = self.resolve().await?;
        let config = document
            .config
            .as_ref()
            .ok_or_else(|| ImageError::Invalid(format!("{manifest} has no configuration")))?;
        let bytes = self.document("blobs", &config.digest, "").await?;
        let decoded: ConfigFile = serde_json::from_slice(&bytes)
            .map_err(|e| ImageError::Invalid(format!("decode image configuration: {e}")))?;
        let diff_ids = decoded.rootfs.diff_ids;
        let names = layer_names(&diff_ids)?;
        if names.len() != document.layers.len() {
            let (a, b) = (document.layers.len(), names.len());
            return Err(ImageError::Invalid(format!("{a} layers for {b} digests")));
        }
        self.layers(&document.layers, &names, &diff_ids).await?;
        let size = bytes.len() as u64 + document.layers.iter().map(|l| l.size).sum::<u64>();
        let (store, reference) = (Arc::clone(self.store), self.reference.clone());
        self.blocking
            .run(move || {
                store.add(&NewImage {
                    config: &bytes,
                    manifest,
                    names: vec![reference],
                    size,
                    pinned: false,
                })
            })
            .await
            .map_err(|e| ImageError::Unavailable(e.to_string()))?
    }

    /// The manifest for this machine, and its digest.
    async fn resolve(&self) -> Result<(String, Document), ImageError> {
        let mut object = self.reference.object().to_owned();
        // An index leads to a manifest, and seldom to another index.
        for _ in 0..4 {
            let bytes = self.document("manifests", &object, ACCEPTED).await.map_err(|e| {
                if matches!(e, ImageError::NotFound(_)) {
                    let name = self.reference.to_string();
                    let text = format!("failed to resolve reference {name:?}: {name}: not found");
                    return ImageError::NotFound(text);
                }
                e
            })?;
            let digest = digest_of(&bytes);
            let document = Document::parse(&bytes)
                .map_err(|e| ImageError::Invalid(format!("decode {digest}: {e}")))?;
            if document.config.is_some() {
                return Ok((digest, document));
            }
            let chosen = document.choose(&Platform::here()).ok_or_else(|| {
                ImageError::NotFound(format!(
                    "no match for platform in manifest {digest}: not found"
                ))
            })?;
            object.clone_from(&chosen.digest);
        }
        Err(ImageError::Invalid(format!("{} leads from index to index", self.reference)))
    }

    /// A whole small document; one asked for by digest must have it.
    async fn document(
        &self,
        kind: &str,
        object: &str,
        accept: &str,
    ) -> Result<Vec<u8>, ImageError> {
        let response = self.session.get(Wanted { kind, object, accept, from: 0 }).await?;
        check(response.status(), kind, object)?;
        let limit = usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX);
        let body = Limited::new(response.into_body(), limit).collect();
        let body = tokio::time::timeout(SILENCE_TIMEOUT, body)
            .await
            .map_err(|_| ImageError::Unavailable(format!("read {kind} {object}: timed out")))?
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return ImageError::Invalid(format!(
                        "{kind} {object} has more than {MAX_DOCUMENT_BYTES} bytes"
                    ));
                }
                ImageError::Unavailable(format!("read {kind} {object}: {error}"))
            })?
            .to_bytes();
        let asked = object.starts_with("sha256:");
        if asked && digest_of(&body) != object {
            return Err(ImageError::Invalid(format!("{kind} {object} has another digest")));
        }
        Ok(body.to_vec())
    }

    /// Fetches in parallel, unpacks in order: a layer needs those below it.
    async fn layers(
        &self,
        layers: &[Descriptor],
        names: &[String],
        diff_ids: &[String],
    ) -> Result<(), ImageError> {
        let missing: Vec<usize> =
            (0..names.len()).filter(|i| !self.store.has_layer(&names[*i])).collect();
        let progress = parking_lot::Mutex::new(PullProgress {
            layers_done: names.len() - missing.len(),
            layers: names.len(),
            bytes_done: 0,
            bytes: missing.iter().map(|i| layers[*i].size).sum(),
        });
        let tell = |change: &dyn Fn(&mut PullProgress)| {
            let now = {
                let mut progress = progress.lock();
                change(&mut progress);
                *progress
            };
            if let Some(sink) = &self.progress {
                sink(now);
            }
        };
        let tell = &tell;
        let fetched = missing.into_iter().map(|index| {
            let (layer, name) = (&layers[index], &names[index]);
            async move {
                // Images fetched at the same time share layers, always their lowest: nobody waits for one who waits.
                let turn = self.store.arrival(name).lock_owned().await;
                if self.store.has_layer(name) {
                    return Ok((index, None));
                }
                let got = |n: u64| tell(&|p| p.bytes_done += n);
                self.layer(layer, name, &got).await.map(|path| (index, Some((path, turn))))
            }
        });
        let mut fetched = futures::stream::iter(fetched).buffered(PARALLEL_LAYERS);
        while let Some(next) = fetched.next().await {
            let (index, arrived) = next?;
            let Some((path, turn)) = arrived else {
                tell(&|p| p.layers_done += 1);
                continue;
            };
            let (store, names) = (Arc::clone(self.store), names.to_vec());
            let diff_id = diff_ids[index].clone();
            self.blocking
                .run(move || {
                    let what = || format!("open {}", path.display());
                    let archive = File::open(&path).map_err(ImageError::io(what()))?;
                    let done = store.add_layer(&names[..index], &names[index], &diff_id, archive);
                    // Unpacked or broken, it is not needed again.
                    fs::remove_file(&path).map_err(ImageError::io(what()))?;
                    drop(turn);
                    done
                })
                .await
                .map_err(|e| ImageError::Unavailable(e.to_string()))??;
            tell(&|p| p.layers_done += 1);
        }
        Ok(())
    }

    /// Fetches a layer to a file, going on where an earlier attempt, or an earlier process, stopped.
    async fn layer(
        &self,
        layer: &Descriptor,
        name: &str,
        got: &(dyn Fn(u64) + Sync),
    ) -> Result<PathBuf, ImageError> {
        if !is_digest(&layer.digest) || layer.size > MAX_LAYER_BYTES {
            let text = format!("layer {} of {} bytes is not acceptable", layer.digest, layer.size);
            return Err(ImageError::Invalid(text));
        }
        // By the layer's place above others: the same bytes may be on their way for another place.
        let path = self.store.ingest_dir().join(format!("{name}.part"));
        let mut attempt = 1;
        loop {
            match self.attempt(layer, &path, got).await {
                Ok(()) => return Ok(path),
                Err(error @ (ImageError::Unavailable(_) | ImageError::Io { .. }))
                    if attempt < MAX_ATTEMPTS =>
                {
                    tracing::debug!(layer = layer.digest, %error, "going on with a layer");
                    tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        layer: &Descriptor,
        path: &Path,
        got: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ImageError> {
        let what = || format!("write {}", path.display());
        let mut part = Part::open(path, layer.size).map_err(ImageError::io(what()))?;
        let missing = layer.size.saturating_sub(part.length);
        leaves_room(&part.file, missing, Limits::STANDARD.free_bytes)
            .map_err(ImageError::io(format!("fetch layer {}", layer.digest)))?;
        let wanted = Wanted { kind: "blobs", object: &layer.digest, accept: "", from: part.length };
        if part.length < layer.size {
            let response = self.session.get(wanted).await?;
            check(response.status(), "blobs", &layer.digest)?;
            if response.status() != StatusCode::PARTIAL_CONTENT && part.length > 0 {
                // It does not know ranges: from the beginning.
                part.restart().map_err(ImageError::io(what()))?;
            }
            let mut body = response.into_body();
            loop {
                let frame = tokio::time::timeout(SILENCE_TIMEOUT, body.frame())
                    .await
                    .map_err(|_| ImageError::Unavailable("the registry fell silent".into()))?;
                let Some(frame) = frame else { break };
                let frame =
                    frame.map_err(|e| ImageError::Unavailable(format!("read layer: {e}")))?;
                let Ok(data) = frame.into_data() else { continue };
                if part.length + data.len() as u64 > layer.size {
                    let text = format!("layer {} is longer than announced", layer.digest);
                    return Err(discard(path, ImageError::Invalid(text)));
                }
                part.write(&data).map_err(ImageError::io(what()))?;
                got(data.len() as u64);
            }
        }
        if part.length < layer.size {
            return Err(ImageError::Unavailable(format!("layer {} was cut short", layer.digest)));
        }
        let digest = format!("sha256:{}", hex::encode(part.hash.finalize()));
        if digest != layer.digest {
            let text = format!("layer {} came as {digest}", layer.digest);
            return Err(discard(path, ImageError::Invalid(text)));
        }
        Ok(())
    }
}

/// What is known to be wrong is not gone on with.
fn discard(path: &Path, error: ImageError) -> ImageError {
    if let Err(left) = fs::remove_file(path) {
        tracing::warn!(%left, path = %path.display(), "could not remove a broken layer");
    }
    error
}

fn check(status: StatusCode, kind: &str, object: &str) -> Result<(), ImageError> {
    let text = format!("unexpected status of {kind} {object}: {status}");
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(()),
        StatusCode::NOT_FOUND => Err(ImageError::NotFound(format!("{kind} {object}: not found"))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ImageError::Denied(format!(
            "pull access denied, repository does not exist or may require authorization: {status}"
        ))),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(ImageError::Unavailable(text))
        }
        _ => Err(ImageError::Invalid(text)),
    }
}

/// A file that grows, and the digest of what is in it.
struct Part {
    file: File,
    length: u64,
    hash: Sha256,
}

impl Part {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut part = Self { file: file.try_clone()?, length: 0, hash: Sha256::new() };
        let mut chunk = vec![0; 256 << 10];
        loop {
            let n = file.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            part.hash.update(&chunk[..n]);
            part.length += n as u64;
        }
        if part.length > limit {
            part.restart()?;
        }
        Ok(part)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.length = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}
