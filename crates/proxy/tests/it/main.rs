//! The service proxy: which rules follow from which objects, and what the kernel does with them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../../sys/tests/lab/mod.rs"]
mod lab;
mod live;
mod objects;
mod plan;
