//! The resource a request is about, looked up once.

use std::borrow::Cow;
use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::obj::Obj;
use apimachinery::status::GroupResource;
use apimachinery::validation::path_segment_name;
use apimachinery::{Status, Value};
use compact_str::CompactString;
use registry::{AnyResource, Served};
use storage::Key;

use crate::Server;
use crate::cache::Cache;
use crate::catalog::Found;
use crate::conversion::{self, Conversion, Direction};
use crate::listing::Listing;
use crate::request::RequestInfo;

/// The resource and version a request is about.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) cache: Arc<Cache>,
    /// The resource as this version sees it.
    pub(crate) resource: Arc<dyn AnyResource>,
    pub(crate) served: Served,
    pub(crate) namespace: CompactString,
    /// Who converts between versions. Then requests work on objects of their own version, and what is stored is of
    /// the version that was the storage version when it was written.
    pub(crate) conversion: Option<Arc<Conversion>>,
}

impl Target {
    /// The target of a request.
    ///
    /// # Errors
    /// 404 where nothing of that name is served.
    pub(crate) fn of(server: &Server, info: &RequestInfo) -> Result<Self, Status> {
        let found = server.catalog.find(&info.group, &info.version, &info.resource);
        let found = found.ok_or_else(Status::no_route)?;
        let Found { cache, resource, served, terminating, conversion } = found;
        let facts = served.facts;
        // A namespace is addressed by its own name, and is not in itself.
        let namespace =
            if facts.namespaced { info.namespace.clone() } else { CompactString::default() };
        let itself = facts.resource == "namespaces" && info.name == info.namespace;
        if !facts.namespaced && !info.namespace.is_empty() && !itself {
            return Err(Status::no_route());
        }
        if namespace == "." || namespace == ".." {
            return Err(invalid_key(&format!("/{}/{namespace}", facts.resource)));
        }
        if terminating && info.verb == "create" && info.subresource.is_empty() {
            let message = "create not allowed while custom resource definition is terminating";
            return Err(Status { message: message.into(), ..Status::method_not_allowed() });
        }
        Ok(Self { cache, resource, served, namespace, conversion })
    }

    /// The same resource in another version.
    pub(crate) fn in_version(
        server: &Server,
        target: &Self,
        version: &'static ResourceFacts,
    ) -> Option<Self> {
        if !target.resource().is_custom() {
            let mut served = target.resource().served().iter();
            let served = *served.find(|it| std::ptr::eq(it.facts, version))?;
            return Some(Self { served, ..target.clone() });
        }
        let found = server.catalog.find(version.group, version.version, version.resource)?;
        let Found { cache, resource, served, conversion, .. } = found;
        Some(Self { cache, resource, served, conversion, namespace: target.namespace.clone() })
    }

    /// The version that a request's objects are of while it is worked on: its own where a webhook converts, else the
    /// stored one.
    fn pipeline(&self) -> &'static ResourceFacts {
        if self.conversion.is_some() { self.served.facts } else { self.storage().facts }
    }

    /// Whether requests work on objects of another version than is stored.
    pub(crate) fn has_own_pipeline(&self) -> bool {
        self.conversion.is_some() && !self.is_storage_version()
    }

    /// Whether an object of the store is one for the webhook, before requests of this version can work on it.
    pub(crate) fn converts(&self, object: &Obj) -> bool {
        self.conversion.is_some() && object.api_version() != self.served.facts.api_version()
    }

    /// Whether one of these is.
    pub(crate) fn converts_any<'o>(&self, objects: impl IntoIterator<Item = &'o Arc<Obj>>) -> bool {
        if self.conversion.is_none() {
            return false;
        }
        let own = self.served.facts.api_version();
        objects.into_iter().any(|it| it.api_version() != own)
    }

    /// Converts between the version of a request's objects and the stored one.
    async fn convert(
        &self,
        value: &Value,
        (from, to): (&ResourceFacts, &ResourceFacts),
    ) -> Result<Value, Status> {
        let Some(conversion) = &self.conversion else { return Ok(value.clone()) };
        let (source, target) = (from.api_version(), to.api_version());
        let direction = Direction { from: &source, to: &target, kind: to.kind };
        conversion::one(conversion, direction, value).await
    }

    /// What was read from the store, as requests of this version work on it.
    pub(crate) async fn read_stored(&self, value: Arc<Value>) -> Result<Arc<Value>, Status> {
        let Some(conversion) = &self.conversion else { return Ok(value) };
        let (from, to) = (value.str_at(&["apiVersion"]), self.served.facts.api_version());
        if from == to {
            return Ok(value);
        }
        let direction = Direction { from, to: &to, kind: self.served.facts.kind };
        let mut value = conversion::one(conversion, direction, &value).await?;
        self.resource().ingest(&mut value);
        Ok(Arc::new(value))
    }

    /// What a request has made, as it is stored.
    pub(crate) async fn to_stored<'v>(&self, value: &'v Value) -> Result<Cow<'v, Value>, Status> {
        if !self.has_own_pipeline() {
            return Ok(Cow::Borrowed(value));
        }
        let way = (self.served.facts, self.storage().facts);
        let mut value = self.convert(value, way).await?;
        self.cache.resource().ingest(&mut value);
        Ok(Cow::Owned(value))
    }

    /// Objects of the cache, as requests of this version work on them.
    pub(crate) async fn all_from_stored(
        &self,
        objects: Vec<Arc<Obj>>,
    ) -> Result<Vec<Arc<Obj>>, Status> {
        match &self.conversion {
            Some(conversion) if self.converts_any(&objects) => {
                let facts = self.served.facts;
                conversion::objects(conversion, (self.resource(), facts), objects).await
            }
            Some(_) | None => Ok(objects),
        }
    }

    /// The same of a list.
    pub(crate) async fn all_listed(&self, objects: Arc<Listing>) -> Result<Arc<Listing>, Status> {
        if !self.converts_any(objects.iter()) {
            return Ok(objects);
        }
        let converted = self.all_from_stored(objects.into_objects()).await?;
        Ok(Arc::new(converted.into()))
    }

    /// An object that a request of `target` works on, in this version; `None` where it is that already.
    pub(crate) async fn of_pipeline(
        &self,
        target: &Self,
        object: &Value,
    ) -> Result<Option<Value>, Status> {
        if std::ptr::eq(self.served.facts, target.pipeline()) {
            return Ok(None);
        }
        if self.conversion.is_none() && target.conversion.is_none() {
            let mut object = object.clone();
            self.resource().from_storage(&self.served, &mut object);
            return Ok(Some(object));
        }
        let with = if self.conversion.is_some() { self } else { target };
        let way = (target.served.facts, self.served.facts);
        let mut object = with.convert(object, way).await?;
        self.resource().ingest(&mut object);
        Ok(Some(object))
    }

    /// The way back.
    pub(crate) async fn to_pipeline(
        &self,
        target: &Self,
        mut object: Value,
    ) -> Result<Value, Status> {
        if std::ptr::eq(self.served.facts, target.pipeline()) {
            return Ok(object);
        }
        if self.conversion.is_none() && target.conversion.is_none() {
            self.resource().to_storage(&self.served, &mut object);
            return Ok(object);
        }
        let with = if self.conversion.is_some() { self } else { target };
        let mut object = with.convert(&object, (self.served.facts, target.served.facts)).await?;
        target.resource().ingest(&mut object);
        Ok(object)
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
        if name.is_empty() {
            return Err(Status::bad_request("Name parameter required."));
        }
        let problems = path_segment_name(name);
        if !problems.is_empty() {
            let why = problems.join(";");
            return Err(Status::bad_request(format!("Name parameter invalid: {name:?}: {why}")));
        }
        let prefix = self.resource().storage_prefix();
        Ok(match self.namespace.as_str() {
            "" => Key::join(&[prefix, name]),
            namespace => Key::join(&[prefix, namespace, "/", name]),
        })
    }

    /// What the keys of the objects in question begin with.
    pub(crate) fn prefix(&self) -> Key {
        let prefix = self.resource().storage_prefix();
        match self.namespace.as_str() {
            "" => Key::from(prefix),
            namespace => Key::join(&[prefix, namespace, "/"]),
        }
    }
}

/// 500 without reason, as upstream's storage answers for what cannot be part of a key.
fn invalid_key(path: &str) -> Status {
    Status { code: 500, message: format!("invalid key: {path:?}"), ..Status::default() }
}
