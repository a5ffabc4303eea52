//! Tests of `apimachinery` against the real types and what upstream answered, one binary.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "a test says what it skips")]

mod managed_fields;
mod patches;
mod protobuf;
mod recorded;
