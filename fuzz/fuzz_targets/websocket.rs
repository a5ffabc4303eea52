//! Arbitrary bytes on a WebSocket of a command, and messages as clients write them: what was sent comes out again in one piece,
//! what is no message never panics, and nothing is longer than the limit.

#![no_main]

use std::io::Cursor;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures::{SinkExt, StreamExt};
use libfuzzer_sys::fuzz_target;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/kubelet/src/server/channels.rs"]
mod channels;

use channels::{MESSAGE_BYTES, STDIN, Said, limits, said};

/// What a client writes who sends these messages.
async fn written(messages: &[Vec<u8>]) -> Vec<u8> {
    let wire = Cursor::new(Vec::new());
    let mut client = WebSocketStream::from_raw_socket(wire, Role::Client, None).await;
    for message in messages {
        let sent = client.send(Message::Binary(message.clone().into())).await;
        sent.expect("because the wire is memory");
    }
    client.into_inner().into_inner()
}

/// What a future comes to whose reader and writer are memory, so that it never waits.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it waits for somebody"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = said(bytes);
    let Some((&count, mut rest)) = bytes.split_first() else { return };
    let mut messages = Vec::new();
    for _ in 0..count % 5 {
        let Some((&len, after)) = rest.split_first() else { break };
        let (text, after) = after.split_at(usize::from(len).min(after.len()));
        messages.push([&[STDIN], text].concat());
        rest = after;
    }
    at_once(async {
        let mut wire = written(&messages).await;
        wire.extend_from_slice(rest);
        let wire = Cursor::new(wire);
        let mut socket = WebSocketStream::from_raw_socket(wire, Role::Server, Some(limits())).await;
        for message in &messages {
            let got = socket.next().await.expect("a message").expect("because it was sent well");
            let Message::Binary(got) = got else { panic!("another message: {got:?}") };
            assert_eq!(said(&got), Said::Input(&message[1..]));
        }
        while let Some(Ok(message)) = socket.next().await {
            assert!(message.len() <= MESSAGE_BYTES);
            if let Message::Binary(data) = &message {
                let _ = said(data);
            }
        }
    });
});
