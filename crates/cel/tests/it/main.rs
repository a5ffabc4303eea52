//! What expressions mean, what is wrong with them, and what they cost.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod conformance;
mod costs;
mod errors;
mod libraries;
mod objects;
mod textproto;
