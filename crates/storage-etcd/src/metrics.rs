//! What is counted of requests to etcd, in upstream's names, by the resource whose keys they are about.
//!
//! Who opens the store says whose keys begin with what. What a request counts is found by the beginning of its key.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use component_base::metrics::Histogram;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use storage::{Key, StorageError};
use tokio::time::Instant;

/// What keys begin with, in the names of the API server.
const ROOT: &str = "/registry/";
/// Upstream's buckets of `etcd_request_duration_seconds`.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
/// Upstream's buckets of `etcd_lease_object_counts`.
const LEASES: [f64; 7] = [10.0, 50.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0];

/// What is asked for, as upstream calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    List,
    Create,
    Update,
    Delete,
}

const OPERATIONS: [&str; 5] = ["get", "list", "create", "update", "delete"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    group: String,
    operation: &'static str,
    resource: String,
}

/// What is counted of one operation on one resource.
#[derive(Debug)]
struct Series {
    requests: Counter,
    errors: Counter,
    took: Histogram,
}

/// A resource, and what is counted of it, from the first use on.
#[derive(Debug)]
struct Named {
    group: String,
    resource: String,
    series: [OnceLock<Series>; 5],
}

impl Named {
    fn new(group: String, resource: String) -> Arc<Self> {
        Arc::new(Self { group, resource, series: Default::default() })
    }
}

/// What is counted; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<All>);

#[derive(Debug)]
struct All {
    requests: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    leases: Histogram,
    by_prefix: BTreeMap<String, Arc<Named>>,
    /// Others, whose keys say what they are of: custom resources.
    others: RwLock<BTreeMap<String, Arc<Named>>>,
    /// Of what is read of all resources at once.
    everything: Arc<Named>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new([])
    }
}

impl Metrics {
    /// Keys with these prefixes are of these groups and resources, others of what they say (`/registry/GROUP/RESOURCE/`).
    #[must_use]
    pub fn new(named: impl IntoIterator<Item = (String, (String, String))>) -> Self {
        let named = named.into_iter();
        let by_prefix =
            named.map(|(prefix, (group, resource))| (prefix, Named::new(group, resource)));
        Self(Arc::new(All {
            requests: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::seconds(&DURATIONS)),
            leases: Histogram::numbers(&LEASES),
            by_prefix: by_prefix.collect(),
            others: RwLock::default(),
            everything: Named::new(String::new(), String::new()),
        }))
    }

    /// Tells a registry of all of it.
    pub fn register(&self, registry: &mut Registry) {
        let All { requests, errors, durations, leases, .. } = &*self.0;
        registry.register("etcd_requests", "Requests to etcd", requests.clone());
        registry.register("etcd_request_errors", "Requests to etcd that failed", errors.clone());
        let help = "How long requests to etcd took";
        registry.register("etcd_request_duration_seconds", help, durations.clone());
        let help = "How many keys shared a lease, once no more do";
        registry.register("etcd_lease_object_counts", help, leases.clone());
    }

    /// Counts a request that began then. What was refused since something else is stored than expected has not failed.
    pub(crate) fn count<T>(
        &self,
        operation: Operation,
        key: &Key,
        (began, result): (Instant, &Result<T, StorageError>),
    ) {
        let named = self.named(key);
        let series = named.series[operation as usize].get_or_init(|| {
            let (group, resource) = (named.group.clone(), named.resource.clone());
            let of = Labels { group, operation: OPERATIONS[operation as usize], resource };
            Series {
                requests: self.0.requests.get_or_create_owned(&of),
                errors: self.0.errors.get_or_create_owned(&of),
                took: self.0.durations.get_or_create_owned(&of),
            }
        });
        series.requests.inc();
        series.took.observe(began.elapsed());
        let is_answer = matches!(
            result,
            Ok(_)
                | Err(StorageError::Exists { .. }
                    | StorageError::NotFound { .. }
                    | StorageError::Conflict { .. })
        );
        if !is_answer {
            series.errors.inc();
        }
    }

    /// No more keys share a lease.
    pub(crate) fn lease(&self, keys: u32) {
        self.0.leases.observe_number(keys as usize);
    }

    fn named(&self, key: &Key) -> Arc<Named> {
        let all = &*self.0;
        let of = |text: &str| {
            let mut end = ROOT.len();
            for _ in 0..2 {
                end += text.get(end..)?.find('/')? + 1;
                if let Some(found) = all.by_prefix.get(&text[..end]) {
                    return Some(Arc::clone(found));
                }
            }
            let prefix = &text[..end];
            if let Some(found) = all.others.read().get(prefix) {
                return Some(Arc::clone(found));
            }
            let (group, resource) = text[ROOT.len()..end - 1].split_once('/')?;
            let named = Named::new(group.to_owned(), resource.to_owned());
            Some(Arc::clone(all.others.write().entry(prefix.to_owned()).or_insert(named)))
        };
        let text = std::str::from_utf8(key.as_bytes()).ok();
        text.and_then(of).unwrap_or_else(|| Arc::clone(&all.everything))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_whose_keys_they_are_about() {
        let named = [("/registry/minions/".to_owned(), (String::new(), "nodes".to_owned()))];
        let metrics = Metrics::new(named);
        let count = |operation, key: &str, result: Result<(), StorageError>| {
            metrics.count(operation, &Key::from(key), (Instant::now(), &result));
        };
        count(Operation::Get, "/registry/minions/n1", Ok(()));
        let key = Key::from("/registry/minions/n1");
        count(Operation::Get, "/registry/minions/n1", Err(StorageError::NotFound { key }));
        count(
            Operation::Create,
            "/registry/a.b/cs/ns/n",
            Err(StorageError::Unavailable("".into())),
        );
        count(Operation::List, "/registry/", Ok(()));
        metrics.lease(12);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let text = component_base::metrics::text(&registry);
        for line in [
            "etcd_requests_total{group=\"\",operation=\"get\",resource=\"nodes\"} 2",
            "etcd_request_errors_total{group=\"\",operation=\"get\",resource=\"nodes\"} 0",
            "etcd_requests_total{group=\"a.b\",operation=\"create\",resource=\"cs\"} 1",
            "etcd_request_errors_total{group=\"a.b\",operation=\"create\",resource=\"cs\"} 1",
            "etcd_request_duration_seconds_count{group=\"\",operation=\"list\",resource=\"\"} 1",
            "etcd_lease_object_counts_sum 12.0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
