//! What a client says on the channels of a command's streams.
//!
//! Knows nothing of commands and their streams, nor of how messages are written.

/// The longest message of a client, in bytes: kubectl sends 32 KiB at a time, other clients what they are given.
pub(super) const MESSAGE_BYTES: usize = 4 << 20;

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said<'m> {
    /// Input for the command.
    Input(&'m [u8]),
    /// The size that the client's terminal has now, in cells.
    Resize { width: u16, height: u16 },
    /// There is no more input.
    EndOfInput,
    /// Nothing that matters here.
    Other,
}

/// What is said by this on a channel.
pub(super) fn said(channel: u8, data: &[u8]) -> Said<'_> {
    match (channel, data) {
        (STDIN, data) => Said::Input(data),
        (RESIZE, data) => resize(data).unwrap_or(Said::Other),
        (CLOSE, [STDIN]) => Said::EndOfInput,
        _ => Said::Other,
    }
}

/// A size; what is none is passed over.
pub(super) fn resize(text: &[u8]) -> Option<Said<'static>> {
    let size = apimachinery::json::parse(text).ok()?;
    let number =
        |name: &str| u16::try_from(size.i64_at(&[name]).unwrap_or_default()).unwrap_or_default();
    Some(Said::Resize { width: number("Width"), height: number("Height") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_for_the_channel_that_it_names() {
        for (channel, data, expected) in [
            (0, b"ls\n".as_slice(), Said::Input(b"ls\n")),
            (0, b"", Said::Input(b"")),
            (4, b"{\"Width\":80,\"Height\":24}", Said::Resize { width: 80, height: 24 }),
            (4, b"{\"Width\":-1,\"Height\":99999}", Said::Resize { width: 0, height: 0 }),
            (4, b"nonsense", Said::Other),
            (255, b"\x00", Said::EndOfInput),
            (255, b"\x01", Said::Other),
            (7, b"x", Said::Other),
        ] {
            assert_eq!(said(channel, data), expected, "{channel} {data:?}");
        }
    }
}
