//! Properties of the crate's functions on arbitrary input, one binary.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod properties;
