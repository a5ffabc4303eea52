//! The pod network against the kernel, each test in network namespaces of its own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../../sys/tests/lab/mod.rs"]
mod lab;
mod pod_network;
