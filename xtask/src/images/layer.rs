//! Layers: a recipe becomes a tree, the tree a compressed archive that is the same on every run. Kept by recipe.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::catalog::{DEBIAN, Entry, Layer};
use super::debian::Packages;
use super::{Images, text};
use crate::command::{output, run};

/// Counted up when the same recipe is to give other bytes.
const FORMAT: u32 = 1;

/// A layer that is there.
#[derive(Debug, Clone)]
pub(super) struct Built {
    /// Of the compressed archive.
    pub(super) digest: String,
    /// Of the archive.
    pub(super) diff_id: String,
    pub(super) bytes: u64,
    pub(super) file: PathBuf,
}

/// The layers made so far.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    program: PathBuf,
    /// Apt's lists are made fresh before the first package is fetched.
    fresh: std::cell::Cell<bool>,
}

impl Cache {
    pub(super) fn open(images: &Images) -> Result<Self> {
        let directory = images.directory.join("layers");
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, program: images.program(), fresh: false.into() })
    }

    /// The layer of a recipe, made where it is not there yet.
    pub(super) fn get(&self, recipe: &Layer) -> Result<Built> {
        let key = self.key(recipe)?;
        let (file, facts) = (
            self.directory.join(format!("{key}.tar.gz")),
            self.directory.join(format!("{key}.json")),
        );
        if let Ok(known) = fs::read(&facts) {
            return read(&known, &file);
        }
        let tree = tempfile::tempdir_in(&self.directory)?;
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755))?;
        self.fill(recipe, tree.path())?;
        let built = write(tree.path(), &file)?;
        let known = json!({"digest": built.digest, "diffId": built.diff_id, "bytes": built.bytes});
        // Last: a layer with facts is complete.
        fs::write(&facts, known.to_string())?;
        Ok(built)
    }

    fn key(&self, recipe: &Layer) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!("{FORMAT} {recipe:?}"));
        match recipe {
            Layer::Program(_) => hash.update(fs::read(&self.program)?),
            Layer::Debian | Layer::Packages(_) => hash.update(format!("{DEBIAN:?}")),
            Layer::Busybox | Layer::Files(_) => {}
        }
        Ok(hex(hash).get(..16).unwrap_or_default().to_owned())
    }

    fn fill(&self, recipe: &Layer, tree: &Path) -> Result<()> {
        match recipe {
            Layer::Debian => self.packages()?.base(tree),
            Layer::Packages(names) => self.packages()?.beyond_base(names, tree),
            Layer::Busybox => busybox(tree),
            Layer::Program(paths) => {
                paths.iter().try_for_each(|path| copy(&self.program, &tree.join(path)))
            }
            Layer::Files(entries) => entries.iter().try_for_each(|it| entry(it, tree)),
        }
    }
}

impl Cache {
    fn packages(&self) -> Result<Packages> {
        if !self.fresh.replace(true) {
            run("apt-get", &["-qq", "update"], Path::new("/"))?;
        }
        Packages::open(&self.directory.join("../packages"))
    }
}

fn busybox(tree: &Path) -> Result<()> {
    let program = output("sh", &["-c", "command -v busybox"], tree)?;
    copy(Path::new(program.trim()), &tree.join("bin/busybox"))?;
    for applet in output(program.trim(), &["--list"], tree)?.lines().filter(|it| *it != "busybox") {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    run("mkdir", &["-m", "1777", "tmp"], tree)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file lies in a directory")?)?;
    fs::copy(from, to).with_context(|| format!("could not copy {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

fn entry(entry: &Entry, tree: &Path) -> Result<()> {
    let (Entry::File(path, _) | Entry::Directory(path, _) | Entry::Link(path, _)) = entry;
    let path = tree.join(path);
    fs::create_dir_all(path.parent().context("an entry lies in a directory")?)?;
    match entry {
        Entry::File(_, content) => {
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        Entry::Directory(_, mode) => {
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
        }
        Entry::Link(_, target) => symlink(target, &path)?,
    }
    Ok(())
}

fn read(known: &[u8], file: &Path) -> Result<Built> {
    let known: serde_json::Value = serde_json::from_slice(known)?;
    let string = |name: &str| known[name].as_str().unwrap_or_default().to_owned();
    Ok(Built {
        digest: string("digest"),
        diff_id: string("diffId"),
        bytes: known["bytes"].as_u64().unwrap_or_default(),
        file: file.to_owned(),
    })
}

/// Archives a tree; names sorted, times zero.
fn write(tree: &Path, file: &Path) -> Result<Built> {
    let compressed = Hashing::new(io::BufWriter::new(File::create(file)?));
    let plain = Hashing::new(GzEncoder::new(compressed, Compression::new(6)));
    let mut archive = tar::Builder::new(plain);
    archive.follow_symlinks(false);
    for entry in WalkDir::new(tree).min_depth(1).sort_by_file_name() {
        let entry = entry?;
        append(&mut archive, tree, entry.path())
            .with_context(|| format!("could not archive {}", text(entry.path())))?;
    }
    let plain = archive.into_inner()?;
    let (encoder, diff_id, _) = plain.finish();
    let (mut out, digest, bytes) = encoder.finish()?.finish();
    out.flush()?;
    Ok(Built { digest, diff_id, bytes, file: file.to_owned() })
}

fn append(archive: &mut tar::Builder<impl Write>, tree: &Path, path: &Path) -> Result<()> {
    let (metadata, name) = (fs::symlink_metadata(path)?, path.strip_prefix(tree)?);
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_mtime(0);
    header.set_mode(metadata.mode() & 0o7777);
    if metadata.is_symlink() {
        archive.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if metadata.is_dir() {
        archive.append_data(&mut header, name, io::empty())?;
    } else {
        archive.append_data(&mut header, name, File::open(path)?)?;
    }
    Ok(())
}

/// Passes bytes on, hashing and counting them.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, format!("sha256:{}", hex(self.hash)), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(buffer.get(..written).unwrap_or_default());
        self.bytes += u64::try_from(written).unwrap_or_default();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A digest as text.
pub(super) fn hex(hash: Sha256) -> String {
    ::hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tree_gives_the_same_layer() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let tree = place.path().join(name);
            fs::create_dir(&tree).unwrap();
            let entries =
                [Entry::File("etc/a", "1"), Entry::Directory("tmp", 0o1777), Entry::Link("b", "a")];
            entries.iter().for_each(|it| entry(it, &tree).unwrap());
            write(&tree, &place.path().join(format!("{name}.tar.gz"))).unwrap()
        };
        let (one, two) = (make("one"), make("two"));
        assert_eq!((&one.digest, &one.diff_id, one.bytes), (&two.digest, &two.diff_id, two.bytes));
        assert_eq!(fs::metadata(&one.file).unwrap().len(), one.bytes);
        assert_ne!(one.digest, one.diff_id);
    }
}
