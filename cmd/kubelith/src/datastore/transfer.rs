//! From one store to another: every object of one revision, in the form that the other store keeps them in, compared by a
//! checksum of all keys and values afterwards.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use apiserver::{StoredForms, WriteAs};
use component_base::SystemRandom;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use storage::{At, Expect, Key, Kv, RangeReq, Rev, Store, Ttl};
use storage_embedded::EmbeddedStore;
use tempfile::TempDir;

use super::{STORE, save, tell};
use crate::data_dir;
use crate::etcd::EtcdAccess;

/// What all objects' keys begin with.
const ROOT: &str = "/registry/";
/// What is of the servers of one store for the moment: that they live, and what they are about to give out.
const MOMENTARY: [&[u8]; 2] = [b"/registry/masterleases/", b"/registry/kubelith.claims/"];
/// Objects that expire, and when those do that are copied.
const EVENTS: &[u8] = b"/registry/events/";
const EVENTS_TTL: Ttl = Ttl { seconds: 3600 };
/// How many objects are read at once, and how many are written.
const PAGE: usize = 1000;
const WRITES: usize = 64;

/// Where objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A server's data directory.
    Embedded(PathBuf),
    /// Members of etcd.
    Etcd(Vec<String>),
    /// A file with a copy.
    Snapshot(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("embedded", dir)) if !dir.is_empty() => {
                data_dir::place(dir).map(Self::Embedded).map_err(|error| error.to_string())
            }
            Some(("etcd", urls)) if !urls.is_empty() => {
                Ok(Self::Etcd(urls.split(',').map(str::to_owned).collect()))
            }
            Some(("snapshot", file)) if !file.is_empty() => Ok(Self::Snapshot(file.into())),
            _ => Err("it is embedded:DATA_DIR, etcd:URL,URL or snapshot:FILE".into()),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(dir) => write!(f, "{}", dir.display()),
            Self::Etcd(urls) => write!(f, "etcd at {}", urls.join(",")),
            Self::Snapshot(file) => write!(f, "{}", file.display()),
        }
    }
}

/// An open store, with what it needs to stay so.
struct Open {
    store: Arc<dyn Store>,
    /// The same where it is embedded: copies are made of it.
    embedded: Option<Arc<EmbeddedStore>>,
    _directory: Option<TempDir>,
}

impl Open {
    fn embedded(store: EmbeddedStore, directory: Option<TempDir>) -> Self {
        let embedded = Arc::new(store);
        let store = StoredForms::over(Arc::clone(&embedded) as Arc<dyn Store>, WriteAs::Json);
        Self { store, embedded: Some(embedded), _directory: directory }
    }
}

/// Copies and compares.
pub(super) async fn run(from: &Place, to: &Place, etcd: &EtcdAccess) -> Result<()> {
    if from == to {
        bail!("both stores are {from}");
    }
    check_target(to)?;
    let source = open_source(from, etcd).await?;
    let target = open_target(to, etcd).await?;
    let found = target.store.count(&Key::from(ROOT)).await?;
    if found > 0 {
        bail!("there are {found} objects in {to} already");
    }
    let bar = bar(source.store.count(&Key::from(ROOT)).await?)?;
    bar.set_message("copied");
    let (rev, copied) = copy(source.store.as_ref(), target.store.as_ref(), &bar).await?;
    bar.set_position(0);
    bar.set_message("compared");
    let read = read_all(target.store.as_ref(), At::Latest, |_| bar.inc(1)).await?;
    bar.finish_and_clear();
    if read != copied {
        bail!("{to} does not have what {from} had at revision {rev}: {read:?}, not {copied:?}");
    }
    finish(target, to)?;
    tell(&format!(
        "{to}: {} objects of {from} at revision {rev}, sha256 {}",
        copied.keys, copied.hash
    ));
    Ok(())
}

/// What cannot be written to, before anything is read.
fn check_target(to: &Place) -> Result<()> {
    match to {
        Place::Etcd(_) => Ok(()),
        Place::Embedded(dir) if dir.join(STORE).exists() => {
            bail!("there is a store in {} already", dir.display())
        }
        Place::Snapshot(file) if file.exists() => bail!("{} is there already", file.display()),
        Place::Embedded(_) | Place::Snapshot(_) => Ok(()),
    }
}

async fn open_source(from: &Place, etcd: &EtcdAccess) -> Result<Open> {
    match from {
        // Written is what would be written today.
        Place::Etcd(urls) => open_etcd(StoredForms::over, urls, etcd).await,
        Place::Snapshot(file) => restored(file),
        Place::Embedded(dir) => {
            if !dir.join(STORE).exists() {
                bail!("there is no store in {}", dir.display());
            }
            // A copy, which a server makes of its store while it runs.
            let directory = tempfile::tempdir_in(dir)
                .with_context(|| format!("could not make a directory in {}", dir.display()))?;
            let file = directory.path().join("copy");
            save(dir, &file).await?;
            restored(&file)
        }
    }
}

async fn open_target(to: &Place, etcd: &EtcdAccess) -> Result<Open> {
    match to {
        Place::Etcd(urls) => open_etcd(StoredForms::as_written, urls, etcd).await,
        Place::Embedded(_) | Place::Snapshot(_) => {
            // Beside what it becomes in the end.
            let directory = tempfile::tempdir()?;
            Ok(Open::embedded(open_embedded(&directory.path().join(STORE))?, Some(directory)))
        }
    }
}

/// How the values of a store are seen.
type Seen = fn(Arc<dyn Store>, WriteAs) -> Arc<dyn Store>;

async fn open_etcd(seen: Seen, urls: &[String], etcd: &EtcdAccess) -> Result<Open> {
    let store: Arc<dyn Store> = Arc::new(etcd.open(urls, Default::default()).await?);
    let store = seen(store, WriteAs::Protobuf);
    Ok(Open { store, embedded: None, _directory: None })
}

fn restored(file: &Path) -> Result<Open> {
    let directory = tempfile::tempdir()?;
    let store = directory.path().join(STORE);
    storage_embedded::restore(file, &store, &SystemRandom::new())?;
    Ok(Open::embedded(open_embedded(&store)?, Some(directory)))
}

fn open_embedded(dir: &Path) -> Result<EmbeddedStore> {
    let fatal = |why: &str| tracing::error!(why, "the store has failed");
    Ok(EmbeddedStore::open(&storage_embedded::Options::new(dir.to_owned(), Arc::new(fatal)))?)
}

/// Makes the file, or the store with revisions after those that anybody has seen.
fn finish(target: Open, to: &Place) -> Result<()> {
    let Some(embedded) = target.embedded else { return Ok(()) };
    match to {
        Place::Etcd(_) => {}
        Place::Snapshot(file) => drop(embedded.copy(&std::path::absolute(file)?)?),
        Place::Embedded(dir) => {
            let _held = data_dir::hold(dir)?;
            let directory = tempfile::tempdir()?;
            let file = directory.path().join("copy");
            embedded.copy(&file)?;
            storage_embedded::restore(&file, &dir.join(STORE), &SystemRandom::new())?;
        }
    }
    Ok(())
}

/// What was read: how much, and the checksum of all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sum {
    keys: u64,
    hash: String,
}

/// Copies everything of one revision.
async fn copy(from: &dyn Store, to: &dyn Store, bar: &ProgressBar) -> Result<(Rev, Sum)> {
    let mut summing = Summing::default();
    let mut request = everything(At::Latest);
    loop {
        let page = from.range(request.clone()).await?;
        let kvs: Vec<&Kv> = page.kvs.iter().filter(|kv| is_copied(kv)).collect();
        kvs.iter().for_each(|kv| summing.add(kv));
        stream::iter(kvs.iter().map(|kv| write(to, kv)))
            .buffer_unordered(WRITES)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        bar.inc(page.kvs.len() as u64);
        if !page.more {
            return Ok((page.rev, summing.done()));
        }
        request.after = page.kvs.last().map(|kv| kv.key.clone());
        request.at = At::Exactly(page.rev);
    }
}

async fn write(to: &dyn Store, kv: &Kv) -> Result<()> {
    kv.readable()?;
    let ttl = kv.key.as_bytes().starts_with(EVENTS).then_some(EVENTS_TTL);
    let put = to.put(kv.key.clone(), kv.value.clone(), Expect::Absent, ttl).await;
    put.with_context(|| format!("could not write {}", kv.key))?;
    Ok(())
}

async fn read_all(store: &dyn Store, at: At, seen: impl Fn(&Kv)) -> Result<Sum> {
    let mut summing = Summing::default();
    let mut request = everything(at);
    loop {
        let page = store.range(request.clone()).await?;
        for kv in page.kvs.iter().filter(|kv| is_copied(kv)) {
            summing.add(kv);
            seen(kv);
        }
        if !page.more {
            return Ok(summing.done());
        }
        request.after = page.kvs.last().map(|kv| kv.key.clone());
        request.at = At::Exactly(page.rev);
    }
}

fn everything(at: At) -> RangeReq {
    RangeReq { prefix: Key::from(ROOT), after: None, limit: PAGE, keys_only: false, at }
}

fn is_copied(kv: &Kv) -> bool {
    !MOMENTARY.iter().any(|it| kv.key.as_bytes().starts_with(it))
}

#[derive(Default)]
struct Summing {
    keys: u64,
    hash: Sha256,
}

impl Summing {
    /// Key and value with their lengths: no two sequences look the same.
    fn add(&mut self, kv: &Kv) {
        self.keys += 1;
        for bytes in [kv.key.as_bytes(), &kv.value] {
            self.hash.update((bytes.len() as u64).to_be_bytes());
            self.hash.update(bytes);
        }
    }

    fn done(self) -> Sum {
        Sum { keys: self.keys, hash: hex::encode(self.hash.finalize()) }
    }
}

fn bar(count: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::new(count);
    let style = "{bar:30} {pos}/{len} objects {msg} {elapsed}";
    bar.set_style(ProgressStyle::with_template(style)?);
    Ok(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named() {
        let check =
            |text: &str, expected| assert_eq!(text.parse::<Place>().ok(), expected, "{text}");
        let urls = ["http://a:1", "http://b:2"].map(str::to_owned).to_vec();
        check("etcd:http://a:1,http://b:2", Some(Place::Etcd(urls)));
        check("embedded:/var/lib/kubelith", Some(Place::Embedded("/var/lib/kubelith".into())));
        check("snapshot:a.snap", Some(Place::Snapshot("a.snap".into())));
        for wrong in ["etcd:", "/var/lib/kubelith", "", "redis:x"] {
            check(wrong, None);
        }
    }
}
