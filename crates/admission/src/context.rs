//! What a plugin may ask about a request where asking costs something: its options, other versions of its object.

use std::collections::BTreeSet;
use std::fmt::Debug;

use api::ResourceFacts;
use apimachinery::{Status, Value};
use async_trait::async_trait;

/// A kind as reviews name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind<'k> {
    /// The group.
    pub group: &'k str,
    /// The version.
    pub version: &'k str,
    /// The kind.
    pub kind: &'k str,
}

/// A request, as far as its handler knows it.
#[async_trait]
pub trait Context: Send + Sync + Debug {
    /// The options of the request: `CreateOptions` and the like; null for streams.
    fn options(&self) -> Value;

    /// The versions in which the resource is served, that of the request first.
    fn versions(&self) -> Vec<&'static ResourceFacts>;

    /// What the object of this request is in a version of its resource: another kind for some subresources.
    fn kind(&self, version: &'static ResourceFacts) -> Kind<'static>;

    /// The object as a version has it; `None` where it is that already.
    ///
    /// # Errors
    /// When it cannot be converted.
    async fn to_version(
        &self,
        object: &Value,
        version: &'static ResourceFacts,
    ) -> Result<Option<Value>, Status>;

    /// Takes an object of a version back, with that version's defaults; `base` is the object that it was made of. Where it is
    /// read strictly, fields that its kind has not are an error, not left out.
    ///
    /// # Errors
    /// When it is none, of another kind, or cannot be converted.
    async fn take_version(
        &self,
        object: Value,
        version: &'static ResourceFacts,
        base: &Value,
        strictly: bool,
    ) -> Result<Value, Status>;

    /// Makes a namespace, as the server itself.
    ///
    /// # Errors
    /// When it cannot be made, also where there is one of that name.
    async fn create_namespace(&self, name: &str) -> Result<(), Status>;

    /// An object with a configuration of its version applied to it, as server-side apply merges them.
    ///
    /// # Errors
    /// When the configuration does not fit.
    fn merge(
        &self,
        object: &Value,
        configuration: &Value,
        version: &'static ResourceFacts,
    ) -> Result<Value, String>;
}

/// Which plugins are to see a request once more because its object has changed after they saw it.
#[derive(Debug, Default)]
pub struct Reinvocation {
    /// This is the second time.
    pub(crate) again: bool,
    /// There is to be a second time.
    pub(crate) wanted: bool,
    pub(crate) webhooks: Invoked,
    pub(crate) policies: Invoked,
}

/// What was called, and is to be called again when the object changes.
#[derive(Debug, Default)]
pub(crate) struct Invoked {
    /// The object as it was left.
    last: Option<Value>,
    before: BTreeSet<String>,
    due: BTreeSet<String>,
}

impl Invoked {
    /// At the beginning of a second time: others may have changed the object since.
    pub(crate) fn compare(&mut self, object: &Value) {
        if self.last.as_ref().is_some_and(|last| last != object) {
            self.require();
        }
    }

    /// The object has changed: everyone before is to see it again.
    pub(crate) fn require(&mut self) {
        self.due.append(&mut self.before);
    }

    pub(crate) fn note(&mut self, uid: &str) {
        self.before.insert(uid.to_owned());
    }

    pub(crate) fn is_due(&self, uid: &str) -> bool {
        self.due.contains(uid)
    }

    pub(crate) fn leave(&mut self, object: &Value) {
        self.last = Some(object.clone());
    }
}
