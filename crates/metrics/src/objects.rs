//! The objects of `metrics.k8s.io` and their tables, as metrics-server writes them.

use std::collections::BTreeMap;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Object, Value, time, value};
use jiff::Timestamp;

use crate::usage::Use;

/// The group and version.
pub const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `NodeMetrics`
    Node,
    /// `PodMetrics`
    Pod,
}

/// What a node or a pod used.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Its namespace; empty for a node.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels, if it has any.
    pub labels: Option<Value>,
    /// By container; a node has one without a name.
    pub parts: BTreeMap<String, Use>,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "NodeMetrics",
            Self::Pod => "PodMetrics",
        }
    }

    /// The object itself.
    #[must_use]
    pub fn object(self, measured: &Measured, now: Timestamp) -> Value {
        let mut object = value!({"kind": (self.name()), "apiVersion": API_VERSION});
        for (name, member) in
            self.item(measured, now).as_object().into_iter().flat_map(Object::iter)
        {
            object.set_at(&[name], member.clone());
        }
        object
    }

    /// The object as it stands in a list.
    fn item(self, measured: &Measured, now: Timestamp) -> Value {
        let mut item = value!({
            "metadata": (metadata(measured, now)),
            "timestamp": (timestamp(measured)), "window": (window(measured))
        });
        match self {
            Self::Node => item.set_at(&["usage"], usage(&total(measured))),
            Self::Pod => {
                let parts = measured.parts.iter();
                let parts =
                    parts.map(|(name, it)| value!({"name": (name.as_str()), "usage": (usage(it))}));
                item.set_at(&["containers"], parts.collect::<Value>());
            }
        }
        item
    }

    /// A list.
    #[must_use]
    pub fn list(self, all: &[Measured], now: Timestamp) -> Value {
        let kind = format!("{}List", self.name());
        let items: Value = all.iter().map(|it| self.item(it, now)).collect();
        value!({"kind": kind, "apiVersion": API_VERSION, "metadata": {}, "items": items})
    }

    /// A table of this version of `meta.k8s.io`. One without rows has no columns, as upstream's.
    #[must_use]
    pub fn table(self, all: &[Measured], now: Timestamp, version: &str) -> Value {
        let column = |name: &str, format: &str, description: &str| value!({"name": name, "type": "string", "format": format, "description": description, "priority": 0});
        let columns = vec![
            column("Name", "name", "Name of the resource"),
            column("cpu", "quantity", ""),
            column("memory", "quantity", ""),
            column("Window", "duration", ""),
        ];
        let columns = if all.is_empty() { Value::Null } else { Value::Array(columns) };
        let row = |it: &Measured| {
            let used = usage(&total(it));
            value!({
                "cells": [(it.name.as_str()), (used.str_at(&["cpu"])), (used.str_at(&["memory"])), (window(it))],
                "object": (self.object(it, now))
            })
        };
        let rows: Value = all.iter().map(row).collect();
        value!({"kind": "Table", "apiVersion": (format!("meta.k8s.io/{version}")), "metadata": {},
            "columnDefinitions": columns, "rows": rows})
    }
}

fn metadata(measured: &Measured, now: Timestamp) -> Value {
    let mut metadata = value!({"name": (measured.name.as_str())});
    if !measured.namespace.is_empty() {
        metadata.set_at(&["namespace"], measured.namespace.as_str());
    }
    metadata.set_at(&["creationTimestamp"], time::format_time(now).as_str());
    if let Some(labels) = &measured.labels {
        metadata.set_at(&["labels"], labels.clone());
    }
    metadata
}

/// All containers together.
fn total(measured: &Measured) -> Use {
    let parts = measured.parts.values();
    let zero = Use { at_ms: 0, window_ms: 0, nano_cores: 0, memory_bytes: 0 };
    parts.fold(zero, |sum, it| Use {
        nano_cores: sum.nano_cores.saturating_add(it.nano_cores),
        memory_bytes: sum.memory_bytes.saturating_add(it.memory_bytes),
        ..sum
    })
}

fn usage(it: &Use) -> Value {
    let signed = |value| i64::try_from(value).unwrap_or(i64::MAX);
    let cpu = Quantity::parse(&format!("{}n", it.nano_cores));
    let cpu = cpu.map(|it| it.to_text().to_string()).unwrap_or_default();
    let memory = Quantity::new(signed(it.memory_bytes), Format::BinarySI);
    value!({"cpu": cpu, "memory": (memory.to_text().as_str())})
}

/// The container that was measured first tells the time of its pod.
fn earliest(measured: &Measured) -> Option<&Use> {
    measured.parts.values().min_by_key(|it| it.at_ms)
}

fn timestamp(measured: &Measured) -> String {
    let at = earliest(measured).map_or(0, |it| it.at_ms);
    time::format_time(Timestamp::from_millisecond(at).unwrap_or_default()).to_string()
}

fn window(measured: &Measured) -> String {
    let millis = earliest(measured).map_or(0, |it| it.window_ms);
    apimachinery::duration::Duration::from_nanos(millis.saturating_mul(1_000_000)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Measured {
        let part = |at_ms, nano_cores, memory_bytes| Use {
            at_ms,
            window_ms: at_ms - 985,
            nano_cores,
            memory_bytes,
        };
        Measured {
            namespace: "n".into(),
            name: "p".into(),
            labels: Some(value!({"app": "web"})),
            parts: BTreeMap::from([
                ("a".to_owned(), part(16_000, 1_500_000, 1 << 20)),
                ("b".to_owned(), part(17_000, 1_234_567, 4096)),
            ]),
        }
    }

    #[test]
    fn a_pod_is_written_as_metrics_server_does() {
        let object = Kind::Pod.object(&pod(), Timestamp::UNIX_EPOCH);
        let expected = value!({
            "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "p", "namespace": "n", "creationTimestamp": "1970-01-01T00:00:00Z", "labels": {"app": "web"}},
            "timestamp": "1970-01-01T00:00:16Z", "window": "15.015s",
            "containers": [
                {"name": "a", "usage": {"cpu": "1500u", "memory": "1Mi"}},
                {"name": "b", "usage": {"cpu": "1234567n", "memory": "4Ki"}}
            ]
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_table_has_a_column_for_each_resource() {
        let table = Kind::Pod.table(&[pod()], Timestamp::UNIX_EPOCH, "v1");
        let cells =
            table.at(&["rows"]).and_then(Value::as_array).unwrap()[0].items_at(&["cells"]).to_vec();
        assert_eq!(cells, ["p", "2734567n", "1028Ki", "15.015s"].map(Value::from));
        assert_eq!(table.items_at(&["columnDefinitions"]).len(), 4);
        let empty = Kind::Pod.table(&[], Timestamp::UNIX_EPOCH, "v1");
        assert!(empty.items_at(&["columnDefinitions"]).is_empty());
    }
}
