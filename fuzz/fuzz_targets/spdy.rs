//! Frames of SPDY as clients write them, then arbitrary ones, in pieces of any size: what was written well is read as it was
//! written, and the rest never panics and never grows beyond its limits.

#![no_main]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use flate2::{Compress, Compression, FlushCompress};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/kubelet/src/server/spdy.rs"]
mod spdy;

use spdy::{Frame, Reader, Writer};

/// The most that one frame holds.
const FRAME_MAX: usize = 1 << 20;

/// Bytes that come in pieces.
struct Pieces<'b> {
    bytes: &'b [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let len = self.size.min(self.bytes.len()).min(buffer.remaining());
        let (piece, rest) = self.bytes.split_at(len);
        buffer.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.push(flags);
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_be_bytes()[1..]);
    frame.extend_from_slice(body);
    frame
}

/// A stream that a client opens, its headers compressed.
fn open(deflate: &mut Compress, stream: u32, headers: &[(String, String)], fin: bool) -> Vec<u8> {
    let mut plain = u32::try_from(headers.len()).unwrap_or_default().to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
        plain.extend_from_slice(text.as_bytes());
    }
    let mut block = Vec::with_capacity(plain.len() + 128);
    deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).expect("because there is room");
    let mut body = stream.to_be_bytes().to_vec();
    body.extend_from_slice(&[0; 6]);
    body.extend_from_slice(&block);
    control(1, u8::from(fin), &body)
}

/// What a future comes to whose reader and writer are memory, so that it never waits.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it waits for somebody"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[size, good, ..], _)) = bytes.split_first_chunk::<2>() else { return };
    let mut rest = &bytes[2..];
    let mut deflate = Compress::new(Compression::default(), true);
    deflate.set_dictionary(&spdy::dictionary()).expect("because it is fresh");
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..good % 8 {
        let Some((&[kind, id, len, fin], after)) = rest.split_first_chunk::<4>() else { break };
        let (text, after) = after.split_at(usize::from(len).min(after.len()));
        let (stream, fin) = (u32::from(id), fin % 2 == 1);
        rest = after;
        let frame = match kind % 4 {
            0 => {
                let value = String::from_utf8_lossy(text).into_owned();
                let headers =
                    vec![("streamtype".to_owned(), value), ("port".to_owned(), id.to_string())];
                sent.extend(open(&mut deflate, stream, &headers, fin));
                Frame::Open { stream, headers, fin }
            }
            1 => {
                sent.extend(Writer::data(stream, text, fin));
                Frame::Data { stream, data: text.to_vec(), fin }
            }
            2 => {
                sent.extend(Writer::ping(stream));
                Frame::Ping { id: stream }
            }
            _ => {
                sent.extend(control(3, 0, &[stream.to_be_bytes(), [0; 4]].concat()));
                Frame::Reset { stream }
            }
        };
        expected.push(frame);
    }
    sent.extend_from_slice(rest);
    let mut pieces = Pieces { bytes: &sent, size: usize::from(size) + 1 };
    let mut reader = Reader::new();
    at_once(async {
        for frame in expected {
            assert_eq!(reader.receive(&mut pieces).await, Some(frame));
        }
        let mut frames = 0;
        while let Some(frame) = reader.receive(&mut pieces).await {
            frames += 1;
            if let Frame::Data { data, .. } = frame {
                assert!(data.len() <= FRAME_MAX);
            }
        }
        assert!(frames <= rest.len() / 8, "a frame has a head");
    });
});
