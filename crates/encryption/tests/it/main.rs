//! Encryption at rest on the in-memory store: the store's contract, upstream's formats, rotation, plugins.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod contract;
mod plugin;
mod plugins;
mod providers;
