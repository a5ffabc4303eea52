//! Bootstrap tokens: what a node shows before it has a certificate. Upstream:
//! `plugin/pkg/auth/authenticator/token/bootstrap`; `kubeadm token` makes the same secrets.

use std::sync::Arc;

use apimachinery::{Value, time};
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use component_base::Clock;
use ring::digest::{SHA256, digest};

use crate::{Asker, AuthenticationError, Authenticator, Credentials, Objects, Reviewed, UserInfo};

/// The namespace of the secrets.
const NAMESPACE: &str = "kube-system";
/// Their names are this and the token's id.
const PREFIX: &str = "bootstrap-token-";
/// Their type.
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of everybody who has such a token.
const GROUP: &str = "system:bootstrappers";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// Tokens that are secrets in `kube-system`.
#[derive(Debug)]
pub struct BootstrapTokens {
    objects: Arc<dyn Objects>,
    clock: Arc<dyn Clock>,
}

impl BootstrapTokens {
    /// Tokens among these objects, at this time.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>, clock: Arc<dyn Clock>) -> Self {
        Self { objects, clock }
    }

    fn find(&self, token: &str) -> Option<UserInfo> {
        let (id, secret) = parts(token)?;
        let object = self.objects.get("", "secrets", NAMESPACE, &format!("{PREFIX}{id}"))?;
        let object = object.to_value().ok()?;
        user(&object, id, secret, &time::format_time(self.clock.now()))
    }
}

/// Id and secret of `abcdef.0123456789abcdef`.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH;
    (fits && plain(id) && plain(secret)).then_some((id, secret))
}

fn user(object: &Value, id: &str, secret: &str, now: &str) -> Option<UserInfo> {
    let data = |key: &str| -> String {
        let bytes = BASE64_STANDARD.decode(object.str_at(&["data", key])).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let deleting = object.at(&["metadata", "deletionTimestamp"]).is_some();
    if object.str_at(&["type"]) != TYPE || deleting || data("token-id") != id {
        return None;
    }
    // Hashes are compared, so that the time it takes tells nothing of the secret.
    let (given, kept) =
        (digest(&SHA256, secret.as_bytes()), digest(&SHA256, data("token-secret").as_bytes()));
    if given.as_ref() != kept.as_ref() || data("usage-bootstrap-authentication") != "true" {
        return None;
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        let at: jiff::Timestamp = expiration.parse().ok()?;
        if at <= now.parse().ok()? {
            return None;
        }
    }
    let extra = data("auth-extra-groups");
    let extra = extra.split(',').map(str::trim).filter(|it| it.starts_with(GROUP));
    let groups: Vec<&str> = std::iter::once(GROUP).chain(extra).collect();
    Some(UserInfo::new(&format!("system:bootstrap:{id}"), &groups))
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        Some(Ok(credentials.bearer_token().and_then(|token| self.find(token)).map(Arc::new)))
    }

    async fn review(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        Ok(self.find(token).map(|user| Reviewed { user, audiences: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut secret = value!({"type": TYPE, "metadata": {"name": "bootstrap-token-abcdef"}});
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:kubelith, evil"),
        ];
        for (key, text) in usual.iter().chain(changes) {
            secret.set_at(&["data", *key], BASE64_STANDARD.encode(text));
        }
        secret
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let now = "2026-01-02T00:00:00Z";
        let (id, word) = parts("abcdef.0123456789abcdef").unwrap();
        let found = user(&secret(&[]), id, word, now).unwrap();
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert_eq!(
            found.groups,
            ["system:bootstrappers", "system:bootstrappers:kubelith", "system:authenticated"]
        );
        for (key, text, good) in [
            ("expiration", "2026-01-02T00:00:01Z", true),
            ("expiration", "2026-01-02T00:00:00Z", false),
            ("expiration", "soon", false),
            ("token-secret", "0123456789abcdeX", false),
            ("token-id", "other1", false),
            ("usage-bootstrap-authentication", "false", false),
        ] {
            assert_eq!(
                user(&secret(&[(key, text)]), id, word, now).is_some(),
                good,
                "{key}={text}"
            );
        }
        for bad in
            ["", "abcdef", "abcdef.short", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde/"]
        {
            assert!(parts(bad).is_none(), "{bad}");
        }
    }
}
