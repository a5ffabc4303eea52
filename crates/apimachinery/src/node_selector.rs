//! The terms of node selectors: what affinities of pods, volumes and devices say about nodes.
//!
//! Knows nodes only as a name and a lookup from a label's key to its value.

use compact_str::CompactString;

use crate::value::Value;

/// A term of a node selector: every requirement on labels and on the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSelectorTerm {
    labels: Vec<NodeRequirement>,
    fields: Vec<NodeRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeRequirement {
    key: CompactString,
    operator: CompactString,
    values: Vec<CompactString>,
}

impl NodeSelectorTerm {
    /// A term of an affinity.
    #[must_use]
    pub fn from_value(term: &Value) -> Self {
        let read = |member| term.items_at(&[member]).iter().map(NodeRequirement::new).collect();
        Self { labels: read("matchExpressions"), fields: read("matchFields") }
    }

    /// Whether a node is meant. An empty term means none.
    #[must_use]
    pub fn matches<'l>(&self, name: &str, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        let field = |it: &NodeRequirement| it.matches((it.key == "metadata.name").then_some(name));
        self.labels.iter().all(|it| it.matches(label(&it.key))) && self.fields.iter().all(field)
    }

    /// The names of the only nodes that may be meant; `None` where the term does not say.
    #[must_use]
    pub fn names(&self) -> Option<Vec<CompactString>> {
        let mut fields =
            self.fields.iter().filter(|it| it.key == "metadata.name" && it.operator == "In");
        let mut names = fields.next()?.values.clone();
        for field in fields {
            names.retain(|name| field.values.contains(name));
        }
        Some(names)
    }
}

impl NodeRequirement {
    fn new(value: &Value) -> Self {
        let values = value.items_at(&["values"]).iter().filter_map(Value::as_str);
        Self {
            key: value.str_at(&["key"]).into(),
            operator: value.str_at(&["operator"]).into(),
            values: values.map(Into::into).collect(),
        }
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let among = |label: &str| self.values.iter().any(|it| it == label);
        let compare = |label: &str| {
            let wanted: i64 = self.values.first()?.parse().ok()?;
            Some(label.parse::<i64>().ok()?.cmp(&wanted))
        };
        match self.operator.as_str() {
            "In" => label.is_some_and(among),
            "NotIn" => !label.is_some_and(among),
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            "Gt" => label.and_then(compare).is_some_and(std::cmp::Ordering::is_gt),
            "Lt" => label.and_then(compare).is_some_and(std::cmp::Ordering::is_lt),
            // The server admits no other.
            _ => false,
        }
    }
}
