//! What discovery and OpenAPI tell of other servers, and the order in which all groups and versions are told.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, value};
use compact_str::CompactString;

/// One group and version of another server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Version {
    pub(crate) group: CompactString,
    pub(crate) version: CompactString,
    pub(super) resources: Vec<Value>,
    /// It could not be asked lately.
    pub(super) stale: bool,
    /// Where its OpenAPI document is; empty where it has none.
    pub(crate) openapi: String,
    /// Its OpenAPI document of version 2, where it has one.
    pub(crate) openapi_v2: Option<Arc<Value>>,
}

impl Version {
    /// The version in the aggregated form.
    pub(crate) fn document(&self) -> Value {
        let freshness = if self.stale { "Stale" } else { "Current" };
        let mut document = value!({"version": (self.version.as_str()), "freshness": freshness});
        if !self.resources.is_empty() {
            document.set_at(&["resources"], self.resources.clone());
        }
        document
    }
}

/// `groupPriorityMinimum` and `versionPriority` of an APIService.
pub(super) type Priority = (i64, i64);

/// What other servers serve; empty where there are none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) versions: Vec<Version>,
    /// Of all APIServices, by group and version.
    pub(super) priorities: BTreeMap<(CompactString, CompactString), Priority>,
}

impl View {
    /// The other server's version, where it is not this server's.
    pub(crate) fn find(&self, group: &str, version: &str) -> Option<&Version> {
        self.versions.iter().find(|it| it.group == group && it.version == version)
    }

    /// Puts groups and their versions, this server's in its own order, into that of their priorities, with those of other
    /// servers among them.
    pub(crate) fn arrange(&self, own: Vec<(CompactString, Vec<CompactString>)>) -> Layout {
        if self.versions.is_empty() {
            return own;
        }
        let mut all: Layout = own;
        for it in &self.versions {
            let place = all.iter().position(|(group, _)| *group == it.group);
            match place {
                Some(place) => all[place].1.push(it.version.clone()),
                None => all.push((it.group.clone(), vec![it.version.clone()])),
            }
        }
        // What has no APIService is the group of APIServices itself, which is told first.
        let of = |group: &CompactString, version: &CompactString| {
            let found = self.priorities.get(&(group.clone(), version.clone()));
            found.copied().unwrap_or((i64::MAX, 0))
        };
        for (group, versions) in &mut all {
            versions.sort_by_cached_key(|it| {
                Reverse((of(group, it).1, registry::custom::rank(it), it.clone()))
            });
        }
        all.sort_by_cached_key(|(group, versions)| {
            let most = versions.iter().map(|it| of(group, it).0).max();
            // The core group is told elsewhere and stays first.
            (!group.is_empty(), Reverse(most), group.clone())
        });
        all
    }
}

/// Groups with their versions, the preferred first.
pub(crate) type Layout = Vec<(CompactString, Vec<CompactString>)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_versions_are_told_by_their_priorities() {
        let version = |group: &str, version: &str| Version {
            group: group.into(),
            version: version.into(),
            resources: Vec::new(),
            stale: false,
            openapi: String::new(),
            openapi_v2: None,
        };
        let priority = |group: &str, version: &str, of| ((group.into(), version.into()), of);
        let view = View {
            versions: vec![
                version("m", "v1"),
                version("m", "v2beta1"),
                version("a", "v1"),
                version("own", "v2"),
            ],
            priorities: [
                priority("apps", "v1", (17_800, 15)),
                priority("own", "v1", (1_000, 100)),
                priority("own", "v2", (1_000, 200)),
                priority("m", "v1", (100, 100)),
                priority("m", "v2beta1", (100, 100)),
                priority("a", "v1", (18_000, 1)),
            ]
            .into(),
        };
        let own = vec![
            ("".into(), vec!["v1".into()]),
            ("apps".into(), vec!["v1".into()]),
            ("own".into(), vec!["v1".into()]),
        ];
        let told: Vec<String> = view
            .arrange(own)
            .iter()
            .map(|(group, versions)| format!("{group}:{}", versions.join(",")))
            .collect();
        assert_eq!(told, [":v1", "a:v1", "apps:v1", "own:v2,v1", "m:v1,v2beta1"]);
    }
}
