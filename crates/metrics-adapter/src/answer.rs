//! Answers of both groups from Prometheus.

use std::sync::Arc;

use apimachinery::labels::Selector;
use apimachinery::{Status, Value, time, value};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::kinds::{Kind, Kinds};
use crate::known::Known;
use crate::parts::{moment, not_found, quantity, selector, unable};
use crate::prometheus::{Answer, Sample};
use crate::rule::About;
use crate::{Adapter, Asked, Source};

/// Every object that the selector takes.
const ANY: &str = "*";
/// How many objects one request may be about.
const MAX_OBJECTS: usize = 10_000;

/// A request for a metric of objects, made out.
struct Wanted<'a> {
    kind: &'a Kind,
    namespace: &'a str,
    name: &'a str,
    metric: &'a str,
}

impl<'a> Wanted<'a> {
    fn of(asked: &'a Asked, kinds: &'a Kinds) -> Result<Self, Status> {
        let (namespace, name) = (asked.namespace.as_str(), asked.name.as_str());
        // A metric of a namespace itself: namespaces/NAME/metrics/METRIC.
        if asked.resource == "metrics" && !namespace.is_empty() && asked.metric.is_empty() {
            let kind = kinds.find("", "namespaces").ok_or_else(Status::no_route)?;
            return Ok(Self { kind, namespace: "", name: namespace, metric: name });
        }
        if name.is_empty() || asked.metric.is_empty() {
            return Err(Status::no_route());
        }
        let metric = asked.metric.as_str();
        let kind = kinds.of_path(&asked.resource);
        let kind = kind.ok_or_else(|| not_found(metric, &asked.resource))?;
        Ok(Self { kind, namespace, name, metric })
    }
}

impl Adapter {
    fn source(&self) -> Result<&Source, Status> {
        self.parts.source.as_ref().ok_or_else(Status::no_route)
    }

    /// The values of a metric of one object, or of those that a selector takes.
    pub(crate) async fn custom(&self, asked: &Asked) -> Result<Vec<Value>, Status> {
        let source = self.source()?;
        let kinds = Arc::clone(&self.kinds.lock());
        let wanted = Wanted::of(asked, &kinds)?;
        let metric_selector = selector(&asked.metric_selector)?;
        let names = match wanted.name {
            ANY => self.names(&wanted, &selector(&asked.selector)?).await?,
            name => vec![name.to_owned()],
        };
        let known: Arc<Known> = Arc::clone(&self.known.lock());
        let (of, metric) = (wanted.kind.name(), wanted.metric);
        let found = known.custom(wanted.kind, !wanted.namespace.is_empty(), metric);
        let (Some(origin), false) = (found, names.is_empty()) else {
            return Err(not_found(metric, &of));
        };
        let rule = source.rules.get(origin.rule).ok_or_else(|| not_found(metric, &of))?;
        let namespaces = kinds.find("", "namespaces").ok_or_else(Status::no_route)?;
        let about =
            About { kind: wanted.kind, namespaces, namespace: wanted.namespace, names: &names };
        let query = rule.of_objects(&origin.series, about, &metric_selector, &kinds);
        let query = query.map_err(|why| unable(metric, &why))?;
        let answer = source.prometheus.query(&self.reader, &query).await;
        let Answer::Vector(samples) = answer.map_err(|why| unable(metric, &why))? else {
            return Err(unable(metric, "the query answers no vector"));
        };
        let label = rule.label_of(wanted.kind, &kinds).unwrap_or_default();
        let value_of = |name: &String| {
            let sample = samples.iter().find(|it| it.labels.get(&label) == Some(name))?;
            Some(self.object_value(asked, &wanted, name, (sample, &metric_selector)))
        };
        let values: Vec<Value> = names.iter().filter_map(value_of).collect();
        match (values.is_empty(), wanted.name) {
            (true, ANY) if samples.is_empty() => Err(not_found(metric, &of)),
            (true, name) if name != ANY => Err(not_found(metric, &format!("{of} {name}"))),
            _ => Ok(values),
        }
    }

    fn object_value(
        &self,
        asked: &Asked,
        wanted: &Wanted<'_>,
        name: &str,
        (sample, selector): (&Sample, &Selector),
    ) -> Value {
        let kind = wanted.kind;
        let mut object = value!({"kind": (kind.kind.as_str())});
        if !wanted.namespace.is_empty() {
            object.set_at(&["namespace"], wanted.namespace);
        }
        object.set_at(&["name"], name);
        // The core group's has the stroke too, as upstream.
        object.set_at(&["apiVersion"], format!("{}/{}", kind.group, kind.version));
        let selector =
            if selector.is_everything() { Value::Null } else { label_selector(selector) };
        let mut item = value!({"describedObject": object});
        if asked.version == "v1beta1" {
            item.set_at(&["metricName"], wanted.metric);
        } else {
            item.set_at(
                &["metric"],
                value!({"name": (wanted.metric), "selector": (selector.clone())}),
            );
        }
        item.set_at(&["timestamp"], time::format_time(self.parts.clock.now()).as_str());
        item.set_at(&["value"], quantity(sample.value));
        if asked.version == "v1beta1" {
            item.set_at(&["selector"], selector);
        }
        item
    }

    /// The names of the objects that a selector takes.
    async fn names(&self, wanted: &Wanted<'_>, selector: &Selector) -> Result<Vec<String>, Status> {
        let text = selector.to_string();
        let query = utf8_percent_encode(&text, NON_ALPHANUMERIC);
        let path = format!("{}?labelSelector={query}", wanted.kind.path(wanted.namespace));
        let list = self.parts.client.read(&path).await.map_err(|error| {
            tracing::warn!(path, %error, "objects of a metric could not be listed");
            Status::internal("unable to list matching resources")
        })?;
        let items = list.items_at(&["items"]);
        if items.len() > MAX_OBJECTS {
            return Err(Status::internal(format!("more than {MAX_OBJECTS} objects match")));
        }
        Ok(items.iter().map(|it| it.str_at(&["metadata", "name"]).to_owned()).collect())
    }

    /// The values of an external metric.
    pub(crate) async fn external(&self, asked: &Asked) -> Result<Vec<Value>, Status> {
        let (metric, of) = (asked.resource.as_str(), of_namespace(&asked.namespace));
        let Some(source) = &self.parts.source else { return Err(not_found(metric, of)) };
        let selector = selector(&asked.selector)?;
        let kinds = Arc::clone(&self.kinds.lock());
        let known = Arc::clone(&self.known.lock());
        let found = known.external(metric).and_then(|it| Some((it, source.rules.get(it.rule)?)));
        let Some((origin, rule)) = found else { return Err(not_found(metric, of)) };
        let query = rule.of_external(&origin.series, &asked.namespace, &selector, &kinds);
        let query = query.map_err(|why| unable(metric, &why))?;
        let answer = source.prometheus.query(&self.reader, &query).await;
        let samples = match answer.map_err(|why| unable(metric, &why))? {
            Answer::Vector(samples) => samples,
            Answer::Scalar(sample) => vec![sample],
        };
        let now = self.parts.clock.now();
        let item = |it: &Sample| external_value(metric, &it.labels, &moment(it.at, now), it.value);
        Ok(samples.iter().map(item).collect())
    }
}

/// What upstream says an external metric was asked for.
fn of_namespace(namespace: &str) -> &'static str {
    if namespace == "default" { "namespaces" } else { "" }
}

/// One value of an external metric.
pub(crate) fn external_value(
    metric: &str,
    labels: &crate::prometheus::Labels,
    at: &str,
    value: f64,
) -> Value {
    let labels = match labels.is_empty() {
        true => Value::Null,
        false => {
            Value::Object(labels.iter().fold(apimachinery::Object::new(), |mut all, (name, it)| {
                all.insert(name.as_str(), it.as_str());
                all
            }))
        }
    };
    value!({"metricName": metric, "metricLabels": labels, "timestamp": at, "value": (quantity(value))})
}

/// A selector in the form of objects.
fn label_selector(selector: &Selector) -> Value {
    use apimachinery::labels::Operator;
    let mut told = Value::object();
    let mut expressions = Vec::new();
    for it in selector.requirements() {
        let values: Value = it.values().iter().map(AsRef::<str>::as_ref).collect();
        let operator = match it.operator() {
            Operator::Equals | Operator::DoubleEquals => {
                let value: &str = it.values().first().map_or("", AsRef::as_ref);
                told.set_at(&["matchLabels", it.key()], value);
                continue;
            }
            Operator::In => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan => "Gt",
            Operator::LessThan => "Lt",
        };
        let mut expression = value!({"key": (it.key()), "operator": operator});
        if !it.values().is_empty() {
            expression.set_at(&["values"], values);
        }
        expressions.push(expression);
    }
    if !expressions.is_empty() {
        told.set_at(&["matchExpressions"], expressions);
    }
    told
}
