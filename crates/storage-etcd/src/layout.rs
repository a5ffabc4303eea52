//! Where keys are in etcd: those of the API server under the prefix that the operator chose, all others as they are.

use bytes::Bytes;
use storage::Key;

/// What the API server's keys begin with, and those in etcd unless told otherwise.
pub const REGISTRY: &str = "/registry";

/// The prefix in etcd.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// None where the keys are the same.
    prefix: Option<Bytes>,
}

impl Layout {
    /// As upstream reads the flag: with one slash before it and none after it.
    pub(crate) fn new(prefix: &str) -> Self {
        let prefix = format!("/{}", prefix.trim_matches('/'));
        Self { prefix: (prefix != REGISTRY).then(|| prefix.into()) }
    }

    /// The bytes in etcd of a key, or of what keys begin with.
    pub(crate) fn bytes(&self, key: &Key) -> Bytes {
        self.moved(key).unwrap_or_else(|| Bytes::copy_from_slice(key.as_bytes()))
    }

    fn moved(&self, key: &Key) -> Option<Bytes> {
        let prefix = self.prefix.as_ref()?;
        let rest = key.as_bytes().strip_prefix(REGISTRY.as_bytes())?;
        Some([prefix, rest].concat().into())
    }

    /// Whether what lies there is another cluster's: one that has the usual prefix where ours has another.
    pub(crate) fn is_foreign(&self, bytes: &[u8]) -> bool {
        let Some(prefix) = &self.prefix else { return false };
        !bytes.starts_with(prefix) && bytes.starts_with(REGISTRY.as_bytes())
    }

    /// The key of bytes in etcd.
    pub(crate) fn key(&self, bytes: Bytes) -> Key {
        let rest = self.prefix.as_ref().and_then(|prefix| bytes.strip_prefix(&prefix[..]));
        match rest {
            Some(rest) => Key::new([REGISTRY.as_bytes(), rest].concat()),
            None => Key::new(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_under_the_prefix_in_etcd_and_come_back() {
        let cases = [
            ("/registry", "/registry/pods/a/b", "/registry/pods/a/b"),
            ("registry/", "/registry/pods/a/b", "/registry/pods/a/b"),
            ("/one", "/registry/pods/a/b", "/one/pods/a/b"),
            ("/one/two/", "/registry/", "/one/two/"),
            ("/one", "/kubelith/restored", "/kubelith/restored"),
        ];
        for (prefix, key, expected) in cases {
            let layout = Layout::new(prefix);
            let bytes = layout.bytes(&Key::from(key));
            assert_eq!(bytes, expected.as_bytes(), "{prefix}");
            assert!(!layout.is_foreign(&bytes), "{prefix}");
            assert_eq!(layout.key(bytes), Key::from(key), "{prefix}");
        }
        assert!(Layout::new("/one").is_foreign(b"/registry/pods/a/b"));
    }
}
