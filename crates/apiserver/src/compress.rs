//! Large answers are packed for clients that accept it, piece by piece. Upstream: `APIResponseCompression`
//! (`deferredResponseWriter`), with its threshold and level.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, VARY};
use http::{Method, Response};

use crate::body::Body;
use crate::exchange::Exchange;

/// Answers of no more than this many bytes are sent as they are.
const THRESHOLD: usize = 128 << 10;
/// Of an answer at hand so many bytes are packed at once.
const STEP: usize = 64 << 10;
/// So many packed bytes are sent at once, but for the last.
const SENT: usize = 32 << 10;

/// Left with an answer that comes in pieces, ends by itself and may be packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packable;

/// The answer, packed where the client accepts it and it is worth it.
pub(crate) fn packed(exchange: &Exchange, mut response: Response<Body>) -> Response<Body> {
    let is_marked = response.extensions_mut().remove::<Packable>().is_some();
    if exchange.parts.method != Method::GET || !accepts(exchange.header(ACCEPT_ENCODING)) {
        return response;
    }
    let is_large = match response.body() {
        Body::Full(bytes) => bytes.as_ref().is_some_and(|it| it.len() > THRESHOLD),
        Body::Stream(_) => is_marked,
    };
    // Documents and logs know better, and what is passed on is somebody else's.
    let is_object = exchange.info.path.starts_with("/api");
    if !is_large || !is_object || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    response.map(|body| Body::Stream(pack(pieces(body))))
}

/// Upstream looks for the name alone, whatever its weight.
fn accepts(header: &str) -> bool {
    header.split(',').any(|it| it.trim() == "gzip")
}

/// A body piece by piece.
pub(crate) fn pieces(body: Body) -> BoxStream<'static, Bytes> {
    match body {
        Body::Stream(pieces) => pieces,
        Body::Full(bytes) => {
            let mut left = bytes.unwrap_or_default();
            let steps = std::iter::from_fn(move || {
                (!left.is_empty()).then(|| left.split_to(left.len().min(STEP)))
            });
            stream::iter(steps).boxed()
        }
    }
}

fn pack(pieces: BoxStream<'static, Bytes>) -> BoxStream<'static, Bytes> {
    let packer = GzEncoder::new(Vec::with_capacity(SENT), Compression::fast());
    let steps = stream::unfold(Some((pieces, packer)), |state| {
        async move {
            let (mut pieces, mut packer) = state?;
            while let Some(piece) = pieces.next().await {
                // A vector takes what it is given.
                let _ = packer.write_all(&piece);
                if packer.get_ref().len() >= SENT {
                    let full = std::mem::replace(packer.get_mut(), Vec::with_capacity(SENT));
                    return Some((Bytes::from(full), Some((pieces, packer))));
                }
            }
            let last = packer.finish().unwrap_or_default();
            Some((Bytes::from(last), None))
        }
        .boxed()
    });
    steps.boxed()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[tokio::test]
    async fn what_is_packed_in_pieces_is_the_same() {
        let text: Vec<u8> = (0..100_000).flat_map(|it| format!("{it} ").into_bytes()).collect();
        let body = Body::full(text.clone());
        let packed: Vec<Bytes> = pack(pieces(body)).collect().await;
        assert!(packed.len() > 1);
        let packed = packed.concat();
        assert!(packed.len() < text.len());
        let mut read = Vec::new();
        GzDecoder::new(&*packed).read_to_end(&mut read).unwrap();
        assert!(read == text);
    }

    #[test]
    fn gzip_is_looked_for_by_its_name() {
        assert!(accepts("gzip") && accepts("br, gzip, deflate"));
        assert!(!accepts("") && !accepts("identity") && !accepts("gzip;q=0"));
    }
}
