//! Debian's `docker-registry`: one that stands in for all others by mirror. It knows nothing of what is in an image.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the tool itself waits for a real process"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::catalog::Image;
use super::layout::{Descriptor, Layout};
use super::{Images, text};
use crate::command::{program, run};

/// How long a registry may take to listen.
const START: Duration = Duration::from_secs(20);
/// Registries whose images are here.
const MIRRORED: &[&str] =
    &["docker.io", "registry.k8s.io", "gcr.io", "quay.io", "ghcr.io", "us-docker.pkg.dev"];

/// `registries.yaml` that finds every registry at this address.
pub(super) fn mirrors(host: &str, port: u16) -> String {
    let mut text = String::from("mirrors:\n");
    for name in MIRRORED {
        let _ = writeln!(text, "  {name}:\n    endpoint:\n    - http://{host}:{port}");
    }
    text
}

/// A registry that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Registry {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    pub(super) fn start(root: &Path, port: u16) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                root.display()
            ),
        )?;
        let process = program("docker-registry", &["serve", &text(&config)], directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start docker-registry")?;
        let mut registry = Self { process, port, _directory: directory };
        registry.listens()?;
        Ok(registry)
    }

    /// Serves until it is ended from outside.
    pub(super) fn wait(mut self) -> Result<()> {
        let status = self.process.wait()?;
        bail!("docker-registry ended: {status}")
    }

    fn listens(&mut self) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("docker-registry ended at its start: {status}");
            }
            if begun.elapsed() > START {
                bail!("docker-registry does not listen after {START:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Pushes what the registry does not have; how many names that were comes back.
pub(super) fn push_all(
    images: &Images,
    layout: &Layout,
    made: &[(&Image, Descriptor)],
) -> Result<usize> {
    let list = images.directory.join("pushed.tsv");
    let names = || {
        made.iter().flat_map(|(image, digest)| image.names.iter().map(move |name| (*name, digest)))
    };
    let now: BTreeMap<String, String> =
        names().map(|(name, it)| (name.to_owned(), it.digest.clone())).collect();
    let before = if images.registry_root().exists() { pushed(&list) } else { BTreeMap::new() };
    let missing: Vec<(&str, &Descriptor)> =
        names().filter(|(name, it)| before.get(*name) != Some(&it.digest)).collect();
    if missing.is_empty() {
        return Ok(0);
    }
    // Bound to find a free port; the registry binds it a moment later.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let _registry = Registry::start(&images.registry_root(), port)?;
    for (name, image) in &missing {
        let (_, repository) = name.split_once('/').context("a name begins with its registry")?;
        layout.select(image, "image")?;
        let to = format!("docker://127.0.0.1:{port}/{repository}");
        copy(layout, &["--dest-tls-verify=false"], &to)
            .with_context(|| format!("could not push {name}"))?;
    }
    let lines: String = now.iter().map(|(name, digest)| format!("{name}\t{digest}\n")).collect();
    fs::write(&list, lines)?;
    Ok(missing.len())
}

/// Writes one image as an archive.
pub(super) fn archive(layout: &Layout, image: &Descriptor, name: &str, to: &Path) -> Result<()> {
    layout.select(image, "image")?;
    let _ = fs::remove_file(to);
    copy(layout, &[], &format!("oci-archive:{}:{name}", text(to)))
}

fn copy(layout: &Layout, options: &[&str], to: &str) -> Result<()> {
    let from = format!("oci:{}:image", text(layout.directory()));
    let words = [&["--insecure-policy", "copy", "--quiet"], options, &[&from, to]].concat();
    run("skopeo", &words, Path::new("/"))
}

fn pushed(list: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(list).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect()
}
