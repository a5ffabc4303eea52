//! Where metrics are read: which paths, and what their answers say. Upstream: `pkg/controller/podautoscaler/metrics`.
//!
//! A [`Reader`] answers from what was read already, and notes what has to be read first.

use std::collections::BTreeMap;

use apimachinery::duration::Duration;
use apimachinery::{Value, labels, time};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::calculate::{PodMetric, PodMetrics, milli};
use crate::owner;

/// What a custom metric is measured over where it does not say.
const CUSTOM_WINDOW: SignedDuration = SignedDuration::from_secs(60);
const CUSTOM: &str = "custom.metrics.k8s.io";

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lack {
    /// It has not been read yet.
    Unread,
    /// It cannot be had.
    Error(String),
}

impl From<String> for Lack {
    fn from(error: String) -> Self {
        Self::Error(error)
    }
}

impl Lack {
    /// The same, with what was being done.
    #[must_use]
    pub(super) fn while_doing(self, what: &str) -> Self {
        match self {
            Self::Unread => Self::Unread,
            Self::Error(error) => Self::Error(format!("{what}{error}")),
        }
    }
}

/// Reads by path.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    answers: &'a BTreeMap<String, Value>,
    /// What has to be read before a plan can be made.
    pub unread: Vec<String>,
}

/// A refusal: its code and its message.
struct Refused(i64, String);

impl<'a> Reader<'a> {
    /// A reader that has these answers.
    #[must_use]
    pub(super) fn new(answers: &'a BTreeMap<String, Value>) -> Self {
        Self { answers, unread: Vec::new() }
    }

    fn read(&mut self, path: String) -> Result<Result<&'a Value, Refused>, Lack> {
        let Some(found) = self.answers.get(&path) else {
            self.unread.push(path);
            return Err(Lack::Unread);
        };
        Ok(found.get("answer").ok_or_else(|| {
            let code = found.i64_at(&["error", "code"]).unwrap_or_default();
            Refused(code, found.str_at(&["error", "message"]).to_owned())
        }))
    }

    /// Reads what must be there; `what` is what upstream's client calls it.
    fn need(&mut self, path: String, what: &str) -> Result<&'a Value, Lack> {
        self.read(path)?.map_err(|Refused(code, message)| {
            Lack::Error(match code {
                404 => format!("the server could not find the requested resource ({what})"),
                503 => {
                    format!("the server is currently unable to handle the request ({what})")
                }
                _ => message,
            })
        })
    }

    /// The scale below an object.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn scale(&mut self, path: String) -> Result<&'a Value, Lack> {
        self.read(path)?.map_err(|Refused(_, message)| Lack::Error(message))
    }

    /// What pods use of a resource; one container of each where it is named.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn resource(
        &mut self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<PodMetrics, Lack> {
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
            encoded(selector)
        );
        let list = self
            .need(path, "get pods.metrics.k8s.io")
            .map_err(|it| it.while_doing("unable to fetch metrics from resource metrics API: "))?;
        let items = list.items_at(&["items"]);
        if items.is_empty() {
            return Err(Lack::Error("no metrics returned from resource metrics API".into()));
        }
        let mut metrics = PodMetrics::new();
        for item in items {
            let name = item.str_at(&["metadata", "name"]);
            let containers = item.items_at(&["containers"]).iter();
            let value = match container {
                Some(wanted) => {
                    let found = containers.clone().find(|it| it.str_at(&["name"]) == wanted);
                    let found = found.ok_or_else(|| {
                        let place = format!("{namespace}/{name}");
                        format!("container {wanted} not present in metrics for pod {place}")
                    })?;
                    usage(found, resource)
                }
                None => containers.map(|it| usage(it, resource)).sum(),
            };
            // A pod that one container says nothing of counts as one without metrics.
            if let Some(value) = value {
                metrics.insert(name.to_owned(), pod_metric(item, value));
            }
        }
        Ok(metrics)
    }

    /// A metric of each pod.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn pods(
        &mut self,
        namespace: &str,
        selector: &str,
        metric: &str,
        of: Option<&LabelSelector>,
    ) -> Result<PodMetrics, Lack> {
        let query = format!("labelSelector={}{}", encoded(selector), metric_selector(of, "&"));
        let items = self.custom(&format!("namespaces/{namespace}/pods/*/{metric}"), &query)?;
        if items.is_empty() {
            return Err(Lack::Error("no metrics returned from custom metrics API".into()));
        }
        let one = |item: &Value| {
            let seconds = item.i64_at(&["windowSeconds"]);
            let window = seconds.map_or(CUSTOM_WINDOW, SignedDuration::from_secs);
            let value = milli(item.str_at(&["value"]));
            let name = item.str_at(&["describedObject", "name"]).to_owned();
            (name, PodMetric { value, at: timestamp(item), window })
        };
        Ok(items.iter().map(one).collect())
    }

    /// A metric of one object; `resource` is how paths name its kind, `None` for the namespace itself.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn object(
        &mut self,
        namespace: &str,
        resource: Option<&str>,
        name: &str,
        metric: &str,
        of: Option<&LabelSelector>,
    ) -> Result<i64, Lack> {
        let path = match resource {
            None => format!("namespaces/{namespace}/metrics/{metric}"),
            Some(resource) => format!("namespaces/{namespace}/{resource}/{name}/{metric}"),
        };
        let items = self.custom(&path, &metric_selector(of, ""))?;
        let first = items.first();
        let lacking = || Lack::Error("no metrics returned from custom metrics API".into());
        Ok(milli(first.ok_or_else(lacking)?.str_at(&["value"])))
    }

    fn custom(&mut self, path: &str, query: &str) -> Result<&'a [Value], Lack> {
        let wrap = |it: Lack| it.while_doing("unable to fetch metrics from custom metrics API: ");
        let group = self.read(format!("/apis/{CUSTOM}"))?;
        let version = match &group {
            Ok(group) => group.str_at(&["preferredVersion", "version"]),
            Err(Refused(404, _)) => "",
            Err(Refused(_, message)) => return Err(wrap(Lack::Error(message.clone()))),
        };
        if version.is_empty() {
            return Err(wrap(Lack::Error(format!("no custom metrics API ({CUSTOM}) registered"))));
        }
        let path = format!("/apis/{CUSTOM}/{version}/{path}?{query}");
        let read = self.read(path)?;
        let list = read.map_err(|Refused(_, message)| wrap(Lack::Error(message)))?;
        Ok(list.items_at(&["items"]))
    }

    /// All series of an external metric together.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn external(
        &mut self,
        namespace: &str,
        metric: &str,
        of: Option<&LabelSelector>,
    ) -> Result<i64, Lack> {
        let selector = of.map(|it| owner::selector(it).to_string()).unwrap_or_default();
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}?labelSelector={}",
            encoded(&selector)
        );
        let list = self
            .need(path, &format!("get {metric}.external.metrics.k8s.io"))
            .map_err(|it| it.while_doing("unable to fetch metrics from external metrics API: "))?;
        let items = list.items_at(&["items"]);
        if items.is_empty() {
            return Err(Lack::Error("no metrics returned from external metrics API".into()));
        }
        let values = items.iter().map(|it| milli(it.str_at(&["value"])));
        Ok(values.fold(0, i64::saturating_add))
    }
}

fn usage(container: &Value, resource: &str) -> Option<i64> {
    let text = container.at(&["usage", resource])?.as_str()?;
    Some(milli(text))
}

fn pod_metric(item: &Value, value: i64) -> PodMetric {
    let window = Duration::parse(item.str_at(&["window"])).unwrap_or_default();
    PodMetric { value, at: timestamp(item), window: SignedDuration::from_nanos(window.as_nanos()) }
}

fn timestamp(item: &Value) -> Timestamp {
    time::parse_time(item.str_at(&["timestamp"])).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn metric_selector(of: Option<&LabelSelector>, before: &str) -> String {
    let text = of.map(|it| owner::selector(it).to_string()).unwrap_or_default();
    if text.is_empty() {
        return String::new();
    }
    format!("{before}metricLabelSelector={}", encoded(&text))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Whether a selector is one.
///
/// # Errors
/// Why it is not.
pub(super) fn check(selector: &str) -> Result<labels::Selector, String> {
    labels::Selector::parse(selector).map_err(|error| error.to_string())
}
