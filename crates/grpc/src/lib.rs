//! Calls of gRPC servers, one message there and one back: plugins that keep keys, signers of tokens, collectors of spans.
//!
//! Knows none of them: messages are written and read field by field (`wire`).

mod client;
pub mod wire;

pub use client::{Client, Place, Status};
