//! Stored objects of versions that this server would not store today: those that an older server of upstream's left.
//!
//! They are read as if a client of their version had written them: with that version's defaults, converted to the version
//! that is stored now. Upstream: decoding from storage does the same for every version that its scheme knows.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use apimachinery::Value;
use registry::{AnyResource, Registry, Served};

/// All versions that can be read, whether they are served or not.
struct Versions {
    registry: Registry,
    /// Group, version and kind to a place among the resources, and the version there.
    by_kind: BTreeMap<(&'static str, &'static str, &'static str), (usize, Served)>,
}

fn versions() -> &'static Versions {
    static VERSIONS: OnceLock<Versions> = OnceLock::new();
    VERSIONS.get_or_init(|| {
        let registry = Registry::with_removed_versions();
        let mut by_kind = BTreeMap::new();
        for (place, resource) in registry.resources().iter().enumerate() {
            for served in resource.served() {
                let facts = served.facts;
                by_kind.entry((facts.group, facts.version, facts.kind)).or_insert((place, *served));
            }
        }
        Versions { registry, by_kind }
    })
}

impl Versions {
    /// The resource of a kind, and the version of it.
    fn find(&self, api_version: &str, kind: &str) -> Option<(&dyn AnyResource, Served)> {
        let (group, version) = crate::proto::split(api_version);
        let (place, served) = *self.by_kind.get(&(group, version, kind))?;
        Some((self.registry.resources()[place].as_ref(), served))
    }
}

/// Makes an object of a built-in kind what would be stored of it now. What is no such object stays as it is.
///
/// # Errors
/// Where its members have other types than its version gives them.
pub(super) fn bring(value: &mut Value) -> Result<(), String> {
    let found = versions().find(value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let Some((resource, served)) = found else { return Ok(()) };
    resource.from_removed(&served, value);
    resource.conform(&served, value).map_err(|error| error.to_string())?;
    resource.default(&served, value);
    resource.to_storage(&served, value);
    Ok(())
}
