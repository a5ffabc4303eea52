//! `/logs/`: the logs of this machine, for who may read that path. Off unless it is asked for. Upstream: `routes.Logs`.
//!
//! Directories are shown as pages with links, files as they are, or a range of one.

use std::fmt::Write as _;
use std::path::{Component, Path};

use bytes::Bytes;
use futures::StreamExt;
use http::header::{
    ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
};
use http::{HeaderMap, Method, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::body::Body;
use crate::exchange::Exchange;
use crate::respond;

/// How much of a file is read at once, and by how much of it its type is told.
const PIECE_BYTES: usize = 64 << 10;
const TYPE_BYTES: usize = 512;
/// The longest name of a file (upstream's bound).
const NAME_BYTES_MAX: usize = 255;

/// Answers a path below the directory.
pub(crate) async fn answer(directory: &Path, exchange: &Exchange, rest: &str) -> Response<Body> {
    if exchange.parts.method != Method::GET {
        return respond::text(405, "405: Method Not Allowed");
    }
    let wanted = Path::new(rest);
    if wanted.components().any(|it| !matches!(it, Component::Normal(_) | Component::CurDir)) {
        return respond::text(400, "invalid URL path\n");
    }
    if rest.split('/').any(|it| it.len() > NAME_BYTES_MAX) {
        return respond::text(404, "file not found\n");
    }
    let path = directory.join(wanted);
    match tokio::fs::metadata(&path).await {
        Ok(found) if found.is_dir() && !exchange.info.path.ends_with('/') => {
            moved(&exchange.info.path)
        }
        Ok(found) if found.is_dir() => told(list(&path).await),
        // Reading a pipe would wait for whoever writes to it.
        Ok(found) if found.is_file() => {
            told(file(&path, found.len(), exchange.header(RANGE)).await)
        }
        Ok(_) => respond::text(404, "404 page not found\n"),
        Err(error) => told(Err(error)),
    }
}

/// To the same path with a slash behind it.
fn moved(path: &str) -> Response<Body> {
    let last = path.rsplit('/').next().unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(place) = HeaderValue::from_str(&format!("{last}/")) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

fn told(found: std::io::Result<Response<Body>>) -> Response<Body> {
    match found {
        Ok(response) => response,
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                respond::text(404, "404 page not found\n")
            }
            std::io::ErrorKind::PermissionDenied => respond::text(403, "403 Forbidden\n"),
            _ => respond::text(500, "500 Internal Server Error\n"),
        },
    }
}

/// A page with a link to each that lies in a directory.
async fn list(path: &Path) -> std::io::Result<Response<Body>> {
    let mut entries = tokio::fs::read_dir(path).await?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().await.is_ok_and(|it| it.is_dir()) {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    let mut page = String::from(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n",
    );
    for name in names {
        let _ = writeln!(page, "<a href=\"{}\">{}</a>", link(&name), shown(&name));
    }
    page.push_str("</pre>\n");
    Ok(respond::bytes(200, "text/html; charset=utf-8", page))
}

/// A name as a link: what means something in URLs is escaped.
fn link(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn shown(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Which bytes of a file are asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// From the first to the last.
    Part(u64, u64),
    /// There are no such bytes.
    Nothing,
}

impl Wanted {
    /// What `Range` says. Several ranges at once, and what is no range, are as good as nothing said.
    fn of(range: &str, len: u64) -> Self {
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|it| it.split_once('-'))
        else {
            return Self::All;
        };
        let number = |text: &str| text.trim().parse::<u64>();
        let end = len.saturating_sub(1);
        match (number(first), number(last)) {
            (Ok(first), _) if first >= len => Self::Nothing,
            (Ok(first), Ok(last)) if first <= last => Self::Part(first, last.min(end)),
            (Ok(first), Err(_)) if last.trim().is_empty() => Self::Part(first, end),
            (Err(_), Ok(last)) if first.trim().is_empty() => match last.min(len) {
                0 => Self::Nothing,
                last => Self::Part(len - last, end),
            },
            _ => Self::All,
        }
    }
}

/// A file as it is now, or a range of it: what is written to it meanwhile is left out.
async fn file(path: &Path, len: u64, range: &str) -> std::io::Result<Response<Body>> {
    let wanted = Wanted::of(range, len);
    let mut file = tokio::fs::File::open(path).await?;
    let mut begin = vec![0; TYPE_BYTES];
    let read = file.read(&mut begin).await?;
    let kind = kind_of(&begin[..read]);
    let (from, count) = match wanted {
        Wanted::All => (0, len),
        Wanted::Part(first, last) => (first, last - first + 1),
        Wanted::Nothing => {
            let mut response = respond::text(416, "invalid range: failed to overlap\n");
            tell(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{len}"));
            return Ok(response);
        }
    };
    file.seek(std::io::SeekFrom::Start(from)).await?;
    let file = file.take(count);
    let rest = futures::stream::unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let read = file.read(&mut piece).await.unwrap_or_default();
        piece.truncate(read);
        (read > 0).then(|| (Bytes::from(piece), file))
    });
    let mut response = Response::new(Body::Stream(rest.boxed()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Wanted::Part(first, last) = wanted {
        tell(headers, CONTENT_RANGE, &format!("bytes {first}-{last}/{len}"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

fn tell(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    headers.extend(HeaderValue::from_str(text).ok().map(|it| (name, it)));
}

/// Text, unless there are bytes in it that no text has.
fn kind_of(begin: &[u8]) -> &'static str {
    let begin = &begin[..begin.len().min(TYPE_BYTES)];
    let binary = |byte: &u8| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31);
    match begin {
        [0x1f, 0x8b, 8, ..] => "application/x-gzip",
        _ if begin.iter().any(binary) => "application/octet-stream",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn a_range_is_of_what_there_is() {
        for (range, wanted) in [
            ("", Wanted::All),
            ("bytes=0-3", Wanted::Part(0, 3)),
            ("bytes=2-", Wanted::Part(2, 9)),
            ("bytes=-4", Wanted::Part(6, 9)),
            ("bytes=-40", Wanted::Part(0, 9)),
            ("bytes=5-40", Wanted::Part(5, 9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=3-2", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(Wanted::of(range, 10), wanted, "{range}");
        }
    }
}
