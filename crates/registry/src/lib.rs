//! What each resource is, written once: defaulting, validation, columns, selectable fields, subresources, versions.
//!
//! Facts only: no I/O, no clock. The server sees [`AnyResource`]; a built-in resource is a [`Declaration`] in a file of
//! its own under [`resources`], a custom one makes the same of its schema at run time.

pub mod apis;
mod check;
pub mod custom;
pub mod declaration;
pub mod expressions;
mod gated;
mod go;
pub mod metadata;
mod pod_spec;
mod removed;
pub mod resources;
mod rules;
mod status;
pub mod table;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::conform::ConformError;
use apimachinery::schema::Schema;
use apimachinery::{FieldErrors, Value};
use compact_str::CompactString;
use hashbrown::HashMap;
use jiff::Timestamp;
use rustc_hash::FxBuildHasher;

pub use apis::{Apis, Features};
pub use declaration::{Declaration, DeletionRule, Generation, Scale};
pub use pod_spec::scheduling::tolerations as check_tolerations;
pub use resources::{SemanticVersion, tell_common_encoding};

/// One version of a resource as it is served.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// Names, verbs, columns of this version.
    pub facts: &'static ResourceFacts,
    /// The type of its objects; an index into [`api::schema`].
    pub node: apimachinery::schema::NodeId,
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'p> {
    /// All but status.
    Main,
    /// Status only.
    Status,
    /// What this subresource may change.
    Other(&'p str),
}

/// A resource as the server sees it, whether built in or custom.
///
/// Values are of the storage version unless a method says otherwise.
pub trait AnyResource: Send + Sync + Debug {
    /// The versions it can be served in, the storage version's first.
    fn served(&self) -> &[Served];

    /// What every key of this resource begins with: `/registry/pods/`.
    fn storage_prefix(&self) -> &str;

    /// Makes a decoded value of a served version what its type makes of it; the paths of unknown fields come back.
    ///
    /// # Errors
    /// The first value of a wrong type.
    fn conform(&self, served: &Served, value: &mut Value) -> Result<Vec<String>, ConformError>;

    /// Sets the defaults of a served version.
    fn default(&self, served: &Served, value: &mut Value);

    /// Converts from a served version to the storage version.
    fn to_storage(&self, served: &Served, value: &mut Value);

    /// Converts from the storage version to a served version.
    #[allow(
        clippy::wrong_self_convention,
        reason = "the resource converts; the value is an argument"
    )]
    fn from_storage(&self, served: &Served, value: &mut Value);

    /// Clears what a client may not set when it creates: status, mostly.
    fn prepare_create(&self, value: &mut Value);

    /// Restores what a write to this part may not change.
    fn prepare_update(&self, part: Part<'_>, value: &mut Value, old: &Value);

    /// Notes when a write to this part changed something, after [`AnyResource::prepare_update`].
    fn stamp(&self, _part: Part<'_>, _value: &mut Value, _old: &Value, _now: Timestamp) {}

    /// What a delete does to an object before anything else.
    fn prepare_delete(&self, _value: &mut Value, _now: Timestamp) {}

    /// Everything wrong with a new object that was written in this version, metadata included.
    fn validate(&self, served: &Served, value: &Value) -> FieldErrors;

    /// Everything wrong with a change.
    fn validate_update(&self, part: Part<'_>, value: &Value, old: &Value) -> FieldErrors;

    /// What to warn a client of.
    fn warnings(&self, value: &Value, old: Option<&Value>) -> Vec<String>;

    /// What to warn a client of in a new object as it was sent, before it is prepared.
    fn warnings_as_sent(&self, _value: &Value) -> Vec<String> {
        Vec::new()
    }

    /// The values of the selectable fields, in the order of [`AnyResource::selectable_fields`].
    fn field_values(&self, value: &Value) -> Box<[CompactString]>;

    /// The names of the selectable fields besides `metadata.name` and `metadata.namespace`. One that this version does not
    /// know, and another does, is nameless here.
    fn selectable_fields(&self) -> &[CompactString];

    /// The place among these of what a served version calls a field.
    fn selectable_field(&self, _served: &Served, label: &str) -> Option<usize> {
        self.selectable_fields().iter().position(|it| it == label && !it.is_empty())
    }

    /// The cells of its row in a table.
    fn row(&self, value: &Value, now: Timestamp) -> Vec<Value>;

    /// The rules of this resource that are plain facts.
    fn rules(&self) -> &Rules;

    /// The types that [`Served::node`] is an index into.
    fn types(&self, _served: &Served) -> &Schema {
        api::schema()
    }

    /// What a column is described as.
    fn column_description(&self, served: &Served, _place: usize, column: &str) -> Cow<'_, str> {
        Cow::Borrowed(api::columns::description(served.facts, column))
    }

    /// Whether it is defined while the server runs, by a definition that clients wrote. What clients are told of such a
    /// resource differs in places from what they are told of others.
    fn is_custom(&self) -> bool {
        false
    }

    /// Makes a stored value what this resource would have stored; says whether it was another one. A custom resource
    /// may have had another definition when it was written. Where a webhook converts, its version stays what it was.
    fn ingest(&self, _value: &mut Value) -> bool {
        false
    }

    /// The kind of lists of this version.
    fn list_kind(&self, served: &Served) -> Cow<'_, str> {
        Cow::Owned(format!("{}List", served.facts.kind))
    }

    /// Makes what a client wrote in a version that is no more what it would have written in the one that stands in for it.
    #[allow(
        clippy::wrong_self_convention,
        reason = "the resource converts; the value is an argument"
    )]
    fn from_removed(&self, _served: &Served, _value: &mut Value) {}

    /// The way back.
    fn to_removed(&self, _served: &Served, _value: &mut Value) {}

    /// Converts from the storage version to what clients of a served version are shown. That is [`AnyResource::from_storage`],
    /// but for versions that are no more: what the server works on is then of the version that stands in for them.
    fn show(&self, served: &Served, value: &mut Value) {
        self.from_storage(served, value);
        self.to_removed(served, value);
    }

    /// What every client of this version is warned of.
    fn deprecation(&self, _served: &Served) -> Option<Cow<'_, str>> {
        None
    }

    /// The release of Kubernetes without this version, where there is one: `1.25`.
    fn removed_in(&self, _served: &Served) -> Option<&'static str> {
        None
    }
}

/// Facts about how a resource is written and deleted.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// When `metadata.generation` moves.
    pub generation: Generation,
    /// Whether `PUT` may create.
    pub create_on_update: bool,
    /// Whether an update without resource version is taken.
    pub unconditional_update: bool,
    /// How it is deleted.
    pub deletion: DeletionRule,
    /// Where its scale subresource finds things, if it has one.
    pub scale: Option<Scale>,
    /// Seconds an object lives after its last write; 0 is for ever.
    pub ttl_seconds: u32,
    /// Whether an object may have a status that a create sets (events, leases have none to clear).
    pub has_status: bool,
    /// Whether what it owns stays when it is deleted and nobody says otherwise.
    pub orphans: bool,
    /// What is said of that to who does not say either; empty where nothing is.
    pub orphan_warning: &'static str,
    /// Whether a delete answers with the object instead of a status.
    pub returns_deleted: bool,
}

/// Group, version and plural name to a place among the resources, and the version there. Asked of at each request.
type Names = HashMap<(&'static str, &'static str, &'static str), (usize, Served), FxBuildHasher>;
/// Group and plural name to a place among the resources.
type Places = HashMap<(&'static str, &'static str), usize, FxBuildHasher>;

/// All resources of a server.
#[derive(Debug, Clone)]
pub struct Registry {
    resources: Vec<Arc<dyn AnyResource>>,
    names: Names,
    places: Places,
    apis: Apis,
}

/// Today's group and version of a kind that a removed version has too, in the same protobuf message.
#[must_use]
pub fn message_of_removed(
    group: &str,
    version: &str,
    kind: &str,
) -> Option<(&'static str, &'static str)> {
    removed::message(group, version, kind)
}

impl Registry {
    /// The built-in resources as a server serves them that is told nothing else.
    #[must_use]
    pub fn built_in() -> Self {
        Self::of(Apis::default())
    }

    /// The built-in resources, in versions too that upstream does not serve any more.
    #[must_use]
    pub fn with_removed_versions() -> Self {
        Self::of(Apis::default().with_removed(true))
    }

    /// The built-in resources in the versions in which they are to be served.
    #[must_use]
    pub fn of(apis: Apis) -> Self {
        let resources = resources::all(&apis);
        let (mut names, mut places) = (Names::default(), Places::default());
        for (index, resource) in resources.iter().enumerate() {
            for served in resource.served() {
                let facts = served.facts;
                places.entry((facts.group, facts.resource)).or_insert(index);
                if apis.serves(facts) {
                    let name = (facts.group, facts.version, facts.resource);
                    names.entry(name).or_insert((index, *served));
                }
            }
        }
        Self { resources, names, places, apis }
    }

    /// Whether a resource is served in a version. Objects are stored in a version that need not be.
    #[must_use]
    pub fn serves(&self, facts: &ResourceFacts) -> bool {
        self.apis.serves(facts)
    }

    /// The versions in which one of these resources is served.
    pub fn versions<'r>(
        &'r self,
        resource: &'r dyn AnyResource,
    ) -> impl Iterator<Item = Served> + 'r {
        resource.served().iter().copied().filter(|it| self.serves(it.facts))
    }

    /// Whether a resource of upstream's is switched off in a version.
    #[must_use]
    pub fn is_off(&self, group: &str, version: &str, resource: &str) -> bool {
        self.apis.is_off(group, version, resource)
    }

    /// The features that declarations know of.
    #[must_use]
    pub fn features(&self) -> Features {
        self.apis.features
    }

    /// Where a resource stands among [`Registry::resources`], in whatever version it is served.
    #[must_use]
    pub fn place(&self, group: &str, resource: &str) -> Option<usize> {
        self.places.get(&(group, resource)).copied()
    }

    /// The resources, each once.
    #[must_use]
    pub fn resources(&self) -> &[Arc<dyn AnyResource>] {
        &self.resources
    }

    /// The resource and version a path names, where it is served.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<(usize, Served)> {
        self.names.get(&(group, version, resource)).copied()
    }
}
