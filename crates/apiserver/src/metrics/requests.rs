//! What is counted of every request that is answered.
//!
//! All that a request counts is found by one look, by what it is about; from there on counting is a few additions.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use component_base::metrics::Histogram;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry};
use rustc_hash::FxBuildHasher;

use super::{About, COMPONENT, is_long_running};
use crate::exchange::Exchange;

/// Upstream's buckets of `apiserver_request_duration_seconds`.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
/// Upstream's buckets of `apiserver_request_sli_duration_seconds`, and of `field_validation_request_duration_seconds`.
const INDICATED: [f64; 21] = [
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0,
    30.0, 45.0, 60.0,
];
/// Upstream's buckets of `apiserver_response_sizes`.
const ANSWERS: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Upstream's buckets of `apiserver_request_filter_duration_seconds`.
const FILTERS: [f64; 13] =
    [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0];
/// Upstream's buckets of `apiserver_request_body_size_bytes`: each 100,000 wide.
const BODIES: [f64; 31] = {
    let mut bounds = [50_000.0; 31];
    let mut place = 1;
    while place < bounds.len() {
        bounds[place] = bounds[place - 1] + 100_000.0;
        place += 1;
    }
    bounds
};
/// Who the server is to itself.
const SELF: &str = "system:apiserver";
/// What `fieldValidation` may say; the last stands for everything else.
const VALIDATIONS: [&str; 5] = ["", "Ignore", "Strict", "Warn", "invalid"];
/// How many codes of requests about the same are found at once. Others are looked up.
const CODES: usize = 4;

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// A filter that is timed, as upstream calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timed {
    Authentication,
    Audit,
    Impersonation,
    PriorityAndFairness,
    Authorization,
}

const TIMED: [&str; 5] =
    ["authentication", "audit", "impersonation", "priorityandfairness", "authorization"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Done {
    code: u16,
    dry_run: &'static str,
    #[prometheus(flatten)]
    about: About,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lasting {
    dry_run: &'static str,
    #[prometheus(flatten)]
    about: About,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Terminated {
    code: u16,
    #[prometheus(flatten)]
    about: About,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Aborted {
    group: &'static str,
    resource: &'static str,
    scope: &'static str,
    subresource: &'static str,
    verb: &'static str,
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfItself {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sent {
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Filter {
    filter: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Validation {
    field_validation: &'static str,
}

/// The counters of requests that are about the same; each is there from its first use on.
#[derive(Debug, Default)]
struct Series {
    counts: [OnceLock<(u16, Counter)>; CODES],
    took: OnceLock<(Histogram, Histogram)>,
    sizes: OnceLock<Histogram>,
    bodies: OnceLock<Histogram>,
    of_itself: OnceLock<Counter>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Requests {
    counts: Family<Done, Counter>,
    durations: Histograms<Lasting>,
    indicated: Histograms<About>,
    sizes: Histograms<About>,
    bodies: Histograms<Sent>,
    aborted: Family<Aborted, Counter>,
    terminated: Family<Terminated, Counter>,
    of_itself: Family<OfItself, Counter>,
    filters: [Histogram; 5],
    validations: [Histogram; 5],
    series: RwLock<hashbrown::HashMap<About, Arc<Series>, FxBuildHasher>>,
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

impl Requests {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let filters: Histograms<Filter> =
            Family::new_with_constructor(|| Histogram::seconds(&FILTERS));
        let validations: Histograms<Validation> =
            Family::new_with_constructor(|| Histogram::seconds(&INDICATED));
        let this = Self {
            counts: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::seconds(&DURATIONS)),
            indicated: Family::new_with_constructor(|| Histogram::seconds(&INDICATED)),
            sizes: Family::new_with_constructor(|| Histogram::numbers(&ANSWERS)),
            bodies: Family::new_with_constructor(|| Histogram::numbers(&BODIES)),
            aborted: Family::default(),
            terminated: Family::default(),
            of_itself: Family::default(),
            filters: TIMED.map(|filter| filters.get_or_create_owned(&Filter { filter })),
            validations: VALIDATIONS
                .map(|it| validations.get_or_create_owned(&Validation { field_validation: it })),
            series: RwLock::default(),
        };
        add(registry, "apiserver_request", "Requests that were answered", &this.counts);
        let help = "How long requests took until their answer began, watches and streams aside";
        add(registry, "apiserver_request_duration_seconds", help, &this.durations);
        let help = "The same without what webhooks took of it and without waiting for seats; dry runs aside";
        add(registry, "apiserver_request_sli_duration_seconds", help, &this.indicated);
        let help = "How many bytes answers to readers have, watches and streams aside";
        add(registry, "apiserver_response_sizes", help, &this.sizes);
        let help = "How many bytes bodies of requests that write have";
        add(registry, "apiserver_request_body_size_bytes", help, &this.bodies);
        let help = "Requests whose answer was broken off as it took too long to send";
        add(registry, "apiserver_request_aborts", help, &this.aborted);
        let help = "Requests that were ended to protect the server, or as another server could not be asked";
        add(registry, "apiserver_request_terminations", help, &this.terminated);
        let help = "Requests of the server to itself";
        add(registry, "apiserver_selfrequest", help, &this.of_itself);
        let help = "How long filters took for requests that they let pass";
        add(registry, "apiserver_request_filter_duration_seconds", help, &filters);
        let help = "How long requests took, by what they say of fields that are not known";
        add(registry, "field_validation_request_duration_seconds", help, &validations);
        this
    }

    /// A filter has let a request pass.
    pub(super) fn filtered(&self, filter: Timed, took: Duration) {
        self.filters[filter as usize].observe(took);
    }

    /// Counts an answer; the histogram of its size, where that is counted, comes back.
    pub(super) fn answered(
        &self,
        exchange: &Exchange,
        about: About,
        (code, took): (u16, Duration),
    ) -> Option<Histogram> {
        let series = self.series(about);
        let dry_run = if exchange.query.get("dryRun").is_some() { "All" } else { "" };
        if dry_run.is_empty() {
            self.count(&series, about, code);
        } else {
            self.counts.get_or_create(&Done { code, dry_run, about }).inc();
        }
        if !is_long_running(about.verb) {
            if dry_run.is_empty() {
                let (whole, own) = series.took.get_or_init(|| {
                    let whole = self.durations.get_or_create_owned(&Lasting { dry_run, about });
                    (whole, self.indicated.get_or_create_owned(&about))
                });
                whole.observe(took);
                own.observe(took.saturating_sub(exchange.waited));
            } else {
                self.durations.get_or_create(&Lasting { dry_run, about }).observe(took);
            }
            self.validations[validation(exchange)].observe(took);
        }
        if exchange.user.name == SELF {
            let counter = series.of_itself.get_or_init(|| {
                let About { group, resource, subresource, verb, .. } = about;
                self.of_itself.get_or_create_owned(&OfItself { group, resource, subresource, verb })
            });
            counter.inc();
        }
        if let Some(bytes) = exchange.body_bytes {
            self.sent(&series, exchange, about, bytes);
        }
        let sized = matches!(about.verb, "GET" | "LIST");
        sized.then(|| series.sizes.get_or_init(|| self.sizes.get_or_create_owned(&about)).clone())
    }

    fn series(&self, about: About) -> Arc<Series> {
        if let Some(series) = self.series.read().get(&about) {
            return Arc::clone(series);
        }
        Arc::clone(self.series.write().entry(about).or_default())
    }

    fn count(&self, series: &Series, about: About, code: u16) {
        let create = || (code, self.counts.get_or_create_owned(&Done { code, dry_run: "", about }));
        let mut known = series.counts.iter().map(|it| it.get_or_init(create));
        match known.find(|(of, _)| *of == code) {
            Some((_, counter)) => counter.inc(),
            None => create().1.inc(),
        };
    }

    fn sent(&self, series: &Series, exchange: &Exchange, about: About, bytes: usize) {
        let verb = match exchange.info.verb {
            "create" => "create",
            "update" => "update",
            "patch" => "patch",
            "delete" => "delete",
            "deletecollection" => "delete_collection",
            _ => return,
        };
        let About { group, resource, .. } = about;
        let of = Sent { group, resource, verb };
        series.bodies.get_or_init(|| self.bodies.get_or_create_owned(&of)).observe_number(bytes);
    }

    /// An answer was broken off.
    pub(super) fn aborted(&self, about: About) {
        let About { group, resource, scope, subresource, verb, version, .. } = about;
        let of = Aborted { group, resource, scope, subresource, verb, version };
        self.aborted.get_or_create(&of).inc();
    }

    /// A request was ended by the server, or by the part of it that asks other servers.
    pub(super) fn terminated(&self, ended: Ended, about: About, code: u16) {
        let component = match ended {
            Ended::Here => COMPONENT,
            Ended::Elsewhere => "aggregator",
        };
        let of = Terminated { code, about: About { component, ..about } };
        self.terminated.get_or_create(&of).inc();
    }
}

/// Which part of the server has ended a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its time was over, or there was no memory for it.
    Here,
    /// The server that it is for cannot be asked.
    Elsewhere,
}

/// The place of what a request says of fields that are not known.
fn validation(exchange: &Exchange) -> usize {
    match exchange.query.get("fieldValidation") {
        None => 0,
        Some(it) => VALIDATIONS.iter().position(|name| *name == it).unwrap_or(4),
    }
}
