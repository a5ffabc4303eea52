//! Custom resources: what a CustomResourceDefinition says, made into what the server knows of any resource.
//!
//! A [`Definition`] has one [`CustomResource`] for each version that is served, which sees objects as that version does:
//! pruned, defaulted and validated by its schema. What is stored is of the storage version, and versions differ in
//! nothing but their name (`conversion.strategy: None`).
//!
//! Schemas are read when a version is first used: a thousand definitions that nobody uses cost their names.

mod cells;
mod check;
mod defaults_check;
mod formats;
mod interned;
mod lists;
pub mod names;
mod prune;
mod rules;
pub(crate) mod rules_check;
mod scale;
mod schema;
mod shown;
mod structural;
mod types;
mod view;
mod words;

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use api::ResourceFacts;
use apimachinery::Value;
use apimachinery::obj::Obj;
use apimachinery::schema::Schema;
use compact_str::CompactString;

pub use interned::TooManyNames;
pub(crate) use rules::resolve;
pub use view::CustomResource;

use crate::declaration::{Declaration, Generation, Scale};
use crate::{Rules, Served};
use cells::JsonPath;
use schema::Node;

/// Why a definition cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// It has no storage version.
    #[error("the definition has no storage version")]
    NoStorageVersion,
    /// There is no room for its names.
    #[error(transparent)]
    TooManyNames(#[from] TooManyNames),
}

/// Takes the time of expressions: there is no clock here.
pub trait Stopwatch: Send + Sync + std::fmt::Debug {
    /// The time since any moment.
    fn now(&self) -> Duration;
    /// The rules of a schema were made ready, with all of it.
    fn compiled(&self, took: Duration);
    /// The rules of an object were run.
    fn evaluated(&self, took: Duration);
}

/// A definition whose objects can be served.
#[derive(Debug)]
pub struct Definition {
    /// The views of the served versions, the preferred first.
    served: Vec<Arc<CustomResource>>,
    /// The view of the storage version, whether it is served or not.
    storage: Arc<CustomResource>,
}

impl Definition {
    /// What a CustomResourceDefinition says. Its schemas are read from `stored` when they are needed.
    ///
    /// # Errors
    /// When it cannot be served.
    pub fn new(definition: &Value, stored: &Arc<Obj>) -> Result<Self, DefinitionError> {
        Self::with_verbs(definition, stored, interned::VERBS)
    }

    /// The same, with the time of its expressions taken.
    ///
    /// # Errors
    /// When it cannot be served.
    pub fn timed(
        definition: &Value,
        stored: &Arc<Obj>,
        stopwatch: Arc<dyn Stopwatch>,
    ) -> Result<Self, DefinitionError> {
        let shared = Shared::new(stored, definition, interned::VERBS)?;
        Ok(Self::of(Shared { stopwatch: Some(stopwatch), ..shared }))
    }

    /// What is written like a definition and takes these verbs only: what the server itself answers and never stores.
    ///
    /// # Errors
    /// When it cannot be served.
    pub fn with_verbs(
        definition: &Value,
        stored: &Arc<Obj>,
        verbs: &'static [&'static str],
    ) -> Result<Self, DefinitionError> {
        Ok(Self::of(Shared::new(stored, definition, verbs)?))
    }

    fn of(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let view = |place| Arc::new(CustomResource::new(Arc::clone(&shared), place));
        let mut served: Vec<usize> =
            (0..shared.versions.len()).filter(|place| shared.versions[*place].served).collect();
        served.sort_by_key(|place| Reverse(rank(shared.versions[*place].facts.version)));
        Self { served: served.into_iter().map(view).collect(), storage: view(shared.storage) }
    }

    /// The definition is stored anew and says the same: what it was made of before need not be kept.
    pub fn renew(&self, object: &Arc<Obj>) {
        let mut source = self.storage.shared.source.lock().unwrap_or_else(PoisonError::into_inner);
        *source = Arc::clone(object);
    }

    /// The served versions, the preferred first.
    #[must_use]
    pub fn served(&self) -> &[Arc<CustomResource>] {
        &self.served
    }

    /// The view of the storage version.
    #[must_use]
    pub fn storage(&self) -> &Arc<CustomResource> {
        &self.storage
    }

    /// The view of a served version.
    #[must_use]
    pub fn find(&self, version: &str) -> Option<&Arc<CustomResource>> {
        self.served.iter().find(|it| it.facts().version == version)
    }
}

/// The order of versions: stable ones before beta before alpha, higher before lower; what is no such name comes last, in
/// order of the alphabet. Upstream: `version.CompareKubeAwareVersionStrings`.
#[must_use]
pub fn rank(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = (rest[..end].parse::<u64>().ok()?, &rest[end..]);
        let level = match rest {
            "" => return Some((3, major, 0)),
            _ if rest.starts_with("beta") => 2,
            _ if rest.starts_with("alpha") => 1,
            _ => return None,
        };
        let number = rest.trim_start_matches(|c: char| c.is_ascii_lowercase());
        Some((level, major, number.parse::<u64>().ok()?))
    };
    match parsed() {
        Some((level, major, minor)) => (level, major, minor, Reverse(String::new())),
        None => (0, 0, 0, Reverse(version.to_owned())),
    }
}

/// What all versions of a definition share.
#[derive(Debug)]
struct Shared {
    /// The definition as it is stored, from which schemas are read when they are needed.
    source: Mutex<Arc<Obj>>,
    prefix: String,
    list_kind: CompactString,
    versions: Vec<Version>,
    storage: usize,
    /// The selectable fields of all versions by their paths, which are their names.
    fields: Vec<(CompactString, JsonPath)>,
    /// Whether versions are converted by a webhook.
    has_webhook: bool,
    stopwatch: Option<Arc<dyn Stopwatch>>,
}

#[derive(Debug)]
struct Version {
    facts: &'static ResourceFacts,
    served: bool,
    rules: Rules,
    /// What clients are warned of where the version is deprecated.
    deprecation: Option<String>,
    columns: Vec<Column>,
    /// What OpenAPI calls the kind and its lists.
    definitions: (&'static str, &'static str),
    /// By place in [`Shared::fields`]: the names that this version knows.
    fields: Vec<CompactString>,
    compiled: OnceLock<Compiled>,
}

#[derive(Debug)]
struct Column {
    path: JsonPath,
    description: String,
}

/// A version's schema, ready to be used.
#[derive(Debug)]
struct Compiled {
    root: Node,
    types: Schema,
}

impl Shared {
    fn new(
        source: &Arc<Obj>,
        definition: &Value,
        verbs: &'static [&'static str],
    ) -> Result<Self, DefinitionError> {
        let spec = &definition["spec"];
        let (group, versions) = (spec.str_at(&["group"]), spec.items_at(&["versions"]));
        let storage = versions.iter().position(|it| it.bool_at(&["storage"]));
        let storage = storage.ok_or(DefinitionError::NoStorageVersion)?;
        let mut fields: Vec<(CompactString, JsonPath)> = Vec::new();
        for version in versions {
            for field in selectable(version) {
                let path = JsonPath::parse(field).unwrap_or_default();
                if fields.iter().all(|(it, _)| it != name_of(field)) {
                    fields.push((name_of(field).into(), path));
                }
            }
        }
        let made: Result<Vec<Version>, TooManyNames> =
            versions.iter().map(|it| Version::new(definition, it, &fields, verbs)).collect();
        Ok(Self {
            source: Mutex::new(Arc::clone(source)),
            list_kind: names_of(definition).str_at(&["listKind"]).into(),
            prefix: format!("/registry/{group}/{}/", spec.str_at(&["names", "plural"])),
            versions: made?,
            storage,
            fields,
            has_webhook: spec.str_at(&["conversion", "strategy"]) == "Webhook",
            stopwatch: None,
        })
    }

    /// The place of a version that is named with its group.
    fn place_of(&self, api_version: &str) -> Option<usize> {
        self.versions.iter().position(|it| it.facts.api_version() == api_version)
    }

    /// The schema of a version as the definition has it; an empty object where it has none.
    fn schema(&self, place: usize) -> Value {
        let source = Arc::clone(&self.source.lock().unwrap_or_else(PoisonError::into_inner));
        let mut definition = source.to_value().unwrap_or_default();
        let versions = definition.items_at_mut(&["spec", "versions"]);
        let schema =
            versions.get_mut(place).and_then(|it| it.at_mut(&["schema", "openAPIV3Schema"]));
        schema.map_or_else(Value::object, std::mem::take)
    }

    /// Tells how long something took that began then.
    fn timed(&self, began: Option<Duration>, tell: impl FnOnce(&dyn Stopwatch, Duration)) {
        if let (Some(watch), Some(began)) = (&self.stopwatch, began) {
            tell(watch.as_ref(), watch.now().saturating_sub(began));
        }
    }

    /// The schema of a version, read when it is first asked for.
    fn compiled(&self, place: usize) -> &Compiled {
        self.versions[place].compiled.get_or_init(|| {
            let began = self.stopwatch.as_ref().map(|it| it.now());
            let root = Node::root(&self.schema(place));
            if root.below.rules {
                self.timed(began, |watch, took| watch.compiled(took));
            }
            Compiled { types: types::of(&root), root }
        })
    }
}

fn selectable(version: &Value) -> impl Iterator<Item = &str> {
    version.items_at(&["selectableFields"]).iter().map(|it| it.str_at(&["jsonPath"]))
}

/// `.spec.color` is selected by as `spec.color`.
fn name_of(path: &str) -> &str {
    path.strip_prefix('.').unwrap_or(path)
}

impl Version {
    fn new(
        definition: &Value,
        version: &Value,
        fields: &[(CompactString, JsonPath)],
        verbs: &'static [&'static str],
    ) -> Result<Self, TooManyNames> {
        let spec = &definition["spec"];
        let given = names_of(definition);
        let scale = version.at(&["subresources", "scale"]);
        let has_status = version.at(&["subresources", "status"]).is_some();
        let names = interned::Names {
            group: spec.str_at(&["group"]),
            version: version.str_at(&["name"]),
            plural: given.str_at(&["plural"]),
            singular: given.str_at(&["singular"]),
            kind: given.str_at(&["kind"]),
            namespaced: spec.str_at(&["scope"]) == "Namespaced",
            has_status,
            has_scale: scale.is_some(),
            verbs,
        };
        let (shown, columns) = columns(version);
        let texts = |member| given.items_at(&[member]).iter().filter_map(Value::as_str);
        let (short_names, categories) = (texts("shortNames"), texts("categories"));
        let told = shown.iter().map(|(name, kind, format, priority)| {
            (name.as_str(), kind.as_str(), format.as_str(), *priority)
        });
        let facts = interned::facts(names, short_names, categories, told)?;
        Ok(Self {
            rules: rules_of(has_status, scale.map(scale_of).transpose()?),
            served: version.bool_at(&["served"]),
            deprecation: deprecation(spec, version, facts),
            definitions: interned::definitions(names, given.str_at(&["listKind"]))?,
            columns,
            fields: known_fields(version, fields),
            compiled: OnceLock::new(),
            facts,
        })
    }
}

/// What the resource is called: what was accepted, not what a later change would like.
fn names_of(definition: &Value) -> &Value {
    let accepted = &definition["status"]["acceptedNames"];
    if accepted.str_at(&["plural"]).is_empty() { &definition["spec"]["names"] } else { accepted }
}

fn scale_of(scale: &Value) -> Result<Scale, TooManyNames> {
    let path = |member| scale.str_at(&[member]);
    interned::scale(path("specReplicasPath"), path("statusReplicasPath"), path("labelSelectorPath"))
}

/// The names of the selectable fields by their places among those of all versions; what this version lacks is nameless.
fn known_fields(version: &Value, fields: &[(CompactString, JsonPath)]) -> Vec<CompactString> {
    let known: Vec<&str> = selectable(version).map(name_of).collect();
    let name = |it: &CompactString| {
        if known.contains(&it.as_str()) { it.clone() } else { CompactString::default() }
    };
    fields.iter().map(|(it, _)| name(it)).collect()
}

fn rules_of(has_status: bool, scale: Option<Scale>) -> Rules {
    Rules {
        generation: Generation::Spec,
        create_on_update: false,
        unconditional_update: false,
        has_status,
        scale,
        ..Declaration::PLAIN.rules
    }
}

/// Where no words are given, the best of the better versions is named.
fn deprecation(spec: &Value, version: &Value, facts: &ResourceFacts) -> Option<String> {
    if !version.bool_at(&["deprecated"]) {
        return None;
    }
    if let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) {
        return Some(warning.to_owned());
    }
    let kind = facts.kind;
    let told = format!("{} {kind} is deprecated", facts.api_version());
    let served = |it: &&Value| it.bool_at(&["served"]) && !it.bool_at(&["deprecated"]);
    let names = spec.items_at(&["versions"]).iter().filter(served).map(|it| it.str_at(&["name"]));
    let better = names.filter(|it| rank(it) > rank(facts.version)).max_by_key(|it| rank(it));
    Some(match better {
        Some(name) => format!("{told}; use {}/{name} {kind}", facts.group),
        None => told,
    })
}

/// A column's name, type, format and priority.
type Shown = (String, String, String, u8);

/// The columns of a version: the name, then what it asks for, or else the age.
fn columns(version: &Value) -> (Vec<Shown>, Vec<Column>) {
    let mut shown = vec![("Name".into(), "string".into(), "name".into(), 0)];
    let mut columns = Vec::new();
    let own = version.items_at(&["additionalPrinterColumns"]);
    for column in own {
        let text = |member| column.str_at(&[member]).to_owned();
        let path = column.str_at(&["jsonPath"]);
        // Upstream reads columns one after the other, up to the first that it cannot read.
        let Some(parsed) = JsonPath::parse(path) else { break };
        let priority = column.i64_at(&["priority"]).unwrap_or_default();
        shown.push((
            text("name"),
            text("type"),
            text("format"),
            u8::try_from(priority.max(0)).unwrap_or(u8::MAX),
        ));
        let description = match column.str_at(&["description"]) {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            text => text.to_owned(),
        };
        columns.push(Column { path: parsed, description });
    }
    if own.is_empty() {
        shown.push(("Age".into(), "date".into(), String::new(), 0));
        let path = JsonPath::parse(".metadata.creationTimestamp").unwrap_or_default();
        columns.push(Column { path, description: String::new() });
    }
    (shown, columns)
}

/// The versions of a view: the storage version's first.
fn served_of(shared: &Shared, place: usize) -> Vec<Served> {
    let served = |place: usize| Served { facts: shared.versions[place].facts, node: 0 };
    let mut all = vec![served(shared.storage)];
    if place != shared.storage {
        all.push(served(place));
    }
    all
}

#[cfg(test)]
mod tests;
