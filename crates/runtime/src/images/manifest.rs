//! What images are described by: indexes, manifests and configurations, of OCI and of Docker.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// The largest index, manifest or configuration.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// The most layers of an image.
pub(crate) const MAX_LAYERS: usize = 127;

/// The documents that a registry is asked for, most wanted first.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A null where a list or map is meant reads as empty.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Points to another document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:...`.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// For what machines.
    pub platform: Option<Platform>,
    /// Of the document.
    #[serde(deserialize_with = "or_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A kind of machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v8`.
    pub variant: String,
}

impl Platform {
    /// This machine, in the words of images.
    #[must_use]
    pub(crate) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant: String::new() }
    }

    fn runs(&self, here: &Self) -> bool {
        self.os == here.os && self.architecture == here.architecture
    }
}

/// A document that a name leads to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Document {
    /// What it is; may be missing.
    pub media_type: String,
    /// Version 1 is not supported.
    pub schema_version: u32,
    /// Of an index.
    #[serde(deserialize_with = "or_empty")]
    pub manifests: Vec<Descriptor>,
    /// Of a manifest.
    pub config: Option<Descriptor>,
    /// Of a manifest, lowest first.
    #[serde(deserialize_with = "or_empty")]
    pub layers: Vec<Descriptor>,
}

impl Document {
    /// Reads it.
    ///
    /// # Errors
    /// When it is neither an index nor a manifest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if document.schema_version != 2 {
            return Err(format!("schema version {} is not supported", document.schema_version));
        }
        if document.config.is_none() && document.manifests.is_empty() {
            return Err("it is neither an index nor a manifest".into());
        }
        if document.layers.len() > MAX_LAYERS {
            return Err(format!("it has more than {MAX_LAYERS} layers"));
        }
        Ok(document)
    }

    /// The manifest of an index for `here`.
    #[must_use]
    pub(crate) fn choose(&self, here: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .find(|d| d.platform.as_ref().is_some_and(|p| p.runs(here)))
            .or_else(|| self.manifests.iter().find(|d| d.platform.is_none()))
    }
}

/// The configuration of an image.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    /// How it is run.
    #[serde(deserialize_with = "or_empty")]
    pub config: RunConfig,
    /// Its layers.
    pub rootfs: RootFs,
}

/// The layers as they unpack.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    /// Digests of the uncompressed layers, lowest first.
    #[serde(deserialize_with = "or_empty")]
    pub diff_ids: Vec<String>,
}

/// How an image is run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// `NAME=value`.
    #[serde(deserialize_with = "or_empty")]
    pub env: Vec<String>,
    /// What is run.
    #[serde(deserialize_with = "or_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments.
    #[serde(deserialize_with = "or_empty")]
    pub cmd: Vec<String>,
    /// Where.
    #[serde(deserialize_with = "or_empty")]
    pub working_dir: String,
    /// By whom.
    #[serde(deserialize_with = "or_empty")]
    pub user: String,
    /// Ended how.
    #[serde(deserialize_with = "or_empty")]
    pub stop_signal: String,
    /// Declared volumes.
    #[serde(deserialize_with = "or_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Labels.
    #[serde(deserialize_with = "or_empty")]
    pub labels: BTreeMap<String, String>,
}

impl From<RunConfig> for cri::ImageConfig {
    fn from(from: RunConfig) -> Self {
        Self {
            env: from.env,
            entrypoint: from.entrypoint,
            cmd: from.cmd,
            working_dir: from.working_dir,
            user: from.user,
            stop_signal: from.stop_signal,
            volumes: from.volumes.into_keys().collect(),
            labels: from.labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_gives_the_manifest_for_this_machine() {
        let text = r#"{"schemaVersion":2,"manifests":[
            {"digest":"sha256:a","platform":{"os":"linux","architecture":"s390x"}},
            {"digest":"sha256:b","platform":{"os":"linux","architecture":"amd64"}},
            {"digest":"sha256:c","platform":{"os":"unknown","architecture":"unknown"}}]}"#;
        let index = Document::parse(text.as_bytes()).unwrap();
        let at = |arch: &str| {
            let here =
                Platform { architecture: arch.into(), os: "linux".into(), ..Platform::here() };
            index.choose(&here).map(|d| d.digest.clone())
        };
        assert_eq!(at("amd64").as_deref(), Some("sha256:b"));
        assert_eq!(at("arm64"), None);
    }

    #[test]
    fn nulls_read_as_empty_and_other_documents_are_refused() {
        let text = r#"{"config":{"Env":null,"Cmd":["sh"],"Volumes":{"/v":{}}},"rootfs":{"diff_ids":null}}"#;
        let config: ConfigFile = serde_json::from_str(text).unwrap();
        assert!(config.config.env.is_empty() && config.rootfs.diff_ids.is_empty());
        assert_eq!(cri::ImageConfig::from(config.config).volumes, ["/v"]);
        for (text, expected) in [
            (r#"{"schemaVersion":1}"#, "schema version 1 is not supported"),
            (r#"{"schemaVersion":2}"#, "it is neither an index nor a manifest"),
        ] {
            assert_eq!(Document::parse(text.as_bytes()).unwrap_err(), expected);
        }
    }
}
