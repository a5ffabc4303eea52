//! A pod, or a template of one, as the checks look at it; and the words in which they name what they found.

use std::collections::BTreeSet;

use apimachinery::{Object, Value};

/// A pod's metadata and spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pod<'p> {
    metadata: &'p Value,
    pub(super) spec: &'p Value,
}

impl<'p> Pod<'p> {
    /// Of a pod, or of a template.
    pub(super) fn of(object: &'p Value) -> Self {
        Self { metadata: &object["metadata"], spec: &object["spec"] }
    }

    /// All containers, in the order in which upstream visits them.
    pub(super) fn containers(self) -> impl Iterator<Item = &'p Value> {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| self.spec.items_at(&[list]))
    }

    /// The names of the containers for which this holds.
    pub(super) fn containers_that(self, mut is: impl FnMut(&'p Value) -> bool) -> Vec<&'p str> {
        self.containers().filter(|it| is(it)).map(name_of).collect()
    }

    /// What all containers begin with.
    pub(super) fn context(self) -> &'p Value {
        &self.spec["securityContext"]
    }

    /// The security contexts of the pod and of its containers.
    pub(super) fn contexts(self) -> impl Iterator<Item = &'p Value> {
        [self.context()].into_iter().chain(self.containers().map(|it| &it["securityContext"]))
    }

    pub(super) fn annotations(self) -> impl Iterator<Item = (&'p str, &'p str)> {
        self.metadata["annotations"]
            .as_object()
            .into_iter()
            .flat_map(Object::iter)
            .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
    }

    pub(super) fn annotation(self, key: &str) -> Option<&'p str> {
        self.metadata["annotations"].get(key).and_then(Value::as_str)
    }

    pub(super) fn is_windows(self) -> bool {
        self.spec.str_at(&["os", "name"]) == "windows"
    }

    /// Whether its users are not those of the node.
    pub(super) fn has_own_users(self) -> bool {
        self.spec.get("hostUsers").and_then(Value::as_bool) == Some(false)
    }
}

pub(super) fn name_of(named: &Value) -> &str {
    named.str_at(&["name"])
}

/// `"a", "b"`, nothing escaped.
pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|it| format!("\"{}\"", it.as_ref())).collect();
    items.join(", ")
}

/// The word for one or for many.
pub(super) fn plural<'w>(one: &'w str, many: &'w str, count: usize) -> &'w str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// What has something that is not allowed, pod or containers, and which values.
#[derive(Debug, Default)]
pub(super) struct Setters<'p> {
    pub(super) pod: bool,
    pub(super) containers: Vec<&'p str>,
    pub(super) values: BTreeSet<&'p str>,
}

impl<'p> Setters<'p> {
    /// Looks at the security contexts of the pod and of its containers; `bad` gives what is not allowed in one.
    pub(super) fn find(pod: Pod<'p>, bad: impl Fn(&'p Value) -> Option<&'p str>) -> Self {
        let mut found = Self::default();
        if let Some(value) = bad(pod.context()) {
            found.pod = true;
            found.values.insert(value);
        }
        for container in pod.containers() {
            if let Some(value) = bad(&container["securityContext"]) {
                found.containers.push(name_of(container));
                found.values.insert(value);
            }
        }
        found
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.pod && self.containers.is_empty()
    }

    /// `pod`, `container "a"`
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.pod {
            words.push("pod".to_owned());
        }
        if !self.containers.is_empty() {
            words.push(containers(&self.containers));
        }
        words
    }

    /// `pod and container "a"`; `None` where there are none.
    pub(super) fn joined(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.words().join(" and "))
    }
}
