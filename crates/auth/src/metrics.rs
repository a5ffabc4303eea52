//! What authentication and authorization count, in upstream's names.
//!
//! What every request counts is found beforehand, so that counting costs an addition.

mod signer;

pub(crate) use signer::Signer;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use component_base::metrics::{self, RestClient};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use ring::digest::{SHA256, digest};

/// Upstream's buckets of how long webhooks and issuers take.
const CALLS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const TOKENS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The buckets of a histogram that names none.
/// Upstream's buckets of what every request passes: from a millisecond on, each twice the one before.
const DOUBLED: [f64; 15] = {
    let mut bounds = [0.001; 15];
    let mut place = 1;
    while place < bounds.len() {
        bounds[place] = bounds[place - 1] * 2.0;
        place += 1;
    }
    bounds
};
const USUAL: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upstream's buckets of how long conditions take.
const CONDITIONS: [f64; 7] = [0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25];
/// Upstream's buckets of `apiserver_client_certificate_expiration_seconds`: from nothing to 360 days.
const CERTIFICATES: [f64; 14] = [
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];
/// Upstream's buckets of `node_authorizer_graph_actions_duration_seconds`.
const GRAPH: [f64; 12] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048,
];
const WEBHOOK: &str = "Webhook";

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
/// What is observed of every request.
type Durations = Family<Result, metrics::Histogram, fn() -> metrics::Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Action {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct User {
    username: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    decision: &'static str,
    name: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Webhook {
    name: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Conditions {
    name: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Issuer {
    jwt_issuer_hash: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fetch {
    apiserver_id_hash: String,
    jwt_issuer_hash: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeySet {
    apiserver_id_hash: String,
    hash: String,
    jwt_issuer_hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Config {
    apiserver_id_hash: String,
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    apiserver_id_hash: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheStatus {
    status: &'static str,
}

/// What is counted of a cache of tokens.
#[derive(Debug)]
struct TokenCache {
    requests: Family<CacheStatus, Counter>,
    request_seconds: Histograms<CacheStatus>,
    fetches: Family<CacheStatus, Counter>,
    active: Family<CacheStatus, Gauge>,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(USUAL)),
            fetches: Family::default(),
            active: Family::default(),
        }
    }
}

/// What is counted of service accounts' tokens.
#[derive(Debug, Default)]
struct AccountTokens {
    valid: Counter,
    stale: Counter,
    legacy: Counter,
    legacy_auto: Counter,
    legacy_manual: Counter,
    legacy_invalid: Counter,
}

/// A service account's token that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountToken {
    /// One that will be renewed before its use is warned of.
    Valid,
    /// One that should have been renewed.
    Stale,
    /// One of a Secret that a controller made.
    LegacyAuto,
    /// One of a Secret that somebody made.
    LegacyManual,
    /// One of a Secret that a controller made and that was marked as invalid.
    LegacyInvalid,
}

/// A question that is being asked; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Fetching<'m>(&'m TokenCache);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.active.get_or_create(&CacheStatus { status: "in_flight" }).dec();
    }
}

/// A change of what nodes need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GraphAction {
    AddPod,
    DeletePod,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It is known who asks.
    Success,
    /// It is not.
    Failure,
    /// What was presented is no good.
    Error,
}

/// How asking a webhook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Success,
    Timeout,
    Error,
}

/// What is counted of one result.
#[derive(Debug)]
struct Ended {
    count: Counter,
    took: metrics::Histogram,
}

/// What everybody of a sort counts together.
#[derive(Debug)]
struct Ends<const N: usize>([Ended; N]);

impl<const N: usize> Ends<N> {
    fn new(results: [&'static str; N], counts: &Family<Result, Counter>, took: &Durations) -> Self {
        Self(results.map(|result| Ended {
            count: counts.get_or_create_owned(&Result { result }),
            took: took.get_or_create_owned(&Result { result }),
        }))
    }

    fn count(&self, index: usize, took: Duration) {
        if let Some(it) = self.0.get(index) {
            it.count.inc();
            it.took.observe(took);
        }
    }
}

/// What is counted; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<All>);

#[derive(Debug)]
struct All {
    /// What tells this server from others.
    id_hash: String,
    attempts: Family<Result, Counter>,
    attempt_durations: Durations,
    attempted: Ends<3>,
    users: Family<User, Counter>,
    authorizations: Family<Result, Counter>,
    authorization_durations: Durations,
    authorized: Ends<4>,
    decisions: Family<Decided, Counter>,
    webhook_durations: Histograms<Webhook>,
    webhooks: Family<Webhook, Counter>,
    webhooks_open: Family<Webhook, Counter>,
    excluded: Family<Conditions, Counter>,
    condition_errors: Family<Conditions, Counter>,
    condition_seconds: Histograms<Conditions>,
    issuers: Histograms<Issuer>,
    fetches: Family<Fetch, Seconds>,
    key_sets: Family<KeySet, Gauge>,
    authentication_config: Family<Config, Gauge>,
    authorization_config: Family<Config, Gauge>,
    authentication_reloads: (Family<Reload, Counter>, Family<Reload, Seconds>),
    authorization_reloads: (Family<Reload, Counter>, Family<Reload, Seconds>),
    token_cache: TokenCache,
    account_tokens: AccountTokens,
    certificates: metrics::Histogram,
    graph_actions: Family<Action, metrics::Histogram, fn() -> metrics::Histogram>,
    graph_action: [metrics::Histogram; 2],
    signer: Signer,
    calls: RestClient,
}

/// Which file was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the two files")]
pub enum Reloaded {
    Authentication,
    Authorization,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new("")
    }
}

/// `sha256:...`, as upstream tells what may be secret, or long.
fn hash(text: &str) -> String {
    hash_of(text.as_bytes())
}

fn hash_of(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn usual() -> Durations {
    Family::new_with_constructor(|| metrics::Histogram::seconds(&DOUBLED))
}

impl Metrics {
    /// Those of the server of this name.
    #[must_use]
    pub fn new(server: &str) -> Self {
        let (attempts, attempt_durations) = (Family::default(), usual());
        let (authorizations, authorization_durations) = (Family::default(), usual());
        let results = ["success", "failure", "error"];
        let decisions = ["allowed", "denied", "no-opinion", "error"];
        let graph_actions: Family<Action, metrics::Histogram, fn() -> metrics::Histogram> =
            Family::new_with_constructor(|| metrics::Histogram::seconds(&GRAPH));
        Self(Arc::new(All {
            id_hash: hash(server),
            attempted: Ends::new(results, &attempts, &attempt_durations),
            authorized: Ends::new(decisions, &authorizations, &authorization_durations),
            attempts,
            attempt_durations,
            users: Family::default(),
            authorizations,
            authorization_durations,
            decisions: Family::default(),
            webhook_durations: Family::new_with_constructor(|| Histogram::new(CALLS)),
            webhooks: Family::default(),
            webhooks_open: Family::default(),
            excluded: Family::default(),
            condition_errors: Family::default(),
            condition_seconds: Family::new_with_constructor(|| Histogram::new(CONDITIONS)),
            issuers: Family::new_with_constructor(|| Histogram::new(TOKENS)),
            fetches: Family::default(),
            key_sets: Family::default(),
            authentication_config: Family::default(),
            authorization_config: Family::default(),
            authentication_reloads: Default::default(),
            authorization_reloads: Default::default(),
            token_cache: TokenCache::default(),
            account_tokens: AccountTokens::default(),
            certificates: metrics::Histogram::seconds(&CERTIFICATES),
            graph_action: ["AddPod", "DeletePod"]
                .map(|operation| graph_actions.get_or_create_owned(&Action { operation })),
            graph_actions,
            signer: Signer::default(),
            calls: RestClient::default(),
        }))
    }

    /// Tells a registry of all of it.
    pub fn register(&self, registry: &mut Registry) {
        let all = &*self.0;
        macro_rules! add {
            ($name:expr, $help:expr, $family:expr) => {
                registry.register($name, $help, Family::clone($family))
            };
        }
        add!("authentication_attempts", "Attempts to tell who asks", &all.attempts);
        add!(
            "authentication_duration_seconds",
            "How long it took to tell who asks",
            &all.attempt_durations
        );
        add!("authenticated_user_requests", "Requests by who asks", &all.users);
        add!("authorization_attempts", "Requests by whether they may go on", &all.authorizations);
        add!(
            "authorization_duration_seconds",
            "How long it took to tell whether a request may go on",
            &all.authorization_durations
        );
        add!(
            "apiserver_authorization_decisions",
            "Decisions by the authorizer that made them",
            &all.decisions
        );
        add!(
            "apiserver_authorization_webhook_duration_seconds",
            "How long webhooks took to authorize",
            &all.webhook_durations
        );
        add!(
            "apiserver_authorization_webhook_evaluations",
            "Webhooks that were asked to authorize",
            &all.webhooks
        );
        add!(
            "apiserver_authorization_webhook_evaluations_fail_open",
            "Webhooks that could not be asked and have no say then",
            &all.webhooks_open
        );
        add!(
            "apiserver_authorization_match_condition_exclusions",
            "Requests that a webhook's conditions are not for",
            &all.excluded
        );
        add!(
            "apiserver_authorization_match_condition_evaluation_errors",
            "Conditions of webhooks that have no value",
            &all.condition_errors
        );
        add!(
            "apiserver_authorization_match_condition_evaluation_seconds",
            "How long conditions of a webhook took for a request",
            &all.condition_seconds
        );
        add!(
            "apiserver_authentication_jwt_authenticator_jwks_fetch_last_key_set_info",
            "The hash of the keys that an issuer has told last",
            &all.key_sets
        );
        self.register_shown(registry);
        self.register_configured(registry);
        self.register_tokens(registry);
    }

    fn register_shown(&self, registry: &mut Registry) {
        let all = &*self.0;
        let help = "How long it took to take a change into what nodes need";
        let name = "node_authorizer_graph_actions_duration_seconds";
        registry.register(name, help, all.graph_actions.clone());
        let help = "How long certificates are good that clients show";
        let name = "apiserver_client_certificate_expiration_seconds";
        registry.register(name, help, all.certificates.clone());
        all.signer.register(registry);
        all.calls.register(registry);
    }

    fn register_configured(&self, registry: &mut Registry) {
        let all = &*self.0;
        macro_rules! add {
            ($name:expr, $help:expr, $family:expr) => {
                registry.register($name, $help, Family::clone($family))
            };
        }
        add!(
            "apiserver_authentication_jwt_authenticator_latency_seconds",
            "How long it took to judge a token of an issuer",
            &all.issuers
        );
        add!(
            "apiserver_authentication_jwt_authenticator_jwks_fetch_last_timestamp_seconds",
            "When an issuer was last asked for its keys",
            &all.fetches
        );
        for (what, (count, at), config) in [
            ("authentication", &all.authentication_reloads, &all.authentication_config),
            ("authorization", &all.authorization_reloads, &all.authorization_config),
        ] {
            let of = format!("apiserver_{what}_config_controller_last_config_info");
            add!(of, "The hash of the file that counts now", config);
            let of = format!("apiserver_{what}_config_controller_automatic_reloads");
            add!(of, "Times that the configuration was read again", count);
            let of = format!(
                "apiserver_{what}_config_controller_automatic_reload_last_timestamp_seconds"
            );
            add!(of, "When it was last read again", at);
        }
    }

    fn register_tokens(&self, registry: &mut Registry) {
        let TokenCache { requests, request_seconds, fetches, active } = &self.0.token_cache;
        let cache = registry.sub_registry_with_prefix("authentication_token_cache");
        cache.register("request", "Tokens by whether they were known", requests.clone());
        let help = "How long it took to tell whose a token is, by whether it was known";
        cache.register("request_duration_seconds", help, request_seconds.clone());
        cache.register("fetch", "Tokens that were asked for, by how that went", fetches.clone());
        cache.register("active_fetch_count", "Tokens that are being asked for", active.clone());
        let tokens = &self.0.account_tokens;
        let accounts = registry.sub_registry_with_prefix("serviceaccount");
        for (name, help, counter) in [
            ("valid_tokens", "Tokens that were shown in time", &tokens.valid),
            ("stale_tokens", "Tokens that should have been renewed", &tokens.stale),
            ("legacy_tokens", "Tokens of Secrets", &tokens.legacy),
            (
                "legacy_auto_token_uses",
                "Tokens of Secrets that a controller made",
                &tokens.legacy_auto,
            ),
            (
                "legacy_manual_token_uses",
                "Tokens of Secrets that somebody made",
                &tokens.legacy_manual,
            ),
            (
                "invalid_legacy_auto_token_uses",
                "Tokens of Secrets that a controller made, marked as invalid",
                &tokens.legacy_invalid,
            ),
        ] {
            accounts.register(name, help, counter.clone());
        }
    }

    /// Counts a token that was shown.
    pub(crate) fn account_token(&self, token: AccountToken) {
        let all = &self.0.account_tokens;
        match token {
            AccountToken::Valid => all.valid.inc(),
            AccountToken::Stale => all.stale.inc(),
            AccountToken::LegacyAuto => {
                all.legacy.inc();
                all.legacy_auto.inc()
            }
            AccountToken::LegacyManual => {
                all.legacy.inc();
                all.legacy_manual.inc()
            }
            AccountToken::LegacyInvalid => all.legacy_invalid.inc(),
        };
    }

    /// Counts a token by whether it was known.
    pub(crate) fn cached_token(&self, hit: bool, took: Duration) {
        let of = CacheStatus { status: if hit { "hit" } else { "miss" } };
        self.0.token_cache.requests.get_or_create(&of).inc();
        self.0.token_cache.request_seconds.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// Counts a token that is being asked for until what comes back is dropped.
    pub(crate) fn fetching(&self) -> Fetching<'_> {
        self.0.token_cache.active.get_or_create(&CacheStatus { status: "in_flight" }).inc();
        Fetching(&self.0.token_cache)
    }

    /// Counts how asking went.
    pub(crate) fn fetched_token(&self, is_good: bool) {
        let status = if is_good { "ok" } else { "error" };
        self.0.token_cache.fetches.get_or_create(&CacheStatus { status }).inc();
    }

    /// Counts a certificate that a client shows, by how long it is good.
    pub(crate) fn certificate(&self, good: Duration) {
        self.0.certificates.observe(good);
    }

    /// Counts a change of what nodes need.
    pub(crate) fn graph_action(&self, action: GraphAction, took: Duration) {
        self.0.graph_action[action as usize].observe(took);
    }

    /// What metrics call this server: a hash.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.0.id_hash
    }

    /// What is counted of calls of webhooks, of all parts of the server together.
    #[must_use]
    pub fn calls(&self) -> RestClient {
        self.0.calls.clone()
    }

    /// What is counted of a signer of tokens elsewhere.
    pub(crate) fn signer(&self) -> Signer {
        self.0.signer.clone()
    }

    /// Counts an attempt to tell who asks.
    pub fn attempted(&self, end: Attempt, took: Duration) {
        self.0.attempted.count(end as usize, took);
    }

    /// Counts a request of somebody.
    pub fn requested(&self, username: &str) {
        let username = shown(username);
        self.0.users.get_or_create(&User { username }).inc();
    }

    /// Counts whether a request may go on.
    pub fn authorized(&self, decision: &crate::Decision, took: Duration) {
        let index = match decision {
            crate::Decision::Allow(_) => 0,
            crate::Decision::Deny(_) => 1,
            crate::Decision::NoOpinion(_) => 2,
            crate::Decision::Failed { .. } => 3,
        };
        self.0.authorized.count(index, took);
    }

    /// The counters of what an authorizer allows and denies.
    pub(crate) fn decisions(&self, name: &str, kind: &'static str) -> [Counter; 2] {
        ["allowed", "denied"].map(|decision| {
            let of = Decided { decision, name: name.to_owned(), r#type: kind };
            self.0.decisions.get_or_create_owned(&of)
        })
    }

    pub(crate) fn asked(&self, name: &str, end: Asked, took: Duration, is_open: bool) {
        let result = match end {
            Asked::Success => "success",
            Asked::Timeout => "timeout",
            Asked::Error => "error",
        };
        let of = Webhook { name: name.to_owned(), result };
        self.0.webhook_durations.get_or_create(&of).observe(took.as_secs_f64());
        self.0.webhooks.get_or_create(&of).inc();
        if is_open {
            self.0.webhooks_open.get_or_create(&of).inc();
        }
    }

    pub(crate) fn excluded(&self, name: &str) {
        self.0.excluded.get_or_create(&Conditions { name: name.to_owned(), r#type: WEBHOOK }).inc();
    }

    /// Counts how long conditions took.
    pub(crate) fn conditions(&self, name: &str, took: Duration) {
        let of = Conditions { name: name.to_owned(), r#type: WEBHOOK };
        self.0.condition_seconds.get_or_create(&of).observe(took.as_secs_f64());
    }

    pub(crate) fn condition_failed(&self, name: &str) {
        let of = Conditions { name: name.to_owned(), r#type: WEBHOOK };
        self.0.condition_errors.get_or_create(&of).inc();
    }

    pub(crate) fn token(&self, issuer: &str, is_good: bool, took: Duration) {
        let result = if is_good { "success" } else { "failure" };
        let of = Issuer { jwt_issuer_hash: hash(issuer), result };
        self.0.issuers.get_or_create(&of).observe(took.as_secs_f64());
    }

    pub(crate) fn fetched(&self, issuer: &str, is_good: bool, at: f64) {
        let of = Fetch {
            apiserver_id_hash: self.0.id_hash.clone(),
            jwt_issuer_hash: hash(issuer),
            result: if is_good { "success" } else { "failure" },
        };
        self.0.fetches.get_or_create(&of).set(at);
    }

    /// The keys that an issuer has told, as it tells them; `before` are those that it told last.
    pub(crate) fn key_set(&self, issuer: &str, keys: &[u8], before: Option<String>) -> String {
        let of = |hash| KeySet {
            apiserver_id_hash: self.0.id_hash.clone(),
            hash,
            jwt_issuer_hash: hash_of(issuer.as_bytes()),
        };
        let hash = hash_of(keys);
        if let Some(before) = before.filter(|it| *it != hash) {
            self.0.key_sets.remove(&of(before));
        }
        self.0.key_sets.get_or_create(&of(hash.clone())).set(1);
        hash
    }

    /// The text of a file that counts from now on.
    pub fn configured(&self, what: Reloaded, text: &[u8]) {
        let family = match what {
            Reloaded::Authentication => &self.0.authentication_config,
            Reloaded::Authorization => &self.0.authorization_config,
        };
        family.clear();
        let apiserver_id_hash = self.0.id_hash.clone();
        family.get_or_create(&Config { apiserver_id_hash, hash: hash_of(text) }).set(1);
    }

    /// Counts that a file was read again.
    pub fn reloaded(&self, what: Reloaded, is_good: bool, at: f64) {
        let (count, last) = match what {
            Reloaded::Authentication => &self.0.authentication_reloads,
            Reloaded::Authorization => &self.0.authorization_reloads,
        };
        let status = if is_good { "success" } else { "failure" };
        let of = Reload { apiserver_id_hash: self.0.id_hash.clone(), status };
        count.get_or_create(&of).inc();
        last.get_or_create(&of).set(at);
    }
}

/// Upstream's few names, so that users do not make labels.
fn shown(username: &str) -> &'static str {
    match username {
        "admin" => "admin",
        "client" => "client",
        "kube_proxy" => "kube_proxy",
        "kubelet" => "kubelet",
        "system:serviceaccount:kube-system:default" => "system:serviceaccount:kube-system:default",
        other if other.contains('@') => "email_id",
        _ => "other",
    }
}
