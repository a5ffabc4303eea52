//! Short names for content: the hash of a pod template, which names replica sets and labels their pods.
//!
//! Upstream hashes Go's dump of the struct, which nobody else can make; all that matters is that equal templates
//! have equal hashes for ever. Ours is over the canonical JSON, so it must not change.

use crate::value::Value;

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;
/// Letters and digits that make no words and are not mistaken for each other.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a in 32 bits.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u32 {
    fold(FNV_OFFSET, bytes)
}

fn fold(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The text with each byte made a safe letter or digit.
#[must_use]
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(SAFE[usize::from(byte) % SAFE.len()])).collect()
}

/// The hash of a pod template, or of another part of a spec. A collision count makes another one.
#[must_use]
pub fn template_hash(template: &Value, collision_count: Option<i32>) -> String {
    let mut hash = fnv1a(&crate::json::to_vec(template));
    if let Some(count) = collision_count {
        hash = fold(hash, &i64::from(count).to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn hashes_are_stable_and_safe() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
        let template = value!({"spec": {"containers": [{"name": "a"}]}});
        let plain = template_hash(&template, None);
        assert_eq!(plain, "5b684bc5db", "the hash of a template is in the names of objects");
        assert_ne!(plain, template_hash(&template, Some(1)));
        assert!(plain.bytes().all(|b| SAFE.contains(&b)), "{plain}");
    }
}
