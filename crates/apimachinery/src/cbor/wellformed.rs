//! Whether bytes are one data item within the limits, before anything is made of them.

use super::{BREAK, CborError, DEPTH_MAX, Head, INDEFINITE, Major};

/// Checks that `bytes` are one well-formed data item and nothing else, with so many elements or pairs in one array or map.
pub(super) fn check(bytes: &[u8], elements_max: usize) -> Result<(), CborError> {
    if bytes.is_empty() {
        return Err(CborError::Empty);
    }
    let mut checker = Checker { bytes, at: 0, elements_max };
    checker.item(0)?;
    match bytes.len() - checker.at {
        0 => Ok(()),
        left => Err(CborError::Refused(format!(
            "{left} bytes of extraneous data starting at index {}",
            checker.at
        ))),
    }
}

struct Checker<'b> {
    bytes: &'b [u8],
    at: usize,
    elements_max: usize,
}

impl Checker<'_> {
    fn peek(&self) -> Result<u8, CborError> {
        self.bytes.get(self.at).copied().ok_or(CborError::UnexpectedEnd)
    }

    /// Checks one data item that stands at `depth`; how deep it nests comes back.
    fn item(&mut self, depth: usize) -> Result<usize, CborError> {
        let head = self.head()?;
        match head.major {
            Major::Bytes | Major::Text if head.is_indefinite() => self.chunks(head.major, depth),
            Major::Bytes | Major::Text => {
                self.skip_bytes(head)?;
                Ok(depth)
            }
            Major::Array | Major::Map => self.container(head, deeper(depth)?),
            Major::Tag => self.tagged(head, depth),
            Major::Positive | Major::Negative | Major::Primitive => Ok(depth),
        }
    }

    /// Past the bytes of a string.
    fn skip_bytes(&mut self, head: Head) -> Result<(), CborError> {
        let too_large = || {
            let name = head.major.name();
            let why =
                format!("{name} length {} is too large, causing integer overflow", head.value);
            CborError::Refused(why)
        };
        let len = i64::try_from(head.value).map_err(|_| too_large())?;
        let len = usize::try_from(len).map_err(|_| too_large())?;
        if self.bytes.len() - self.at < len {
            return Err(CborError::UnexpectedEnd);
        }
        self.at += len;
        Ok(())
    }

    /// The elements of an array or map.
    fn container(&mut self, head: Head, depth: usize) -> Result<usize, CborError> {
        if head.is_indefinite() {
            return self.until_break(head.major, depth);
        }
        let pairs = head.major == Major::Map;
        if i64::try_from(head.value).is_err() {
            let (name, len) = (head.major.name(), head.value);
            return Err(CborError::Refused(format!(
                "{name} length {len} is too large, it would cause integer overflow"
            )));
        }
        let count = usize::try_from(head.value).unwrap_or(usize::MAX);
        if count > self.elements_max {
            return Err(self.too_many(head.major));
        }
        let items = if pairs { count.saturating_mul(2) } else { count };
        let mut deepest = depth;
        for _ in 0..items {
            deepest = deepest.max(self.item(depth)?);
        }
        Ok(deepest)
    }

    /// The chunks of a string without length. Upstream counts the depth of one chunk on to the next, which changes nothing.
    fn chunks(&mut self, major: Major, depth: usize) -> Result<usize, CborError> {
        loop {
            let next = self.peek()?;
            if next == BREAK {
                self.at += 1;
                return Ok(depth);
            }
            let (name, chunk) = (major.name(), Major::of(next));
            if chunk != major {
                return Err(CborError::Refused(format!(
                    "wrong element type {} for indefinite-length {name}",
                    chunk.name()
                )));
            }
            if next & 0x1f == INDEFINITE {
                return Err(CborError::Refused(format!(
                    "indefinite-length {name} chunk is not definite-length"
                )));
            }
            self.item(depth)?;
        }
    }

    /// The elements of an array or map without length.
    fn until_break(&mut self, major: Major, depth: usize) -> Result<usize, CborError> {
        let (mut deepest, mut items) = (depth, 0);
        while self.peek()? != BREAK {
            deepest = deepest.max(self.item(depth)?);
            items += 1;
            let count = if major == Major::Map { items / 2 } else { items };
            if count > self.elements_max {
                return Err(self.too_many(major));
            }
        }
        if major == Major::Map && items % 2 == 1 {
            return Err(unexpected_break());
        }
        self.at += 1;
        Ok(deepest)
    }

    /// What a tag encloses.
    fn tagged(&mut self, first: Head, depth: usize) -> Result<usize, CborError> {
        let (mut head, mut depth) = (first, depth);
        loop {
            if matches!(head.value, 2 | 3) {
                return Err(not_accepted(Major::Tag, "bignum"));
            }
            if Major::of(self.peek()?) != Major::Tag {
                return self.item(depth);
            }
            head = self.head()?;
            depth = deeper(depth)?;
        }
    }

    fn head(&mut self) -> Result<Head, CborError> {
        let first = self.peek()?;
        let (major, info) = (Major::of(first), first & 0x1f);
        self.at += 1;
        let bad_info = || {
            let why = format!("invalid additional information {info} for type {}", major.name());
            CborError::Refused(why)
        };
        let value = match info {
            0..24 => u64::from(info),
            24..28 => self.argument(1 << (info - 24))?,
            INDEFINITE => match major {
                Major::Positive | Major::Negative | Major::Tag => return Err(bad_info()),
                Major::Primitive => return Err(unexpected_break()),
                Major::Bytes | Major::Text | Major::Array | Major::Map => 0,
            },
            _ => return Err(bad_info()),
        };
        let head = Head { major, info, value };
        if major == Major::Primitive && info == 24 && value < 32 {
            let why = format!("invalid simple value {value} for type {}", major.name());
            return Err(CborError::Refused(why));
        }
        match head.float() {
            Some(number) if number.is_nan() => Err(not_accepted(major, "floating-point NaN")),
            Some(number) if number.is_infinite() => {
                Err(not_accepted(major, "floating-point infinity"))
            }
            _ => Ok(head),
        }
    }

    fn too_many(&self, major: Major) -> CborError {
        let most = self.elements_max;
        CborError::Refused(match major {
            Major::Map => format!("exceeded max number of key-value pairs {most} for CBOR map"),
            _ => format!("exceeded max number of elements {most} for CBOR array"),
        })
    }

    /// A number of so many bytes.
    fn argument(&mut self, len: usize) -> Result<u64, CborError> {
        let bytes = self.bytes.get(self.at..self.at + len).ok_or(CborError::UnexpectedEnd)?;
        self.at += len;
        Ok(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }
}

fn deeper(depth: usize) -> Result<usize, CborError> {
    if depth == DEPTH_MAX {
        return Err(CborError::Refused(format!("exceeded max nested level {DEPTH_MAX}")));
    }
    Ok(depth + 1)
}

fn unexpected_break() -> CborError {
    CborError::Refused("unexpected \"break\" code".into())
}

/// Well-formed, and nothing that objects can hold.
pub(super) fn not_accepted(major: Major, why: &str) -> CborError {
    let name = major.name();
    CborError::Refused(format!("data item of cbor type {name} is not accepted by protocol: {why}"))
}
