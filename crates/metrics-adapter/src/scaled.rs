//! External metrics of ScaledObjects: what their triggers say now. Upstream: KEDA's metrics server.

use apimachinery::labels::Operator;
use apimachinery::{Status, Value, time};
use keda::{Measure, MetricsApi, PromQl, ScaledObject};

use crate::answer::external_value;
use crate::parts::{not_found, selector};
use crate::prometheus::{Answer, Labels, Prometheus};
use crate::{Adapter, Asked};

impl Adapter {
    /// The ScaledObject whose metric is asked for, where it is one's.
    pub(crate) fn scaled_object_of(&self, asked: &Asked) -> Result<Option<String>, Status> {
        if !self.parts.scaled_objects {
            return Ok(None);
        }
        let selector = selector(&asked.selector)?;
        let mut named = selector.requirements().iter().filter(|it| {
            it.key() == keda::NAME_LABEL
                && matches!(it.operator(), Operator::Equals | Operator::DoubleEquals | Operator::In)
        });
        Ok(named.next().and_then(|it| it.values().first().map(ToString::to_string)))
    }

    /// The value of the trigger of a ScaledObject that has a metric of this name.
    pub(crate) async fn by_trigger(&self, asked: &Asked, name: &str) -> Result<Vec<Value>, Status> {
        let (metric, namespace) = (asked.resource.as_str(), asked.namespace.as_str());
        let path =
            format!("/apis/{}/namespaces/{namespace}/{}/{name}", keda::API_VERSION, keda::PLURAL);
        let object = match self.parts.client.read(&path).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => {
                return Err(not_found(metric, &format!("{} {name}", keda::PLURAL)));
            }
            Err(error) => return Err(failed(metric, &error.to_string())),
        };
        let scaled = ScaledObject::parse(&object).map_err(|why| failed(metric, &why))?;
        let mut triggers = scaled.triggers.iter();
        let trigger = triggers.find(|it| it.metric().as_deref() == Some(metric));
        let trigger =
            trigger.ok_or_else(|| not_found(metric, &format!("{} {name}", keda::PLURAL)))?;
        let now = self.parts.clock.now();
        let value = match &trigger.measure {
            #[expect(clippy::cast_precision_loss, reason = "replicas are no such large numbers")]
            Measure::Cron(cron) => Ok(cron.value(now) as f64),
            Measure::Prometheus(query) => self.by_query(query).await,
            Measure::MetricsApi(api) => self.by_document(api).await,
            Measure::Resource { .. } => Err("pods' own use is no external metric".into()),
        };
        let value = value.map_err(|why| failed(metric, &why))?;
        let at = time::format_time(now);
        Ok(vec![external_value(metric, &Labels::new(), at.as_str(), value)])
    }

    async fn by_query(&self, trigger: &PromQl) -> Result<f64, String> {
        let prometheus = Prometheus::new(&trigger.server, self.plain.clone())?;
        let query = &trigger.query;
        match prometheus.query(&self.reader, query).await? {
            Answer::Scalar(sample) => finite(sample.value, trigger.ignores_null),
            Answer::Vector(samples) => match samples.as_slice() {
                [] if trigger.ignores_null => Ok(0.0),
                [] => Err(format!(
                    "prometheus query {query:?}: the result is empty, its target may be lost"
                )),
                [sample] => finite(sample.value, trigger.ignores_null),
                _ => Err(format!("prometheus query {query} returned multiple elements")),
            },
        }
    }

    async fn by_document(&self, trigger: &MetricsApi) -> Result<f64, String> {
        let document = self.reader.read(&self.plain, &trigger.url).await;
        trigger
            .location
            .number(&*document.map_err(|why| format!("error requesting metrics endpoint: {why}"))?)
    }
}

fn finite(value: f64, ignores_null: bool) -> Result<f64, String> {
    match (value.is_finite(), ignores_null) {
        (true, _) => Ok(value),
        (false, true) => Ok(0.0),
        (false, false) => Err("the query answers no finite number".into()),
    }
}

fn failed(metric: &str, why: &str) -> Status {
    tracing::info!(metric, why, "the trigger of a ScaledObject could not be asked");
    Status::internal(format!("error when getting metric {metric}: {why}"))
}
