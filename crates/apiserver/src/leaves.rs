//! Objects in order of their keys, in leaves that whoever wants all of them shares: a list of a hundred thousand objects
//! takes a thousand pointers under the lock, and what changes meanwhile copies the leaf that it is in.
//!
//! A sorted array of sorted arrays, as the leaves of a B-tree are. Knows nothing of requests.

use std::ops::Range;
use std::sync::Arc;

use apimachinery::obj::Obj;

use crate::cache::CacheKey;

/// How many objects a leaf has at most.
const LEAF_OBJECTS: usize = 128;

/// For how many more a full leaf gets room: what is cached stays for long, so that it has little to spare.
const ROOM: usize = 16;

type Entry = (CacheKey, Arc<Obj>);

/// Some objects in a row; never empty within [`Leaves`].
#[derive(Debug, Clone, Default)]
struct Leaf(Vec<Entry>);

/// The objects, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    leaves: Vec<Arc<Leaf>>,
    len: usize,
}

impl Leaf {
    fn first(&self) -> &str {
        self.0.first().map_or("", |(key, _)| key.as_str())
    }

    /// Room for some more, where there is none for one.
    fn make_room(&mut self) {
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact(ROOM);
        }
    }

    /// Where a key is, or where it belongs.
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(it, _)| it.as_str().cmp(key))
    }
}

impl Leaves {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One object.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Obj>> {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        let at = leaf.find(key).ok()?;
        leaf.0.get(at).map(|(_, object)| object)
    }

    /// Puts an object in its place; what was there comes back.
    pub(crate) fn insert(&mut self, key: CacheKey, object: Arc<Obj>) -> Option<Arc<Obj>> {
        let which = self.leaf_of(&key);
        let Some(shared) = self.leaves.get_mut(which) else {
            self.leaves.push(Arc::new(Leaf(vec![(key, object)])));
            self.len += 1;
            return None;
        };
        let leaf = Arc::make_mut(shared);
        let at = match leaf.find(&key) {
            Ok(at) => return Some(std::mem::replace(&mut leaf.0[at].1, object)),
            Err(at) => at,
        };
        self.len += 1;
        if leaf.0.len() < LEAF_OBJECTS {
            leaf.make_room();
            leaf.0.insert(at, (key, object));
            return None;
        }
        // What comes in order fills its leaves.
        let cut = if at == leaf.0.len() { at } else { leaf.0.len() / 2 };
        let mut rest = Leaf(leaf.0.split_off(cut));
        rest.make_room();
        leaf.0.shrink_to(cut + ROOM);
        match at.checked_sub(cut) {
            Some(at) => rest.0.insert(at, (key, object)),
            None => leaf.0.insert(at, (key, object)),
        }
        self.leaves.insert(which + 1, Arc::new(rest));
        None
    }

    /// Takes an object away.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Obj>> {
        let which = self.leaf_of(key);
        let leaf = Arc::make_mut(self.leaves.get_mut(which)?);
        let (_, gone) = leaf.0.remove(leaf.find(key).ok()?);
        self.len -= 1;
        if leaf.0.is_empty() {
            self.leaves.remove(which);
        } else if leaf.0.len() < LEAF_OBJECTS / 4 {
            self.merge(which);
        }
        Some(gone)
    }

    /// Takes all objects away.
    pub(crate) fn clear(&mut self) {
        (self.leaves, self.len) = (Vec::new(), 0);
    }

    /// The objects whose keys begin so, in order.
    pub(crate) fn of<'l>(&'l self, prefix: &'l str) -> impl Iterator<Item = &'l Arc<Obj>> {
        let first = self.leaf_of(prefix);
        let entries = self.leaves.iter().skip(first).flat_map(|leaf| &leaf.0);
        let entries = entries.skip_while(move |(key, _)| key.as_str() < prefix);
        let entries = entries.take_while(move |(key, _)| key.starts_with(prefix));
        entries.map(|(_, object)| object)
    }

    /// The same as they are now, whatever becomes of them; there are `count` of them.
    pub(crate) fn share(&self, prefix: &str, count: usize) -> Row {
        let first = self.leaf_of(prefix);
        let skipped = self.leaves.get(first).map_or(0, |leaf| match leaf.find(prefix) {
            Ok(at) | Err(at) => at,
        });
        let mut ends = Vec::new();
        let mut end = 0;
        let leaves = self.leaves.iter().skip(first).take_while(|leaf| {
            let wanted = end < skipped + count;
            end += if wanted { leaf.0.len() } else { 0 };
            if wanted {
                ends.push(end);
            }
            wanted
        });
        let leaves = leaves.cloned().collect();
        Row { leaves, ends, range: skipped..(skipped + count).min(end) }
    }

    /// The leaf that has a key, or would have it.
    fn leaf_of(&self, key: &str) -> usize {
        self.leaves.partition_point(|leaf| leaf.first() <= key).saturating_sub(1)
    }

    /// Joins a small leaf with the one behind it, or before it, where both fit into one.
    fn merge(&mut self, which: usize) {
        let len = |at: usize| self.leaves.get(at).map_or(LEAF_OBJECTS, |leaf| leaf.0.len());
        let before = [Some(which), which.checked_sub(1)].into_iter().flatten();
        let Some(left) = before.into_iter().find(|at| len(*at) + len(at + 1) <= LEAF_OBJECTS / 2)
        else {
            return;
        };
        let mut right = self.leaves.remove(left + 1);
        if let Some(leaf) = self.leaves.get_mut(left) {
            Arc::make_mut(leaf).0.append(&mut Arc::make_mut(&mut right).0);
        }
    }
}

/// Objects of one moment in a row.
#[derive(Debug, Default)]
pub(crate) struct Row {
    leaves: Vec<Arc<Leaf>>,
    /// How many objects there are up to the end of each leaf.
    ends: Vec<usize>,
    /// Which of them are meant.
    range: Range<usize>,
}

impl Row {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// The objects from this one on.
    pub(crate) fn skipping(&self, first: usize) -> impl Iterator<Item = &Arc<Obj>> {
        let (from, count) = (self.range.start + first, self.range.len().saturating_sub(first));
        let which = self.ends.partition_point(|end| *end <= from);
        let skipped = from - which.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut leaves = self.leaves.get(which..).unwrap_or_default().iter();
        let begun = leaves.next().and_then(|leaf| leaf.0.get(skipped..)).unwrap_or_default();
        let entries = begun.iter().chain(leaves.flat_map(|leaf| &leaf.0));
        entries.take(count).map(|(_, object)| object)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use apimachinery::value;

    use super::*;

    fn object(name: &str) -> Arc<Obj> {
        let value = value!({"kind": "K", "apiVersion": "v1", "metadata": {"name": name}});
        Arc::new(Obj::of(&value).expect("an object"))
    }

    fn names<'o>(objects: impl Iterator<Item = &'o Arc<Obj>>) -> Vec<String> {
        objects.map(|it| it.facts.name.to_string()).collect()
    }

    /// Numbers that look random and are the same in each run.
    fn numbers() -> impl Iterator<Item = u64> {
        std::iter::successors(Some(7_u64), |it| {
            Some(it.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        })
        .map(|it| it >> 33)
    }

    #[test]
    fn it_has_what_a_tree_would_have() {
        let (mut leaves, mut tree) = (Leaves::default(), BTreeMap::new());
        for (nth, number) in numbers().take(20_000).enumerate() {
            // Grows, shrinks to almost nothing, and grows again.
            let shrinks = (8_000..15_000).contains(&nth);
            let key = format!("n{}/{:03}", number % 7, number / 7 % 600);
            if number % 10 < if shrinks { 9 } else { 2 } {
                assert_eq!(leaves.remove(&key).is_some(), tree.remove(&key).is_some());
            } else {
                let before = leaves.insert(key.as_str().into(), object(&key));
                assert_eq!(before.is_some(), tree.insert(key.clone(), ()).is_some());
            }
            assert_eq!(leaves.get(&key).is_some(), tree.contains_key(&key));
            assert_eq!(leaves.len(), tree.len());
            if nth % 500 == 0 {
                for prefix in ["", "n0/", "n3/", "n6/", "n7/", "a", "n3/1"] {
                    let wanted: Vec<String> =
                        tree.keys().filter(|it| it.starts_with(prefix)).cloned().collect();
                    assert_eq!(names(leaves.of(prefix)), wanted);
                    let row = leaves.share(prefix, wanted.len());
                    assert_eq!(row.len(), wanted.len());
                    for from in [0, 1, wanted.len() / 2, wanted.len(), wanted.len() + 1] {
                        let rest = wanted.get(from..).unwrap_or_default();
                        assert_eq!(names(row.skipping(from)), rest, "{prefix} from {from}");
                    }
                }
                assert!(leaves.leaves.iter().all(|leaf| !leaf.0.is_empty()));
            }
        }
    }

    #[test]
    fn what_is_shared_stays_as_it_was() {
        let mut leaves = Leaves::default();
        for nth in 0..1_000 {
            leaves.insert(format!("{nth:04}").into(), object(&format!("{nth:04}")));
        }
        let row = leaves.share("", 1_000);
        let before = names(row.skipping(0));
        for nth in 0..1_000 {
            leaves.remove(&format!("{nth:04}"));
            leaves.insert(format!("{nth:04}-new").into(), object("new"));
        }
        assert_eq!(names(row.skipping(0)), before);
        assert_eq!(names(leaves.of("")), vec!["new"; 1_000]);
    }

    #[test]
    fn what_comes_in_order_fills_its_leaves() {
        let mut leaves = Leaves::default();
        for nth in 0..10 * LEAF_OBJECTS {
            leaves.insert(format!("{nth:05}").into(), object("x"));
        }
        assert_eq!(leaves.leaves.len(), 10);
    }
}
