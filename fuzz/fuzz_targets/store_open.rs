//! A log whose beginning is sound and whose rest is arbitrary: opening it never panics, and the store has
//! everything that the sound beginning held.

#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use component_base::SeededRandom;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use storage::{At, Expect, Key, Store};
use storage_embedded::fs::Fs;
use storage_embedded::sim::SimFs;
use storage_embedded::{EmbeddedStore, Options};

const WRITES: u8 = 12;
const READ_MAX: u64 = 1 << 20;

/// The files of a store with some writes, and where each write ends in the log.
struct Sound {
    files: Vec<(String, Vec<u8>)>,
    log: usize,
    ends: Vec<usize>,
}

fn options(fs: &SimFs) -> Options {
    let mut options = Options::new("/d", Arc::new(|_: &str| {}));
    options.fs = Arc::new(fs.clone());
    options.random = Arc::new(SeededRandom::new(7));
    options.limits.segment_bytes = 4096;
    options
}

fn key(number: u8) -> Key {
    Key::from(format!("/k/{number}"))
}

fn value(number: u8) -> Vec<u8> {
    vec![b'a' + number; 20 + usize::from(number)]
}

fn files(fs: &SimFs) -> Vec<(String, Vec<u8>)> {
    let names = fs.list(Path::new("/d")).expect("because the directory is there");
    let read = |name: String| {
        let mut bytes = Vec::new();
        fs.read(&Path::new("/d").join(&name), 0, READ_MAX, &mut bytes).expect("because it is listed");
        (name, bytes)
    };
    names.into_iter().filter(|name| !name.contains("lock")).map(read).collect()
}

fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| {
        let fs = SimFs::default();
        let store = EmbeddedStore::open(&options(&fs)).expect("because the directory is empty");
        let mut ends = Vec::new();
        let written = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        for number in 0..WRITES {
            block_on(store.put(key(number), value(number).into(), Expect::Absent, None))
                .expect("because nothing fails here");
            let log = files(&fs).into_iter().filter(|(name, _)| name.starts_with("log"));
            ends.push(log.map(|(_, bytes)| written(&bytes)).max().unwrap_or(0).next_multiple_of(8));
        }
        drop(store);
        let files = files(&fs);
        let longest = |(_, (_, bytes)): &(usize, &(String, Vec<u8>))| written(bytes);
        let log = files.iter().enumerate().filter(|(_, (name, _))| name.starts_with("log"));
        let log = log.max_by_key(longest).map(|(index, _)| index).expect("because a log was written");
        Sound { files, log, ends }
    })
}

fuzz_target!(|input: &[u8]| {
    let [kept, input @ ..] = input else { return };
    let sound = sound();
    let kept = usize::from(*kept) % (sound.ends.len() + 1);
    let end = kept.checked_sub(1).map_or(storage_embedded::format::HEADER_BYTES, |it| sound.ends[it]);
    let fs = SimFs::default();
    fs.create_dir(Path::new("/d")).expect("because the disk is empty");
    for (index, (name, bytes)) in sound.files.iter().enumerate() {
        let mut file = fs.create(&Path::new("/d").join(name)).expect("because the disk is empty");
        let bytes = if index == sound.log { [&bytes[..end], input].concat() } else { bytes.clone() };
        file.write_at(0, &bytes).expect("because the disk has room");
        file.sync_data().expect("because the disk is sound");
    }
    fs.sync_dir(Path::new("/d")).expect("because the disk is sound");
    // What follows is nothing that was written: as after a torn write, it is cut off.
    let store = EmbeddedStore::open(&options(&fs)).expect("because the beginning is sound");
    for number in (0..WRITES).take(kept) {
        let (found, _) = block_on(store.get(&key(number), At::Latest)).expect("because it is open");
        let found = found.expect("because the sound beginning has it");
        assert_eq!(found.value, value(number), "key {number} of {kept}");
    }
});
