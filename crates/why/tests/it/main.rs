//! Explanations and plays on small clusters. Every change that is said to help is applied, and the pod scheduled.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cluster;
mod deletion;
mod documented;
mod pods;
mod rollouts;
mod services;
mod suggestions;
mod what_if;
