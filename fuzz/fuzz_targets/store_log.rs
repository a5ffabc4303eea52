//! Arbitrary bytes as a segment of the store's log: an answer, and never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::Rev;
use storage_embedded::format::{self, FileKind, HEADER_BYTES, Header, Salt};

fuzz_target!(|bytes: &[u8]| {
    let _ = format::read_segment(bytes, |_, _| {});
    let _ = Header::decode(FileKind::Snapshot, bytes);
    // Behind a sound header and the start of a frame, which the fuzzer would not guess.
    let salt = Salt::new(5);
    let header = Header { salt, rev: Rev(2), prev_rev: Rev(1) };
    let mut whole = header.encode(FileKind::Segment).to_vec();
    whole.extend_from_slice(&salt.frame_start());
    whole.extend_from_slice(bytes);
    let _ = format::read_segment(&whole, |_, _| {});
    if let Some(frame) = format::decode_frame(salt, &whole[HEADER_BYTES..]) {
        let _ = frame.records();
    }
    // The records alone, without the checksum in front of them.
    let _ = format::decode_records(bytes, 1 + u32::try_from(bytes.len() % 7).unwrap_or(0));
});
