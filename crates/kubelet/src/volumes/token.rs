//! Tokens of service accounts, bound to their pods: asked for once, and again when most of their life is over.

use std::collections::BTreeMap;

use apimachinery::{time, value};
use client::Resource;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use parking_lot::Mutex;

use crate::shared::Shared;
use crate::spec;

/// What is asked for when nothing else is said.
const DEFAULT_SECONDS: i64 = 3600;
/// Tokens older than this are renewed however long they live.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// By pod, audience and life in seconds.
type Key = (String, String, i64);

/// The tokens of the node's pods.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<BTreeMap<Key, Token>>);

impl Tokens {
    /// A token that is good for a while.
    ///
    /// # Errors
    /// When the server gives none.
    pub(crate) async fn get(
        &self,
        shared: &Shared,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let audience = wanted.audience.clone().unwrap_or_default();
        let seconds = wanted.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
        let key = (spec::uid(pod).to_owned(), audience.clone(), seconds);
        let now = shared.clock.now();
        let known = self.0.lock().get(&key).cloned();
        if let Some(known) = &known
            && known.renew_at > now
        {
            return Ok(known.text.clone());
        }
        match request(shared, pod, &audience, seconds).await {
            Ok(token) => {
                let text = token.text.clone();
                self.0.lock().insert(key, token);
                Ok(text)
            }
            // The one there is serves while it lasts.
            Err(error) => {
                known.map(|it| it.text).ok_or_else(|| format!("failed to fetch token: {error}"))
            }
        }
    }

    /// When the next token of a pod is to be renewed.
    pub(crate) fn renew_at(&self, uid: &str) -> Option<Timestamp> {
        self.0.lock().iter().filter(|(key, _)| key.0 == uid).map(|(_, it)| it.renew_at).min()
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().retain(|key, _| key.0 != uid);
    }
}

async fn request(
    shared: &Shared,
    pod: &Pod,
    audience: &str,
    seconds: i64,
) -> Result<Token, String> {
    let mut body = value!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds, "boundObjectRef": {
            "apiVersion": "v1", "kind": "Pod", "name": (spec::name(pod)), "uid": (spec::uid(pod))}}
    });
    if !audience.is_empty() {
        body.set_at(&["spec", "audiences"], apimachinery::Value::Array(vec![audience.into()]));
    }
    let account = spec::spec(pod).service_account_name.clone().filter(|it| !it.is_empty());
    let account = account.unwrap_or_else(|| "default".into());
    let resource = Resource::built_in("", "serviceaccounts");
    let asked = shared.clock.now();
    let answer = shared
        .client
        .create_subresource(&resource, spec::namespace(pod), &account, "token", &body)
        .await
        .map_err(|error| error.to_string())?;
    let text = answer.str_at(&["status", "token"]).to_owned();
    if text.is_empty() {
        return Err(format!("the server gave no token for service account {account}"));
    }
    let expires = time::parse_time(answer.str_at(&["status", "expirationTimestamp"]))?;
    let life = expires.duration_since(asked);
    let renew_at = asked + (life * 4 / 5).min(MAX_AGE);
    Ok(Token { text, renew_at })
}
