//! What a write must pass after it is decoded and before it is stored: plugins in upstream's order, first those that
//! change the object, then those that judge it.
//!
//! Plugins read other objects through [`Objects`], the server's caches; they never see the store.

use std::fmt::Debug;
use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{Status, Value};
use async_trait::async_trait;
use auth::UserInfo;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// One less.
    Delete,
    /// A stream into one (exec, attach, port-forward, proxy).
    Connect,
}

/// A write on its way in.
#[derive(Debug)]
pub struct Attributes<'r> {
    /// What it does.
    pub operation: Operation,
    /// The group of the resource.
    pub group: &'r str,
    /// The version of the request.
    pub version: &'r str,
    /// The plural name.
    pub resource: &'r str,
    /// The subresource, if any.
    pub subresource: &'r str,
    /// The kind of the object.
    pub kind: &'r str,
    /// The namespace; empty for cluster-wide resources.
    pub namespace: &'r str,
    /// The name; empty while it is to be generated.
    pub name: &'r str,
    /// Who asks.
    pub user: &'r UserInfo,
    /// The object in the storage version; null for deletes.
    pub object: &'r mut Value,
    /// The object before, for updates and deletes.
    pub old: Option<&'r Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// What to tell the client besides.
    pub warnings: &'r mut Vec<String>,
}

impl Attributes<'_> {
    /// Whether this is about a resource itself, and not a subresource.
    #[must_use]
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource.is_empty()
    }
}

/// Other objects, read from the server's caches.
#[async_trait]
pub trait Objects: Send + Sync + Debug {
    /// An object as the caches know it: a moment old at most.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Obj>>;

    /// All objects of a resource in a namespace (all namespaces where it is empty).
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Obj>>;

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

    /// Replaces an object's status where it still has this resource version; says whether it did.
    ///
    /// # Errors
    /// When the store fails.
    async fn compare_and_set_status(
        &self,
        group: &str,
        resource: &str,
        value: Value,
    ) -> Result<bool, Status>;
}

/// One plugin.
#[async_trait]
pub trait Plugin: Send + Sync + Debug {
    /// Upstream's name: `LimitRanger`.
    fn name(&self) -> &'static str;

    /// Whether it wants to see such writes at all.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// Changes the object, or refuses.
    ///
    /// # Errors
    /// When the write is refused.
    async fn mutate(&self, _attributes: &mut Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Judges the object as it will be stored.
    ///
    /// # Errors
    /// When the write is refused.
    async fn validate(&self, _attributes: &mut Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins in order.
#[derive(Debug, Clone, Default)]
pub struct Chain(pub Vec<Arc<dyn Plugin>>);

impl Chain {
    /// Lets every plugin change the object.
    ///
    /// # Errors
    /// Of the first plugin that refuses.
    pub async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        for plugin in &self.0 {
            if plugin.handles(attributes) {
                plugin.mutate(attributes).await?;
            }
        }
        Ok(())
    }

    /// Lets every plugin judge the object.
    ///
    /// # Errors
    /// Of the first plugin that refuses.
    pub async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        for plugin in &self.0 {
            if plugin.handles(attributes) {
                plugin.validate(attributes).await?;
            }
        }
        Ok(())
    }
}
