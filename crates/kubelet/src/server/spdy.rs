//! The part of SPDY/3.1 that streams into pods need: frames, and headers compressed with the fixed dictionary.
//!
//! Knows nothing of what the streams are for. Flow control is left out, as in upstream's own library: windows are never waited for.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is read at once.
const READ_BYTES: usize = 32 << 10;
/// The largest frame that is read.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// The most that headers of one stream take.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// The most headers of one stream.
const MAX_HEADERS: u32 = 64;

const FLAG_FIN: u8 = 1;
const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Names that stand in the dictionary, each after its length.
const WORDS: [&str; 66] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
    "",
];
/// The rest of the dictionary.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// What headers are compressed with, on both sides.
pub(super) fn dictionary() -> Vec<u8> {
    let mut all = Vec::with_capacity(1423);
    for word in WORDS.iter().filter(|it| !it.is_empty()) {
        all.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        all.extend_from_slice(word.as_bytes());
    }
    all.extend_from_slice(REST.as_bytes());
    all
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream with its headers, names in lower case.
    Open { stream: u32, headers: Vec<(String, String)>, fin: bool },
    /// Bytes of a stream.
    Data { stream: u32, data: Vec<u8>, fin: bool },
    /// A stream is over.
    Reset { stream: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// The client goes.
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// A client that does not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broken SPDY stream: {0}")]
pub(super) struct SpdyError(&'static str);

/// Reads frames from bytes as they come.
pub(super) struct Reader {
    buffer: Vec<u8>,
    chunk: Vec<u8>,
    inflate: Decompress,
    dictionary: Vec<u8>,
}

impl Reader {
    pub(super) fn new() -> Self {
        let (buffer, chunk) = (Vec::new(), vec![0; READ_BYTES]);
        Self { buffer, chunk, inflate: Decompress::new(true), dictionary: dictionary() }
    }

    #[cfg(test)]
    pub(super) fn feed(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next frame of a client, read as it comes; nothing where it goes, or does not keep to the protocol.
    pub(super) async fn receive<I: AsyncRead + Unpin>(&mut self, from: &mut I) -> Option<Frame> {
        loop {
            match self.next() {
                Ok(Some(Frame::GoAway)) => return None,
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a client's streams ended");
                    return None;
                }
            }
            match from.read(&mut self.chunk).await {
                Ok(read @ 1..) => self.buffer.extend_from_slice(&self.chunk[..read]),
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        let Some(&[a, b, c, d, flags, x, y, z]) = self.buffer.first_chunk::<8>() else {
            return Ok(None);
        };
        let length = usize::from(x) << 16 | usize::from(y) << 8 | usize::from(z);
        if length > MAX_FRAME_BYTES {
            return Err(SpdyError("a frame is too large"));
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        let body: Vec<u8> = self.buffer.drain(..8 + length).skip(8).collect();
        let fin = flags & FLAG_FIN != 0;
        if a & 0x80 == 0 {
            return Ok(Some(Frame::Data {
                stream: u32::from_be_bytes([a, b, c, d]),
                data: body,
                fin,
            }));
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(SpdyError("it is not version 3"));
        }
        self.control(u16::from_be_bytes([c, d]), fin, &body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> Result<Frame, SpdyError> {
        Ok(match kind {
            SYN_STREAM => {
                let block = body.get(10..).ok_or(SpdyError("a SYN_STREAM frame is short"))?;
                Frame::Open { stream: id_at(body)?, headers: self.headers(block)?, fin }
            }
            HEADERS => {
                // Decompressed all the same: the compression runs through all of a connection.
                self.headers(body.get(4..).ok_or(SpdyError("a HEADERS frame is short"))?)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { stream: id_at(body)? },
            PING => Frame::Ping { id: id_at(body)? },
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let count = take_u32(&mut rest)?;
        if count > MAX_HEADERS {
            return Err(SpdyError("there are too many headers"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let (name, value) = (take_text(&mut rest)?, take_text(&mut rest)?);
            headers.push((name.to_lowercase(), value));
        }
        Ok(headers)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::new();
        let mut chunk = [0_u8; 4096];
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, &mut chunk, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(0);
            let made = usize::try_from(self.inflate.total_out() - before_out).unwrap_or(0);
            out.extend_from_slice(&chunk[..made]);
            input = &input[used..];
            if out.len() > MAX_HEADER_BYTES {
                return Err(SpdyError("headers are too large"));
            }
            match status {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&self.dictionary)
                        .map_err(|_| SpdyError("the compression has another dictionary"))?;
                }
                Err(_) => return Err(SpdyError("headers cannot be decompressed")),
                Ok(Status::StreamEnd) => return Ok(out),
                Ok(Status::Ok | Status::BufError)
                    if made < chunk.len() && (input.is_empty() || used == 0) =>
                {
                    return Ok(out);
                }
                Ok(Status::Ok | Status::BufError) => {}
            }
        }
    }
}

fn id_at(body: &[u8]) -> Result<u32, SpdyError> {
    let bytes = body.first_chunk::<4>().ok_or(SpdyError("a control frame is short"))?;
    Ok(u32::from_be_bytes(*bytes) & 0x7fff_ffff)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, SpdyError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(SpdyError("headers are short"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let length = usize::try_from(take_u32(rest)?).map_err(|_| SpdyError("headers are short"))?;
    let (head, tail) = rest.split_at_checked(length).ok_or(SpdyError("headers are short"))?;
    *rest = tail;
    Ok(String::from_utf8_lossy(head).into_owned())
}

/// Writes frames.
pub(super) struct Writer {
    deflate: Compress,
}

impl Writer {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::default(), true);
        // Of a fresh stream it is always taken; without it the client would say so at the first frame.
        let _ = deflate.set_dictionary(&dictionary());
        Self { deflate }
    }

    /// Accepts a stream, without headers.
    pub(super) fn reply(&mut self, stream: u32) -> Vec<u8> {
        let mut body = stream.to_be_bytes().to_vec();
        let mut block = Vec::with_capacity(64);
        // No headers: the count is 0. The block ends at a byte, and the stream goes on.
        let _ = self.deflate.compress_vec(&0_u32.to_be_bytes(), &mut block, FlushCompress::Sync);
        body.append(&mut block);
        control(SYN_REPLY, &body)
    }

    pub(super) fn ping(id: u32) -> Vec<u8> {
        control(PING, &id.to_be_bytes())
    }

    pub(super) fn data(stream: u32, data: &[u8], fin: bool) -> Vec<u8> {
        let mut all = (stream & 0x7fff_ffff).to_be_bytes().to_vec();
        all.push(if fin { FLAG_FIN } else { 0 });
        all.extend_from_slice(&length(data));
        all.extend_from_slice(data);
        all
    }
}

fn length(body: &[u8]) -> [u8; 3] {
    let [_, a, b, c] = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c]
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut all = (VERSION | 0x8000).to_be_bytes().to_vec();
    all.extend_from_slice(&kind.to_be_bytes());
    all.push(0);
    all.extend_from_slice(&length(body));
    all.extend_from_slice(body);
    all
}

/// Frames as a client writes them.
#[cfg(test)]
pub(super) struct Client(Compress);

#[cfg(test)]
impl Client {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&dictionary()).unwrap();
        Self(deflate)
    }

    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(k, v)| [k, v]) {
            plain.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(4096);
        self.0.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        let mut body = stream.to_be_bytes().to_vec();
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&block);
        control(SYN_STREAM, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        let all = dictionary();
        let (a, b) = all.iter().fold((1_u32, 0_u32), |(a, b), it| {
            let a = (a + u32::from(*it)) % 65_521;
            (a, (b + a) % 65_521)
        });
        assert_eq!((all.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn streams_open_and_carry_bytes_whatever_the_pieces() {
        let mut client = Client::new();
        let mut bytes = client.open(1, &[("Streamtype", "error"), ("port", "80")]);
        bytes.extend(client.open(3, &[("streamtype", "data"), ("port", "80")]));
        bytes.extend(Writer::data(3, b"hello", true));
        let mut reader = Reader::new();
        let mut frames = Vec::new();
        for piece in bytes.chunks(7) {
            reader.feed(piece);
            while let Some(frame) = reader.next().unwrap() {
                frames.push(frame);
            }
        }
        let open = |stream, kind: &str| Frame::Open {
            stream,
            headers: vec![("streamtype".into(), kind.into()), ("port".into(), "80".into())],
            fin: false,
        };
        let data = Frame::Data { stream: 3, data: b"hello".to_vec(), fin: true };
        assert_eq!(frames, [open(1, "error"), open(3, "data"), data]);
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        for bytes in [
            vec![0x80, 2, 0, 1, 0, 0, 0, 0],
            vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
            control(SYN_STREAM, &[0; 20]),
        ] {
            let mut reader = Reader::new();
            reader.feed(&bytes);
            assert!(reader.next().is_err(), "{bytes:?}");
        }
    }
}
