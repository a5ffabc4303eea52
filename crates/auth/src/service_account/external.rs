//! A signer of tokens elsewhere: it keeps the keys, and is asked for each token. Upstream: `ExternalJWTSigner` of
//! `k8s.io/externaljwt`, and `pkg/serviceaccount/externaljwt/plugin`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, json};
use arc_swap::ArcSwap;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use component_base::{Clock, ShutdownSignal};
use grpc::wire::{Field, fields, write_bytes};
use grpc::{Client, Place};
use tokio::time::Instant;

use crate::jwt::VerifyingKey;
use crate::metrics::{Metrics, Signer};

/// The code of a call that went well.
const OK: &str = "OK";
const SERVICE: &str = "/v1.ExternalJWTSigner";
/// How long any answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After which time keys are asked for again that could not be had.
const AGAIN: Duration = Duration::from_secs(10);
/// Keys are asked for no more often than this, whoever shows tokens with keys that nobody knows.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// The shortest life of tokens that a signer may want as its longest, in seconds (upstream's limit).
const MIN_LIFE_SECONDS: i64 = 600;
const MAX_KEY_ID_BYTES: usize = 1 << 10;
/// How tokens may be signed (upstream also: ES512, which is not built).
const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "ES384"];

/// A signer on a Unix socket.
#[derive(Debug)]
pub struct ExternalSigner {
    caller: Caller,
    keys: ArcSwap<Keys>,
    /// When keys were last asked for; one question at a time.
    asked: tokio::sync::Mutex<Instant>,
    max_seconds: i64,
}

/// Calls the signer, and counts that.
#[derive(Debug)]
struct Caller {
    client: Client,
    clock: Arc<dyn Clock>,
    metrics: Signer,
}

/// What the signer's tokens are checked with.
#[derive(Debug, Default)]
struct Keys {
    all: Arc<Vec<VerifyingKey>>,
    /// Those that are not told of.
    hidden: Vec<String>,
    /// How long they may be used before they are asked for again.
    refresh: Duration,
    /// Of when they are, in seconds since the epoch.
    of: f64,
}

impl ExternalSigner {
    /// Asks the signer how long its tokens may live, and for its keys.
    ///
    /// # Errors
    /// It does not answer, or not as it should.
    pub async fn start(
        socket: PathBuf,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, String> {
        let client = Client::new(Place::Unix(socket), TIMEOUT);
        let caller = Caller { client, clock, metrics: metrics.signer() };
        let metadata = caller.call("Metadata", &[]).await.map_err(|it| it.1)?;
        let max_seconds = match fields(&metadata)?.as_slice() {
            [.., (1, Field::Varint(seconds))] => i64::try_from(*seconds).unwrap_or_default(),
            _ => 0,
        };
        if max_seconds < MIN_LIFE_SECONDS {
            return Err(format!(
                "max token life supported by external-jwt-signer ({max_seconds}s) is less than acceptable (min {MIN_LIFE_SECONDS}s)"
            ));
        }
        let keys = caller.fetch().await?;
        let asked = tokio::sync::Mutex::new(Instant::now());
        Ok(Arc::new(Self { caller, keys: ArcSwap::from_pointee(keys), asked, max_seconds }))
    }

    /// Asks for keys again whenever the signer wants it, until `stop`.
    pub async fn follow(self: Arc<Self>, stop: ShutdownSignal) {
        let mut pause = self.keys.load().refresh;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.requested() => return,
            }
            pause = match self.refresh().await {
                Ok(()) => self.keys.load().refresh,
                Err(error) => {
                    tracing::error!(
                        error,
                        "the keys of the signer of tokens could not be had: those from before count"
                    );
                    AGAIN
                }
            };
        }
    }

    /// The longest that its tokens may live, in seconds.
    #[must_use]
    pub fn max_seconds(&self) -> i64 {
        self.max_seconds
    }

    /// All its keys.
    pub(super) fn keys(&self) -> Arc<Vec<VerifyingKey>> {
        Arc::clone(&self.keys.load().all)
    }

    /// Whether others are told of a key.
    pub(super) fn is_told(&self, id: &str) -> bool {
        !self.keys.load().hidden.iter().any(|it| it == id)
    }

    /// All its keys, asked for anew where this one is not among them.
    pub(super) async fn keys_with(&self, id: &str) -> Arc<Vec<VerifyingKey>> {
        let has = |keys: &Arc<Vec<VerifyingKey>>| keys.iter().any(|key| key.id() == id);
        let keys = self.keys();
        if has(&keys) {
            return keys;
        }
        if let Err(error) = self.refresh_for(id).await {
            tracing::warn!(error, "the keys of the signer of tokens could not be had");
        }
        self.keys()
    }

    async fn refresh_for(&self, id: &str) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        // Somebody else may have asked while this waited; and somebody may make up keys.
        let known = self.keys().iter().any(|key| key.id() == id);
        if known || asked.elapsed() < AT_MOST_EVERY {
            return Ok(());
        }
        *asked = Instant::now();
        self.keys.store(Arc::new(self.caller.fetch().await?));
        Ok(())
    }

    async fn refresh(&self) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        *asked = Instant::now();
        self.keys.store(Arc::new(self.caller.fetch().await?));
        Ok(())
    }

    /// A token of these claims.
    pub(super) async fn sign(&self, claims: &Value) -> Result<String, String> {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(json::to_vec(claims));
        let mut request = Vec::new();
        write_bytes(&mut request, 1, payload.as_bytes());
        let answer = self.caller.call("Sign", &request).await;
        let code = answer.as_ref().map_or_else(|it| it.0, |_| OK);
        let token = match answer {
            Ok(answer) => self.token(&payload, &answer).await,
            Err((_, why)) => Err(why),
        };
        self.caller.metrics.signed(code, token.is_ok());
        token
    }

    /// The token of these claims, by what the signer says of them.
    async fn token(&self, payload: &str, answer: &[u8]) -> Result<String, String> {
        let (mut header, mut signature) = ("", "");
        for field in fields(answer)? {
            match field {
                (1, Field::Bytes(bytes)) => header = text(bytes)?,
                (2, Field::Bytes(bytes)) => signature = text(bytes)?,
                _ => {}
            }
        }
        let key = key_of(header).map_err(|why| format!("while validating header: {why}"))?;
        if signature.is_empty() {
            return Err("empty signature returned".into());
        }
        let keys = self.keys_with(&key).await;
        if !keys.iter().any(|it| it.id() == key) {
            return Err(format!("key used for signing JWT (kid: {key}) is not known"));
        }
        if !self.is_told(&key) {
            return Err(format!(
                "key used for signing JWT (kid: {key}) is excluded from OIDC discovery docs"
            ));
        }
        Ok(format!("{header}.{payload}.{signature}"))
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| error.to_string())
}

impl Caller {
    /// An answer, or the code of a failure and what is told of it.
    async fn call(&self, name: &str, message: &[u8]) -> Result<Bytes, (&'static str, String)> {
        let (method, began) = (format!("{SERVICE}/{name}"), Instant::now());
        let answer = self.client.call(&method, message).await;
        let code = answer.as_ref().map_or_else(|it| it.code, |_| OK);
        self.metrics.called(method, code, began.elapsed());
        answer.map_err(|status| {
            (status.code, format!("the external signer of tokens: {name}: {status}"))
        })
    }

    /// The signer's keys.
    async fn fetch(&self) -> Result<Keys, String> {
        let answer = self.call("FetchKeys", &[]).await;
        let code = answer.as_ref().map_or_else(|it| it.0, |_| OK);
        let keys = answer.map_err(|it| it.1).and_then(|answer| keys_of(&answer));
        #[allow(clippy::cast_precision_loss, reason = "seconds since the epoch are few")]
        let now = self.clock.now().as_second() as f64;
        self.metrics.fetched(code, keys.as_ref().ok().map(|it| (now, it.of)));
        keys
    }
}

/// The key that a token's header names.
fn key_of(header: &str) -> Result<String, String> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|error| error.to_string())?;
    let header = json::parse(&bytes).map_err(|error| error.to_string())?;
    let (algorithm, id) = (header.str_at(&["alg"]), header.str_at(&["kid"]));
    if !ALGORITHMS.contains(&algorithm) {
        return Err(format!("bad signing algorithm {algorithm:?}"));
    }
    if id.is_empty() || id.len() > MAX_KEY_ID_BYTES {
        return Err(format!("key id must have 1 to {MAX_KEY_ID_BYTES} bytes"));
    }
    match header.get("typ").and_then(Value::as_str) {
        None | Some("JWT") => Ok(id.to_owned()),
        Some(other) => Err(format!("bad type {other:?}")),
    }
}

/// The keys that an answer tells.
fn keys_of(answer: &[u8]) -> Result<Keys, String> {
    let (mut keys, mut all, mut is_dated) = (Keys::default(), Vec::new(), false);
    for field in fields(answer)? {
        match field {
            (1, Field::Bytes(message)) => {
                let (key, is_hidden) = key(message)?;
                if is_hidden {
                    keys.hidden.push(key.id().to_owned());
                }
                all.push(key);
            }
            (2, Field::Bytes(time)) => {
                is_dated = true;
                keys.of = seconds_of(time)?;
            }
            (3, Field::Varint(seconds)) => {
                keys.refresh = Duration::from_secs(seconds.min(u64::from(u32::MAX)));
            }
            _ => {}
        }
    }
    if keys.refresh.is_zero() {
        return Err("found invalid refresh hint (0s) in FetchKeys response".into());
    }
    if !is_dated {
        return Err("invalid data timestamp in FetchKeys response".into());
    }
    keys.all = Arc::new(all);
    Ok(keys)
}

/// The whole seconds of a time since the epoch.
fn seconds_of(time: &[u8]) -> Result<f64, String> {
    let mut all = fields(time)?.into_iter().filter_map(|field| match field {
        (1, Field::Varint(seconds)) => Some(seconds),
        _ => None,
    });
    #[allow(clippy::cast_precision_loss, reason = "seconds since the epoch are few")]
    Ok(all.next_back().unwrap_or_default() as f64)
}

fn key(message: &[u8]) -> Result<(VerifyingKey, bool), String> {
    let (mut id, mut der, mut is_hidden) = ("", [].as_slice(), false);
    for field in fields(message)? {
        match field {
            (1, Field::Bytes(bytes)) => id = text(bytes)?,
            (2, Field::Bytes(bytes)) => der = bytes,
            (3, Field::Varint(flag)) => is_hidden = flag != 0,
            _ => {}
        }
    }
    if id.is_empty() || id.len() > MAX_KEY_ID_BYTES {
        return Err(format!("found invalid public key id {id:?}"));
    }
    let key = VerifyingKey::from_spki(der);
    let key = key.map_err(|error| format!("while parsing key {id}: {error}"))?;
    Ok((key.with_id(id), is_hidden))
}

#[cfg(test)]
mod tests;
