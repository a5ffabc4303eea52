//! The resource a request is about, looked up once.

use std::sync::Arc;

use apimachinery::Status;
use apimachinery::status::GroupResource;
use registry::{AnyResource, Served};
use storage::Key;

use crate::Server;
use crate::cache::Cache;
use crate::catalog::Found;
use crate::request::RequestInfo;

/// The resource and version a request is about.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) cache: Arc<Cache>,
    /// The resource as this version sees it.
    pub(crate) resource: Arc<dyn AnyResource>,
    pub(crate) served: Served,
    pub(crate) namespace: String,
}

impl Target {
    /// The target of a request.
    ///
    /// # Errors
    /// 404 where nothing of that name is served.
    pub(crate) fn of(server: &Server, info: &RequestInfo) -> Result<Self, Status> {
        let found = server.catalog.find(&info.group, &info.version, &info.resource);
        let Found { cache, resource, served, terminating } = found.ok_or_else(Status::no_route)?;
        let facts = served.facts;
        // A namespace is addressed by its own name, and is not in itself.
        let namespace = if facts.namespaced { info.namespace.clone() } else { String::new() };
        if !facts.namespaced && !info.namespace.is_empty() && facts.resource != "namespaces" {
            return Err(Status::no_route());
        }
        if namespace == "." || namespace == ".." {
            return Err(invalid_key(&format!("/{}/{namespace}", facts.resource)));
        }
        if let Some(why) = resource.conversion_problem(&served) {
            return Err(Status::internal(why));
        }
        if terminating && info.verb == "create" && info.subresource.is_empty() {
            let message = "create not allowed while custom resource definition is terminating";
            return Err(Status { message: message.into(), ..Status::method_not_allowed() });
        }
        Ok(Self { cache, resource, served, namespace })
    }

    pub(crate) fn resource(&self) -> &dyn AnyResource {
        self.resource.as_ref()
    }

    /// As errors name it.
    pub(crate) fn group_resource(&self) -> GroupResource<'static> {
        GroupResource { group: self.served.facts.group, resource: self.served.facts.resource }
    }

    /// The storage version.
    pub(crate) fn storage(&self) -> Served {
        self.resource().served()[0]
    }

    /// Whether requests and stored objects have the same version.
    pub(crate) fn is_storage_version(&self) -> bool {
        std::ptr::eq(self.served.facts, self.storage().facts)
    }

    /// Where an object of this name is stored.
    ///
    /// # Errors
    /// Where the name cannot be part of a key.
    pub(crate) fn key(&self, name: &str) -> Result<Key, Status> {
        if name.contains('/') {
            return Err(Status::no_route());
        }
        if name.is_empty() || name == "." || name == ".." {
            return Err(invalid_key(&format!("/{}/{name}", self.served.facts.resource)));
        }
        let prefix = self.resource().storage_prefix();
        Ok(match self.namespace.as_str() {
            "" => Key::from(format!("{prefix}{name}")),
            namespace => Key::from(format!("{prefix}{namespace}/{name}")),
        })
    }

    /// What the keys of the objects in question begin with.
    pub(crate) fn prefix(&self) -> Key {
        let prefix = self.resource().storage_prefix();
        match self.namespace.as_str() {
            "" => Key::from(prefix),
            namespace => Key::from(format!("{prefix}{namespace}/")),
        }
    }
}

/// 500 without reason, as upstream's storage answers for what cannot be part of a key.
fn invalid_key(path: &str) -> Status {
    Status { code: 500, message: format!("invalid key: {path:?}"), ..Status::default() }
}
