//! A map that many read while one writes: a reader waits for a writer of the same shard only.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashMap;
use parking_lot::RwLock;
use rustc_hash::FxBuildHasher;

const SHARDS: usize = 64;

#[derive(Debug)]
pub(crate) struct Sharded<K, V> {
    shards: Box<[RwLock<HashMap<K, V, FxBuildHasher>>]>,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl<K: Hash + Eq, V: Clone> Sharded<K, V> {
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &RwLock<HashMap<K, V, FxBuildHasher>> {
        let hash = FxBuildHasher.hash_one(key);
        // The map inside uses the low and the highest bits; these are neither.
        let index = usize::try_from((hash >> 40) & (SHARDS as u64 - 1)).unwrap_or(0);
        &self.shards[index]
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.shard(key).read().get(key).cloned()
    }

    /// Puts a value in the place of `key`, or takes it away.
    pub(crate) fn set(&self, key: K, value: Option<V>) {
        let mut shard = self.shard(&key).write();
        match value {
            Some(value) => drop(shard.insert(key, value)),
            None => drop(shard.remove(&key)),
        }
    }
}
