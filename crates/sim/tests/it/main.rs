//! The simulation itself: that a seed decides everything. What it finds in the product is found by `cargo xtask sim`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use sim::{Plan, Report, run};

fn short(seed: u64) -> Report {
    run(Plan { seed, operations: 60, echo: false }, &|_| {})
}

#[test]
fn a_seed_run_twice_is_the_same_run_to_the_byte() {
    let (first, second) = (short(11), short(11));
    assert_eq!((first.trace, first.revisions), (second.trace, second.revisions));
    assert!(first.operations >= 60, "{} operations", first.operations);
}

#[test]
fn another_seed_is_another_run() {
    assert_ne!(short(11).trace, short(12).trace);
}
