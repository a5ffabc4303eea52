//! `metrics.k8s.io`, answered from what the nodes' agents count. Upstream: metrics-server.
//!
//! Nothing is read before somebody asks, and what was read lately is not read again. What rates and objects are is the
//! business of the crate `metrics`.

mod collect;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::obj::Obj;
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value};
use http::{Method, Response};
use metrics::{Kind, Measured, node_use, pod_use};
use registry::AnyResource;
use registry::Served;
use registry::custom::Definition;
use sha2::{Digest, Sha256};

use crate::Server;
use crate::body::Body;
use crate::cache::{Cache, Progress, cache_key};
use crate::exchange::Exchange;
use crate::handlers::connect::NodeDialer;
use crate::handlers::list::Selection;
use crate::negotiate::{Transform, negotiate};
use crate::request::RequestInfo;
use crate::respond;
use crate::target::Target;
use collect::Collector;

/// The group.
const GROUP: &str = "metrics.k8s.io";

/// A definition, and what it was made of.
pub(crate) type Made = (Arc<Definition>, [u8; 32]);

/// The group as a server has it.
#[derive(Debug)]
pub(crate) struct NodeMetrics {
    resources: Vec<(Kind, Served, Arc<Cache>)>,
    definitions: Vec<Made>,
    collector: Collector,
}

impl NodeMetrics {
    /// Reads agents through `dialer`, each at most once in `resolution`.
    pub(crate) fn new(dialer: NodeDialer, resolution: Duration) -> Self {
        let definitions: Vec<Made> =
            metrics::resources::definitions().iter().filter_map(made).collect();
        let kinds = [Kind::Node, Kind::Pod];
        let resources = kinds.into_iter().zip(&definitions).map(|(kind, (definition, _))| {
            let resource = Arc::clone(definition.storage()) as Arc<dyn AnyResource>;
            let served = resource.served()[0];
            // Its cache stays empty, which makes it a target like any other resource.
            (kind, served, Arc::new(Cache::new(resource, Arc::new(Progress::default()))))
        });
        Self {
            resources: resources.collect(),
            collector: Collector::new(dialer, resolution),
            definitions,
        }
    }

    /// What discovery and OpenAPI tell of it.
    pub(crate) fn definitions(&self) -> &[Made] {
        &self.definitions
    }

    /// The resource at a request's path.
    ///
    /// # Errors
    /// 404 where the group has nothing of that name.
    pub(crate) fn find(&self, info: &RequestInfo) -> Option<Result<(Kind, Target), Status>> {
        if info.group != GROUP {
            return None;
        }
        let found = self.resources.iter().find(|(_, served, _)| {
            let facts = served.facts;
            facts.version == info.version
                && facts.resource == info.resource
                && (facts.namespaced || info.namespace.is_empty())
        });
        Some(found.filter(|_| info.subresource.is_empty()).ok_or_else(Status::no_route).map(
            |(kind, served, cache)| {
                let target = Target {
                    resource: Arc::clone(cache.resource()),
                    cache: Arc::clone(cache),
                    served: *served,
                    namespace: info.namespace.clone(),
                    conversion: None,
                };
                (*kind, target)
            },
        ))
    }
}

fn made(definition: &Value) -> Option<Made> {
    let text = apimachinery::json::to_vec(definition);
    let made_of = Sha256::digest(&text).into();
    let stored = Arc::new(Obj::of(definition).ok()?);
    let made = Definition::with_verbs(definition, &stored, metrics::resources::VERBS).ok()?;
    Some((Arc::new(made), made_of))
}

/// What tells of the group in a cluster: its APIService and the role of its readers; nothing where it is not served.
#[must_use]
pub fn objects(server: &Server) -> Vec<Value> {
    if server.node_metrics.is_none() {
        return Vec::new();
    }
    metrics::resources::objects(&apimachinery::time::format_time(server.clock.now()))
}

/// Answers a request for the metrics of nodes or pods.
pub(crate) async fn answer(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    own: &NodeMetrics,
    (kind, target): (Kind, Target),
) -> Result<Response<Body>, Status> {
    exchange.facts = Some(target.served.facts);
    let verb = exchange.info.verb;
    if exchange.parts.method == Method::HEAD || !metrics::resources::VERBS.contains(&verb) {
        return Err(Status::method_not_allowed());
    }
    let form = negotiate(exchange)?;
    let objects = wanted(server, exchange, kind, &target)?;
    let nodes = nodes_of(server, kind, &objects);
    own.collector.refresh(&nodes).await;
    let measured: Vec<Measured> =
        objects.iter().filter_map(|it| measure(&own.collector, kind, it)).collect();
    let now = server.clock.now();
    let name = &exchange.info.name;
    let value = match (form.transform, verb) {
        (Transform::Table(version), _) => kind.table(&measured, now, version),
        (Transform::Partial(_), _) => {
            return Err(Status::not_acceptable(
                "only the following media types are accepted: application/json, application/yaml",
            ));
        }
        (Transform::None, "list") => kind.list(&measured, now),
        (Transform::None, _) => match measured.first() {
            Some(it) => kind.object(it, now),
            None => Value::Null,
        },
    };
    if verb == "get" && measured.is_empty() {
        let whose = match target.namespace.as_str() {
            "" => name.to_string(),
            namespace => format!("{namespace}/{name}"),
        };
        return Err(Status::not_found(target.group_resource(), &whose));
    }
    Ok(respond::plain(form, 200, &value))
}

/// The nodes or pods that are asked about.
fn wanted(
    server: &Server,
    exchange: &Exchange,
    kind: Kind,
    target: &Target,
) -> Result<Vec<Arc<Obj>>, Status> {
    let resource = match kind {
        Kind::Node => "nodes",
        Kind::Pod => "pods",
    };
    let cache = server.catalog.built_in().place("", resource);
    let Some(cache) = cache.map(|place| server.hub.cache(place)) else {
        return Ok(Vec::new());
    };
    let (namespace, name) = (&target.namespace, &exchange.info.name);
    if exchange.info.verb == "get" {
        let of = GroupResource { group: "", resource };
        let found = cache.get(&cache_key(namespace, name));
        let whose =
            if namespace.is_empty() { name.to_string() } else { format!("{namespace}/{name}") };
        return found.map(|it| vec![it]).ok_or_else(|| Status::not_found(of, &whose));
    }
    let selection = Selection::of(&exchange.query, target)?;
    Ok(cache.snapshot(namespace, 0, |it| selection.matches(it)).objects.into_objects())
}

/// The nodes whose agents know about these.
fn nodes_of(server: &Server, kind: Kind, objects: &[Arc<Obj>]) -> Vec<Value> {
    let decoded = objects.iter().filter_map(|it| it.to_value().ok());
    if kind == Kind::Node {
        return decoded.collect();
    }
    let names: std::collections::BTreeSet<String> =
        decoded.map(|pod| pod.str_at(&["spec", "nodeName"]).to_owned()).collect();
    let cache = server.catalog.built_in().place("", "nodes");
    let Some(cache) = cache.map(|place| server.hub.cache(place)) else { return Vec::new() };
    names.iter().filter_map(|name| cache.get(name)?.to_value().ok()).collect()
}

fn measure(collector: &Collector, kind: Kind, object: &Obj) -> Option<Measured> {
    let value = object.to_value().ok()?;
    let (namespace, name) = (object.facts.namespace.as_str(), object.facts.name.as_str());
    let parts = match kind {
        Kind::Node => {
            let (before, now) = collector.samples(name)?;
            std::iter::once((String::new(), node_use(&before, &now)?)).collect()
        }
        Kind::Pod => {
            let (before, now) = collector.samples(value.str_at(&["spec", "nodeName"]))?;
            pod_use(&before, &now, namespace, name)?
        }
    };
    let labels = value.at(&["metadata", "labels"]).cloned();
    Some(Measured { namespace: namespace.into(), name: name.into(), labels, parts })
}
