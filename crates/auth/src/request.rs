//! What is asked.

use crate::UserInfo;

/// A request as authorization sees it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'r> {
    /// Who asks.
    pub user: &'r UserInfo,
    /// `get`, `list`, `watch`, `create`, ...; lower-case HTTP method for paths.
    pub verb: &'r str,
    /// The API group; empty for the core one.
    pub group: &'r str,
    /// The version.
    pub version: &'r str,
    /// The plural name; empty for a path.
    pub resource: &'r str,
    /// `status`, `log`, ...
    pub subresource: &'r str,
    /// The namespace; empty for all or none.
    pub namespace: &'r str,
    /// The object's name; empty for all or none.
    pub name: &'r str,
    /// The path, for what is not a resource.
    pub path: &'r str,
    /// The field selector of a list, a watch or a delete of many, as it was sent.
    pub field_selector: &'r str,
    /// Its label selector.
    pub label_selector: &'r str,
}

impl<'r> Attributes<'r> {
    /// Nothing is asked by `user` yet: what the other attributes are set in.
    #[must_use]
    pub fn of(user: &'r UserInfo) -> Self {
        Self {
            user,
            verb: "",
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            field_selector: "",
            label_selector: "",
        }
    }
}

impl Attributes<'_> {
    /// Whether an object or a list of objects is asked for, and not a path.
    #[must_use]
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }
}
