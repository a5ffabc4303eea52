//! An OCI image layout: blobs by digest and an index of names. It knows nothing of registries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::catalog::Image;
use super::layer::{Built, hex};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Images are of no time: the same recipe is the same image.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A layout's directory.
#[derive(Debug)]
pub(super) struct Layout {
    directory: PathBuf,
}

/// A blob that others point to.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub(super) digest: String,
    bytes: usize,
}

impl Layout {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory.join("blobs/sha256"))?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { directory: directory.to_owned() })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes an image's configuration and manifest.
    pub(super) fn image(&self, image: &Image, layers: &[Built]) -> Result<Descriptor> {
        for layer in layers {
            let blob = self.blob(&layer.digest);
            if !blob.exists() {
                fs::hard_link(&layer.file, &blob)?;
            }
        }
        let config = self.write(&config(image, layers))?;
        let layers: Vec<Value> = layers
            .iter()
            .map(|it| json!({"mediaType": LAYER, "digest": it.digest, "size": it.bytes}))
            .collect();
        self.write(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.bytes},
            "layers": layers,
        }))
    }

    /// Makes one image the only one of the index, under a name.
    pub(super) fn select(&self, image: &Descriptor, name: &str) -> Result<()> {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": image.digest,
                "size": image.bytes,
                "annotations": {"org.opencontainers.image.ref.name": name},
            }],
        });
        Ok(fs::write(self.directory.join("index.json"), index.to_string())?)
    }

    fn write(&self, document: &Value) -> Result<Descriptor> {
        let text = document.to_string();
        let digest = format!("sha256:{}", hex(Sha256::new_with_prefix(&text)));
        fs::write(self.blob(&digest), &text)?;
        Ok(Descriptor { digest, bytes: text.len() })
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.directory.join("blobs").join(digest.replace(':', "/"))
    }
}

fn config(image: &Image, layers: &[Built]) -> Value {
    let start = &image.start;
    let ports: serde_json::Map<String, Value> =
        start.ports.iter().map(|it| ((*it).to_owned(), json!({}))).collect();
    let diff_ids: Vec<&str> = layers.iter().map(|it| it.diff_id.as_str()).collect();
    let mut config = json!({
        "Entrypoint": start.entrypoint,
        "Cmd": start.command,
        "Env": start.environment,
        "WorkingDir": start.directory,
        "User": start.user,
        "ExposedPorts": ports,
        "StopSignal": start.stop_signal,
    });
    // What is not said is left out, as other builders do.
    if let Value::Object(members) = &mut config {
        members.retain(|_, it| *it != json!("") && *it != json!([]) && *it != json!({}));
    }
    json!({
        "created": CREATED,
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}
