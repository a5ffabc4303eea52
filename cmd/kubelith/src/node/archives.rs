//! Archives of images that an operator laid into a directory: imported at a start, once each.
//!
//! What was imported is noted by path, size and time of change, so that a start with unchanged archives reads none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use cri::ImageService as _;
use runtime::EmbeddedRuntime;
use serde::{Deserialize, Serialize};

/// An archive as it was when it was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Imported {
    size: u64,
    /// Nanoseconds since the epoch.
    changed: u128,
    /// What it held.
    images: Vec<String>,
}

/// By path.
type Notes = BTreeMap<String, Imported>;

/// Imports what is new in `dir`; `notes` is the file that remembers.
pub(super) async fn import(runtime: &EmbeddedRuntime, dir: &Path, notes: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let known = read(notes);
    let here = runtime.list_images(None).await.context("could not list images")?;
    let here: BTreeSet<String> = here.into_iter().map(|it| it.id).collect();
    let mut now = Notes::new();
    for entry in entries {
        let path = entry.with_context(|| format!("could not list {}", dir.display()))?.path();
        let name = path.display().to_string();
        let (size, changed) = look(&path).with_context(|| format!("could not look at {name}"))?;
        if let Some(it) = known.get(&name).filter(|it| holds(it, (size, changed), &here)) {
            now.insert(name, it.clone());
            continue;
        }
        let images = runtime
            .import_image(path, None)
            .await
            .with_context(|| format!("could not import the images of {name}"))?;
        tracing::info!(path = name, images = images.len(), "images imported");
        now.insert(name, Imported { size, changed, images });
    }
    if now != known {
        write(notes, &now).with_context(|| format!("could not write {}", notes.display()))?;
    }
    Ok(())
}

fn look(path: &Path) -> std::io::Result<(u64, u128)> {
    let it = path.metadata()?;
    let changed = it.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((it.len(), changed.as_nanos()))
}

/// Whether an archive is as it was, and all that it held is still here.
fn holds(known: &Imported, (size, changed): (u64, u128), here: &BTreeSet<String>) -> bool {
    known.size == size
        && known.changed == changed
        && known.images.iter().all(|it| here.contains(it))
}

/// Notes that cannot be read are none: everything is imported again.
fn read(path: &Path) -> Notes {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn write(path: &Path, notes: &Notes) -> std::io::Result<()> {
    sys::fs::write_atomic(path, &serde_json::to_vec(notes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_imported_again_when_it_changed_or_its_images_went() {
        let known = Imported { size: 5, changed: 7, images: vec!["a".into(), "b".into()] };
        let here = |ids: &[&str]| ids.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
        let all = here(&["a", "b", "c"]);
        assert!(holds(&known, (5, 7), &all));
        assert!(!holds(&known, (6, 7), &all));
        assert!(!holds(&known, (5, 8), &all));
        assert!(!holds(&known, (5, 7), &here(&["a"])));
    }

    #[test]
    fn notes_are_kept_and_broken_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imported.json");
        assert!(read(&path).is_empty());
        let it = Imported { size: 1, changed: 1 << 70, images: vec!["a".into()] };
        let notes = Notes::from([("x".to_owned(), it)]);
        write(&path, &notes).unwrap();
        assert_eq!(read(&path), notes);
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).is_empty());
    }
}
