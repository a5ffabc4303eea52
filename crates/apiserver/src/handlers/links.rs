//! Links of what `proxy` passes on: those to the same server go through the proxy again, in redirects and in HTML.
//!
//! Upstream: `apimachinery/pkg/util/proxy/transport.go`. Pages are rewritten as they come.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzDecoder;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
};
use http::{HeaderMap, Response};
use lol_html::errors::RewritingError;
use lol_html::send::{Element, HtmlRewriter, Settings};
use lol_html::{MemorySettings, element};
use parking_lot::Mutex;

use crate::body::Body;
use crate::compress::pieces;

/// Which attributes of which elements are links (HTML 4.01, "Index of Attributes", and its successors).
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// The most memory that a page may take while it is rewritten, in bytes: a tag is held until it ends.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// So much of a page is read at once, in bytes; what is packed may be a thousand times as much.
const STEP: usize = 4 << 10;

/// From where to where things are passed on.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// What stands before paths in the API.
    pub(super) prefix: String,
    /// The server behind it, as links may name it: address and port.
    pub(super) behind: String,
    /// This server, as the client names it.
    pub(super) here: Option<String>,
}

impl Way {
    /// The link through the proxy; `None` where it is right as it is.
    fn through(&self, link: &str) -> Option<String> {
        let (head, authority, rest) = split(link);
        let is_here = authority.is_some() && authority == self.here.as_deref();
        let is_same = authority.is_none_or(|it| is_here || it == self.behind);
        if !is_same || !rest.starts_with('/') {
            return None;
        }
        let head = if is_here { head } else { "" };
        let (path, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        if path.starts_with(&self.prefix) {
            return Some(format!("{head}{rest}"));
        }
        Some(format!("{head}{}{tail}", cleaned(&format!("{}{path}", self.prefix))))
    }
}

/// What stands before a link's path, its authority, and the rest.
fn split(link: &str) -> (&str, Option<&str>, &str) {
    let is_scheme =
        |it: &str| it.bytes().all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
    let begin = match link.find("//") {
        Some(0) => 2,
        Some(at) if link[..at].strip_suffix(':').is_some_and(is_scheme) => at + 2,
        Some(_) | None => return ("", None, link),
    };
    let end = link[begin..].find(['/', '?', '#']).map_or(link.len(), |at| begin + at);
    (&link[..end], Some(&link[begin..end]), &link[end..])
}

/// A path without what leads nowhere (Go's `path.Join`); a slash at its end stays.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

/// The answer with its links through the proxy.
pub(super) fn rewritten(mut answer: Response<Body>, way: Way) -> Response<Body> {
    let headers = answer.headers_mut();
    if let Some(location) = headers.get(LOCATION).and_then(|it| it.to_str().ok()) {
        let moved = way.through(location).and_then(|it| HeaderValue::from_str(&it).ok());
        if let Some(moved) = moved {
            headers.insert(LOCATION, moved);
        }
        return answer;
    }
    if text(headers, &CONTENT_TYPE).split(';').next().map(str::trim) != Some("text/html") {
        return answer;
    }
    let packed = match text(headers, &CONTENT_ENCODING) {
        "" => false,
        "gzip" => true,
        encoding => {
            tracing::debug!(encoding, "links of a page are left as they are");
            return answer;
        }
    };
    // What was packed goes on as it is.
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    let page = Page::new(way, packed);
    answer.map(|body| Body::Stream(changed(pieces(body), page)))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
}

/// A page with its links changed, piece by piece. It ends where it cannot be read.
fn changed(body: BoxStream<'static, Bytes>, page: Page) -> BoxStream<'static, Bytes> {
    let begin = (body, Bytes::new(), Some(page));
    let pieces = stream::unfold(begin, |(mut body, mut left, page)| async move {
        let mut page = page?;
        let next =
            if left.is_empty() { body.next().await } else { Some(std::mem::take(&mut left)) };
        let (done, page) = match next {
            None => (page.end(), None),
            Some(mut piece) => {
                left = piece.split_off(piece.len().min(STEP));
                (page.write(&piece), Some(page))
            }
        };
        match done {
            Ok(bytes) => Some((bytes, (body, left, page))),
            Err(error) => {
                tracing::warn!(%error, "a page that is passed on cannot be read");
                None
            }
        }
    });
    pieces.filter(|piece| std::future::ready(!piece.is_empty())).boxed()
}

/// Why a page cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("it cannot be unpacked: {0}")]
    Packed(#[from] std::io::Error),
    #[error(transparent)]
    Page(#[from] RewritingError),
}

/// Takes what is rewritten.
type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// A page on its way.
struct Page {
    unpacking: Option<GzDecoder<Vec<u8>>>,
    rewriter: HtmlRewriter<'static, Sink>,
    /// What is ready to be sent.
    ready: Arc<Mutex<Vec<u8>>>,
}

impl Page {
    fn new(way: Way, packed: bool) -> Self {
        let ready = Arc::new(Mutex::new(Vec::new()));
        let out = Arc::clone(&ready);
        let sink: Sink = Box::new(move |piece: &[u8]| out.lock().extend_from_slice(piece));
        Self {
            unpacking: packed.then(|| GzDecoder::new(Vec::new())),
            rewriter: HtmlRewriter::new(settings(way), sink),
            ready,
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<Bytes, Unreadable> {
        match &mut self.unpacking {
            None => self.rewriter.write(piece)?,
            Some(unpacking) => {
                unpacking.write_all(piece)?;
                self.rewriter.write(&std::mem::take(unpacking.get_mut()))?;
            }
        }
        Ok(std::mem::take(&mut *self.ready.lock()).into())
    }

    fn end(mut self) -> Result<Bytes, Unreadable> {
        if let Some(unpacking) = self.unpacking.take() {
            self.rewriter.write(&unpacking.finish()?)?;
        }
        self.rewriter.end()?;
        Ok(std::mem::take(&mut *self.ready.lock()).into())
    }
}

/// Which links are looked at, and what becomes of them.
fn settings(way: Way) -> Settings<'static, 'static> {
    let selectors: Vec<String> = LINKS
        .iter()
        .flat_map(|(name, links)| links.iter().map(move |link| format!("{name}[{link}]")))
        .collect();
    let memory = MemorySettings::new()
        .with_max_allowed_memory_usage(MAX_PAGE_BYTES)
        .with_graceful_bail_out_on_memory_limit_exceeded(true);
    Settings::new_send()
        .with_memory_settings(memory)
        .with_strict(false)
        .append_element_content_handler(element!(selectors.join(","), move |it: &mut Element<
            '_,
            '_,
        >| {
            let name = it.tag_name();
            let links =
                LINKS.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, links)| links);
            for link in links {
                let through = it.get_attribute(link).and_then(|it| way.through(&it));
                if let Some(through) = through {
                    it.set_attribute(link, &through)?;
                }
            }
            Ok(())
        }))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn way() -> Way {
        Way {
            prefix: "/api/v1/namespaces/n/pods/p/proxy".into(),
            behind: "10.0.0.7:80".into(),
            here: Some("localhost:8001".into()),
        }
    }

    #[test]
    fn links_to_the_same_server_go_through_the_proxy() {
        let p = "/api/v1/namespaces/n/pods/p/proxy";
        for (link, expected) in [
            ("/", Some(format!("{p}/"))),
            ("/a/../b/?q=/c#d", Some(format!("{p}/b/?q=/c#d"))),
            ("//10.0.0.7:80/a", Some(format!("{p}/a"))),
            ("http://10.0.0.7:80/a//b", Some(format!("{p}/a/b"))),
            ("http://localhost:8001/a", Some(format!("http://localhost:8001{p}/a"))),
            ("http://10.0.0.7:80/api/v1/namespaces/n/pods/p/proxy/a", Some(format!("{p}/a"))),
            ("", None),
            ("a/b", None),
            ("#a", None),
            ("?to=http://10.0.0.7:80/a", None),
            ("mailto:a@b", None),
            ("http://10.0.0.7:80", None),
            ("https://example.com/a", None),
            ("//example.com/a", None),
        ] {
            assert_eq!(way().through(link), expected, "{link}");
        }
    }

    async fn sent(headers: &[(HeaderName, &'static str)], body: Vec<u8>) -> (HeaderMap, Vec<u8>) {
        let steps: Vec<Bytes> = body.chunks(7).map(Bytes::copy_from_slice).collect();
        let mut answer = Response::new(Body::Stream(stream::iter(steps).boxed()));
        for (name, value) in headers {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let (parts, body) = rewritten(answer, way()).into_parts();
        (parts.headers, pieces(body).collect::<Vec<Bytes>>().await.concat())
    }

    #[tokio::test]
    async fn pages_are_rewritten_and_nothing_else_is() {
        let page = b"<html><!-- <a href=/x> --><A class=b HREF='/a?b&amp;c'>x</a><p href=\"/a\"><script>'<a href=/>'</script><img src=/i usemap=\"#m\">";
        let expected = br##"<html><!-- <a href=/x> --><A class=b HREF="/api/v1/namespaces/n/pods/p/proxy/a?b&amp;c">x</a><p href="/a"><script>'<a href=/>'</script><img src="/api/v1/namespaces/n/pods/p/proxy/i" usemap="#m">"##;
        let html = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_LENGTH, "1")];
        let (headers, body) = sent(&html, page.to_vec()).await;
        assert_eq!(String::from_utf8_lossy(&body), String::from_utf8_lossy(expected));
        assert_eq!(headers.get(CONTENT_LENGTH), None);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(page).unwrap();
        let packed = packed.finish().unwrap();
        let gzip = [(CONTENT_TYPE, "text/html"), (CONTENT_ENCODING, "gzip")];
        let (headers, body) = sent(&gzip, packed.clone()).await;
        assert_eq!(
            (String::from_utf8_lossy(&body), headers.get(CONTENT_ENCODING)),
            (String::from_utf8_lossy(expected), None)
        );
        for as_it_is in [
            [(CONTENT_TYPE, "text/html"), (CONTENT_ENCODING, "br")],
            [(CONTENT_TYPE, "text/plain"), (CONTENT_ENCODING, "gzip")],
        ] {
            assert_eq!(sent(&as_it_is, packed.clone()).await.1, packed);
        }
        let (headers, _) = sent(&[(LOCATION, "http://10.0.0.7:80/a")], Vec::new()).await;
        assert_eq!(headers[LOCATION], "/api/v1/namespaces/n/pods/p/proxy/a");
    }
}
