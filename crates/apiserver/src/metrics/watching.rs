//! What is counted of those who read from the caches and watch them.
//!
//! A watch looks up what it counts once, when it begins. Those who read a cache share what theirs counts.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use api::ResourceFacts;
use component_base::metrics::Histogram;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustc_hash::FxBuildHasher;

/// Upstream's buckets of `apiserver_watch_list_duration_seconds`.
const WATCH_LISTS: [f64; 17] =
    [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// Upstream's buckets of `apiserver_watch_events_sizes`.
const EVENTS: [f64; 8] = [1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 65_536.0, 131_072.0];
/// Upstream's buckets of `apiserver_watch_cache_read_wait_seconds`.
const WAITS: [f64; 13] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVersion {
    group: &'static str,
    resource: &'static str,
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scoped {
    group: &'static str,
    resource: &'static str,
    scope: &'static str,
    version: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    group: &'static str,
    resource: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Consistent {
    fallback: &'static str,
    group: &'static str,
    resource: &'static str,
    success: &'static str,
}

/// What is counted of one watch.
#[derive(Debug)]
pub(crate) struct OfWatch {
    /// Events that were sent.
    pub(crate) sent: Counter<u64, AtomicU64>,
    /// How many bytes those have that were written for a client.
    pub(crate) sizes: Histogram,
    /// Objects that were there when it began.
    pub(crate) initial: Counter<u64, AtomicU64>,
}

/// What is counted of those who read one resource's cache.
#[derive(Debug)]
pub(crate) struct OfCache {
    /// How long they waited until it was as new as they asked for.
    pub(crate) waits: Histogram,
    /// Reads of what is so now: those that were answered from the cache, and those that failed.
    pub(crate) consistent: Counter,
    pub(crate) failed: Counter,
    /// Lists of what the cache has.
    pub(crate) cached: OfLists,
    /// Lists of what was, which the store is asked for.
    pub(crate) stored: OfLists,
}

/// What is counted of lists.
#[derive(Debug)]
pub(crate) struct OfLists {
    lists: Counter,
    /// Objects that were read, and those that were looked at where that is another number.
    fetched: Counter,
    evaluated: Option<Counter>,
    returned: Counter,
}

impl OfLists {
    /// A list, for which so many objects were read.
    pub(crate) fn listed(&self, fetched: usize, returned: usize) {
        self.lists.inc();
        self.fetched.inc_by(fetched as u64);
        if let Some(evaluated) = &self.evaluated {
            evaluated.inc_by(fetched as u64);
        }
        self.returned.inc_by(returned as u64);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Indexed {
    group: &'static str,
    /// Which index was used; there is none that upstream has.
    index: &'static str,
    resource: &'static str,
}

/// What is counted of all lists.
#[derive(Debug, Default)]
struct Lists {
    cached: Family<Indexed, Counter>,
    cached_fetched: Family<Indexed, Counter>,
    cached_returned: Family<Of, Counter>,
    /// Lists, objects read, looked at, and told.
    stored: [Family<Of, Counter>; 4],
}

impl Lists {
    fn register(&self, registry: &mut Registry) {
        let help = "Lists that were answered from a cache";
        registry.register("apiserver_cache_list", help, self.cached.clone());
        let help = "Objects that were read from caches for lists";
        registry.register(
            "apiserver_cache_list_fetched_objects",
            help,
            self.cached_fetched.clone(),
        );
        let help = "Objects of lists that were answered from a cache";
        registry.register(
            "apiserver_cache_list_returned_objects",
            help,
            self.cached_returned.clone(),
        );
        let [lists, fetched, evaluated, returned] = &self.stored;
        for (name, help, family) in [
            ("apiserver_storage_list", "Lists that were answered from the store", lists),
            ("apiserver_storage_list_fetched_objects", "Objects read from the store", fetched),
            ("apiserver_storage_list_evaluated_objects", "Those that were looked at", evaluated),
            ("apiserver_storage_list_returned_objects", "Those that lists had", returned),
        ] {
            registry.register(name, help, family.clone());
        }
    }

    fn cached(&self, of: Of) -> OfLists {
        let indexed = Indexed { group: of.group, index: "", resource: of.resource };
        OfLists {
            lists: self.cached.get_or_create_owned(&indexed),
            fetched: self.cached_fetched.get_or_create_owned(&indexed),
            evaluated: None,
            returned: self.cached_returned.get_or_create_owned(&of),
        }
    }

    fn stored(&self, of: Of) -> OfLists {
        let [lists, fetched, evaluated, returned] =
            self.stored.each_ref().map(|it| it.get_or_create_owned(&of));
        OfLists { lists, fetched, evaluated: Some(evaluated), returned }
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Watching {
    events: Family<OfVersion, Counter<u64, AtomicU64>>,
    sizes: Histograms<OfVersion>,
    initial: Family<Of, Counter<u64, AtomicU64>>,
    lists: Histograms<Scoped>,
    terminated: Family<Of, Counter>,
    waits: Histograms<Of>,
    consistent: Family<Consistent, Counter>,
    lists_of: Lists,
    caches: RwLock<hashbrown::HashMap<Of, Arc<OfCache>, FxBuildHasher>>,
}

impl Watching {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let this = Self {
            events: Family::default(),
            sizes: Family::new_with_constructor(|| Histogram::numbers(&EVENTS)),
            initial: Family::default(),
            lists: Family::new_with_constructor(|| Histogram::seconds(&WATCH_LISTS)),
            terminated: Family::default(),
            waits: Family::new_with_constructor(|| Histogram::seconds(&WAITS)),
            consistent: Family::default(),
            lists_of: Lists::default(),
            caches: RwLock::default(),
        };
        let help = "Events sent to watchers";
        registry.register("apiserver_watch_events", help, this.events.clone());
        let help = "How many bytes events have that were written for watchers";
        registry.register("apiserver_watch_events_sizes", help, this.sizes.clone());
        let help = "Objects that watchers were told of as there when they began";
        registry.register("apiserver_init_events", help, this.initial.clone());
        let help = "How long it took until watchers were told that they have what there was";
        registry.register("apiserver_watch_list_duration_seconds", help, this.lists.clone());
        let help = "Watches that were ended since their clients did not read them";
        registry.register("apiserver_terminated_watchers", help, this.terminated.clone());
        let help = "How long reads waited until a cache was as new as they asked for";
        registry.register("apiserver_watch_cache_read_wait_seconds", help, this.waits.clone());
        let help = "Reads of what is so now that were answered from caches, and those that failed";
        registry.register("apiserver_watch_cache_consistent_read", help, this.consistent.clone());
        this.lists_of.register(registry);
        this
    }

    pub(super) fn of_watch(&self, facts: &'static ResourceFacts) -> OfWatch {
        let ResourceFacts { group, resource, version, .. } = *facts;
        let of = OfVersion { group, resource, version };
        OfWatch {
            sent: self.events.get_or_create_owned(&of),
            sizes: self.sizes.get_or_create_owned(&of),
            initial: self.initial.get_or_create_owned(&Of { group, resource }),
        }
    }

    pub(super) fn of_cache(&self, facts: &'static ResourceFacts) -> Arc<OfCache> {
        let ResourceFacts { group, resource, .. } = *facts;
        let of = Of { group, resource };
        if let Some(known) = self.caches.read().get(&of) {
            return Arc::clone(known);
        }
        let reads = |success| {
            let of = Consistent { fallback: "false", group, resource, success };
            self.consistent.get_or_create_owned(&of)
        };
        let new = || OfCache {
            waits: self.waits.get_or_create_owned(&of),
            consistent: reads("true"),
            failed: reads("false"),
            cached: self.lists_of.cached(of),
            stored: self.lists_of.stored(of),
        };
        Arc::clone(self.caches.write().entry(of).or_insert_with(|| Arc::new(new())))
    }

    pub(super) fn listed(&self, facts: &ResourceFacts, scope: &'static str, took: Duration) {
        let ResourceFacts { group, resource, version, .. } = *facts;
        let of = Scoped { group, resource, scope, version };
        self.lists.get_or_create(&of).observe(took);
    }

    pub(super) fn terminated(&self, facts: &ResourceFacts) {
        let ResourceFacts { group, resource, .. } = *facts;
        self.terminated.get_or_create(&Of { group, resource }).inc();
    }
}
