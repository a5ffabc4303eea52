//! Keeping logs of containers small: a log that grew past its size is moved aside, packed later, and in the end removed.
//!
//! The names are upstream's: `0.log.20260102-030405`, and `.gz` once another is moved aside. Nothing tells when a file
//! has grown without telling every write, so it is looked at every ten seconds, as upstream does.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use component_base::ShutdownSignal;
use cri::{ContainerFilter, ContainerState};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use crate::shared::Shared;

/// How often sizes are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What is being packed.
const UNFINISHED: &str = ".tmp";
const PACKED: &str = ".gz";

/// Runs until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, stop: ShutdownSignal) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.requested() => return,
        }
        check(&shared).await;
    }
}

async fn check(shared: &Shared) {
    let filter =
        ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
    let Ok(containers) = shared.runtime.list_containers(&filter).await else { return };
    for container in containers {
        let Ok(status) = shared.runtime.container_status(&container.id).await else { continue };
        let log = PathBuf::from(status.log_path);
        let size = fs::metadata(&log).map_or(0, |it| it.len());
        if size <= shared.config.container_log_max_bytes {
            continue;
        }
        if let Err(error) = rotate(shared, &container.id, log).await {
            tracing::warn!(
                container = container.id,
                error,
                "could not rotate a log, will try again"
            );
        }
    }
}

async fn rotate(shared: &Shared, id: &str, log: PathBuf) -> Result<(), String> {
    let (keep, now) = (shared.config.container_log_max_files, shared.clock.now());
    let moved_from = log.clone();
    let moved = shared.blocking.run(move || make_room(&log, keep, now)).await;
    let moved = moved.map_err(|it| it.to_string())?.map_err(|it| it.to_string())?;
    if let Err(error) = shared.runtime.reopen_container_log(id).await {
        // It is written on under its own name.
        fs::rename(&moved, &moved_from)
            .map_err(|it| format!("{error}; and it could not be moved back: {it}"))?;
        return Err(error.to_rpc());
    }
    Ok(())
}

/// Packs and removes what was moved aside before, and moves the log aside. Where it is now.
fn make_room(log: &Path, keep: usize, now: Timestamp) -> io::Result<PathBuf> {
    let mut rotated = files_of(log)?;
    rotated.retain(|it| it != log);
    for unfinished in rotated.extract_if(.., |it| has_end(it, UNFINISHED)) {
        fs::remove_file(unfinished)?;
    }
    // Besides the log and the one that is about to be moved aside.
    let excess = (rotated.len() + 2).saturating_sub(keep).min(rotated.len());
    for old in rotated.drain(..excess) {
        fs::remove_file(old)?;
    }
    for plain in rotated.iter().filter(|it| !has_end(it, PACKED)) {
        pack(plain)?;
    }
    let mut moved = log.as_os_str().to_owned();
    moved.push(now.strftime(".%Y%m%d-%H%M%S").to_string());
    let moved = PathBuf::from(moved);
    fs::rename(log, &moved)?;
    Ok(moved)
}

fn has_end(path: &Path, end: &str) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes())
}

fn pack(path: &Path) -> io::Result<()> {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let (unfinished, packed) = (with(UNFINISHED), with(PACKED));
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&unfinished, &packed)?;
    fs::remove_file(path)
}

/// What a log and all that it was rotated to take, in bytes.
pub(crate) fn bytes_of(log: &Path) -> i64 {
    let files = files_of(log).unwrap_or_default();
    let sizes = files.iter().filter_map(|it| it.metadata().ok()).map(|it| it.len());
    i64::try_from(sizes.sum::<u64>()).unwrap_or(i64::MAX)
}

/// A log and all that it was rotated to, the oldest first and the log itself before them; nothing without its
/// directory.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn files_of(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Ok(Vec::new()) };
    let entries = match fs::read_dir(dir) {
        Ok(it) => it,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let own = name.as_encoded_bytes();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(own);
        if rest.is_some_and(|it| it.is_empty() || it.starts_with(b".")) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let all = dir.read_dir().unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    }

    #[test]
    fn a_log_moves_aside_is_packed_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        fs::write(dir.path().join("0.log.x.tmp"), "half").unwrap();
        fs::write(dir.path().join("1.log"), "another's").unwrap();
        for second in 0..6 {
            fs::write(&log, format!("text {second}")).unwrap();
            let now = Timestamp::from_second(second).unwrap();
            let moved = make_room(&log, 4, now).unwrap();
            assert_eq!(fs::read_to_string(moved).unwrap(), format!("text {second}"));
        }
        fs::write(&log, "now").unwrap();
        assert_eq!(
            names(dir.path()),
            [
                "0.log",
                "0.log.19700101-000003.gz",
                "0.log.19700101-000004.gz",
                "0.log.19700101-000005",
                "1.log"
            ]
        );
        let packed = File::open(dir.path().join("0.log.19700101-000004.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text 4");
    }
}
