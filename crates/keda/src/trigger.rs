//! Triggers: what their metadata says, what their metrics are called, and what a trigger by the clock says now.

use apimachinery::cron::Schedule;
use apimachinery::{Value, value};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::location::Location;

/// What one trigger measures, read and checked.
#[derive(Debug, Clone)]
pub enum Measure {
    /// So many replicas between two times.
    Cron(Cron),
    /// A query of Prometheus.
    Prometheus(PromQl),
    /// A number in a document, such as the length of a queue.
    MetricsApi(MetricsApi),
    /// What pods use, which the autoscaler reads itself.
    Resource {
        /// `cpu` or `memory`.
        name: &'static str,
        /// The container, where it is one of each pod only.
        container: Option<String>,
    },
}

/// One trigger of a ScaledObject.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// Its place in the list.
    pub index: usize,
    /// What it measures.
    pub measure: Measure,
    /// `AverageValue`, `Value`, `Utilization`.
    pub metric_type: String,
    /// What the autoscaler aims at.
    pub target: f64,
    /// Above this it is active.
    pub activation: f64,
}

/// A time of the day, of the week, of the year.
#[derive(Debug, Clone)]
pub struct Cron {
    zone: TimeZone,
    start: Schedule,
    end: Schedule,
    desired: i64,
    name: String,
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromQl {
    /// `http://prometheus.monitoring.svc:9090`
    pub server: String,
    /// The query.
    pub query: String,
    /// Whether no result is zero, instead of a failure.
    pub ignores_null: bool,
}

/// A document with a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsApi {
    /// Where it is read.
    pub url: String,
    /// Where in it the number is.
    pub location: Location,
}

impl Cron {
    /// Whether the time lies between a start and the end that follows it.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        let next = |schedule: &Schedule| schedule.next(now, &self.zone);
        match (next(&self.start), next(&self.end)) {
            (Some(start), Some(end)) => end < start,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// How many replicas are wanted now.
    #[must_use]
    pub fn value(&self, now: Timestamp) -> i64 {
        if self.is_active(now) { self.desired } else { 1 }
    }

    /// When that changes next.
    #[must_use]
    pub fn changes_after(&self, now: Timestamp) -> Option<Timestamp> {
        let times = [&self.start, &self.end].into_iter();
        times.filter_map(|it| it.next(now, &self.zone)).min()
    }
}

/// The members of a trigger's metadata, which are all text.
struct Metadata<'v> {
    kind: &'v str,
    value: &'v Value,
}

impl<'v> Metadata<'v> {
    fn text(&self, name: &str) -> &'v str {
        self.value.str_at(&[name])
    }

    fn needed(&self, name: &str) -> Result<&'v str, String> {
        match self.text(name) {
            "" => Err(format!("error parsing {} metadata: no {name} given", self.kind)),
            text => Ok(text),
        }
    }

    fn number(&self, name: &str, text: &str) -> Result<f64, String> {
        let number = text.parse::<f64>().ok().filter(|it| it.is_finite());
        number.ok_or_else(|| {
            format!(
                "error parsing {} metadata: error parsing {name}: {text:?} is no number",
                self.kind
            )
        })
    }

    /// A number that is 0 where it is not given.
    fn or_zero(&self, name: &str) -> Result<f64, String> {
        match self.text(name) {
            "" => Ok(0.0),
            text => self.number(name, text),
        }
    }

    /// What would change the outcome and is not built may not be there.
    fn without(&self, names: &[&str]) -> Result<(), String> {
        match names.iter().find(|it| !matches!(self.text(it), "" | "false")) {
            Some(name) => Err(format!("{} trigger: {name} is not supported here", self.kind)),
            None => Ok(()),
        }
    }
}

impl Trigger {
    /// Reads the trigger at this place of a ScaledObject.
    ///
    /// # Errors
    /// What is wrong with it, or what of it is not built.
    pub fn parse(index: usize, trigger: &Value) -> Result<Self, String> {
        let kind = trigger.str_at(&["type"]);
        let empty = Value::object();
        let metadata = Metadata { kind, value: trigger.get("metadata").unwrap_or(&empty) };
        if trigger.get("authenticationRef").is_some_and(|it| !it.is_null()) {
            return Err(format!("{kind} trigger: authenticationRef is not supported here"));
        }
        let metric_type = trigger.str_at(&["metricType"]);
        let (measure, target, activation) = match kind {
            "cron" => (cron(&metadata)?, 1.0, 0.0),
            "prometheus" => {
                let target = metadata.number("threshold", metadata.needed("threshold")?)?;
                (prometheus(&metadata)?, target, metadata.or_zero("activationThreshold")?)
            }
            "metrics-api" => {
                let target = metadata.number("targetValue", metadata.needed("targetValue")?)?;
                (metrics_api(&metadata)?, target, metadata.or_zero("activationTargetValue")?)
            }
            "cpu" | "memory" => return resource(index, &metadata, metric_type),
            "azure-queue" => return Err(azure_queue(&metadata)),
            "" => return Err(format!("trigger {index} has no type")),
            other => return Err(format!("no scaler found for type: {other}")),
        };
        if target <= 0.0 {
            return Err(format!("error parsing {kind} metadata: the target must be above 0"));
        }
        let metric_type = match metric_type {
            "" => "AverageValue",
            "AverageValue" => metric_type,
            "Value" if kind != "cron" => metric_type,
            other => {
                return Err(format!("metric type {other:?} cannot be used by a {kind} trigger"));
            }
        };
        Ok(Self { index, measure, metric_type: metric_type.to_owned(), target, activation })
    }

    /// What its metric is called in `external.metrics.k8s.io`; `None` where it has none there.
    #[must_use]
    pub fn metric(&self) -> Option<String> {
        let name = match &self.measure {
            Measure::Cron(cron) => cron.name.clone(),
            Measure::Prometheus(_) => "prometheus".to_owned(),
            Measure::MetricsApi(it) => format!("metric-api-{}", it.location.as_str()),
            Measure::Resource { .. } => return None,
        };
        Some(format!("s{}-{}", self.index, normalize(&name)))
    }

    /// The metric as an autoscaler reads it.
    #[must_use]
    pub fn spec(&self, scaled_object: &str) -> Value {
        let mut target = value!({"type": (self.metric_type.as_str())});
        let quantity = apimachinery::quantity::Quantity::from_milli(
            milli(self.target),
            apimachinery::quantity::Format::DecimalSI,
        );
        match self.metric_type.as_str() {
            "Utilization" => target.set_at(&["averageUtilization"], whole(self.target)),
            "Value" => target.set_at(&["value"], quantity.to_text().as_str()),
            _ => target.set_at(&["averageValue"], quantity.to_text().as_str()),
        }
        match (&self.measure, self.metric()) {
            (Measure::Resource { name, container: Some(container) }, _) => {
                value!({"type": "ContainerResource", "containerResource":
                    {"name": (*name), "container": (container.as_str()), "target": target}})
            }
            (Measure::Resource { name, container: None }, _) => {
                value!({"type": "Resource", "resource": {"name": (*name), "target": target}})
            }
            (_, metric) => {
                let mut selector = Value::object();
                selector.set_at(&["matchLabels", crate::NAME_LABEL], scaled_object);
                value!({"type": "External", "external": {
                    "metric": {"name": (metric.unwrap_or_default()), "selector": selector},
                    "target": target}})
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "saturates, and targets are checked to be finite"
)]
fn milli(number: f64) -> i64 {
    (number * 1000.0).round() as i64
}

fn whole(number: f64) -> i64 {
    milli(number) / 1000
}

fn cron(metadata: &Metadata<'_>) -> Result<Measure, String> {
    let zone_name = metadata.needed("timezone")?;
    let (start, end) = (metadata.needed("start")?, metadata.needed("end")?);
    let failed = |why: String| format!("error parsing cron metadata: {why}");
    let zone = TimeZone::get(zone_name)
        .map_err(|_| failed(format!("unable to load timezone: unknown time zone {zone_name}")))?;
    let schedule = |what: &str, text: &str| match Schedule::parse(text) {
        Ok((schedule, None)) => Ok(schedule),
        Ok((_, Some(_))) => Err(failed(format!("{what}: the time zone belongs into timezone"))),
        Err(why) => Err(failed(format!("error parsing {what} schedule: {why}"))),
    };
    if start == end {
        return Err(failed("start and end can not have exactly same time input".into()));
    }
    let desired = metadata.needed("desiredReplicas")?.parse::<i64>();
    let desired = desired.ok().filter(|it| *it >= 0);
    let plain = |text: &str| {
        let text = text.replace(' ', "").replace('*', "x");
        text.replace('/', "Sl").replace('?', "Qm")
    };
    Ok(Measure::Cron(Cron {
        zone,
        start: schedule("start", start)?,
        end: schedule("end", end)?,
        desired: desired
            .ok_or_else(|| failed("error parsing desiredReplicas: it is no number".into()))?,
        name: format!("cron-{zone_name}-{}-{}", plain(start), plain(end)),
    }))
}

fn prometheus(metadata: &Metadata<'_>) -> Result<Measure, String> {
    metadata.without(&[
        "authModes",
        "customHeaders",
        "cortexOrgID",
        "namespace",
        "queryParameters",
        "unsafeSsl",
    ])?;
    Ok(Measure::Prometheus(PromQl {
        server: metadata.needed("serverAddress")?.trim_end_matches('/').to_owned(),
        query: metadata.needed("query")?.to_owned(),
        ignores_null: metadata.text("ignoreNullValues") != "false",
    }))
}

fn metrics_api(metadata: &Metadata<'_>) -> Result<Measure, String> {
    metadata.without(&["authMode", "unsafeSsl", "aggregateFromKubeServiceEndpoints"])?;
    match metadata.text("format") {
        "" | "json" => {}
        other => {
            return Err(format!("metrics-api trigger: format {other:?} is not supported here"));
        }
    }
    Ok(Measure::MetricsApi(MetricsApi {
        url: metadata.needed("url")?.to_owned(),
        location: Location::parse(metadata.needed("valueLocation")?)?,
    }))
}

fn resource(index: usize, metadata: &Metadata<'_>, metric_type: &str) -> Result<Trigger, String> {
    let kind = metadata.kind;
    let text = metadata.needed("value")?;
    let target = match metric_type {
        "Utilization" => metadata.number("value", text)?,
        "AverageValue" => {
            let parsed = apimachinery::quantity::Quantity::parse(text).map(|it| it.as_f64());
            parsed.map_err(|_| format!("error parsing {kind} metadata: {text:?} is no quantity"))?
        }
        other => {
            let wanted = "allowed values are 'Utilization' or 'AverageValue'";
            return Err(format!("unsupported metric type {other:?} of {kind} trigger, {wanted}"));
        }
    };
    let container = Some(metadata.text("containerName").to_owned()).filter(|it| !it.is_empty());
    let name = if kind == "cpu" { "cpu" } else { "memory" };
    let measure = Measure::Resource { name, container };
    Ok(Trigger { index, measure, metric_type: metric_type.to_owned(), target, activation: 0.0 })
}

/// Azure's queues are not asked; what upstream says of a trigger without a connection comes first.
fn azure_queue(metadata: &Metadata<'_>) -> String {
    if metadata.text("queueName").is_empty() {
        return "error parsing azure queue metadata: no queueName given".into();
    }
    if metadata.text("connectionFromEnv").is_empty() {
        return "error parsing azure queue metadata: no connection setting given".into();
    }
    "azure-queue trigger is not supported here: a metrics-api trigger reads the length of any queue that tells it"
        .into()
}

/// A name as metrics may have it.
#[must_use]
pub fn normalize(name: &str) -> String {
    name.replace(['/', '.', ':', '%', '(', ')'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(kind: &str, metadata: Value) -> Result<Trigger, String> {
        Trigger::parse(0, &value!({"type": kind, "metadata": metadata}))
    }

    fn workday() -> Value {
        value!({"timezone": "Europe/Berlin", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "4"})
    }

    #[test]
    fn a_cron_trigger_knows_its_zone() {
        let read = trigger("cron", workday()).unwrap();
        assert_eq!(read.metric().unwrap(), "s0-cron-Europe-Berlin-08xxx-018xxx");
        let Measure::Cron(cron) = &read.measure else { panic!("{read:?}") };
        // Berlin is an hour ahead in January, two in July.
        for (at, expected) in [
            ("2026-01-15T06:59:59Z", 1),
            ("2026-01-15T07:00:00Z", 4),
            ("2026-01-15T16:59:59Z", 4),
            ("2026-01-15T17:00:00Z", 1),
            ("2026-07-15T06:00:00Z", 4),
            ("2026-07-15T16:30:00Z", 1),
        ] {
            assert_eq!(cron.value(at.parse().unwrap()), expected, "{at}");
        }
        let next = cron.changes_after("2026-01-15T07:30:00Z".parse().unwrap()).unwrap();
        assert_eq!(next.to_string(), "2026-01-15T17:00:00Z");
    }

    #[test]
    fn what_is_wrong_or_not_built_is_told() {
        let without = |name: &str| {
            let mut metadata = workday();
            metadata.remove_at(&[name]);
            metadata
        };
        for (kind, metadata, expected) in [
            ("cron", without("timezone"), "no timezone given"),
            (
                "cron",
                value!({"timezone": "Mars", "start": "a", "end": "b"}),
                "unknown time zone Mars",
            ),
            ("cron", without("desiredReplicas"), "no desiredReplicas given"),
            (
                "prometheus",
                value!({"serverAddress": "http://p", "query": "q"}),
                "no threshold given",
            ),
            (
                "prometheus",
                value!({"serverAddress": "http://p", "query": "q", "threshold": "1", "authModes": "basic"}),
                "authModes is not supported here",
            ),
            (
                "metrics-api",
                value!({"url": "u", "valueLocation": "a", "targetValue": "0"}),
                "must be above 0",
            ),
            (
                "metrics-api",
                value!({"url": "u", "valueLocation": "a", "targetValue": "1", "format": "xml"}),
                "format \"xml\" is not supported here",
            ),
            (
                "azure-queue",
                value!({"queueName": "q", "queueLength": "5"}),
                "no connection setting given",
            ),
            ("kafka", Value::object(), "no scaler found for type: kafka"),
            ("cpu", value!({"value": "50"}), "unsupported metric type"),
        ] {
            let error = trigger(kind, metadata.clone()).unwrap_err();
            assert!(error.contains(expected), "{kind} {metadata:?}: {error}");
        }
    }

    #[test]
    fn a_trigger_is_a_metric_of_an_autoscaler() {
        let queue = value!({"url": "http://q/stats", "valueLocation": "queue.length", "targetValue": "2.5"});
        let read = trigger("metrics-api", queue).unwrap();
        let expected = value!({"type": "External", "external": {
            "metric": {"name": "s0-metric-api-queue-length",
                "selector": {"matchLabels": {"scaledobject.keda.sh/name": "so"}}},
            "target": {"type": "AverageValue", "averageValue": "2500m"}}});
        assert_eq!(read.spec("so"), expected);
        let cpu = value!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": "60"}});
        let expected = value!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 60}}});
        assert_eq!(Trigger::parse(1, &cpu).unwrap().spec("so"), expected);
    }
}
