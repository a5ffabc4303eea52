//! Logs of containers: from a place, up to a limit, and as they grow.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cri::RuntimeEvent;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::StatusCode;
use inotify::{EventMask, Inotify, WatchMask};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

use super::query::Query;
use super::routes::Refusal;
use super::{Context, which};
use crate::pod::observed::is_running;
use crate::spec;

/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// The longest line that is held; the runtime cuts at 16 KiB.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    follow: bool,
    timestamps: bool,
    previous: bool,
    tail_lines: Option<u64>,
    limit_bytes: Option<u64>,
    since: Option<Timestamp>,
    /// `stdout` or `stderr` alone.
    stream: Option<String>,
}

fn wanted(query: &Query, now: Timestamp) -> Result<Wanted, String> {
    let since_seconds = query.number("sinceSeconds")?;
    let since_time = query.get("sinceTime").filter(|it| !it.is_empty());
    let since = match (since_seconds, since_time) {
        (Some(seconds), _) => {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            now.checked_sub(SignedDuration::from_secs(seconds)).ok()
        }
        (None, Some(text)) => {
            Some(text.parse().map_err(|_| format!("sinceTime: {text:?} is not a time"))?)
        }
        (None, None) => None,
    };
    Ok(Wanted {
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        previous: query.flag("previous"),
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        since,
        stream: query
            .get("stream")
            .filter(|it| matches!(*it, "Stdout" | "Stderr"))
            .map(str::to_lowercase),
    })
}

/// The log of a container.
///
/// # Errors
/// When there is none to show.
pub(super) async fn stream(
    context: &std::sync::Arc<Context>,
    pod: &Pod,
    name: &str,
    query: &Query,
) -> Result<BoxStream<'static, io::Result<Bytes>>, Refusal> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let wanted = wanted(query, context.shared.clock.now()).map_err(bad)?;
    if spec::find_container(pod, name).is_none() {
        let text = format!("container {name:?} not found in pod {:?}", spec::name(pod));
        return Err((StatusCode::NOT_FOUND, text));
    }
    let id = which::container(pod, name, wanted.previous).map_err(bad)?;
    let bare = id.rsplit_once("://").map_or(id.as_str(), |it| it.1);
    let Ok(status) = context.shared.runtime.container_status(bare).await else {
        // Upstream has answered by the time it finds out: this is the log.
        let text = format!("unable to retrieve container logs for {id}");
        return Ok(futures::stream::iter([Ok(Bytes::from(text))]).boxed());
    };
    let runs = is_running(&status);
    let id = status.container.id.clone();
    let path = PathBuf::from(&status.log_path);
    let unread = |error: io::Error| {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to open the log: {error}"))
    };
    let mut file = File::open(&path).await.map_err(unread)?;
    let start = match wanted.tail_lines {
        Some(lines) => tail(&mut file, lines).await.map_err(unread)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await.map_err(unread)?;
    let growth = if wanted.follow && runs {
        Some(Growth::watch(context, &path, id).map_err(unread)?)
    } else {
        None
    };
    Ok(Reader::new(file, wanted, growth).into_stream().boxed())
}

/// Where the last lines begin.
async fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata().await?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    let length = end;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK_BYTES as u64);
        let size = usize::try_from(end - begin).unwrap_or(CHUNK_BYTES);
        file.seek(SeekFrom::Start(begin)).await?;
        file.read_exact(&mut buffer[..size]).await?;
        for at in (0..size).rev() {
            let position = begin + at as u64;
            if buffer[at] == b'\n' && position + 1 < length {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

/// What may have happened to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Grown,
    /// It was moved aside, and another begins.
    Replaced,
    /// Its container ended.
    Ended,
}

/// Tells what happens to a log.
struct Growth {
    path: PathBuf,
    changes: BoxStream<'static, Change>,
}

impl Growth {
    fn watch(context: &Context, path: &Path, id: String) -> io::Result<Self> {
        let ends = context.shared.runtime.container_events().filter_map(move |event| {
            let ended = match &event {
                RuntimeEvent::Container(it) => {
                    let is_end = matches!(
                        it.event_type,
                        cri::ContainerEventType::Stopped | cri::ContainerEventType::Deleted
                    );
                    it.container_id == id && is_end
                }
                RuntimeEvent::Relist => false,
            };
            std::future::ready(ended.then_some(Change::Ended))
        });
        let changes = futures::stream::select(writes(path)?, ends).boxed();
        Ok(Self { path: path.to_owned(), changes })
    }
}

/// Writes to a log and its replacement, seen from its directory: the file itself moves away.
fn writes(path: &Path) -> io::Result<impl Stream<Item = Change> + Send + use<>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let inotify = Inotify::init()?;
    inotify.watches().add(dir, WatchMask::MODIFY | WatchMask::CREATE)?;
    let name = name.to_owned();
    let events = inotify.into_event_stream(vec![0; 1024])?;
    Ok(events.filter_map(move |event| {
        let change = match event {
            Ok(it) if it.name.as_ref() == Some(&name) && it.mask.contains(EventMask::CREATE) => {
                Some(Change::Replaced)
            }
            Ok(it) if it.name.as_ref() == Some(&name) => Some(Change::Grown),
            Ok(it) if it.mask.contains(EventMask::Q_OVERFLOW) => Some(Change::Replaced),
            Ok(_) => None,
            Err(_) => Some(Change::Grown),
        };
        std::future::ready(change)
    }))
}

struct Reader {
    file: File,
    wanted: Wanted,
    growth: Option<Growth>,
    /// Of a line whose end is not there yet.
    rest: Vec<u8>,
    sent: u64,
    /// Lines that are still wanted: as many as were asked for from the end, whatever is written meanwhile.
    lines_left: Option<u64>,
    ended: bool,
    at_line_start: bool,
}

impl Reader {
    fn new(file: File, wanted: Wanted, growth: Option<Growth>) -> Self {
        let lines_left = wanted.tail_lines.filter(|_| !wanted.follow);
        Self {
            file,
            wanted,
            growth,
            rest: Vec::new(),
            sent: 0,
            lines_left,
            ended: false,
            at_line_start: true,
        }
    }

    /// Goes on with the file that has the log's name now, if it is another.
    async fn follow_name(&mut self) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let Some(growth) = &self.growth else { return Ok(()) };
        let file = match File::open(&growth.path).await {
            Ok(it) => it,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if file.metadata().await?.ino() != self.file.metadata().await?.ino() {
            self.file = file;
        }
        Ok(())
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures::stream::unfold(self, |mut reader| async move {
            let next = reader.next().await.transpose()?;
            Some((next, reader))
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let is_enough = self.wanted.limit_bytes.is_some_and(|it| self.sent >= it);
            if is_enough || self.lines_left == Some(0) {
                return Ok(None);
            }
            let read = self.file.read(&mut buffer).await?;
            if read > 0 {
                let out = self.lines(&buffer[..read]);
                if !out.is_empty() {
                    return Ok(Some(out));
                }
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            match &mut self.growth {
                Some(growth) => match growth.changes.next().await {
                    // What was written before the end is read once more.
                    Some(Change::Ended) | None => self.ended = true,
                    Some(Change::Replaced) => self.follow_name().await?,
                    Some(Change::Grown) => {}
                },
                None => return Ok(None),
            }
        }
    }

    fn lines(&mut self, read: &[u8]) -> Bytes {
        self.rest.extend_from_slice(read);
        let mut out = Vec::new();
        let mut begin = 0;
        while let Some(end) = self.rest[begin..].iter().position(|it| *it == b'\n') {
            let line = self.rest[begin..begin + end].to_vec();
            begin += end + 1;
            self.line(&line, &mut out);
        }
        self.rest.drain(..begin);
        if self.rest.len() > MAX_LINE_BYTES {
            self.rest.clear();
        }
        if let Some(limit) = self.wanted.limit_bytes {
            let left = usize::try_from(limit - self.sent.min(limit)).unwrap_or(usize::MAX);
            out.truncate(left);
        }
        self.sent += out.len() as u64;
        out.into()
    }

    /// A line of the file: time, stream, `F` or `P`, text.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |it| *it == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if let Some(left) = &mut self.lines_left {
            let Some(less) = left.checked_sub(1) else { return };
            *left = less;
        }
        let is_whole = tag.first() == Some(&b'F');
        if self.wanted.stream.as_ref().is_some_and(|it| it.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.wanted.since {
            let at = std::str::from_utf8(time).ok().and_then(|it| it.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        if self.wanted.timestamps && self.at_line_start {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if is_whole {
            out.push(b'\n');
        }
        self.at_line_start = is_whole;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn read(query: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text = "2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
                    2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n";
        std::fs::write(&path, text).unwrap();
        let wanted = wanted(&Query::parse(query), "2026-01-01T00:00:04Z".parse().unwrap()).unwrap();
        let mut file = File::open(&path).await.unwrap();
        let start = match wanted.tail_lines {
            Some(lines) => tail(&mut file, lines).await.unwrap(),
            None => 0,
        };
        file.seek(SeekFrom::Start(start)).await.unwrap();
        let pieces: Vec<_> = Reader::new(file, wanted, None).into_stream().collect().await;
        pieces.into_iter().map(|it| String::from_utf8(it.unwrap().to_vec()).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_log_is_followed_over_its_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:01Z stdout F {text}\n");
        std::fs::write(&path, line("one")).unwrap();
        let (end, ends) = futures::channel::mpsc::unbounded();
        let changes = futures::stream::select(writes(&path).unwrap(), ends).boxed();
        let growth = Some(Growth { path: path.clone(), changes });
        let file = File::open(&path).await.unwrap();
        let mut reader = Reader::new(file, Wanted::default(), growth);
        assert_eq!(reader.next().await.unwrap().unwrap(), "one\n");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(line("two").as_bytes())
            .unwrap();
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        std::fs::write(&path, line("three")).unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), "two\n");
        assert_eq!(reader.next().await.unwrap().unwrap(), "three\n");
        end.unbounded_send(Change::Ended).unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_last_lines_are_no_more_than_asked_for_while_the_log_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:01Z stdout F {text}\n");
        std::fs::write(&path, line("one") + &line("two") + &line("three")).unwrap();
        let mut file = File::open(&path).await.unwrap();
        let start = tail(&mut file, 2).await.unwrap();
        file.seek(SeekFrom::Start(start)).await.unwrap();
        let mut log = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        log.write_all(line("four").as_bytes()).unwrap();
        let wanted = wanted(&Query::parse("tailLines=2"), Timestamp::UNIX_EPOCH).unwrap();
        let mut reader = Reader::new(file, wanted, None);
        assert_eq!(reader.next().await.unwrap().unwrap(), "two\nthree\n");
        log.write_all(line("five").as_bytes()).unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_log_is_shown_as_asked() {
        for (query, expected) in [
            ("", "one\ntwo\nthree\n"),
            ("stream=Stderr", "two\n"),
            ("tailLines=2", "three\n"),
            ("tailLines=0", ""),
            ("tailLines=9", "one\ntwo\nthree\n"),
            ("sinceSeconds=2", "two\nthree\n"),
            ("limitBytes=5", "one\nt"),
            ("timestamps=1&tailLines=3", "2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n"),
        ] {
            assert_eq!(read(query).await, expected, "{query}");
        }
    }
}
