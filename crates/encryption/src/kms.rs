//! Keys that a plugin keeps: KMS v2. Values are encrypted by keys derived from a seed; the plugin encrypts the seed, and
//! what it makes of it stands with each value.
//!
//! Formats and limits are upstream's (`k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use component_base::{Clock, Random};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::cipher::{Cipher, SEED_BYTES};
use crate::metrics::{Metrics, hash};
use crate::provider::{Failure, Opened};
use grpc::wire::{Field, fields, write_bytes, write_entry, write_number};

/// How long a seed may be used to write after the plugin has last said that its key is the current one.
const WRITE_SECONDS: i64 = 180;
/// Between two questions to a plugin that is well, and to one that is not.
const GOOD_INTERVAL: Duration = Duration::from_secs(60);
const BAD_INTERVAL: Duration = Duration::from_secs(10);
/// How long an answer about a plugin's health is good enough for whoever asks for it.
const GOOD_TTL: Duration = Duration::from_secs(20);
const BAD_TTL: Duration = Duration::from_secs(3);
const MAX_KEY_ID_BYTES: usize = 1 << 10;
const MAX_SEED_BYTES: usize = 1 << 10;
const MAX_ANNOTATION_BYTES: usize = 32 << 10;
/// How many decrypted keys are kept. There is one for each key of the plugin and each start of a server.
const MAX_KEYS: usize = 1_000;
/// What the values carry whose key is a seed (upstream: `HKDF_SHA256_XNONCE_AES_GCM_SEED`).
const SEEDED: u64 = 1;

/// A plugin.
#[derive(Debug)]
pub(crate) struct Kms {
    name: String,
    prefix: String,
    client: grpc::Client,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    metrics: Arc<Metrics>,
    /// What values are written with.
    current: ArcSwapOption<Current>,
    keys: Mutex<BTreeMap<[u8; 32], Arc<Cipher>>>,
    health: Mutex<Option<(Instant, Result<(), String>)>>,
    /// One question at a time.
    asking: tokio::sync::Mutex<()>,
}

/// The seed in use.
#[derive(Debug)]
struct Current {
    cipher: Arc<Cipher>,
    envelope: Envelope,
    expires: Timestamp,
}

/// What stands with a value: by what its key can be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) key_id: String,
    pub(crate) source: Vec<u8>,
    pub(crate) annotations: BTreeMap<String, Vec<u8>>,
    /// 0: an AES-GCM key, 1: a seed.
    pub(crate) source_type: u64,
}

impl Envelope {
    /// The stored form, with the encrypted value.
    fn encode(&self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + self.source.len() + 128);
        write_bytes(&mut out, 1, data);
        write_bytes(&mut out, 2, self.key_id.as_bytes());
        write_bytes(&mut out, 3, &self.source);
        for (key, value) in &self.annotations {
            write_entry(&mut out, 4, (key, value));
        }
        write_number(&mut out, 5, self.source_type);
        out
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), String> {
        let (mut envelope, mut data) = (Self::default(), [].as_slice());
        for field in fields(bytes)? {
            match field {
                (1, Field::Bytes(bytes)) => data = bytes,
                (2, Field::Bytes(bytes)) => {
                    envelope.key_id = String::from_utf8_lossy(bytes).into_owned();
                }
                (3, Field::Bytes(bytes)) => envelope.source = bytes.to_vec(),
                (4, Field::Bytes(bytes)) => envelope.annotations.extend(entry(bytes)?),
                (5, Field::Varint(number)) => envelope.source_type = number,
                _ => {}
            }
        }
        if data.is_empty() {
            return Err("encrypted data is empty".into());
        }
        envelope.check()?;
        Ok((envelope, data))
    }

    fn check(&self) -> Result<(), String> {
        if self.source_type > SEEDED {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source_type));
        }
        let source = |why: String| format!("failed to validate encrypted DEK source: {why}");
        let length = self.source.len();
        if length == 0 {
            return Err(source("encrypted DEK source is empty".into()));
        }
        if length > MAX_SEED_BYTES {
            return Err(source(format!(
                "encrypted DEK source is {length} bytes, which exceeds the max size of {MAX_SEED_BYTES}"
            )));
        }
        check_key_id(&self.key_id).map_err(|why| format!("failed to validate key id: {why}"))?;
        let size: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > MAX_ANNOTATION_BYTES {
            return Err(format!(
                "failed to validate annotations: total size of annotations is {size}, which exceeds the max size of {MAX_ANNOTATION_BYTES}"
            ));
        }
        Ok(())
    }

    /// By what its key is kept.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(&self.source_type.to_be_bytes());
        add(&self.source);
        add(self.key_id.as_bytes());
        for (key, value) in &self.annotations {
            add(key.as_bytes());
            add(value);
        }
        hash.finalize().into()
    }
}

fn entry(bytes: &[u8]) -> Result<Option<(String, Vec<u8>)>, String> {
    let (mut key, mut value) = (String::new(), Vec::new());
    for field in fields(bytes)? {
        match field {
            (1, Field::Bytes(bytes)) => key = String::from_utf8_lossy(bytes).into_owned(),
            (2, Field::Bytes(bytes)) => value = bytes.to_vec(),
            _ => {}
        }
    }
    Ok(Some((key, value)))
}

fn check_key_id(id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err("keyID is empty".into()),
        length if length > MAX_KEY_ID_BYTES => Err(format!(
            "keyID is {length} bytes, which exceeds the max size of {MAX_KEY_ID_BYTES}"
        )),
        _ => Ok(()),
    }
}

fn hashed(key_id: &str) -> String {
    hash(key_id.as_bytes())
}

#[allow(clippy::cast_precision_loss, reason = "a time has far fewer seconds than 2^53")]
fn seconds(at: Timestamp) -> f64 {
    at.as_second() as f64
}

/// What a plugin is made of.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Kms {
    pub(crate) fn new(name: &str, socket: PathBuf, timeout: Duration, setup: &Setup) -> Self {
        Self {
            name: name.to_owned(),
            prefix: format!("k8s:enc:kms:v2:{name}:"),
            client: grpc::Client::new(grpc::Place::Unix(socket), timeout),
            clock: Arc::clone(&setup.clock),
            random: Arc::clone(&setup.random),
            metrics: Arc::clone(&setup.metrics),
            current: ArcSwapOption::empty(),
            keys: Mutex::default(),
            health: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Asks the plugin how it is, again and again.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            let well = self.health.lock().as_ref().is_some_and(|(_, health)| health.is_ok());
            sleep(if well { GOOD_INTERVAL } else { BAD_INTERVAL }).await;
            // Whoever asks for its health is told.
            let _ = self.ask().await;
        }
    }

    /// How the plugin is, as it was a moment ago or is now.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let last = self.health.lock().clone();
        if let Some((at, health)) = last
            && at.elapsed() < if health.is_ok() { GOOD_TTL } else { BAD_TTL }
        {
            return health;
        }
        self.ask().await
    }

    /// Asks the plugin how it is, and makes a new seed where its key is another one.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        let _one_at_a_time = self.asking.lock().await;
        let health = self.asked().await;
        if let Err(error) = &health {
            tracing::warn!(provider = self.name, error, "a KMS plugin is not well");
        }
        *self.health.lock() = Some((Instant::now(), health.clone()));
        health
    }

    async fn asked(&self) -> Result<(), String> {
        let name = &self.name;
        let answer = self.call("Status", &[]).await.map_err(|why| {
            format!(
                "failed to perform status section of the healthz check for KMS Provider {name}, error: {why}"
            )
        })?;
        let key_id = healthy(&answer, |error| self.metrics.key_no_good(name, error))
            .map_err(|why| format!("kmsv2 Provider {name} is not healthy, error: {why}"))?;
        self.metrics.key_told(name, &key_id, seconds(self.clock.now()));
        self.rotate(&key_id).await.map_err(|why| {
            format!("failed to rotate DEK on key ID change for KMS Provider {name}, error: {why}")
        })
    }

    /// Makes sure of a seed that the plugin encrypts with this key.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        let expires = self.clock.now() + SignedDuration::from_secs(WRITE_SECONDS);
        if let Some(current) = self.current.load_full()
            && current.envelope.key_id == key_id
        {
            let (cipher, envelope) = (Arc::clone(&current.cipher), current.envelope.clone());
            self.current.store(Some(Arc::new(Current { cipher, envelope, expires })));
            return Ok(());
        }
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        self.random.fill(seed.as_mut_slice());
        let mut message = Vec::new();
        write_bytes(&mut message, 1, seed.as_slice());
        write_bytes(&mut message, 2, self.random.uid().to_string().as_bytes());
        let answer = self.call("Encrypt", &message).await;
        let answer = answer.map_err(|why| format!("failed to encrypt DEK, error: {why}"))?;
        let mut envelope = Envelope { source_type: SEEDED, ..Envelope::default() };
        for field in fields(&answer)? {
            match field {
                (1, Field::Bytes(bytes)) => envelope.source = bytes.to_vec(),
                (2, Field::Bytes(bytes)) => {
                    envelope.key_id = String::from_utf8_lossy(bytes).into_owned();
                }
                (3, Field::Bytes(bytes)) => envelope.annotations.extend(entry(bytes)?),
                _ => {}
            }
        }
        envelope.check()?;
        let cipher = Arc::new(Cipher::seeded(seed.as_slice())?);
        self.keep(envelope.digest(), &cipher);
        if envelope.key_id != key_id {
            // The key has changed in between: the next answer will tell.
            tracing::info!(provider = self.name, "a KMS plugin's key changed while it was asked");
        }
        self.current.store(Some(Arc::new(Current { cipher, envelope, expires })));
        Ok(())
    }

    fn keep(&self, digest: [u8; 32], cipher: &Arc<Cipher>) {
        let mut keys = self.keys.lock();
        if keys.len() >= MAX_KEYS {
            // Asking again costs a call, no more.
            keys.clear();
        }
        keys.insert(digest, Arc::clone(cipher));
    }

    async fn call(
        &self,
        method: &'static str,
        message: &[u8],
    ) -> Result<bytes::Bytes, grpc::Status> {
        let began = Instant::now();
        let path = format!("/v2.KeyManagementService/{method}");
        let answer = self.client.call(&path, message).await;
        let code = answer.as_ref().map_or_else(|status| status.code, |_| "OK");
        self.metrics.called(&self.name, method, code, began.elapsed());
        answer
    }

    fn current(&self) -> Result<Arc<Current>, String> {
        self.current.load_full().ok_or_else(|| {
            format!(
                "KMS provider {} has not told its key yet: got unexpected nil transformer",
                self.name
            )
        })
    }

    pub(crate) fn seal(
        &self,
        value: &[u8],
        context: &[u8],
        random: &dyn Random,
    ) -> Result<Vec<u8>, String> {
        let current = self.current()?;
        let now = self.clock.now();
        if now > current.expires {
            return Err(format!(
                "encryptedDEKSource with keyID hash {:?} expired at {} (current time is {})",
                hashed(&current.envelope.key_id),
                apimachinery::time::format_time(current.expires),
                apimachinery::time::format_time(now)
            ));
        }
        let sealed = current.cipher.seal(value, context, random)?;
        let at = seconds(now);
        self.metrics.key_used(&self.name, "to_storage", &current.envelope.key_id, at);
        Ok(current.envelope.encode(&sealed))
    }

    pub(crate) async fn open(&self, value: &[u8], context: &[u8]) -> Result<Opened, Failure> {
        let (envelope, data) = Envelope::decode(value)?;
        let current = self.current()?;
        let digest = envelope.digest();
        let kept = self.keys.lock().get(&digest).cloned();
        let cipher = match kept {
            Some(cipher) => cipher,
            None => self.key_of(&envelope, digest).await?,
        };
        let at = seconds(self.clock.now());
        self.metrics.key_used(&self.name, "from_storage", &envelope.key_id, at);
        let value = cipher.open(data, context)?.into();
        let is_stale = envelope.key_id != current.envelope.key_id
            || envelope.source_type != current.envelope.source_type;
        Ok(Opened { value, is_stale })
    }

    /// Has a key decrypted.
    async fn key_of(&self, envelope: &Envelope, digest: [u8; 32]) -> Result<Arc<Cipher>, Failure> {
        self.metrics.missed();
        let mut message = Vec::new();
        write_bytes(&mut message, 1, &envelope.source);
        write_bytes(&mut message, 2, self.random.uid().to_string().as_bytes());
        write_bytes(&mut message, 3, envelope.key_id.as_bytes());
        for (key, value) in &envelope.annotations {
            write_entry(&mut message, 4, (key, value));
        }
        let answer = self.call("Decrypt", &message).await;
        let answer = answer.map_err(|status| Failure {
            why: format!("failed to decrypt DEK, error: {status}"),
            code: Some(status.code),
        })?;
        let key = fields(&answer)?.into_iter().find_map(|it| match it {
            (1, Field::Bytes(bytes)) => Some(bytes),
            _ => None,
        });
        let key = key.unwrap_or_default();
        let cipher = match envelope.source_type {
            SEEDED => Cipher::seeded(key)?,
            _ => Cipher::gcm(key)?,
        };
        let cipher = Arc::new(cipher);
        self.keep(digest, &cipher);
        Ok(cipher)
    }
}

/// The key of a plugin that says it is well; `no_good` is told what is wrong with its name.
fn healthy(answer: &[u8], no_good: impl FnOnce(&'static str)) -> Result<String, String> {
    let (mut version, mut health, mut key_id) = (String::new(), String::new(), String::new());
    for field in fields(answer)? {
        let (place, bytes) = match field {
            (1, Field::Bytes(bytes)) => (&mut version, bytes),
            (2, Field::Bytes(bytes)) => (&mut health, bytes),
            (3, Field::Bytes(bytes)) => (&mut key_id, bytes),
            _ => continue,
        };
        *place = String::from_utf8_lossy(bytes).into_owned();
    }
    let mut wrong = Vec::new();
    if health != "ok" {
        wrong.push(format!("got unexpected healthz status: {health}"));
    }
    if !matches!(version.as_str(), "v2" | "v2beta1") {
        wrong.push(format!("expected KMSv2 API version v2, got {version}"));
    }
    if let Err(why) = check_key_id(&key_id) {
        no_good(if key_id.is_empty() { "empty" } else { "too_long" });
        wrong.push(format!(
            "got invalid KMSv2 KeyID hash {:?}: {why}",
            if key_id.is_empty() { String::new() } else { hashed(&key_id) }
        ));
    }
    match wrong.len() {
        0 => Ok(key_id),
        1 => Err(wrong.concat()),
        _ => Err(format!("[{}]", wrong.join(", "))),
    }
}
