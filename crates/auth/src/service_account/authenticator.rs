//! Whether a service account's token is good: signed by us, in its time, for us, and bound to what still exists.

use std::sync::Arc;

use apimachinery::{Value, time};
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use component_base::Clock;

use super::{INVALID_SINCE, LAST_USED, LEGACY_ISSUER, LegacyUse, LegacyUses, PRIVATE, TokenIssuer};
use crate::jwt::Unverified;
use crate::metrics::{AccountToken, Metrics};
use crate::user::{CREDENTIAL_ID_KEY, NODE_NAME_KEY, NODE_UID_KEY, POD_NAME_KEY, POD_UID_KEY};
use crate::{
    AuthenticationError, Authenticator, Credentials, Objects, Reviewed, UserInfo, Warnings,
};

/// What is told to who shows a token of a Secret that a controller made.
const AUTOMATIC: &str = "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.";

/// How far clocks may be apart, in seconds (upstream's leeway).
const LEEWAY_SECONDS: i64 = 10;
/// How long after the time of its deletion an object still counts, in seconds (upstream's grace).
const DELETED_GRACE_SECONDS: i64 = 60;

/// Users by the tokens of service accounts.
#[derive(Debug)]
pub struct ServiceAccountTokens {
    issuer: Arc<TokenIssuer>,
    objects: Arc<dyn Objects>,
    clock: Arc<dyn Clock>,
    uses: Option<Arc<dyn LegacyUses>>,
    /// Whether a token of a Secret is good without it.
    believes_secrets: bool,
    metrics: Metrics,
}

/// An object that a token names, as it must be.
struct Reference<'r> {
    resource: &'static str,
    kind: &'static str,
    namespace: &'r str,
    name: &'r str,
    uid: &'r str,
}

fn refused(why: impl Into<String>) -> AuthenticationError {
    AuthenticationError(why.into())
}

impl ServiceAccountTokens {
    /// Tokens of this issuer, bound to these objects.
    #[must_use]
    pub fn new(issuer: Arc<TokenIssuer>, objects: Arc<dyn Objects>, clock: Arc<dyn Clock>) -> Self {
        let metrics = Metrics::default();
        Self { issuer, objects, clock, uses: None, believes_secrets: false, metrics }
    }

    /// The same where uses of tokens in Secrets are written down.
    #[must_use]
    pub fn with_uses(self, uses: Arc<dyn LegacyUses>) -> Self {
        Self { uses: Some(uses), ..self }
    }

    /// The same where tokens of Secrets are good although nobody looks whether Secret and account are there still.
    #[must_use]
    pub fn without_lookup(self, believes_secrets: bool) -> Self {
        Self { believes_secrets, ..self }
    }

    /// The same, which counts here.
    #[must_use]
    pub fn counted(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Takes note that a Secret's token is used, once a day.
    fn note_use(&self, namespace: &str, secret: &str, value: &Value) {
        let Some(uses) = &self.uses else { return };
        let now = time::format_time(self.clock.now());
        let day = now.get(..10).unwrap_or(&now);
        if value.str_at(&["metadata", "labels", LAST_USED]) == day {
            return;
        }
        uses.note(LegacyUse {
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            uid: value.str_at(&["metadata", "uid"]).to_owned(),
            day: day.to_owned(),
        });
    }

    async fn check(
        &self,
        token: &str,
        wanted: &[String],
        warnings: &Warnings,
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let Ok(parsed) = Unverified::parse(token) else { return Ok(None) };
        let legacy = parsed.issuer() == LEGACY_ISSUER;
        if !legacy && !self.issuer.is_known(parsed.issuer()) {
            return Ok(None);
        }
        let keys = self.issuer.verifying(parsed.key_id()).await;
        let claims = parsed
            .verify(&keys)
            .map_err(|error| refused(format!("service account token: {error}")))?;
        self.check_times(&claims)?;
        let audiences = if legacy { self.issuer.audiences().to_vec() } else { audiences(&claims) };
        let wanted = if wanted.is_empty() { self.issuer.audiences() } else { wanted };
        let common: Vec<String> =
            wanted.iter().filter(|it| audiences.contains(it)).cloned().collect();
        if common.is_empty() {
            return Err(refused(format!(
                "token audiences {audiences:?} is invalid for the target audiences {wanted:?}"
            )));
        }
        let user = if legacy {
            self.legacy_user(token, &claims, warnings).await?
        } else {
            self.bound_user(&claims).await?
        };
        Ok(Some(Reviewed { user, audiences: common }))
    }

    fn check_times(&self, claims: &Value) -> Result<(), AuthenticationError> {
        let now = self.clock.now().as_second();
        if let Some(expires) = claims.i64_at(&["exp"])
            && now > expires.saturating_add(LEEWAY_SECONDS)
        {
            return Err(refused("service account token has expired"));
        }
        if claims.get("exp").is_none() && claims.str_at(&["iss"]) != LEGACY_ISSUER {
            return Err(refused("service account token does not expire"));
        }
        if let Some(begins) = claims.i64_at(&["nbf"])
            && now < begins.saturating_sub(LEEWAY_SECONDS)
        {
            return Err(refused("service account token is not valid yet"));
        }
        Ok(())
    }

    async fn bound_user(&self, claims: &Value) -> Result<UserInfo, AuthenticationError> {
        let private = &claims[PRIVATE];
        let namespace = private.str_at(&["namespace"]);
        let account = private.str_at(&["serviceaccount", "name"]);
        let account_uid = private.str_at(&["serviceaccount", "uid"]);
        if claims.str_at(&["sub"]) != super::subject(namespace, account) {
            return Err(refused("sub claim is not that of the token's service account"));
        }
        let reference = |resource, kind, member| Reference {
            resource,
            kind,
            namespace: if resource == "nodes" { "" } else { namespace },
            name: private.str_at(&[member, "name"]),
            uid: private.str_at(&[member, "uid"]),
        };
        self.check_bound(&reference("serviceaccounts", "ServiceAccount", "serviceaccount")).await?;
        let mut user = UserInfo::service_account(namespace, account);
        user.uid = account_uid.into();
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(key.into(), vec![value.into()]);
            }
        };
        if private.get("secret").is_some() {
            self.check_bound(&reference("secrets", "Secret", "secret")).await?;
        }
        let node = reference("nodes", "Node", "node");
        if private.get("pod").is_some() {
            let pod = reference("pods", "Pod", "pod");
            self.check_bound(&pod).await?;
            extra(POD_NAME_KEY, pod.name);
            extra(POD_UID_KEY, pod.uid);
        } else if private.get("node").is_some() {
            self.check_bound(&node).await?;
        }
        extra(NODE_NAME_KEY, node.name);
        extra(NODE_UID_KEY, node.uid);
        if let Some(warn_after) = private.i64_at(&["warnafter"]).filter(|it| *it != 0) {
            let stale = self.clock.now().as_second() > warn_after;
            let shown = if stale { AccountToken::Stale } else { AccountToken::Valid };
            self.metrics.account_token(shown);
        }
        let id = claims.str_at(&["jti"]);
        if !id.is_empty() {
            extra(CREDENTIAL_ID_KEY, &format!("JTI={id}"));
        }
        Ok(user)
    }

    async fn legacy_user(
        &self,
        token: &str,
        claims: &Value,
        warnings: &Warnings,
    ) -> Result<UserInfo, AuthenticationError> {
        let claim = |name: &str| {
            claims.str_at(&[&format!("kubernetes.io/serviceaccount/{name}")]).to_owned()
        };
        let (namespace, account) = (claim("namespace"), claim("service-account.name"));
        let (secret, uid) = (claim("secret.name"), claim("service-account.uid"));
        if claims.str_at(&["sub"]) != super::subject(&namespace, &account) {
            return Err(refused("sub claim is not that of the token's service account"));
        }
        if self.believes_secrets {
            let mut user = UserInfo::service_account(&namespace, &account);
            user.uid = uid;
            return Ok(user);
        }
        let reference = |resource, kind, name, uid| Reference {
            resource,
            kind,
            namespace: &namespace,
            name,
            uid,
        };
        let value = self.check_bound(&reference("secrets", "Secret", secret.as_str(), "")).await?;
        let stored = BASE64_STANDARD.decode(value.str_at(&["data", "token"])).unwrap_or_default();
        // Both were signed by us: what is compared is no secret to who sends it.
        if stored != token.as_bytes() {
            return Err(refused(format!(
                "token does not match that of secret {namespace}/{secret}"
            )));
        }
        let owner = reference("serviceaccounts", "ServiceAccount", &account, &uid);
        let owner = self.check_bound(&owner).await?;
        if !value.str_at(&["metadata", "labels", INVALID_SINCE]).is_empty() {
            self.metrics.account_token(AccountToken::LegacyInvalid);
            return Err(refused(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            )));
        }
        self.note_use(&namespace, &secret, &value);
        // A controller that makes Secrets names them in the account.
        let named = owner.items_at(&["secrets"]).iter().any(|it| it.str_at(&["name"]) == secret);
        let shown = if named { AccountToken::LegacyAuto } else { AccountToken::LegacyManual };
        if named {
            warnings.add(AUTOMATIC);
        }
        self.metrics.account_token(shown);
        let mut user = UserInfo::service_account(&namespace, &account);
        user.uid = uid;
        Ok(user)
    }

    /// The object, where it is the one that is meant. The caches may be a moment behind: what they do not have, or
    /// have under another uid, is read from the store.
    async fn check_bound(&self, wanted: &Reference<'_>) -> Result<Value, AuthenticationError> {
        let Reference { resource, kind, namespace, name, uid } = *wanted;
        let shown =
            if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        let broken = |why: &dyn std::fmt::Display| refused(format!("{kind} {shown}: {why}"));
        let cached = self.objects.get("", resource, namespace, name);
        let cached = match cached {
            Some(object) => Some(object.to_value().map_err(|error| broken(&error))?),
            None => None,
        };
        let value = match cached {
            Some(value) if uid.is_empty() || value.str_at(&["metadata", "uid"]) == uid => value,
            _ => {
                let live = self.objects.get_live("", resource, namespace, name).await;
                let live = live.map_err(|error| broken(&error))?;
                let live = live.ok_or_else(|| broken(&"not found"))?;
                live.to_value().map_err(|error| broken(&error))?
            }
        };
        let actual = value.str_at(&["metadata", "uid"]);
        if !uid.is_empty() && actual != uid {
            return Err(refused(format!("{kind} UID ({actual}) does not match claim ({uid})")));
        }
        let deleted = time::parse_time(value.str_at(&["metadata", "deletionTimestamp"]));
        let invalid_after = self.clock.now().as_second() - DELETED_GRACE_SECONDS;
        if deleted.is_ok_and(|at| at.as_second() < invalid_after) {
            return Err(broken(&"has been deleted"));
        }
        Ok(value)
    }
}

/// The audiences of a token: a list, or one text.
fn audiences(claims: &Value) -> Vec<String> {
    match &claims["aud"] {
        Value::String(one) => vec![one.to_string()],
        other => other
            .as_array()
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    }
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<Option<Arc<UserInfo>>, AuthenticationError> {
        let Some(token) = credentials.bearer_token() else { return Ok(None) };
        let checked = self.check(token, &[], credentials.warnings).await?;
        Ok(checked.map(|it| Arc::new(it.user)))
    }

    async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        self.check(token, audiences, &Warnings::default()).await
    }
}
