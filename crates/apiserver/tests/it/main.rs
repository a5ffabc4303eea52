//! A whole server on the in-memory store, without a socket: what it holds, whom it lets in, what it lets pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![recursion_limit = "256"]

mod access;
mod aggregation;
mod apis;
mod audits;
mod authn;
mod authz;
mod bad_input;
mod cbor;
mod cluster;
mod compaction;
mod computed;
mod conversions;
mod custom;
mod encrypted;
mod ending;
mod extension;
mod fairness;
mod hooks;
mod manifests;
mod memory;
mod metrics;
mod plugins;
mod pod_groups;
mod pod_security;
mod policies;
mod proxies;
mod removed;
mod services;
mod tended;
mod traces;
mod watches;
mod webhooks;
mod websockets;
mod wire;
mod writes;
mod wrong;
