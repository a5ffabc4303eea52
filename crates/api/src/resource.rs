//! What clients are told about a resource: names, verbs, columns, subresources.

/// A resource in one version, as discovery shows it.
#[derive(Debug, Clone, Copy)]
pub struct ResourceFacts {
    /// The API group; empty for the core one.
    pub group: &'static str,
    /// The version, such as `v1`.
    pub version: &'static str,
    /// The plural name in paths.
    pub resource: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// The verbs it takes.
    pub verbs: &'static [&'static str],
    /// Names kubectl takes instead.
    pub short_names: &'static [&'static str],
    /// Sets it belongs to, such as `all`.
    pub categories: &'static [&'static str],
    /// The columns of its table.
    pub columns: &'static [Column],
    /// What lies below it.
    pub subresources: &'static [SubresourceFacts],
}

/// A subresource, as discovery shows it.
#[derive(Debug, Clone, Copy)]
pub struct SubresourceFacts {
    /// Its name in paths.
    pub name: &'static str,
    /// The group of its kind, where it is another one.
    pub group: &'static str,
    /// The version of its kind, where it is another one.
    pub version: &'static str,
    /// The kind it takes and returns.
    pub kind: &'static str,
    /// The verbs it takes.
    pub verbs: &'static [&'static str],
}

/// A column of a resource's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`, ...
    pub kind: &'static str,
    /// `name` for the object's name; usually empty.
    pub format: &'static str,
    /// 0 for what is shown always, more for `-o wide`.
    pub priority: u8,
}

impl ResourceFacts {
    /// `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.into()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The subresource of this name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static SubresourceFacts> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}
