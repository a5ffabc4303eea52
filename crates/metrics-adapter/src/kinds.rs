//! Which resources there are, by the names that labels and paths give them. Upstream: the REST mapper.

use std::collections::BTreeMap;

use client::Client;

/// Where the definitions of custom resources are.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A resource, as far as metrics need it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

impl Kind {
    /// `pods`, `ingresses.networking.k8s.io`
    pub(crate) fn name(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The path of its objects.
    pub(crate) fn path(&self, namespace: &str) -> String {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match (self.namespaced, namespace) {
            (true, namespace) if !namespace.is_empty() => {
                format!("{root}/namespaces/{namespace}/{}", self.plural)
            }
            _ => format!("{root}/{}", self.plural),
        }
    }
}

/// All resources.
#[derive(Debug, Default)]
pub(crate) struct Kinds(Vec<Kind>);

impl Kinds {
    /// Those that are built in.
    pub(crate) fn built_in() -> Self {
        let mut all: BTreeMap<(&str, &str), Kind> = BTreeMap::new();
        for facts in api::resources() {
            let kind = || Kind {
                group: facts.group.into(),
                version: facts.version.into(),
                plural: facts.resource.into(),
                singular: facts.kind.to_lowercase(),
                kind: facts.kind.into(),
                namespaced: facts.namespaced,
            };
            let known = all.entry((facts.group, facts.resource)).or_insert_with(kind);
            // Of several versions the first stable one; else the first.
            if known.version.contains(['a', 'b']) && !facts.version.contains(['a', 'b']) {
                *known = kind();
            }
        }
        Self(all.into_values().collect())
    }

    /// Those that are built in, and those that are defined now.
    pub(crate) async fn read(client: &Client) -> Self {
        let mut all = Self::built_in();
        let Ok(definitions) = client.read(DEFINITIONS).await else { return all };
        for it in definitions.items_at(&["items"]) {
            let versions = it.items_at(&["spec", "versions"]).iter();
            let mut served = versions.filter(|it| it.bool_at(&["served"]));
            let Some(version) = served.next() else { continue };
            all.0.push(Kind {
                group: it.str_at(&["spec", "group"]).into(),
                version: version.str_at(&["name"]).into(),
                plural: it.str_at(&["spec", "names", "plural"]).into(),
                singular: it.str_at(&["spec", "names", "singular"]).into(),
                kind: it.str_at(&["spec", "names", "kind"]).into(),
                namespaced: it.str_at(&["spec", "scope"]) == "Namespaced",
            });
        }
        all
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.iter()
    }

    /// The resource of a group by its plural or singular name; the core group's where the group is empty, and any other
    /// where that has none of the name.
    pub(crate) fn find(&self, group: &str, name: &str) -> Option<&Kind> {
        let named = |it: &&Kind| it.plural == name || it.singular == name;
        let exact = self.0.iter().find(|it| it.group == group && named(it));
        exact.or_else(|| self.0.iter().find(|it| group.is_empty() && named(it)))
    }

    /// The resource of a part of a path: `pods`, `ingresses.networking.k8s.io`.
    pub(crate) fn of_path(&self, text: &str) -> Option<&Kind> {
        let (name, group) = text.split_once('.').unwrap_or((text, ""));
        self.find(group, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_by_either_name() {
        let kinds = Kinds::built_in();
        for (group, name, expected) in [
            ("", "pod", "pods"),
            ("", "pods", "pods"),
            ("", "deployment", "deployments.apps"),
            ("apps", "deployments", "deployments.apps"),
            ("", "namespace", "namespaces"),
            ("", "ingress", "ingresses.networking.k8s.io"),
        ] {
            assert_eq!(kinds.find(group, name).unwrap().name(), expected);
        }
        assert!(kinds.find("apps", "pods").is_none());
        let autoscalers = kinds.of_path("horizontalpodautoscalers.autoscaling").unwrap();
        assert_eq!(
            autoscalers.path("n"),
            "/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers"
        );
    }
}
