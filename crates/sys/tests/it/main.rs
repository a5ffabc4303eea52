//! Netlink and nf_tables against the kernel, each test in network namespaces of its own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod netlink;
mod nftables;
