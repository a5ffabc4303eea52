//! What a write must pass after it is decoded and before it is stored: plugins in upstream's order, first those that
//! change the object, then those that judge it.
//!
//! Plugins read other objects through [`Objects`], the server's caches; they never see the store.

mod always;
mod always_pull_images;
mod anti_affinity;
mod certificates;
mod claim_resize;
pub mod configuration;
mod containers;
pub mod context;
mod declared_features;
mod default_class;
mod default_toleration_seconds;
mod deny_external_ips;
mod escalation;
mod event_rate_limit;
mod extended_resources;
mod followed;
mod image_policy;
mod limit_ranger;
mod managed;
pub mod manifests;
mod matching;
pub mod metrics;
mod namespace_exists;
mod namespace_lifecycle;
mod node_restriction;
mod object_in_use;
mod owner_references;
mod plugins;
mod pod_group_protection;
mod pod_node_selector;
mod pod_resize;
mod pod_security;
mod pod_tolerations;
mod pod_topology_labels;
mod policies;
mod policy_params;
mod priority;
mod request;
mod resource_quota;
mod runtime_class;
mod service_account;
pub mod services;
mod taint_nodes;
mod webhooks;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::obj::Obj;
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value};
use async_trait::async_trait;
use auth::rbac::Rbac;
use auth::{Authorizer, UserInfo};
use component_base::metrics::RestClient;
use component_base::{Clock, Random};
use tokio::time::Instant;

pub use configuration::AdmissionConfiguration;
pub use context::{Context, Reinvocation};
use default_toleration_seconds::DefaultTolerationSeconds;
use metrics::{Metrics, Step, Summaries, Timers};
pub use plugins::OFF_BY_DEFAULT;
pub use webhooks::mutating::Annotations;

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
    /// What to tell the audit.
    pub annotations: &'r mut Annotations,
    /// Who is to see it again.
    pub reinvocation: &'r mut Reinvocation,
    /// How long webhooks were waited for.
    pub waited: &'r mut Duration,
    /// What is costlier to tell.
    pub context: &'r dyn Context,
}

impl Attributes<'_> {
    /// The resource as refusals name it.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: self.group, resource: self.resource }
    }

    /// 403 for a reason of a plugin's own.
    #[must_use]
    pub fn forbid(&self, why: &str) -> Status {
        Status::forbidden(self.group_resource(), self.object_name(), why)
    }

    /// Gives the object a finalizer, where it has not got it.
    pub(crate) fn add_finalizer(&mut self, name: &str) {
        let mut finalizers = self.object.items_at(&["metadata", "finalizers"]).to_vec();
        if !finalizers.iter().any(|it| it.as_str() == Some(name)) {
            finalizers.push(name.into());
            self.object.set_at(&["metadata", "finalizers"], finalizers);
        }
    }

    /// The name the object has or, while it is to be generated, what it will begin with.
    #[must_use]
    pub fn object_name(&self) -> &str {
        let given = [self.name, self.object.str_at(&["metadata", "name"])];
        let given = given.into_iter().find(|it| !it.is_empty());
        given.unwrap_or_else(|| self.object.str_at(&["metadata", "generateName"]))
    }

    /// Whether a new pod comes in.
    #[must_use]
    pub fn is_new_pod(&self) -> bool {
        self.operation == Operation::Create && self.is("", "pods")
    }

    /// Whether this is about a resource itself, and not a subresource.
    #[must_use]
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource.is_empty()
    }
}

/// Other objects, and the one thing that admission writes itself: the usage of quotas.
#[async_trait]
pub trait Objects: auth::Objects {
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

    /// The resource that serves a kind.
    fn resource_of_kind(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<&'static api::ResourceFacts>;

    /// An object of the caches as a version of its resource has it, by its webhook where it has one.
    ///
    /// # Errors
    /// When it cannot be converted.
    async fn in_version(
        &self,
        object: &Obj,
        version: &'static api::ResourceFacts,
    ) -> Result<Arc<Value>, String>;
}

/// One plugin.
#[async_trait]
pub trait Plugin: Send + Sync + Debug {
    /// Upstream's name: `LimitRanger`.
    fn name(&self) -> &'static str;

    /// Whether it wants to see such writes at all.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// Whether it looks at such a write in fact, of those that it wants to see.
    fn looks_at(&self, _attributes: &Attributes<'_>) -> bool {
        true
    }

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

/// What the plugins are made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Other objects.
    pub objects: Arc<dyn Objects>,
    /// Who holds which rights.
    pub rbac: Arc<Rbac>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Names of generated volumes.
    pub random: Arc<dyn Random>,
    /// Where calls of webhooks are counted.
    pub calls: RestClient,
}

/// The plugins in order.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    plugins: Vec<Placed>,
    namespaces: Option<Arc<namespace_lifecycle::NamespaceLifecycle>>,
    metrics: Arc<Metrics>,
    /// Of all plugins together.
    timers: Arc<Timers>,
    summaries: Arc<Summaries>,
}

/// A plugin in its place.
#[derive(Debug, Clone)]
struct Placed {
    plugin: Arc<dyn Plugin>,
    timers: Arc<Timers>,
}

impl Chain {
    /// Upstream's plugins in upstream's order, those that are on where nobody says anything.
    #[must_use]
    pub fn standard(parts: &Parts) -> Self {
        Self::of(parts, &AdmissionConfiguration::default(), &[])
    }

    /// The same with what plugins are told, and with these besides. One that cannot be without its configuration is not
    /// there where it has none: see [`AdmissionConfiguration::check`].
    #[must_use]
    pub fn of(parts: &Parts, configuration: &AdmissionConfiguration, on: &[String]) -> Self {
        let manifests = configuration.manifests.metrics.clone();
        let metrics = Arc::new(Metrics::default().with_manifests(manifests));
        let objects = Arc::clone(&parts.objects);
        let namespaces = Arc::new(namespace_lifecycle::NamespaceLifecycle::new(objects));
        let plugins = plugins::all(parts, configuration, (&namespaces, &metrics));
        let is_off = |name: &str| OFF_BY_DEFAULT.contains(&name) && !on.iter().any(|it| it == name);
        let plugins = plugins.into_iter().filter(|it| !is_off(it.name()));
        let plugins = plugins.map(|plugin| Placed { plugin, timers: Arc::default() });
        Self {
            plugins: plugins.collect(),
            namespaces: Some(namespaces),
            metrics,
            timers: Arc::default(),
            summaries: Arc::default(),
        }
    }

    /// The same without plugins of these names.
    #[must_use]
    pub fn without(mut self, names: &[String]) -> Self {
        let is_named = |it: &dyn Plugin| names.iter().any(|name| name == it.name());
        self.plugins.retain(|it| !is_named(it.plugin.as_ref()));
        self.namespaces = self.namespaces.filter(|it| !is_named(it.as_ref()));
        self
    }

    /// The same where pods stay so many seconds on a node that is not ready, and on one that cannot be reached.
    #[must_use]
    pub fn with_default_tolerations(mut self, not_ready: i64, unreachable: i64) -> Self {
        let plugin = DefaultTolerationSeconds { not_ready, unreachable };
        for placed in &mut self.plugins {
            if placed.plugin.name() == plugin.name() {
                placed.plugin = Arc::new(plugin);
            }
        }
        self
    }

    /// The plugins' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.plugins.iter().map(|it| it.plugin.name())
    }

    /// Writes what is told of all plugins together, in the text form.
    pub fn text(&self, out: &mut String) {
        self.summaries.text(out);
    }

    /// What the plugins count.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether a plugin looks at such a write.
    #[must_use]
    pub fn looks_at(&self, attributes: &Attributes<'_>) -> bool {
        let mut plugins = self.plugins.iter().map(|it| &it.plugin);
        plugins.any(|it| it.handles(attributes) && it.looks_at(attributes))
    }

    /// Lets every plugin change the object; once more where a webhook or policy has changed it after others saw it.
    ///
    /// # Errors
    /// Of the first plugin that refuses.
    pub async fn mutate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let began = Instant::now();
        let mut result = self.pass(Step::Admit, attributes, began).await;
        if result.is_ok() && attributes.reinvocation.wanted {
            attributes.reinvocation.again = true;
            result = self.pass(Step::Admit, attributes, Instant::now()).await;
        }
        self.count(Step::Admit, attributes.operation, began, result.is_err());
        result
    }

    /// Lets every plugin judge the object, and sees once more whether its namespace is still there: others, such as
    /// webhooks, may have taken their time.
    ///
    /// # Errors
    /// Of the first plugin that refuses.
    pub async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let began = Instant::now();
        let mut result = self.pass(Step::Validate, attributes, began).await;
        if let (Ok(()), Some(namespaces)) = (&result, &self.namespaces) {
            result = namespaces.check(attributes).await;
        }
        self.count(Step::Validate, attributes.operation, began, result.is_err());
        result
    }

    /// One step of every plugin that wants to see the request.
    async fn pass(
        &self,
        step: Step,
        attributes: &mut Attributes<'_>,
        mut began: Instant,
    ) -> Result<(), Status> {
        for Placed { plugin, timers } in &self.plugins {
            if !plugin.handles(attributes) {
                continue;
            }
            let result = match step {
                Step::Admit => plugin.mutate(attributes).await,
                Step::Validate => plugin.validate(attributes).await,
            };
            // The next begins when this one ends.
            let ended = Instant::now();
            let of = (plugin.name(), step, attributes.operation);
            timers.count(&self.metrics, of, result.is_err(), ended - began);
            began = ended;
            result?;
        }
        Ok(())
    }

    fn count(&self, step: Step, operation: Operation, began: Instant, rejected: bool) {
        let took = began.elapsed();
        self.timers.count(&self.metrics, ("", step, operation), rejected, took);
        self.summaries.count((step, operation), rejected, took);
    }
}

#[cfg(test)]
mod tests;
