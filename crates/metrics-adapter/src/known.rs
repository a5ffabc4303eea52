//! Which metrics there are, as the series that Prometheus has and the rules tell.

use std::collections::BTreeMap;

use apimachinery::{Value, value};

use crate::kinds::{Kind, Kinds};
use crate::prometheus::Labels;
use crate::rule::Rule;

/// How many metrics are known at most; a rule may take more series than anybody wants to see.
const MAX_METRICS: usize = 50_000;

/// What a metric is made from: the series, and the place of its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) series: String,
    pub(crate) rule: usize,
}

/// A metric of objects: its resource as discovery names it, whether these are in a namespace, and its name.
type Named = (String, bool, String);

/// All metrics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    custom: BTreeMap<Named, Origin>,
    external: BTreeMap<String, Origin>,
}

impl Known {
    /// Takes the series that were found for a rule.
    pub(crate) fn learn(&mut self, place: usize, rule: &Rule, found: &[Labels], kinds: &Kinds) {
        for labels in found {
            let Some(series) = labels.get("__name__") else { continue };
            let Some(metric) = rule.metric(series) else { continue };
            if self.custom.len() + self.external.len() >= MAX_METRICS {
                tracing::warn!(MAX_METRICS, "there are more metrics than are kept");
                return;
            }
            let origin = Origin { series: series.clone(), rule: place };
            if rule.external {
                self.external.insert(metric, origin);
                continue;
            }
            let resources = rule.resources(labels, kinds);
            let namespaced = resources.iter().any(|it| is_namespaces(it));
            for resource in resources {
                let namespaced = namespaced && !is_root(resource);
                let named = (resource.name(), namespaced, metric.clone());
                self.custom.insert(named, origin.clone());
            }
        }
    }

    /// A metric of objects.
    pub(crate) fn custom(
        &self,
        resource: &Kind,
        in_namespace: bool,
        metric: &str,
    ) -> Option<&Origin> {
        self.custom.get(&(resource.name(), in_namespace, metric.to_owned()))
    }

    /// An external metric.
    pub(crate) fn external(&self, metric: &str) -> Option<&Origin> {
        self.external.get(metric)
    }

    /// As discovery tells.
    pub(crate) fn custom_resources(&self, _kinds: &Kinds) -> Vec<Value> {
        let told = self.custom.keys().map(|(resource, namespaced, metric)| {
            value!({"name": (format!("{resource}/{metric}")), "singularName": "",
                "namespaced": (*namespaced), "kind": "MetricValueList", "verbs": ["get"]})
        });
        told.collect()
    }

    /// As discovery tells.
    pub(crate) fn external_resources(&self) -> Vec<Value> {
        let told = self.external.keys().map(|metric| {
            value!({"name": (metric.as_str()), "singularName": "", "namespaced": true,
                "kind": "ExternalMetricValueList", "verbs": ["get"]})
        });
        told.collect()
    }
}

fn is_namespaces(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "namespaces"
}

/// Metrics of these are in no namespace, whatever labels their series have.
fn is_root(kind: &Kind) -> bool {
    kind.group.is_empty()
        && matches!(kind.plural.as_str(), "namespaces" | "nodes" | "persistentvolumes")
}
