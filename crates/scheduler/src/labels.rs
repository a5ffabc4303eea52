//! Labels as the scheduler keeps them: sorted pairs of short strings.

use apimachinery::{Object, Value};
use compact_str::CompactString;

/// Labels by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(CompactString, CompactString)]>);

impl Labels {
    /// The labels in an object's metadata (or any map of strings).
    #[must_use]
    pub fn from_value(labels: Option<&Value>) -> Self {
        let members = labels.and_then(Value::as_object).into_iter().flat_map(Object::iter);
        let pairs = members.filter_map(|(key, value)| Some((key.into(), value.as_str()?.into())));
        Self(pairs.collect())
    }

    /// The value of a label. Members of a JSON object come sorted, so that this is a binary search.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let index = self.0.binary_search_by(|(it, _)| it.as_str().cmp(key)).ok()?;
        Some(&self.0[index].1)
    }
}
