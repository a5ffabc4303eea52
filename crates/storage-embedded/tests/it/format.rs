//! Arbitrary bytes as files: an answer, and never a panic. `fuzz/fuzz_targets/store_log.rs` asks the same.

use proptest::prelude::*;
use storage_embedded::format::{
    self, FileKind, FrameBuilder, FrameFacts, Header, Record, Salt, SegmentEnd,
};

use super::*;

fn segment(frames: &[Vec<(u8, Vec<u8>)>], salt: u64) -> (Vec<u8>, Vec<usize>) {
    let salt = Salt::new(salt);
    let header = Header { salt, rev: Rev(2), prev_rev: Rev(1) };
    let mut bytes = header.encode(FileKind::Segment).to_vec();
    let (mut frame, mut next, mut offsets) = (FrameBuilder::default(), 2, Vec::new());
    for records in frames {
        frame.clear();
        for (key, value) in records {
            match value.len() % 5 {
                0 => frame.delete(&[*key]),
                _ => frame.put(&[*key], value, u64::from(*key)),
            }
        }
        offsets.push(bytes.len());
        bytes.extend_from_slice(frame.finish(salt, FrameFacts { first_rev: Rev(next), extra: 7 }));
        next += records.len() as u64;
    }
    offsets.push(bytes.len());
    (bytes, offsets)
}

fn count(bytes: &[u8]) -> Result<(usize, SegmentEnd), format::FormatError> {
    let mut frames = 0;
    let (_, end) = format::read_segment(bytes, |_, _| frames += 1)?;
    Ok((frames, end))
}

fn frames() -> impl Strategy<Value = Vec<Vec<(u8, Vec<u8>)>>> {
    let value = prop::collection::vec(any::<u8>(), 0..200);
    prop::collection::vec(prop::collection::vec((any::<u8>(), value), 1..5), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = count(&bytes);
        let _ = Header::decode(FileKind::Snapshot, &bytes);
        let _ = format::decode_records(&bytes, 1 + u32::try_from(bytes.len() % 7).unwrap());
        // Past the header, where most bytes get stuck.
        let (mut whole, _) = segment(&[], 5);
        whole.extend_from_slice(&Salt::new(5).frame_start());
        whole.extend_from_slice(&bytes);
        let _ = count(&whole);
        if let Some(frame) = format::decode_frame(Salt::new(5), &whole[format::HEADER_BYTES..]) {
            let _ = frame.records();
        }
    }

    #[test]
    fn what_was_written_is_read(frames in frames(), salt in any::<u64>(), zeros in 0..100usize) {
        let (mut bytes, offsets) = segment(&frames, salt);
        let offset = bytes.len();
        bytes.resize(offset + zeros, 0);
        let mut read = Vec::new();
        let (_, end) = format::read_segment(&bytes, |frame, records| {
            assert_eq!(frame.facts.extra, 7);
            read.push(records.len());
            for (record, (key, value)) in records.iter().zip(&frames[read.len() - 1]) {
                match record {
                    Record::Put { key: k, value: v, expires_at_ms } => {
                        assert_eq!((*k, *v, *expires_at_ms), (&[*key][..], &value[..], u64::from(*key)));
                    }
                    Record::Delete { key: k } => assert_eq!(*k, &[*key]),
                    Record::State { .. } => panic!("a log has no state"),
                }
            }
        })
        .unwrap();
        prop_assert_eq!(end, SegmentEnd::Clean { offset });
        prop_assert_eq!(read.len(), frames.len());
        prop_assert_eq!(offsets.len(), frames.len() + 1);
    }

    /// A flipped bit is noticed: in the last frame as a torn end, before it as damage with its place.
    #[test]
    fn a_flipped_bit_is_noticed(frames in frames(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (mut bytes, offsets) = segment(&frames, 99);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let hit = offsets.iter().rposition(|offset| *offset <= at);
        match (hit, count(&bytes)) {
            (None, read) => prop_assert!(read.is_err() || (12..16).contains(&at) || at >= 44),
            (Some(hit), Ok((read, SegmentEnd::Torn { offset }))) => {
                prop_assert_eq!((read, offset), (hit, offsets[hit]));
                prop_assert_eq!(hit + 2, offsets.len());
            }
            (Some(hit), Err(format::FormatError::Frame { offset, .. })) => {
                prop_assert_eq!(offset, offsets[hit]);
                prop_assert!(hit + 2 < offsets.len());
            }
            (Some(_), other) => prop_assert!(false, "{:?}", other),
        }
    }
}
