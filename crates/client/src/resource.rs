//! Which resource a call is about.

use std::fmt;

use compact_str::CompactString;

/// A resource in one version, by its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// The group; empty for the core one.
    pub group: CompactString,
    /// The version.
    pub version: CompactString,
    /// The plural name.
    pub plural: CompactString,
    /// The kind.
    pub kind: CompactString,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
}

impl From<&api::ResourceFacts> for Resource {
    fn from(facts: &api::ResourceFacts) -> Self {
        Self {
            group: facts.group.into(),
            version: facts.version.into(),
            plural: facts.resource.into(),
            kind: facts.kind.into(),
            namespaced: facts.namespaced,
        }
    }
}

impl Resource {
    /// The resource of a built-in kind, such as `("apps", "deployments")`, in the version that is stored.
    ///
    /// # Panics
    /// Where the built-in API has no such resource: the names are constants of the caller.
    #[must_use]
    pub fn built_in(group: &str, plural: &str) -> Self {
        let facts = api::all_resources()
            .find(|it| it.group == group && it.resource == plural)
            .expect("because callers name resources of the built-in API");
        facts.into()
    }

    /// The resource of a Rust type.
    #[must_use]
    pub fn of<K: k8s_openapi::Resource>() -> Self {
        let facts = api::all_resources()
            .find(|it| it.group == K::GROUP && it.version == K::VERSION && it.kind == K::KIND)
            .expect("because the generated types and the table are of one version");
        facts.into()
    }

    /// `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, or `pods` for the core group.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.to_string(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Whether this is the resource, in whatever version.
    #[must_use]
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// The path of a collection, of an object (where `name` is given) or of what lies below it.
    #[must_use]
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        for part in [self.plural.as_str(), name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.extend(percent_encoding::utf8_percent_encode(part, PATH));
            }
        }
        path
    }
}

/// What cannot stand in a path as it is.
const PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'%')
    .add(b'?')
    .add(b'#')
    .add(b'"')
    .add(b'<')
    .add(b'>');

/// Where an object lies: namespace (empty for cluster-wide resources) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: CompactString,
    /// The name.
    pub name: CompactString,
}

impl ObjectKey {
    /// A key of these two.
    pub fn new(namespace: impl Into<CompactString>, name: impl Into<CompactString>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}
