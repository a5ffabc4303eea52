//! The objects that authentication, authorization and admission read: ports that the server's caches implement.

use std::fmt::Debug;
use std::sync::Arc;

use apimachinery::Status;
use apimachinery::obj::Obj;
use async_trait::async_trait;
use compact_str::CompactString;

/// Other objects, read from the server's caches.
#[async_trait]
pub trait Objects: Send + Sync + Debug {
    /// An object as the caches know it: a moment old at most.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Obj>>;

    /// All objects of a resource in a namespace (all namespaces where it is empty).
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Obj>>;

    /// The changes of a resource from now on, and its objects as they are; `None` where it is not served.
    fn feed(&self, group: &str, resource: &str) -> Option<Box<dyn Feed>>;

    /// An object as the store has it now.
    ///
    /// # Errors
    /// When the store cannot tell.
    async fn get_live(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Obj>>, Status>;
}

/// The changes of one resource, taken when somebody asks.
pub trait Feed: Send + Sync + Debug {
    /// Whether [`Feed::take`] would give anything.
    fn is_behind(&self) -> bool;

    /// What happened since the last call.
    fn take(&mut self) -> Changes;
}

/// What a feed gives.
#[derive(Debug)]
pub enum Changes {
    /// Everything: the first time, and after more changes than the server keeps.
    All(Vec<Arc<Obj>>),
    /// The objects that changed, in order.
    Some(Vec<Change>),
}

/// One object that changed.
#[derive(Debug)]
pub struct Change {
    /// The object as it is now, or as it was last.
    pub object: Arc<Obj>,
    /// Whether it is gone.
    pub deleted: bool,
}

/// The name of an object in an index: namespace and name.
pub type Key = (CompactString, CompactString);

/// The index key of an object.
#[must_use]
pub fn key_of(object: &Obj) -> Key {
    (object.facts.namespace.clone(), object.facts.name.clone())
}
