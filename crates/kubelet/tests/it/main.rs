//! An agent on the real API server and a runtime made of stages, on virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fake;
mod life;
