//! Names of custom resources that live as long as the process.
//!
//! The server refers to what a resource is called, its verbs and columns, by references that are free to copy and never
//! dangle ([`ResourceFacts`]); for built-in resources they are in the binary. Those of a custom resource are put here,
//! each distinct text and each distinct table once, however often definitions are written or come and go. What is
//! kept is bounded: beyond that a definition with new names is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use api::{Column, ResourceFacts, SubresourceFacts};

use crate::declaration::Scale;

/// How many bytes of names are kept at most: those of some fifty thousand definitions.
const BYTES_MAX: usize = 64 << 20;

/// What is not kept any more because there is too much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server has seen too many different names of custom resources since it started")]
pub struct TooManyNames;

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    texts: BTreeSet<&'static str>,
    lists: BTreeSet<&'static [&'static str]>,
    /// By group and plural name.
    facts: BTreeMap<(&'static str, &'static str), Vec<&'static ResourceFacts>>,
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

impl Kept {
    fn pay(&mut self, bytes: usize) -> Result<(), TooManyNames> {
        if self.bytes + bytes > BYTES_MAX {
            return Err(TooManyNames);
        }
        self.bytes += bytes;
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<&'static str, TooManyNames> {
        if let Some(kept) = self.texts.get(text) {
            return Ok(kept);
        }
        self.pay(text.len() + 64)?;
        let kept: &'static str = Box::leak(text.into());
        self.texts.insert(kept);
        Ok(kept)
    }

    fn list<'t>(
        &mut self,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<&'static [&'static str], TooManyNames> {
        let texts: Result<Vec<&'static str>, TooManyNames> =
            texts.into_iter().map(|it| self.text(it)).collect();
        let texts = texts?;
        if let Some(kept) = self.lists.get(texts.as_slice()) {
            return Ok(kept);
        }
        self.pay(texts.len() * size_of::<&str>() + 64)?;
        let kept: &'static [&'static str] = Box::leak(texts.into());
        self.lists.insert(kept);
        Ok(kept)
    }
}

/// What a version of a custom resource says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'n> {
    pub(super) group: &'n str,
    pub(super) version: &'n str,
    pub(super) plural: &'n str,
    pub(super) singular: &'n str,
    pub(super) kind: &'n str,
    pub(super) namespaced: bool,
    pub(super) has_status: bool,
    pub(super) has_scale: bool,
    pub(super) verbs: &'static [&'static str],
}

/// The verbs of every custom resource, in upstream's order.
pub(super) const VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// The facts of a version.
pub(super) fn facts<'t>(
    names: Names<'_>,
    short_names: impl IntoIterator<Item = &'t str>,
    categories: impl IntoIterator<Item = &'t str>,
    columns: impl IntoIterator<Item = (&'t str, &'t str, &'t str, u8)>,
) -> Result<&'static ResourceFacts, TooManyNames> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kind = kept.text(names.kind)?;
    let columns: Result<Vec<Column>, TooManyNames> = columns
        .into_iter()
        .map(|(name, kind, format, priority)| {
            let (name, kind, format) = (kept.text(name)?, kept.text(kind)?, kept.text(format)?);
            Ok(Column { name, kind, format, priority })
        })
        .collect();
    let part = |name, group, version, kind| SubresourceFacts {
        name,
        group,
        version,
        kind,
        verbs: PART_VERBS,
    };
    let mut parts = Vec::new();
    if names.has_status {
        parts.push(part("status", "", "", kind));
    }
    if names.has_scale {
        parts.push(part("scale", "autoscaling", "v1", "Scale"));
    }
    let facts = ResourceFacts {
        group: kept.text(names.group)?,
        version: kept.text(names.version)?,
        resource: kept.text(names.plural)?,
        singular: kept.text(names.singular)?,
        kind,
        namespaced: names.namespaced,
        verbs: names.verbs,
        short_names: kept.list(short_names)?,
        categories: kept.list(categories)?,
        columns: &[],
        subresources: &[],
    };
    let columns = columns?;
    let size = size_of::<ResourceFacts>()
        + columns.len() * size_of::<Column>()
        + parts.len() * size_of::<SubresourceFacts>();
    let place = (facts.group, facts.resource);
    let same = kept.facts.get(&place).into_iter().flatten().find(|it| {
        (it.version, it.singular, it.kind) == (facts.version, facts.singular, facts.kind)
            && it.namespaced == facts.namespaced
            && it.verbs == facts.verbs
            && it.short_names == facts.short_names
            && it.categories == facts.categories
            && it.columns == columns
            && it.subresources.iter().map(|it| it.name).eq(parts.iter().map(|it| it.name))
    });
    if let Some(known) = same {
        return Ok(known);
    }
    kept.pay(size)?;
    let facts = ResourceFacts {
        columns: Box::leak(columns.into()),
        subresources: Box::leak(parts.into()),
        ..facts
    };
    let leaked: &'static ResourceFacts = Box::leak(Box::new(facts));
    kept.facts.entry(place).or_default().push(leaked);
    Ok(leaked)
}

/// What OpenAPI calls a kind and its lists: the group backwards, then version and kind.
pub(super) fn definitions(
    names: Names<'_>,
    list_kind: &str,
) -> Result<(&'static str, &'static str), TooManyNames> {
    let group: Vec<&str> = names.group.rsplit('.').collect();
    let of = |kind: &str| format!("{}.{}.{kind}", group.join("."), names.version);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((kept.text(&of(names.kind))?, kept.text(&of(list_kind))?))
}

/// Where a scale subresource finds things; paths are written `.spec.replicas`.
pub(super) fn scale(spec: &str, status: &str, selector: &str) -> Result<Scale, TooManyNames> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut path = |text: &str| kept.list(text.split('.').filter(|it| !it.is_empty()));
    Ok(Scale {
        spec_replicas: path(spec)?,
        status_replicas: path(status)?,
        selector: path(selector)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_is_kept_once() {
        let names = Names {
            group: "once.example",
            version: "v1",
            plural: "things",
            singular: "thing",
            kind: "Thing",
            namespaced: true,
            has_status: true,
            has_scale: false,
            verbs: VERBS,
        };
        let made = |names, column| facts(names, ["th"], [], [(column, "string", "", 0)]).unwrap();
        let first = made(names, "Name");
        assert!(std::ptr::eq(first, made(names, "Name")));
        assert!(!std::ptr::eq(first, made(names, "Size")));
        assert!(!std::ptr::eq(first, made(Names { has_scale: true, ..names }, "Name")));
        assert_eq!(first.subresources[0].kind, "Thing");
    }
}
