//! The parameters of policies: objects of any kind, found by name or by labels. Upstream: `generic.CollectParams`.

use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::Value;
use apimachinery::labels::Selector;
use apimachinery::obj::Obj;

use crate::Objects;

/// `paramKind`
#[derive(Debug)]
pub(super) struct ParamKind {
    group: String,
    version: String,
    kind: String,
}

impl ParamKind {
    pub(super) fn of(value: &Value) -> Self {
        let api_version = value.str_at(&["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = value.str_at(&["kind"]).to_owned();
        Self { group: group.to_owned(), version: version.to_owned(), kind }
    }

    /// The resource that serves it.
    pub(super) fn find(&self, objects: &dyn Objects) -> Result<&'static ResourceFacts, String> {
        let Self { group, version, kind } = self;
        objects.resource_of_kind(group, version, kind).ok_or_else(|| {
            let slash = if group.is_empty() { "" } else { "/" };
            format!(
                "failed to find resource referenced by paramKind: '{group}{slash}{version}, Kind={kind}'"
            )
        })
    }
}

/// `paramRef`
#[derive(Debug)]
pub(super) struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<Result<Selector, String>>,
    /// Without parameters the request is refused.
    denies: bool,
}

impl ParamRef {
    pub(super) fn of(value: &Value) -> Self {
        let selector = value.get("selector");
        let selector =
            selector.map(|it| Selector::from_value(Some(it)).map_err(|error| error.to_string()));
        Self {
            name: value.str_at(&["name"]).to_owned(),
            namespace: value.str_at(&["namespace"]).to_owned(),
            selector,
            denies: value.str_at(&["parameterNotFoundAction"]) == "Deny",
        }
    }

    /// The parameters, as the kind's version has them.
    pub(super) async fn find(
        &self,
        kind: &'static ResourceFacts,
        namespace: &str,
        objects: &dyn Objects,
    ) -> Result<Vec<Arc<Value>>, String> {
        let namespace = self.place(kind, namespace)?;
        let (group, resource) = (kind.group, kind.resource);
        let found: Vec<Arc<Obj>> = match &self.selector {
            Some(selector) => {
                let selector = selector.as_ref().map_err(Clone::clone)?;
                let mut all = objects.list(group, resource, namespace);
                all.retain(|it| selector.matches(|key| it.facts.label(key)));
                all
            }
            None => match objects.get(group, resource, namespace, &self.name) {
                Some(found) => vec![found],
                None => {
                    let found = objects.get_live(group, resource, namespace, &self.name).await;
                    found.map_err(|status| status.message)?.into_iter().collect()
                }
            },
        };
        if found.is_empty() && self.denies {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Err(why.into());
        }
        let mut params = Vec::with_capacity(found.len());
        for it in &found {
            params.push(objects.in_version(it, kind).await?);
        }
        Ok(params)
    }

    /// The namespace that they are looked for in.
    fn place<'n>(&'n self, kind: &ResourceFacts, namespace: &'n str) -> Result<&'n str, String> {
        match (kind.namespaced, self.namespace.as_str()) {
            (false, "") => Ok(""),
            (false, _) => {
                Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into())
            }
            (true, "") if namespace.is_empty() => Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into(),
            ),
            (true, "") => Ok(namespace),
            (true, own) => Ok(own),
        }
    }
}
