//! Arbitrary bytes as YAML: a value or an error, never a panic, and a value that can be written as JSON and read again.

#![no_main]

use apimachinery::{json, yaml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((value, repeated)) = yaml::parse_reporting(bytes) else { return };
    let _ = yaml::strict_error(&repeated);
    let text = json::to_vec(&value);
    let again = json::parse(&text).expect("because what was written is JSON");
    assert_eq!(text, json::to_vec(&again), "written twice, differently");
});
