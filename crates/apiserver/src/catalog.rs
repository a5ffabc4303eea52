//! What is served: built-in resources, and custom ones that come and go while the server runs.
//!
//! The built-in ones are looked up first and never change. The custom ones are a snapshot that is replaced as a whole:
//! a request takes it once, and what it has taken stays whole while it runs.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api::ResourceFacts;
use arc_swap::ArcSwap;
use compact_str::{CompactString, format_compact};
use parking_lot::Mutex;
use registry::custom::Definition;
use registry::{AnyResource, Registry, Served};
use storage::StorageError;
use tokio::sync::Notify;

use crate::aggregator::View;
use crate::cache::Cache;
use crate::conversion::Conversion;
use crate::discovery;
use crate::hub::Hub;
use crate::node_metrics::Made;
use crate::openapi;
use crate::target::Target;

/// The resources of a server.
#[derive(Debug)]
pub(crate) struct Catalog {
    built_in: Registry,
    hub: Arc<Hub>,
    custom: ArcSwap<Custom>,
    /// Told of every change of what is served.
    changed: Arc<Notify>,
    /// Held while the snapshot is replaced.
    writing: Mutex<()>,
    /// What is answered and never stored, with what each was made of.
    computed: Vec<Made>,
    built_in_documents: openapi::BuiltIn,
    /// Whether discovery tells of the version in which each resource is stored.
    tells_storage: bool,
}

/// The custom resources at one moment, and what is told of all resources then.
#[derive(Debug)]
pub(crate) struct Custom {
    /// By plural name and group, which is what their definitions are called.
    by_name: BTreeMap<CompactString, Arc<Installed>>,
    /// What other servers serve.
    remote: Arc<View>,
    discovery: OnceLock<discovery::Documents>,
    openapi: OnceLock<openapi::Documents>,
}

/// A custom resource that is served.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    pub(crate) definition: Arc<Definition>,
    pub(crate) cache: Arc<Cache>,
    /// Who converts its objects, where versions differ in more than their name.
    pub(crate) conversion: Option<Arc<Conversion>>,
    /// What of the definition it was made of; another text makes another resource.
    pub(crate) made_of: [u8; 32],
    /// Its definition is being deleted: nothing new may come.
    pub(crate) terminating: bool,
}

/// A resource in one version.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) cache: Arc<Cache>,
    pub(crate) resource: Arc<dyn AnyResource>,
    pub(crate) served: Served,
    pub(crate) terminating: bool,
    /// Who converts between this version and the stored one.
    pub(crate) conversion: Option<Arc<Conversion>>,
}

impl Custom {
    fn new(by_name: BTreeMap<CompactString, Arc<Installed>>, remote: Arc<View>) -> Self {
        Self { by_name, remote, discovery: OnceLock::new(), openapi: OnceLock::new() }
    }

    /// The custom resources by name.
    pub(crate) fn installed(&self) -> impl Iterator<Item = &Arc<Installed>> {
        self.by_name.values()
    }
}

impl Catalog {
    pub(crate) fn new(
        built_in: Registry,
        hub: Arc<Hub>,
        server_version: &str,
        computed: Vec<Made>,
        tells_storage: bool,
    ) -> Self {
        let facts = discovery::documented(&built_in);
        Self {
            built_in_documents: openapi::BuiltIn::new(facts, server_version),
            custom: ArcSwap::from_pointee(Custom::new(BTreeMap::new(), Arc::default())),
            changed: Arc::default(),
            writing: Mutex::new(()),
            computed,
            built_in,
            hub,
            tells_storage,
        }
    }

    /// The built-in resources.
    pub(crate) fn built_in(&self) -> &Registry {
        &self.built_in
    }

    /// The custom resources as they are now.
    pub(crate) fn custom(&self) -> Arc<Custom> {
        self.custom.load_full()
    }

    /// The resource and version that a path names.
    pub(crate) fn find(&self, group: &str, version: &str, resource: &str) -> Option<Found> {
        if let Some((place, served)) = self.built_in.find(group, version, resource) {
            let cache = Arc::clone(self.hub.cache(place));
            let resource = Arc::clone(cache.resource());
            let (terminating, conversion) = (false, None);
            return Some(Found { cache, resource, served, terminating, conversion });
        }
        let custom = self.custom.load();
        let installed = custom.by_name.get(&*format_compact!("{resource}.{group}"))?;
        let view = installed.definition.find(version)?;
        Some(Found {
            conversion: installed.conversion.clone(),
            cache: Arc::clone(&installed.cache),
            resource: Arc::clone(view) as Arc<dyn AnyResource>,
            served: view.own(),
            terminating: installed.terminating,
        })
    }

    /// Names and verbs of what a path names.
    pub(crate) fn facts(
        &self,
        group: &str,
        version: &str,
        resource: &str,
    ) -> Option<&'static ResourceFacts> {
        match self.built_in.find(group, version, resource) {
            Some((_, served)) => Some(served.facts),
            None => self.find(group, version, resource).map(|it| it.served.facts),
        }
    }

    /// The versions in which a resource is served.
    pub(crate) fn versions(&self, target: &Target) -> Vec<&'static ResourceFacts> {
        if !target.resource().is_custom() {
            return self.built_in.versions(target.resource()).map(|it| it.facts).collect();
        }
        let facts = target.served.facts;
        let installed = self.installed(&format_compact!("{}.{}", facts.resource, facts.group));
        let served = installed.iter().flat_map(|it| it.definition.served());
        served.map(|it| it.facts()).collect()
    }

    /// The resource that serves a kind: its plural name, and whether its objects are in namespaces.
    pub(crate) fn of_kind(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<&'static ResourceFacts> {
        let same =
            |it: &ResourceFacts| it.group == group && it.version == version && it.kind == kind;
        let all = self.built_in.resources().iter();
        let built_in = all.flat_map(|it| self.built_in.versions(it.as_ref()));
        if let Some(found) = built_in.map(|it| it.facts).find(|it| same(it)) {
            return Some(found);
        }
        let custom = self.custom.load();
        let mut views = custom.installed().flat_map(|it| it.definition.served());
        views.find(|it| same(it.facts())).map(|it| it.facts())
    }

    /// The cache of a resource.
    pub(crate) fn cache(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Cache>> {
        match self.built_in.find(group, version, resource) {
            Some((place, _)) => Some(Arc::clone(self.hub.cache(place))),
            None => self.custom_cache(group, resource),
        }
    }

    /// The cache of a custom resource.
    pub(crate) fn custom_cache(&self, group: &str, resource: &str) -> Option<Arc<Cache>> {
        let custom = self.custom.load();
        let installed = custom.by_name.get(&*format_compact!("{resource}.{group}"))?;
        Some(Arc::clone(&installed.cache))
    }

    /// What discovery tells now.
    pub(crate) fn with_discovery<T>(&self, act: impl FnOnce(&discovery::Documents) -> T) -> T {
        let custom = self.custom.load();
        act(custom.discovery.get_or_init(|| {
            let computed = self.computed.iter().map(|(it, _)| Arc::clone(it));
            let more = custom.installed().map(|it| Arc::clone(&it.definition));
            let more: Vec<_> = computed.chain(more).collect();
            let facts = discovery::built_in(&self.built_in);
            let documents = discovery::Documents::new(facts, &more, &custom.remote);
            if self.tells_storage { documents } else { documents.without_storage() }
        }))
    }

    /// What OpenAPI tells now.
    pub(crate) fn with_openapi<T>(&self, act: impl FnOnce(&openapi::Documents) -> T) -> T {
        let custom = self.custom.load();
        act(custom.openapi.get_or_init(|| {
            let more = custom.installed().map(|it| (Arc::clone(&it.definition), it.made_of));
            let more: Vec<_> = self.computed.iter().cloned().chain(more).collect();
            openapi::Documents::new(&self.built_in_documents, &more, &custom.remote)
        }))
    }

    /// The custom resource of this name, by its definition.
    pub(crate) fn installed(&self, name: &str) -> Option<Arc<Installed>> {
        self.custom.load().by_name.get(name).cloned()
    }

    /// Serves a custom resource from now on. Of what was there under this name watches end, and clients come back.
    ///
    /// # Errors
    /// When its objects cannot be read.
    pub(crate) async fn install(
        &self,
        name: &str,
        definition: Definition,
        (made_of, terminating): ([u8; 32], bool),
        conversion: Option<Arc<Conversion>>,
    ) -> Result<(), StorageError> {
        let definition = Arc::new(definition);
        let storage = Arc::clone(definition.storage()) as Arc<dyn AnyResource>;
        let cache = self.hub.add(storage).await?;
        let installed = Installed { definition, cache, conversion, made_of, terminating };
        if let Some(before) = self.put(name, installed) {
            self.hub.remove(&before.cache);
        }
        Ok(())
    }

    /// Lets nothing new come to a custom resource any more.
    pub(crate) fn terminate(&self, name: &str) {
        if let Some(installed) = self.installed(name).filter(|it| !it.terminating) {
            self.put(name, Installed { terminating: true, ..Installed::clone(&installed) });
        }
    }

    /// Serves a custom resource no more.
    pub(crate) fn remove(&self, name: &str) {
        let before = self.change(|by_name| by_name.remove(name));
        if let Some(before) = before {
            self.hub.remove(&before.cache);
        }
    }

    fn put(&self, name: &str, installed: Installed) -> Option<Arc<Installed>> {
        self.change(|by_name| by_name.insert(name.into(), Arc::new(installed)))
    }

    /// Changes the snapshot. Nothing is lost between reading and storing it.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<CompactString, Arc<Installed>>) -> T,
    ) -> T {
        let writing = self.writing.lock();
        let before = self.custom.load();
        let mut by_name = before.by_name.clone();
        let result = change(&mut by_name);
        self.custom.store(Arc::new(Custom::new(by_name, Arc::clone(&before.remote))));
        drop(writing);
        self.changed.notify_waiters();
        result
    }

    /// Told of every change of what is served.
    pub(crate) fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Notes what other servers serve; says whether that is different.
    pub(crate) fn set_remote(&self, view: View) -> bool {
        let _writing = self.writing.lock();
        let before = self.custom.load();
        if *before.remote == view {
            return false;
        }
        self.custom.store(Arc::new(Custom::new(before.by_name.clone(), Arc::new(view))));
        true
    }
}
