//! How messages carry bytes, and the channel that they are for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

/// How a protocol writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As they are. A channel is a byte before them.
    Binary,
    /// As text in base64, for clients that have no bytes. A channel is a character before it, `0` the first.
    Base64,
}

impl Codec {
    /// How a protocol of this name writes bytes: in base64 where the name says so.
    #[must_use]
    pub fn of(protocol: &str) -> Self {
        if protocol.contains("base64") { Self::Base64 } else { Self::Binary }
    }

    /// Bytes for one of several channels.
    #[must_use]
    pub fn on(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut all = Vec::with_capacity(data.len() + 1);
                all.push(channel);
                all.extend_from_slice(data);
                Message::Binary(all.into())
            }
            Self::Base64 => {
                let mut text = String::from(char::from(b'0'.wrapping_add(channel)));
                STANDARD.encode_string(data, &mut text);
                Message::Text(text.into())
            }
        }
    }

    /// Bytes of the only channel.
    #[must_use]
    pub fn alone(self, data: Bytes) -> Message {
        match self {
            Self::Binary => Message::Binary(data),
            Self::Base64 => Message::Text(STANDARD.encode(data).into()),
        }
    }

    /// The channel that a message is for, and its bytes; `None` for what says nothing, or is no base64.
    #[must_use]
    pub fn read(self, message: Message) -> Option<(u8, Bytes)> {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                return None;
            }
        };
        if data.is_empty() {
            return None;
        }
        let channel = data.split_to(1)[0];
        match self {
            Self::Binary => Some((channel, data)),
            Self::Base64 => Some((channel.wrapping_sub(b'0'), STANDARD.decode(&data).ok()?.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_for_the_channel_that_it_names() {
        for (codec, message, expected) in [
            (Codec::Binary, Message::binary(b"\x00ls\n".as_slice()), Some((0, &b"ls\n"[..]))),
            (Codec::Binary, Message::binary(b"\xff\x00".as_slice()), Some((255, &b"\x00"[..]))),
            (Codec::Binary, Message::text("\u{1}x"), Some((1, &b"x"[..]))),
            (Codec::Binary, Message::binary(b"".as_slice()), None),
            (Codec::Base64, Message::text("0Zm9vCg=="), Some((0, &b"foo\n"[..]))),
            (Codec::Base64, Message::text("4"), Some((4, &b""[..]))),
            (Codec::Base64, Message::text("0!"), None),
            (Codec::Base64, Message::Ping(Bytes::new()), None),
        ] {
            let read = codec.read(message.clone());
            let read = read.as_ref().map(|(channel, data)| (*channel, &data[..]));
            assert_eq!(read, expected, "{codec:?} {message:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        for codec in [Codec::Binary, Codec::Base64] {
            for data in [&b""[..], b"\x00\xff", b"text"] {
                let message = codec.on(3, data);
                assert_eq!(codec.read(message), Some((3, Bytes::copy_from_slice(data))));
            }
        }
        assert_eq!(Codec::Base64.on(1, b"\n"), Message::text("1Cg=="));
        assert_eq!(Codec::Base64.alone(Bytes::from_static(b"\n")), Message::text("Cg=="));
    }
}
