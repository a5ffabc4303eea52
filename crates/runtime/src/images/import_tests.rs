//! Archives as `docker save` writes them, and what the store makes of names and broken layers.

use std::fs::{self, File};
use std::path::Path;

use super::import::import;
use super::store::{ImageError, Store, digest_of};

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// What `docker save NAME` writes, with the digest of another layer when it is to be broken.
fn saved(name: &str, content: &str, broken: bool) -> Vec<u8> {
    let layer = tar_of(&[("file", content.as_bytes())]);
    let diff_id = digest_of(if broken { b"another" } else { &layer });
    let config = serde_json::json!({"config": {}, "rootfs": {"diff_ids": [diff_id]}});
    let list = serde_json::json!([
        {"Config": "config.json", "RepoTags": [name], "Layers": ["one/layer.tar"]}]);
    tar_of(&[
        ("manifest.json", list.to_string().as_bytes()),
        ("config.json", config.to_string().as_bytes()),
        ("one/layer.tar", &layer),
    ])
}

fn archive(dir: &Path, bytes: &[u8]) -> File {
    let path = dir.join("archive.tar");
    fs::write(&path, bytes).unwrap();
    File::open(path).unwrap()
}

#[test]
fn a_saved_image_is_imported_and_its_tag_moves_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let name = "example.test/a:1";
    let old = import(&store, archive(dir.path(), &saved(name, "old", false)), None).unwrap();
    let file = store.layers_dir().join(&old[0].layers[0]).join("file");
    assert_eq!(fs::read_to_string(file).unwrap(), "old");
    let new = import(&store, archive(dir.path(), &saved(name, "new", false)), None).unwrap();
    assert_eq!(store.find(name).unwrap().image.id, new[0].image.id);
    assert!(store.find(&old[0].image.id).unwrap().image.repo_tags.is_empty());
    // The same after a restart; and what nothing names goes.
    let again = Store::open(dir.path()).unwrap();
    assert_eq!(again.find(name).unwrap().image.id, new[0].image.id);
    again.remove(&old[0].image.id).unwrap();
    again.remove(&old[0].image.id).unwrap();
    assert_eq!(again.collect(&[].into()).unwrap(), 1);
    assert_eq!(again.list().len(), 1);
}

#[test]
fn a_layer_that_is_another_one_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let bytes = saved("example.test/a:1", "x", true);
    let error = import(&store, archive(dir.path(), &bytes), None).unwrap_err();
    assert!(matches!(error, ImageError::Invalid(_)), "{error}");
    assert!(store.list().is_empty());
    for left in [store.layers_dir(), store.ingest_dir()] {
        assert_eq!(fs::read_dir(left).unwrap().count(), 0);
    }
}
