//! Damaged files: a torn end is cut off, damage elsewhere is refused with its place.

use super::*;

/// A closed store with 30 writes in one segment, and the places where their frames begin.
async fn written(dir: &Path) -> (std::path::PathBuf, Vec<usize>, Vec<Rev>) {
    let store = open(dir);
    let mut revs = Vec::new();
    for n in 0..30 {
        revs.push(put(&store, &format!("/a/{n}"), &"v".repeat(100)).await);
    }
    drop(store);
    let path = dir.join(&files(dir, "log-")[0]);
    let bytes = std::fs::read(&path).unwrap();
    let mut offsets = Vec::new();
    let mut offset = storage_embedded::format::HEADER_BYTES;
    storage_embedded::format::read_segment(&bytes, |frame, _| {
        offsets.push(offset);
        offset += frame.len;
    })
    .unwrap();
    offsets.push(offset);
    assert_eq!(offsets.len(), 31);
    (path, offsets, revs)
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_torn_end_is_cut_off_and_writing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, offsets, revs) = written(dir.path()).await;
    // The last write is there in part, as if the power had gone before it was durable.
    flip(&path, offsets[29] + 60);
    let store = open(dir.path());
    assert_eq!(keys(&store).await.len(), 29);
    assert_eq!(store.progress().await.unwrap(), revs[28]);
    assert!(put(&store, "/a/again", "1").await > revs[29], "the lost number is not given again");
    drop(store);
    let store = open(dir.path());
    assert_eq!(keys(&store).await.len(), 30);
    assert_eq!(history(&store, Rev(1)).len(), 30);
}

#[tokio::test]
async fn damage_before_sound_writes_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (path, offsets, revs) = written(dir.path()).await;
    flip(&path, offsets[10] + 60);
    flip(&path, offsets[11] + 20);
    let error = try_open(dir.path(), Limits::default()).unwrap_err();
    let expected = format!(
        "{} is damaged at offset {}: revisions {} to {} cannot be read",
        path.display(),
        offsets[10],
        revs[10],
        revs[11],
    );
    assert_eq!(error.to_string(), expected);
    // Refusing has changed nothing.
    flip(&path, offsets[10] + 60);
    flip(&path, offsets[11] + 20);
    assert_eq!(keys(&open(dir.path())).await.len(), 30);
}

#[tokio::test]
async fn zeros_in_the_middle_are_damage_too() {
    let dir = tempfile::tempdir().unwrap();
    let (path, offsets, _) = written(dir.path()).await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[offsets[10]..offsets[12]].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let error = try_open(dir.path(), Limits::default()).unwrap_err().to_string();
    assert!(error.contains(&format!("damaged at offset {}", offsets[10])), "{error}");
}

#[tokio::test]
async fn a_segment_that_is_not_the_last_must_be_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (path, offsets, revs) = written(dir.path()).await;
    let later = put(&open(dir.path()), "/a/later", "1").await;
    assert!(later > revs[29]);
    // Cut at a frame: nothing in this file alone tells that something is missing.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..offsets[20]]).unwrap();
    let error = try_open(dir.path(), Limits::default()).unwrap_err().to_string();
    let expected =
        format!("follows on revision {}, but the log before it ends with {}", revs[29], revs[19]);
    assert!(error.contains(&expected), "{error}");
    // Cut within one.
    std::fs::write(&path, &bytes[..offsets[20] + 40]).unwrap();
    let error = try_open(dir.path(), Limits::default()).unwrap_err().to_string();
    let expected = format!("offset {}: revisions {} to {}", offsets[20], revs[20], revs[29]);
    assert!(error.contains(&expected), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(try_open(dir.path(), Limits::default()), Err(OpenError::Corrupt { .. })));
}

#[tokio::test]
async fn a_damaged_snapshot_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = try_open(dir.path(), SMALL).unwrap();
    for n in 0..800 {
        put(&store, &format!("/a/{}", n % 40), &"v".repeat(700)).await;
    }
    let expected = store.range(everything(At::Latest)).await.unwrap();
    drop(store);
    let snapshots = files(dir.path(), "snapshot-");
    assert!(snapshots.len() >= 2, "{snapshots:?}");
    // The history begins with the older one; the newer holds the same state with less history.
    flip(&dir.path().join(&snapshots[0]), 5_000);
    let store = try_open(dir.path(), SMALL).unwrap();
    assert_eq!(store.range(everything(At::Latest)).await.unwrap(), expected);
    drop(store);
    for snapshot in &snapshots[1..] {
        flip(&dir.path().join(snapshot), 5_000);
    }
    let error = try_open(dir.path(), SMALL).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("is damaged at offset"), "{error}");
}
