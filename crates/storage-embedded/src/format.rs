//! The bytes of segments and snapshots: encoding, decoding, and telling a torn end from damage.
//!
//! A file is a header and frames; a frame is the unit of durability, one batch of writes under one checksum.
//! Each file has a random salt that begins every checksum and every frame, so that bytes of another file, or
//! of a value that looks like a frame, are never taken for one. Knows nothing of files: slices in, slices
//! out, and no input panics. The layout is written down in `docs/adr/0003-store-log.md`.

use storage::{Key, MAX_KEY_BYTES, MAX_VALUE_BYTES, Rev};

/// The version of everything in the data directory.
pub const FORMAT_VERSION: u32 = 1;
/// The length of a file header.
pub const HEADER_BYTES: usize = 48;
/// The length of a frame header.
pub const FRAME_BYTES: usize = 32;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"KBLTHLOG";
const SNAPSHOT_MAGIC: [u8; 8] = *b"KBLTHSNP";
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_STATE: u8 = 3;
const RECORD_BYTES: usize = 16;

/// Which sort of file a header belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A piece of the log.
    Segment,
    /// The state at a revision.
    Snapshot,
}

/// The header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What its frames begin with and their checksums start from.
    pub salt: Salt,
    /// Segment: no revision in it is below this one. Snapshot: the revision it is the state of.
    pub rev: Rev,
    /// Segment: the last revision of the segments before. Snapshot: the compacted revision.
    pub prev_rev: Rev,
}

/// The secret of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(u64);

impl Salt {
    /// From random bits.
    #[must_use]
    pub fn new(bits: u64) -> Self {
        // A frame never begins with zero, which is what follows the last one.
        Self(bits | 1)
    }

    /// What every frame of the file begins with.
    #[must_use]
    pub fn frame_start(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        [a, b, c, d]
    }

    fn checksum(self, parts: &[&[u8]]) -> u32 {
        let [.., a, b, c, d] = self.0.to_le_bytes();
        let mut hasher = crc32fast::Hasher::new_with_initial(u32::from_le_bytes([a, b, c, d]));
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// Why bytes cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not the header of such a file.
    #[error("the header is damaged")]
    Header,
    /// Written by a later version.
    #[error("it has format {found}, this program reads up to {FORMAT_VERSION}")]
    Newer {
        /// The format of the file.
        found: u32,
    },
    /// The frame at an offset is damaged.
    #[error("the frame at offset {offset} is damaged")]
    Frame {
        /// Where.
        offset: usize,
        /// The first revision behind the damage.
        next_rev: Option<Rev>,
    },
}

impl Header {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self, kind: FileKind) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(match kind {
            FileKind::Segment => &SEGMENT_MAGIC,
            FileKind::Snapshot => &SNAPSHOT_MAGIC,
        });
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.rev.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.prev_rev.0.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..40]);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `Header` or `Newer`.
    pub fn decode(kind: FileKind, bytes: &[u8]) -> Result<Self, FormatError> {
        let magic = match kind {
            FileKind::Segment => &SEGMENT_MAGIC,
            FileKind::Snapshot => &SNAPSHOT_MAGIC,
        };
        if bytes.len() < HEADER_BYTES || bytes[..8] != *magic {
            return Err(FormatError::Header);
        }
        let found = u32_at(bytes, 8);
        if found > FORMAT_VERSION {
            return Err(FormatError::Newer { found });
        }
        if u32_at(bytes, 40) != crc32fast::hash(&bytes[..40]) {
            return Err(FormatError::Header);
        }
        let salt = Salt::new(u64_at(bytes, 16));
        Ok(Self { salt, rev: Rev(u64_at(bytes, 24)), prev_rev: Rev(u64_at(bytes, 32)) })
    }
}

/// A frame being written.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    count: u32,
}

/// What a frame says of itself beside its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFacts {
    /// Log: the revision of its first record; the others follow without a hole.
    pub first_rev: Rev,
    /// Log: what is compacted as of this frame. Snapshot: how many records came before.
    pub extra: u64,
}

impl FrameBuilder {
    /// Empties it, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(FRAME_BYTES, 0);
        self.count = 0;
    }

    /// How long the frame is so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a put.
    pub fn put(&mut self, key: &[u8], value: &[u8], expires_at_ms: u64) {
        self.record(KIND_PUT, &[key, value], expires_at_ms);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: &[u8]) {
        self.record(KIND_DELETE, &[key, &[]], 0);
        self.bytes.extend_from_slice(key);
    }

    /// Adds a live key of a snapshot.
    pub fn state(&mut self, kv: &storage::Kv, expires_at_ms: u64) {
        self.record(KIND_STATE, &[kv.key.as_bytes(), &kv.value], expires_at_ms);
        self.bytes.extend_from_slice(&kv.create_rev.0.to_le_bytes());
        self.bytes.extend_from_slice(&kv.mod_rev.0.to_le_bytes());
        self.bytes.extend_from_slice(kv.key.as_bytes());
        self.bytes.extend_from_slice(&kv.value);
    }

    fn record(&mut self, kind: u8, key_value: &[&[u8]; 2], expires_at_ms: u64) {
        let [key, value] = key_value;
        let key_len = u16::try_from(key.len()).expect("because the port refuses larger keys");
        let value_len = u32::try_from(value.len()).expect("because the port refuses larger values");
        self.bytes.extend_from_slice(&[kind, 0]);
        self.bytes.extend_from_slice(&key_len.to_le_bytes());
        self.bytes.extend_from_slice(&value_len.to_le_bytes());
        self.bytes.extend_from_slice(&expires_at_ms.to_le_bytes());
        self.count += 1;
    }

    /// The bytes to write.
    pub fn finish(&mut self, salt: Salt, facts: FrameFacts) -> &[u8] {
        let payload = self.bytes.len() - FRAME_BYTES;
        let payload = u32::try_from(payload).expect("because a batch is bounded far below 4 GiB");
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let (head, body) = self.bytes.split_at_mut(FRAME_BYTES);
        head[..4].copy_from_slice(&salt.frame_start());
        head[8..12].copy_from_slice(&payload.to_le_bytes());
        head[12..16].copy_from_slice(&self.count.to_le_bytes());
        head[16..24].copy_from_slice(&facts.first_rev.0.to_le_bytes());
        head[24..32].copy_from_slice(&facts.extra.to_le_bytes());
        let crc = salt.checksum(&[&head[8..], body]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }
}

/// A frame that was read and whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it says of itself.
    pub facts: FrameFacts,
    /// How many records it has.
    pub count: u32,
    /// Its length in the file.
    pub len: usize,
    payload: &'a [u8],
}

/// One record of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// A put.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
        /// When it expires; 0 is never.
        expires_at_ms: u64,
    },
    /// A delete.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// A live key of a snapshot.
    State {
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
        /// When it expires; 0 is never.
        expires_at_ms: u64,
        /// The revision of its creation.
        create_rev: Rev,
        /// The revision of its last write.
        mod_rev: Rev,
    },
}

/// How long the frame whose header these bytes begin with claims to be.
#[must_use]
pub fn claimed_len(salt: Salt, bytes: &[u8]) -> Option<usize> {
    if bytes.len() < FRAME_BYTES || bytes[..4] != salt.frame_start() {
        return None;
    }
    let payload = usize::try_from(u32_at(bytes, 8)).ok()?;
    FRAME_BYTES.checked_add(payload)?.checked_next_multiple_of(ALIGN)
}

/// The frame at the beginning of `bytes`, if there is a whole and sound one.
#[must_use]
pub fn decode_frame(salt: Salt, bytes: &[u8]) -> Option<Frame<'_>> {
    let len = claimed_len(salt, bytes)?;
    let frame = bytes.get(..len)?;
    if u32_at(frame, 4) != salt.checksum(&[&frame[8..]]) {
        return None;
    }
    let payload_len = usize::try_from(u32_at(frame, 8)).ok()?;
    let payload = frame.get(FRAME_BYTES..FRAME_BYTES.checked_add(payload_len)?)?;
    let facts = FrameFacts { first_rev: Rev(u64_at(frame, 16)), extra: u64_at(frame, 24) };
    let count = u32_at(frame, 12);
    Some(Frame { facts, count, len, payload })
}

/// Where the next sound frame begins, from an aligned offset on.
#[must_use]
pub fn find_frame(salt: Salt, bytes: &[u8], from: usize) -> Option<usize> {
    let magic = salt.frame_start();
    (from.next_multiple_of(ALIGN)..bytes.len()).step_by(ALIGN).find(|at| {
        let rest = &bytes[*at..];
        rest.starts_with(&magic) && decode_frame(salt, rest).is_some()
    })
}

impl<'a> Frame<'a> {
    /// Its records; `None` where they are not what the frame says.
    #[must_use]
    pub fn records(&self) -> Option<Vec<Record<'a>>> {
        decode_records(self.payload, self.count)
    }
}

/// Exactly `count` records that take up all of `bytes`.
#[must_use]
pub fn decode_records(bytes: &[u8], count: u32) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    let mut rest = bytes;
    for _ in 0..count {
        let (record, after) = decode_record(rest)?;
        records.push(record);
        rest = after;
    }
    rest.is_empty().then_some(records)
}

fn decode_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (head, mut rest) = bytes.split_at_checked(RECORD_BYTES)?;
    let mut revs = (Rev(0), Rev(0));
    if head[0] == KIND_STATE {
        let (bytes, after) = rest.split_at_checked(16)?;
        revs = (Rev(u64_at(bytes, 0)), Rev(u64_at(bytes, 8)));
        rest = after;
    }
    let key_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let value_len = usize::try_from(u32_at(head, 4)).ok()?;
    if key_len > MAX_KEY_BYTES || value_len > MAX_VALUE_BYTES {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_len)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    let expires_at_ms = u64_at(head, 8);
    let record = match head[0] {
        KIND_PUT => Record::Put { key, value, expires_at_ms },
        KIND_DELETE => Record::Delete { key },
        KIND_STATE => {
            let (create_rev, mod_rev) = revs;
            Record::State { key, value, expires_at_ms, create_rev, mod_rev }
        }
        _ => return None,
    };
    Some((record, rest))
}

/// What a segment ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentEnd {
    /// With its last frame, or zeros that were never written to.
    Clean {
        /// Where.
        offset: usize,
    },
    /// With bytes that are no frame, and no frame after them: a write that a crash cut short.
    Torn {
        /// Where.
        offset: usize,
    },
}

/// Reads a segment, giving each frame with its records to `visit`.
///
/// # Errors
/// `Header`, `Newer`, or `Frame` where bytes are damaged with sound frames behind them.
pub fn read_segment<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(&Frame<'a>, Vec<Record<'a>>),
) -> Result<(Header, SegmentEnd), FormatError> {
    let header = Header::decode(FileKind::Segment, bytes)?;
    let mut offset = HEADER_BYTES;
    while let Some(frame) = decode_frame(header.salt, &bytes[offset.min(bytes.len())..]) {
        let records = frame.records().ok_or(FormatError::Frame { offset, next_rev: None })?;
        visit(&frame, records);
        offset += frame.len;
    }
    if let Some(next) = find_frame(header.salt, bytes, offset) {
        let next = decode_frame(header.salt, &bytes[next..]);
        let next_rev = next.map(|frame| frame.facts.first_rev);
        return Err(FormatError::Frame { offset, next_rev });
    }
    let is_zero = bytes[offset.min(bytes.len())..].iter().all(|byte| *byte == 0);
    let end = if is_zero { SegmentEnd::Clean { offset } } else { SegmentEnd::Torn { offset } };
    Ok((header, end))
}

/// A key of these bytes, in memory of its own.
#[must_use]
pub fn key_of(bytes: &[u8]) -> Key {
    Key::new(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
