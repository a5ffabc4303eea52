//! Messages of the WebSocket protocols `v4.channel.k8s.io` and `v5.channel.k8s.io`: the channel first, then what it is given.
//!
//! Knows nothing of commands and their streams.

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The longest message of a client, in bytes: kubectl sends 32 KiB at a time, other clients what they are given.
pub(super) const MESSAGE_BYTES: usize = 4 << 20;

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How much of a client's messages is read.
pub(super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES))
}

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

/// What a message says.
pub(super) fn said(message: &[u8]) -> Said<'_> {
    match message.split_first() {
        Some((&STDIN, rest)) => Said::Input(rest),
        Some((&RESIZE, rest)) => resize(rest).unwrap_or(Said::Other),
        Some((&CLOSE, [STDIN])) => Said::EndOfInput,
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
        for (message, expected) in [
            (b"\x00ls\n".as_slice(), Said::Input(b"ls\n")),
            (b"\x00", Said::Input(b"")),
            (b"\x04{\"Width\":80,\"Height\":24}", Said::Resize { width: 80, height: 24 }),
            (b"\x04{\"Width\":-1,\"Height\":99999}", Said::Resize { width: 0, height: 0 }),
            (b"\x04nonsense", Said::Other),
            (b"\xff\x00", Said::EndOfInput),
            (b"\xff\x01", Said::Other),
            (b"\x07x", Said::Other),
            (b"", Said::Other),
        ] {
            assert_eq!(said(message), expected, "{message:?}");
        }
    }
}
