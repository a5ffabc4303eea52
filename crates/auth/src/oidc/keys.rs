//! The keys of an issuer: found by its discovery document, fetched in the background, again before they are stale.

use std::sync::{Arc, Weak};
use std::time::Duration;

use apimachinery::{Value, json};
use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use webhook::{Client, Document};

use super::Parts;
use crate::config::authentication::Issuer;
use crate::jwt::VerifyingKey;

/// How long an issuer may take to answer (upstream's limit).
const TIMEOUT: Duration = Duration::from_secs(30);
/// After which pause an issuer is asked again that did not answer (upstream: 10 seconds).
const RETRY: Duration = Duration::from_secs(10);
/// Between two fetches because of keys that tokens name and nobody knows: anybody can make up such tokens.
const MIN_BETWEEN: Duration = Duration::from_secs(1);
/// How often keys are fetched again, whatever the issuer says of how long they may be kept.
const MIN_REFRESH: Duration = Duration::from_secs(60);
const MAX_REFRESH: Duration = Duration::from_secs(3_600);
/// How many keys of an issuer are looked at.
const MAX_KEYS: usize = 128;
const DISCOVERY: &str = "/.well-known/openid-configuration";
const USER_AGENT: &str = "kube-apiserver-oidc";

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: String,
    authorities: Vec<u8>,
    discovery: Client,
    known: ArcSwapOption<Vec<VerifyingKey>>,
    fetching: Mutex<Fetching>,
    /// Whether keys have been fetched once.
    fetched: watch::Sender<bool>,
    parts: Parts,
}

/// What only one fetches at a time.
#[derive(Debug, Default)]
struct Fetching {
    /// Where the keys are; known once the issuer has said so.
    keys: Option<Client>,
    last: Option<Instant>,
    /// The hash of the keys that were told last.
    told: Option<String>,
}

impl Keys {
    pub(super) fn start(issuer: &Issuer, parts: &Parts) -> Result<Arc<Self>, String> {
        let authorities = issuer.certificate_authority.as_bytes().to_vec();
        let url = match issuer.discovery_url.as_str() {
            "" => format!("{}{DISCOVERY}", issuer.url.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let this = Arc::new(Self {
            issuer: issuer.url.clone(),
            discovery: Client::of_url(&url, &authorities)?,
            authorities,
            known: ArcSwapOption::empty(),
            fetching: Mutex::default(),
            fetched: watch::Sender::new(false),
            parts: parts.clone(),
        });
        tokio::spawn(keep_fresh(Arc::downgrade(&this), parts.stop.clone()));
        Ok(this)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.known.load().is_some()
    }

    /// Waits until the keys have been fetched once.
    pub(super) async fn ready(&self) {
        let mut fetched = self.fetched.subscribe();
        // The sender lives as long as this does.
        let _ = fetched.wait_for(|it| *it).await;
    }

    pub(super) fn known(&self) -> Arc<Vec<VerifyingKey>> {
        self.known.load_full().unwrap_or_default()
    }

    /// Keys that are newer than those `seen`; fetched, unless somebody just did.
    pub(super) async fn refreshed(
        &self,
        seen: &Arc<Vec<VerifyingKey>>,
    ) -> Result<Arc<Vec<VerifyingKey>>, String> {
        let mut fetching = self.fetching.lock().await;
        let known = self.known();
        let just = fetching.last.is_some_and(|it| it.elapsed() < MIN_BETWEEN);
        if !Arc::ptr_eq(&known, seen) || just {
            return Ok(known);
        }
        self.fetch(&mut fetching).await?;
        Ok(self.known())
    }

    /// Fetches the keys; how long they may be kept comes back.
    async fn fetch(&self, fetching: &mut Fetching) -> Result<Duration, String> {
        fetching.last = Some(Instant::now());
        let fetched = self.fetch_from(fetching).await;
        let at = self.parts.clock.now().as_duration().as_secs_f64();
        self.parts.metrics.fetched(&self.issuer, fetched.is_ok(), at);
        if fetched.is_err() {
            // It may have moved.
            fetching.keys = None;
        }
        let (keys, refresh) = fetched?;
        self.known.store(Some(Arc::new(keys)));
        self.fetched.send_replace(true);
        Ok(refresh)
    }

    async fn fetch_from(
        &self,
        fetching: &mut Fetching,
    ) -> Result<(Vec<VerifyingKey>, Duration), String> {
        let client = match fetching.keys.take() {
            Some(client) => client,
            None => self.discover().await?,
        };
        let document = get(&client).await?;
        let set = parse(&document)?;
        let keys = set.items_at(&["keys"]).iter().take(MAX_KEYS).filter_map(VerifyingKey::from_jwk);
        let keys = keys.collect();
        let before = fetching.told.take();
        let told = self.parts.metrics.key_set(&self.issuer, &document.body, before);
        fetching.told = Some(told);
        let refresh = Duration::from_secs(document.max_age_seconds.unwrap_or_default());
        fetching.keys = Some(client);
        Ok((keys, refresh.clamp(MIN_REFRESH, MAX_REFRESH)))
    }

    /// Where the issuer says that its keys are.
    async fn discover(&self) -> Result<Client, String> {
        let document = parse(&get(&self.discovery).await?)?;
        let told = document.str_at(&["issuer"]);
        if told != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {told:?}",
                self.issuer
            ));
        }
        match document.str_at(&["jwks_uri"]) {
            "" => Err("oidc: the issuer does not say where its keys are (jwks_uri)".into()),
            url => Client::of_url(url, &self.authorities),
        }
    }
}

async fn get(client: &Client) -> Result<Document, String> {
    client.get(TIMEOUT, USER_AGENT).await.map_err(|error| error.message().to_owned())
}

fn parse(document: &Document) -> Result<Value, String> {
    json::parse(&document.body).map_err(|error| format!("oidc: failed to decode: {error}"))
}

/// Fetches the keys until nobody needs them any more.
async fn keep_fresh(keys: Weak<Keys>, stop: component_base::ShutdownSignal) {
    loop {
        let pause = {
            let Some(keys) = keys.upgrade() else { return };
            let mut fetching = keys.fetching.lock().await;
            match keys.fetch(&mut fetching).await {
                Ok(refresh) => refresh,
                Err(error) => {
                    tracing::error!(
                        error,
                        issuer = keys.issuer,
                        "oidc authenticator: could not fetch the keys of an issuer"
                    );
                    RETRY
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => return,
        }
    }
}
