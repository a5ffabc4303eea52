//! Arbitrary bytes as a CBOR body, with and without a type: never a panic, and what was read is the same when written and
//! read again.

#![no_main]

use apimachinery::cbor::{self, Typed, Unknown};
use apimachinery::{conform, json};
use libfuzzer_sys::fuzz_target;

/// Kinds that are tried where a body names none.
const KINDS: [(&str, &str); 4] =
    [("", "Pod"), ("apps", "Deployment"), ("", "Secret"), ("", "ConfigMap")];

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = cbor::decode(bytes, None, Unknown::Refuse) {
        let once = cbor::to_vec(&value, None);
        let again = cbor::decode(&once, None, Unknown::Refuse).expect("because it was written");
        assert_eq!(once, cbor::to_vec(&again, None), "{}", json::to_string(&value));
        assert_eq!(json::to_string(&value), json::to_string(&again));
        let _ = cbor::decode_own(bytes).expect("because it was read with limits");
    }
    let _ = cbor::wrong_type(bytes, "map[string]interface {}");
    let node = match cbor::kind_of(bytes) {
        Ok((api_version, kind)) if !kind.is_empty() => {
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            api::type_of_kind(group, version, &kind)
        }
        _ => {
            let (group, kind) = KINDS[bytes.len() % KINDS.len()];
            api::type_of_kind(group, "v1", kind)
        }
    };
    let Some(node) = node else { return };
    let typed = Some(Typed { schema: api::schema(), node });
    let strict = cbor::decode(bytes, typed, Unknown::Refuse);
    let Ok(mut value) = cbor::decode(bytes, typed, Unknown::Skip) else { return };
    if let Ok(strict) = strict {
        assert_eq!(json::to_string(&strict), json::to_string(&value), "nothing was skipped");
    }
    if conform::conform(api::schema(), node, &mut value).is_err() {
        return;
    }
    let once = cbor::to_vec(&value, typed);
    // Lists and maps may have become no longer than they were, so that they are within the limits still.
    let mut again = cbor::decode(&once, typed, Unknown::Refuse).expect("because it was written");
    conform::conform(api::schema(), node, &mut again).expect("because it conformed");
    assert_eq!(json::to_string(&value), json::to_string(&again));
});
