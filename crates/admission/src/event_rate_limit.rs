//! EventRateLimit: so many events a second of the server, of a namespace, of a user, or of a source about an object.
//!
//! Buckets are known by digests of their keys, and the longest unused go first: what users write does not take memory.

use apimachinery::{FieldErrors, Path, Status, Value};
use async_trait::async_trait;
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{Attributes, Operation, Plugin, configuration};

/// How many buckets a limit has that does not say.
const BUCKETS: usize = 4096;
const TYPES: [&str; 4] = ["Namespace", "Server", "SourceAndObject", "User"];

/// Whose events are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Server" => Self::Server,
            "Namespace" => Self::Namespace,
            "User" => Self::User,
            "SourceAndObject" => Self::SourceAndObject,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Namespace => "Namespace",
            Self::User => "User",
            Self::SourceAndObject => "SourceAndObject",
        }
    }

    fn key(self, attributes: &Attributes<'_>) -> String {
        let event = &*attributes.object;
        match self {
            Self::Server => String::new(),
            Self::Namespace => attributes.namespace.to_owned(),
            Self::User => attributes.user.name.clone(),
            Self::SourceAndObject => {
                let object = |member| event.str_at(&["involvedObject", member]);
                let source = |member| event.str_at(&["source", member]);
                [
                    source("component"),
                    source("host"),
                    object("kind"),
                    object("namespace"),
                    object("name"),
                    object("uid"),
                    object("apiVersion"),
                ]
                .concat()
            }
        }
    }
}

/// One limit of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    kind: Kind,
    qps: f64,
    burst: f64,
    buckets: usize,
}

/// The limits of a configuration.
pub(crate) fn limits(value: &Value) -> Result<Vec<Limit>, String> {
    const VERSION: &str = "eventratelimit.admission.k8s.io/v1alpha1";
    configuration::of_kind(value, &[VERSION], "Configuration")?;
    configuration::members(value, "", &["limits"])?;
    let path = Path::new("limits");
    let mut errors = FieldErrors::new();
    let mut limits = Vec::new();
    let given = value.items_at(&["limits"]);
    if given.is_empty() {
        return Err("limits: Invalid value: null: must not be empty".into());
    }
    for (index, limit) in given.iter().enumerate() {
        let at = format!("limits[{index}].");
        configuration::members(limit, &at, &["burst", "cacheSize", "qps", "type"])?;
        let at = path.index(index);
        let number = |member: &str| limit.get(member).filter(|it| !it.is_null());
        let mut amount = |member: &str, least: i64, why: &str| {
            let given = number(member).cloned().unwrap_or_else(|| 0.into());
            let amount = given.as_i64().and_then(|it| i32::try_from(it).ok());
            if amount.is_none_or(|it| i64::from(it) < least) {
                errors.invalid(&at.child(member), &given, why);
            }
            amount.unwrap_or_default()
        };
        let burst = amount("burst", 1, "must be positive");
        let qps = amount("qps", 1, "must be positive");
        let kind = Kind::parse(limit.str_at(&["type"]));
        let buckets = match kind {
            Some(Kind::Server) => 1,
            _ => usize::try_from(amount("cacheSize", 0, "must not be negative")).unwrap_or(0),
        };
        match kind {
            None => errors.not_supported(&at.child("type"), &limit.str_at(&["type"]).into(), TYPES),
            Some(kind) => limits.push(Limit {
                kind,
                qps: f64::from(qps),
                burst: f64::from(burst),
                buckets: if buckets == 0 { BUCKETS } else { buckets },
            }),
        }
    }
    match configuration::in_one(&errors) {
        Some(why) => Err(why),
        None => Ok(limits),
    }
}

/// What is left of a burst, and since when.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// A limit, with the bucket of everybody it was asked for lately.
struct Enforced {
    limit: Limit,
    buckets: Mutex<LruCache<[u8; 32], Bucket>>,
}

impl Enforced {
    fn takes(&self, key: &str) -> bool {
        let Limit { qps, burst, buckets: most, .. } = self.limit;
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        let key: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let bucket = buckets.get_or_insert_mut(key, || Bucket { left: burst, at: now });
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + since * qps).min(burst);
        bucket.at = now;
        let takes = bucket.left >= 1.0;
        if takes {
            bucket.left -= 1.0;
        }
        while buckets.len() > most {
            buckets.pop_lru();
        }
        takes
    }
}

impl std::fmt::Debug for Enforced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {} buckets", self.limit, self.buckets.lock().len())
    }
}

#[derive(Debug)]
pub(crate) struct EventRateLimit {
    limits: Vec<Enforced>,
}

impl EventRateLimit {
    pub(crate) fn new(limits: &[Limit]) -> Self {
        // Not made as large as it may become.
        let enforced = |limit: &Limit| Enforced {
            limit: limit.clone(),
            buckets: Mutex::new(LruCache::unbounded()),
        };
        Self { limits: limits.iter().map(enforced).collect() }
    }
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        // Events of events.k8s.io are of another kind to upstream, and not counted.
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.is("", "events")
            && !attributes.dry_run
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        const TOO_MANY: &str = "Too many requests";
        let mut refused = Vec::new();
        // Each counts, also where another refuses.
        for enforced in &self.limits {
            let kind = enforced.limit.kind;
            let key = kind.key(attributes);
            if !enforced.takes(&key) {
                let name = kind.name();
                refused.push(format!("{TOO_MANY}: limit reached on type {name} for key {key}"));
            }
        }
        let why = match refused.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{TOO_MANY}: {why}");
        Err(Status { code: 429, reason: "TooManyRequests", message, ..Status::default() })
    }
}
