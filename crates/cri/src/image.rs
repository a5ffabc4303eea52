//! Images and how they are pulled.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which image is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// A reference (`busybox`, `ghcr.io/a/b@sha256:...`) or an image id (`sha256:...`).
    pub image: String,
    /// The reference as the user wrote it, when `image` was resolved already.
    pub user_specified_image: String,
    /// The runtime handler whose copy is meant; empty is the default.
    pub runtime_handler: String,
    /// For the runtime.
    pub annotations: BTreeMap<String, String>,
}

impl ImageSpec {
    /// The image with this reference or id.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), ..Self::default() }
    }
}

/// An image of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// `sha256:` and the digest of its configuration.
    pub id: String,
    /// Names with tags: `docker.io/library/busybox:latest`.
    pub repo_tags: Vec<String>,
    /// Names with digests: `docker.io/library/busybox@sha256:...`.
    pub repo_digests: Vec<String>,
    /// Bytes of manifest, configuration and layers as pulled.
    pub size: u64,
    /// The numeric user it runs as, if numeric.
    pub uid: Option<i64>,
    /// The user it runs as, if a name.
    pub username: String,
    /// Never collected as garbage.
    pub pinned: bool,
    /// What the container is made of when the pod does not say.
    pub config: ImageConfig,
}

/// The part of an image's configuration that a node agent reads (CRI hides it in `info`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// What is run.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// Where it is run.
    pub working_dir: String,
    /// `user[:group]`.
    pub user: String,
    /// The signal that stops it; empty is SIGTERM.
    pub stop_signal: String,
    /// Declared volumes, as paths.
    pub volumes: Vec<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
}

/// Credentials for a registry. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// For basic authentication and token requests.
    pub username: String,
    /// For basic authentication and token requests.
    pub password: String,
    /// Base64 of `username:password`.
    pub auth: String,
    /// The registry these are for; empty is any.
    pub server_address: String,
    /// An OAuth refresh token.
    pub identity_token: String,
    /// A bearer token, sent as it is.
    pub registry_token: String,
}

impl Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that are unpacked or were there.
    pub layers_done: usize,
    /// Layers of the image.
    pub layers: usize,
    /// Bytes fetched in this pull.
    pub bytes_done: u64,
    /// Bytes that this pull has to fetch, as the manifest says.
    pub bytes: u64,
}

/// Who is told. Called often: must be cheap and must not block.
pub type ProgressSink = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// Use of a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesystemUsage {
    /// When it was measured, in nanoseconds since the epoch.
    pub timestamp: i64,
    /// Where it is mounted, or a directory on it.
    pub mountpoint: String,
    /// Bytes used by the thing measured.
    pub used_bytes: u64,
    /// Inodes used by the thing measured.
    pub inodes_used: u64,
}

/// Where images and containers' writable layers lie, and how much they take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFsInfo {
    /// For images.
    pub image_filesystems: Vec<FilesystemUsage>,
    /// For writable layers.
    pub container_filesystems: Vec<FilesystemUsage>,
}
