//! Arbitrary bytes as a protobuf body: never a panic, and what was read is the same when written and read again.

#![no_main]

use apimachinery::{json, protobuf};
use libfuzzer_sys::fuzz_target;

/// Kinds that are tried where the envelope names none.
const KINDS: [(&str, &str); 4] = [("", "Pod"), ("apps", "Deployment"), ("", "Service"), ("", "Node")];

fuzz_target!(|bytes: &[u8]| {
    let (node, message) = match protobuf::unwrap(bytes) {
        Ok(envelope) => {
            let version = envelope.api_version.as_str();
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            (api::type_of_kind(group, version, &envelope.kind), envelope.raw)
        }
        Err(_) => {
            let (group, kind) = KINDS[bytes.len() % KINDS.len()];
            (api::type_of_kind(group, "v1", kind), bytes)
        }
    };
    let Some(node) = node else { return };
    let (schema, tags) = (api::schema(), api::protobuf_tags());
    let Ok(value) = protobuf::decode(schema, tags, node, message) else { return };
    let write = |value| {
        let mut out = Vec::new();
        protobuf::encode(schema, tags, node, value, &mut out);
        out
    };
    let once = write(&value);
    let again = protobuf::decode(schema, tags, node, &once).expect("because it was written");
    assert_eq!(once, write(&again), "{}", json::to_string(&value));
});
