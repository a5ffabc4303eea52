//! Who has no credentials: whether they may ask at all, and for what.

/// Whether somebody without credentials is `system:anonymous`, or refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anonymous {
    enabled: bool,
    /// The only paths they may ask for; any, where it is empty.
    paths: Vec<String>,
}

impl Anonymous {
    /// Allowed for these paths only, or for any where there are none; or not at all.
    #[must_use]
    pub fn of(enabled: bool, paths: Vec<String>) -> Self {
        Self { enabled, paths }
    }

    /// Whether somebody may ask for a path without saying who they are.
    #[must_use]
    pub fn is_allowed(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|it| it == path))
    }
}

impl From<bool> for Anonymous {
    fn from(enabled: bool) -> Self {
        Self { enabled, paths: Vec::new() }
    }
}
