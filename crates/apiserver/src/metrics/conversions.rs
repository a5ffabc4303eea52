//! What is counted of webhooks that convert custom resources, in upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::conversion::{Direction, Failure};

/// Upstream's buckets of `apiserver_conversion_webhook_duration_seconds`.
const CONVERSIONS: [f64; 15] =
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Converted {
    crd_name: String,
    from_version: String,
    succeeded: &'static str,
    to_version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    failure_type: &'static str,
    result: &'static str,
}

/// What is counted of webhooks that convert.
#[derive(Debug)]
pub(crate) struct Conversions {
    objects: Family<Converted, Histogram, fn() -> Histogram>,
    calls: Family<Called, Counter>,
    call_seconds: Family<Called, Histogram, fn() -> Histogram>,
}

impl Conversions {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let objects: Family<Converted, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15)));
        registry.register(
            "apiserver_crd_conversion_webhook_duration_seconds",
            "How long webhooks took to convert custom resources",
            Family::clone(&objects),
        );
        let calls = Family::default();
        registry.register(
            "apiserver_conversion_webhook_request",
            "Calls of webhooks that convert, by how they ended",
            Family::clone(&calls),
        );
        let call_seconds: Family<Called, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(CONVERSIONS));
        registry.register(
            "apiserver_conversion_webhook_duration_seconds",
            "How long calls of webhooks that convert took",
            Family::clone(&call_seconds),
        );
        Self { objects, calls, call_seconds }
    }

    /// Counts a call that converts objects of a custom resource.
    pub(crate) fn converted(
        &self,
        name: &str,
        way: Direction<'_>,
        failure: Option<Failure>,
        took: Duration,
    ) {
        if failure != Some(Failure::Unasked) {
            let of = Called {
                failure_type: failure.map_or("", Failure::name),
                result: if failure.is_some() { "failure" } else { "success" },
            };
            self.calls.get_or_create(&of).inc();
            self.call_seconds.get_or_create(&of).observe(took.as_secs_f64());
        }
        let version = |it: &str| it.rsplit('/').next().unwrap_or_default().to_owned();
        let of = Converted {
            crd_name: name.to_owned(),
            from_version: version(way.from),
            succeeded: if failure.is_none() { "true" } else { "false" },
            to_version: version(way.to),
        };
        self.objects.get_or_create(&of).observe(took.as_secs_f64());
    }
}
