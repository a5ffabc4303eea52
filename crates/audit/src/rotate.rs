//! A log file that is put aside when it is full, as upstream's lumberjack does it: `audit.log` becomes
//! `audit-2026-01-02T15-04-05.000.log`, packed to `.gz` if wanted; what is too many or too old is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use component_base::Clock;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

const MEGABYTE: u64 = 1 << 20;
/// How large a file gets where nothing else is said, in megabytes.
const DEFAULT_MAX_SIZE: u64 = 100;
/// The time in the name of a file that was put aside.
const FORMAT: &str = "%Y-%m-%dT%H-%M-%S.%3f";

/// When a file is put aside, and how long it stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Days that old files stay; 0 for ever.
    pub max_age_days: u32,
    /// How many old files stay; 0 for any number.
    pub max_backups: usize,
    /// Megabytes of a file before it is put aside; 0 for 100.
    pub max_size_megabytes: u64,
    /// Whether old files are packed.
    pub compress: bool,
}

impl Rotation {
    fn max_bytes(self) -> u64 {
        let size = self.max_size_megabytes;
        (if size == 0 { DEFAULT_MAX_SIZE } else { size }).saturating_mul(MEGABYTE)
    }
}

/// The file that is written.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    clock: Arc<dyn Clock>,
    file: File,
    size: u64,
    /// Asks for old files to be seen to. One request that waits is as good as many.
    tidy: mpsc::SyncSender<Timestamp>,
}

impl RotatingFile {
    /// The file at a path; what it has stays.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, rotation: Rotation, clock: Arc<dyn Clock>) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        let (tidy, asked) = mpsc::sync_channel(1);
        let place = path.to_owned();
        std::thread::Builder::new().name("audit-log".into()).spawn(move || {
            while let Ok(now) = asked.recv() {
                if let Err(error) = tidy_up(&place, rotation, now) {
                    tracing::warn!(%error, path = %place.display(), "could not see to old audit logs");
                }
            }
        })?;
        let file = Self { path: path.to_owned(), rotation, clock, file, size, tidy };
        file.ask_to_tidy();
        Ok(file)
    }

    fn ask_to_tidy(&self) {
        // Full: it will be done.
        let _ = self.tidy.try_send(self.clock.now());
    }

    /// Puts the file aside and begins another.
    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = backup_name(&self.path, self.clock.now());
        if aside.exists() {
            // Twice in a millisecond: the next one.
            let next = self.clock.now() + SignedDuration::from_millis(1);
            aside = backup_name(&self.path, next);
        }
        fs::rename(&self.path, aside)?;
        self.file = append(&self.path)?;
        self.size = 0;
        self.ask_to_tidy();
        Ok(())
    }
}

impl Write for RotatingFile {
    /// Writes all of it into one file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (length, limit) = (bytes.len() as u64, self.rotation.max_bytes());
        if length > limit {
            let why = format!("write length {length} exceeds maximum file size {limit}");
            return Err(io::Error::other(why));
        }
        if self.size + length > limit {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.size += length;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// What stands before and after the time in the names of files that were put aside.
fn name_parts(path: &Path) -> (String, String) {
    let text = |it: Option<&std::ffi::OsStr>| it.unwrap_or_default().to_string_lossy().into_owned();
    let extension = match text(path.extension()) {
        it if it.is_empty() => it,
        it => format!(".{it}"),
    };
    (format!("{}-", text(path.file_stem())), extension)
}

fn backup_name(path: &Path, at: Timestamp) -> PathBuf {
    let (prefix, extension) = name_parts(path);
    let time = strtime::format(FORMAT, at).unwrap_or_default();
    path.with_file_name(format!("{prefix}{time}{extension}"))
}

/// The files that were put aside, the newest first.
fn backups(path: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let (prefix, extension) = name_parts(path);
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let bare = name.strip_suffix(".gz").unwrap_or(&name);
        let time = bare.strip_prefix(&prefix).and_then(|it| it.strip_suffix(&extension));
        let time = time.and_then(|it| strtime::parse(FORMAT, it).ok());
        let time = time.and_then(|it| it.to_datetime().ok());
        let time = time.and_then(|it| it.to_zoned(TimeZone::UTC).ok());
        found.extend(time.map(|it| (it.timestamp(), entry.path())));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

fn tidy_up(path: &Path, rotation: Rotation, now: Timestamp) -> io::Result<()> {
    let oldest = match rotation.max_age_days {
        0 => None,
        days => now.checked_sub(SignedDuration::from_hours(24 * i64::from(days))).ok(),
    };
    for (index, (at, file)) in backups(path)?.into_iter().enumerate() {
        let too_many = rotation.max_backups > 0 && index >= rotation.max_backups;
        if too_many || oldest.is_some_and(|oldest| at < oldest) {
            fs::remove_file(&file)?;
        } else if rotation.compress && file.extension().is_none_or(|it| it != "gz") {
            pack(&file)?;
        }
    }
    Ok(())
}

/// Packs a file; the packed one takes its place when it is whole.
fn pack(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let packed =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&name)?;
    let mut packer = GzEncoder::new(packed, Compression::default());
    let mut plain = File::open(path)?;
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = plain.read(&mut piece)?;
        if read == 0 {
            break;
        }
        packer.write_all(&piece[..read])?;
    }
    packer.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use component_base::RealClock;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let all = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            all.map(|it| it.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_named_as_lumberjack_does_and_found_again() {
        let at: Timestamp = "2026-01-02T15:04:05.006Z".parse().unwrap();
        for (path, expected) in [
            ("/var/log/audit.log", "/var/log/audit-2026-01-02T15-04-05.006.log"),
            ("audit", "audit-2026-01-02T15-04-05.006"),
        ] {
            assert_eq!(backup_name(Path::new(path), at), Path::new(expected));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let file = backup_name(&path, at);
        fs::write(&file, "x").unwrap();
        fs::write(directory.path().join("audit-other.log"), "x").unwrap();
        assert_eq!(backups(&path).unwrap(), [(at, file)]);
    }

    #[test]
    fn a_full_file_is_put_aside_and_a_line_is_never_split() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/audit.log");
        let rotation = Rotation { max_size_megabytes: 1, ..Rotation::default() };
        let mut file = RotatingFile::open(&path, rotation, Arc::new(RealClock)).unwrap();
        let line = vec![b'x'; 600 << 10];
        for _ in 0..3 {
            file.write_all(&line).unwrap();
        }
        let parent = path.parent().unwrap();
        assert_eq!(names(parent).len(), 3, "{:?}", names(parent));
        for name in names(parent) {
            assert_eq!(fs::metadata(parent.join(name)).unwrap().len(), 600 << 10);
        }
        let error = file.write_all(&vec![b'x'; 2 << 20]).unwrap_err().to_string();
        assert_eq!(error, "write length 2097152 exceeds maximum file size 1048576");
        let again = RotatingFile::open(&path, rotation, Arc::new(RealClock)).unwrap();
        assert_eq!(again.size, 600 << 10, "what is there counts");
    }

    #[test]
    fn old_files_are_packed_and_those_too_many_or_too_old_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        for hours in [1, 2, 3, 60 * 24] {
            let at = now - SignedDuration::from_hours(hours);
            fs::write(backup_name(&path, at), "content").unwrap();
        }
        let keep = Rotation { max_age_days: 30, compress: true, ..Rotation::default() };
        tidy_up(&path, keep, now).unwrap();
        let packed = names(directory.path());
        assert_eq!(packed.len(), 3);
        assert!(packed.iter().all(|it| it.ends_with(".log.gz")), "{packed:?}");
        let mut text = String::new();
        let first = File::open(directory.path().join(&packed[0])).unwrap();
        flate2::read::GzDecoder::new(first).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        tidy_up(&path, Rotation { max_backups: 2, ..keep }, now).unwrap();
        assert_eq!(names(directory.path()), packed[1..]);
    }
}
