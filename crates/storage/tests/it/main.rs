//! The in-memory store against the contract, and against a model of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod memory;
mod model;
