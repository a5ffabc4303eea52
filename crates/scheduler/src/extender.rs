//! Extenders: others that have a say over HTTP about nodes, scores, victims and bindings (`k8s.io/kube-scheduler/extender/v1`).
//!
//! What they say is checked: they name nodes and pods that they were told of, or they are not believed. How a request
//! travels is somebody else's business.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use apimachinery::{Object, Value, json, value};
use async_trait::async_trait;
use bytes::Bytes;
use client::Store;
use compact_str::CompactString;

use crate::cluster::Cluster;
use crate::config::ExtenderConfig;
use crate::decide::Others;
use crate::framework::Rejection;
use crate::pod::PodLite;
use crate::preemption::Candidate;

/// The most bytes of an answer that are read.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Extenders score to 10, plugins to 100.
const SCORE_SCALE: i64 = 10;

/// Sends requests to one extender.
#[async_trait]
pub trait Post: Send + Sync + Debug {
    /// Posts JSON to a URL; the status and at most [`MAX_ANSWER_BYTES`] of the answer come back. Takes no longer than the
    /// extender's configuration allows.
    ///
    /// # Errors
    /// When there is no answer, in the words of Go's client where it has some.
    async fn post(&self, url: &str, body: Bytes) -> Result<(u16, Bytes), String>;
}

/// An extender.
#[derive(Debug, Clone)]
pub struct Extender {
    config: Arc<ExtenderConfig>,
    way: Arc<dyn Post>,
}

/// Where whole objects are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Objects<'a> {
    pub(crate) pods: &'a Store,
    pub(crate) nodes: &'a Store,
}

impl Extender {
    /// An extender that is reached this way.
    #[must_use]
    pub fn new(config: &ExtenderConfig, way: Arc<dyn Post>) -> Self {
        Self { config: Arc::new(config.clone()), way }
    }

    /// Whether a pod is shown to it.
    pub(crate) fn is_interested(&self, pod: &PodLite) -> bool {
        let managed = &self.config.managed_resources;
        let asks = |name: &str| pod.requests.exact.scalars.iter().any(|(it, _)| it == name);
        managed.is_empty() || managed.iter().any(|it| asks(&it.name))
    }

    /// Whether it binds pods.
    pub(crate) fn binds(&self) -> bool {
        !self.config.bind_verb.is_empty()
    }

    async fn call(&self, verb: &str, request: &Value) -> Result<Value, String> {
        let url = format!("{}/{verb}", self.config.url_prefix.trim_end_matches('/'));
        let (code, answer) = self.way.post(&url, json::to_vec(request).into()).await?;
        if code != 200 {
            return Err(format!("failed {verb} with extender at URL {url}, code {code}"));
        }
        json::parse(&answer).map_err(|error| error.to_string())
    }

    /// The nodes by name, or whole for an extender that keeps none.
    fn nodes(&self, nodes: &[CompactString], objects: Objects<'_>, request: &mut Value) {
        if self.config.node_cache_capable {
            let names = nodes.iter().map(|it| Value::from(it.as_str())).collect();
            request.set_at(&["nodenames"], Value::Array(names));
            return;
        }
        let key = |name: &CompactString| client::ObjectKey::new("", name.clone());
        let found = nodes.iter().filter_map(|it| objects.nodes.get(&key(it)));
        let items = found.map(|it| it.to_value()).collect();
        request.set_at(&["nodes"], value!({"metadata": {}, "items": (Value::Array(items))}));
    }

    /// Takes out the nodes that the extender refuses, and notes why.
    ///
    /// # Errors
    /// When it fails, and that matters.
    async fn filter(
        &self,
        pod: &Value,
        nodes: &mut Vec<CompactString>,
        objects: Objects<'_>,
        others: &mut Others,
    ) -> Result<(), String> {
        let mut request = value!({"pod": (pod.clone())});
        self.nodes(nodes, objects, &mut request);
        let answer = self.call(&self.config.filter_verb, &request).await?;
        let error = member(&answer, "error").and_then(Value::as_str).unwrap_or_default();
        if !error.is_empty() {
            return Err(error.to_owned());
        }
        let left = self.left(&answer, nodes)?;
        let told = |name: &str| -> BTreeMap<CompactString, String> {
            let members = member(&answer, name).and_then(Value::as_object);
            let members = members.into_iter().flat_map(Object::iter);
            members
                .map(|(node, why)| (node.into(), why.as_str().unwrap_or_default().into()))
                .collect()
        };
        let (for_now, for_good) = (told("failedNodes"), told("failedAndUnresolvableNodes"));
        for node in nodes.iter().filter(|it| !left.contains(it)) {
            let why = match (for_good.get(node), for_now.get(node)) {
                (Some(why), _) => Rejection::for_good(why.clone()),
                (None, Some(why)) => {
                    Rejection { unresolvable: false, ..Rejection::for_good(why.clone()) }
                }
                // It says nothing of this one.
                (None, None) => Rejection { reasons: Default::default(), unresolvable: true },
            };
            others.refused.insert(node.clone(), why);
        }
        *nodes = left;
        Ok(())
    }

    /// The nodes that an answer leaves.
    fn left(&self, answer: &Value, asked: &[CompactString]) -> Result<Vec<CompactString>, String> {
        let names = member(answer, "nodenames").and_then(Value::as_array);
        let names: Vec<&str> = match names.filter(|_| self.config.node_cache_capable) {
            Some(names) => names.iter().filter_map(Value::as_str).collect(),
            None => {
                let items = member(answer, "nodes").map_or(&[][..], |it| it.items_at(&["items"]));
                items.iter().map(|it| it.str_at(&["metadata", "name"])).collect()
            }
        };
        let unknown = names.iter().find(|name| !asked.iter().any(|it| it == *name));
        if let Some(unknown) = unknown {
            let url = &self.config.url_prefix;
            return Err(format!(
                "extender \"{url}\" claims a filtered node \"{unknown}\" which is not found in the input node list"
            ));
        }
        Ok(names.into_iter().map(Into::into).collect())
    }

    /// Adds its scores.
    ///
    /// # Errors
    /// When it fails.
    async fn prioritize(
        &self,
        pod: &Value,
        nodes: &[CompactString],
        objects: Objects<'_>,
        others: &mut Others,
    ) -> Result<(), String> {
        let mut request = value!({"pod": (pod.clone())});
        self.nodes(nodes, objects, &mut request);
        let answer = self.call(&self.config.prioritize_verb, &request).await?;
        for item in answer.as_array().unwrap_or_default() {
            let host = member(item, "host").and_then(Value::as_str).unwrap_or_default();
            let score = member(item, "score").and_then(Value::as_i64).unwrap_or_default();
            if nodes.iter().any(|it| it == host) {
                let weighted = score.saturating_mul(self.config.weight).saturating_mul(SCORE_SCALE);
                let sum = others.scores.entry(host.into()).or_default();
                // Kept far from where a sum with the plugins' scores would overflow.
                *sum = sum.saturating_add(weighted).clamp(i64::MIN / 4, i64::MAX / 4);
            }
        }
        Ok(())
    }

    /// Has it think about victims.
    ///
    /// # Errors
    /// When it fails, or names pods that are not there.
    async fn preempt(
        &self,
        pod: &Value,
        candidates: &[Candidate],
        cluster: &Cluster,
        objects: Objects<'_>,
    ) -> Result<Vec<Candidate>, String> {
        let whole = !self.config.node_cache_capable;
        let mut by_node = Value::object();
        for it in candidates {
            let pods = it.victims.iter().filter_map(|victim| {
                if !whole {
                    return Some(value!({"uid": (victim.uid.as_str())}));
                }
                Some(objects.pods.get(&victim.key)?.to_value())
            });
            let violations = i64::try_from(it.violations).unwrap_or(i64::MAX);
            let pods = Value::Array(pods.collect());
            by_node.set_at(&[&it.node], value!({"pods": pods, "numPDBViolations": violations}));
        }
        let name = if whole { "nodeNameToVictims" } else { "nodeNameToMetaVictims" };
        let mut request = value!({"pod": (pod.clone())});
        request.set_at(&[name], by_node);
        let answer = self.call(&self.config.preempt_verb, &request).await?;
        let members = member(&answer, "nodeNameToMetaVictims").and_then(Value::as_object);
        let members = members.into_iter().flat_map(Object::iter);
        let candidates = members.map(|(node, victims)| self.candidate(node, victims, cluster));
        let mut candidates = candidates.collect::<Result<Vec<_>, _>>()?;
        if self.config.ignorable {
            candidates.retain(|it| !it.victims.is_empty());
        }
        match candidates.iter().find(|it| it.victims.is_empty()) {
            Some(it) => Err(format!("expected at least one victim pod on node \"{}\"", it.node)),
            None => Ok(candidates),
        }
    }

    fn candidate(
        &self,
        node: &str,
        victims: &Value,
        cluster: &Cluster,
    ) -> Result<Candidate, String> {
        let row = cluster.row(node).ok_or_else(|| format!("node \"{node}\" not found"))?;
        let listed = member(victims, "pods").and_then(Value::as_array).unwrap_or_default();
        let mut pods = Vec::with_capacity(listed.len());
        for item in listed {
            let uid = member(item, "uid").and_then(Value::as_str).unwrap_or_default();
            let found = row.pods.iter().find(|it| it.uid == uid).ok_or_else(|| {
                format!(
                    "extender: {} claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on \
                     that node",
                    self.config.url_prefix
                )
            })?;
            pods.push(Arc::clone(found));
        }
        let violations = member(victims, "numPDBViolations").and_then(Value::as_i64);
        let violations = violations.and_then(|it| usize::try_from(it).ok()).unwrap_or_default();
        Ok(Candidate { node: node.into(), victims: pods.into(), violations })
    }

    /// Has it bind a pod.
    ///
    /// # Errors
    /// When it fails, or says that it could not.
    pub(crate) async fn bind(&self, pod: &PodLite) -> Result<(), String> {
        let request = value!({
            "podName": (pod.key.name.as_str()), "podNamespace": (pod.key.namespace.as_str()),
            "podUID": (pod.uid.as_str()), "node": (pod.node.as_str())
        });
        let answer = self.call(&self.config.bind_verb, &request).await?;
        match member(&answer, "error").and_then(Value::as_str) {
            None | Some("") => Ok(()),
            Some(error) => Err(error.to_owned()),
        }
    }
}

/// A member by its name, in whichever case: Go's decoder takes any, and extenders rely on it.
fn member<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let found = value.get(name).or_else(|| {
        let mut members = value.as_object()?.iter();
        members.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    });
    found.filter(|it| !it.is_null())
}

/// Asks extenders, one after another, about the nodes that will do by the plugins.
///
/// # Errors
/// When one fails that pods are not placed without.
pub(crate) async fn ask(
    extenders: &[Extender],
    pod: &PodLite,
    value: &Value,
    mut nodes: Vec<CompactString>,
    objects: Objects<'_>,
) -> Result<Others, String> {
    let mut others = Others::default();
    let interested = || extenders.iter().filter(|it| it.is_interested(pod));
    for extender in interested().filter(|it| !it.config.filter_verb.is_empty()) {
        if nodes.is_empty() {
            break;
        }
        if let Err(error) = extender.filter(value, &mut nodes, objects, &mut others).await {
            extender.ignore(error, "could not filter nodes")?;
        }
    }
    if nodes.len() < 2 {
        return Ok(others);
    }
    for extender in interested().filter(|it| !it.config.prioritize_verb.is_empty()) {
        // Scores are wishes: pods are placed without.
        if let Err(error) = extender.prioritize(value, &nodes, objects, &mut others).await {
            let extender = &extender.config.url_prefix;
            tracing::warn!(extender, error, "an extender could not score nodes");
        }
    }
    Ok(others)
}

/// Asks extenders about victims.
///
/// # Errors
/// When one fails that pods are not placed without.
pub(crate) async fn ask_about_victims(
    extenders: &[Extender],
    pod: &PodLite,
    value: &Value,
    mut candidates: Vec<Candidate>,
    cluster: &Cluster,
    objects: Objects<'_>,
) -> Result<Vec<Candidate>, String> {
    let asked = extenders.iter().filter(|it| !it.config.preempt_verb.is_empty());
    for extender in asked.filter(|it| it.is_interested(pod)) {
        if candidates.is_empty() {
            break;
        }
        match extender.preempt(value, &candidates, cluster, objects).await {
            Ok(left) => candidates = left,
            Err(error) => extender.ignore(error, "could not say which pods to preempt")?,
        }
    }
    Ok(candidates)
}

impl Extender {
    /// Goes on without it, where that may be.
    ///
    /// # Errors
    /// The error, where it may not be.
    pub(crate) fn ignore(&self, error: String, what: &str) -> Result<(), String> {
        if !self.config.ignorable {
            return Err(error);
        }
        let extender = &self.config.url_prefix;
        tracing::warn!(extender, error, "an extender {what}: going on without it");
        Ok(())
    }
}
