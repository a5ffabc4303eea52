//! The scheduler against recorded decisions of upstream, and on a real API server in virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod answers;
mod cluster;
mod config;
mod devices;
mod extenders;
mod gangs;
mod leader;
mod preemption;
mod remembered;
mod replay;
mod volumes;
