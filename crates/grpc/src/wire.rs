//! Protobuf messages, written and read field by field.

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'m> {
    /// A number.
    Varint(u64),
    /// Text, bytes, a message.
    Bytes(&'m [u8]),
}

/// Appends a number; nothing for 0.
pub fn write_number(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        write_varint(out, u64::from(number) << 3);
        write_varint(out, value);
    }
}

/// Appends bytes; nothing for none.
pub fn write_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        write_varint(out, u64::from(number) << 3 | 2);
        write_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Appends a number of eight bytes; nothing for 0.
pub fn write_fixed(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        write_varint(out, u64::from(number) << 3 | 1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Appends a message, also one with nothing in it.
pub fn write_message(out: &mut Vec<u8>, number: u32, message: &[u8]) {
    write_varint(out, u64::from(number) << 3 | 2);
    write_varint(out, message.len() as u64);
    out.extend_from_slice(message);
}

/// Appends an entry of a map from text to bytes.
pub fn write_entry(out: &mut Vec<u8>, number: u32, (key, value): (&str, &[u8])) {
    let mut entry = Vec::new();
    write_bytes(&mut entry, 1, key.as_bytes());
    write_bytes(&mut entry, 2, value);
    write_message(out, number, &entry);
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'m>(bytes: &mut &'m [u8], count: usize) -> Option<&'m [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// The fields of a message in the order they stand in it; those of fixed size are skipped.
///
/// # Errors
/// Where it is no message.
pub fn fields(mut bytes: &[u8]) -> Result<Vec<(u32, Field<'_>)>, String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        found.extend(field(&mut bytes).ok_or("proto: cannot parse invalid wire-format data")?);
    }
    Ok(found)
}

fn field<'m>(bytes: &mut &'m [u8]) -> Option<Option<(u32, Field<'m>)>> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok().filter(|it| *it > 0)?;
    match tag & 7 {
        0 => Some(Some((number, Field::Varint(varint(bytes)?)))),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Some(Some((number, Field::Bytes(take(bytes, length)?))))
        }
        1 => take(bytes, 8).map(|_| None),
        5 => take(bytes, 4).map(|_| None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_written_and_read() {
        let mut out = Vec::new();
        write_bytes(&mut out, 1, b"abc");
        write_bytes(&mut out, 2, b"");
        write_number(&mut out, 5, 300);
        write_entry(&mut out, 4, ("k", b"v"));
        write_fixed(&mut out, 7, 0);
        assert_eq!(out, b"\x0a\x03abc\x28\xac\x02\x22\x06\x0a\x01k\x12\x01v");
        let entry = b"\x0a\x01k\x12\x01v";
        let expected = vec![
            (1, Field::Bytes(b"abc".as_slice())),
            (5, Field::Varint(300)),
            (4, Field::Bytes(entry.as_slice())),
        ];
        assert_eq!(fields(&out).unwrap(), expected);
        for broken in [b"\x0a\x05abc".as_slice(), b"\xff", b"\x00\x01", b"\x0b"] {
            assert!(fields(broken).is_err(), "{broken:?}");
        }
    }
}
