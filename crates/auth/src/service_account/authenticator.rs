//! Whether a service account's token is good: signed by us, in its time, for us, and bound to what still exists.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::obj::Obj;
use apimachinery::{Value, time};
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use component_base::Clock;
use ring::digest::SHA256_OUTPUT_LEN;

use super::{INVALID_SINCE, LAST_USED, LEGACY_ISSUER, LegacyUse, LegacyUses, PRIVATE, TokenIssuer};
use crate::jwt::Unverified;
use crate::metrics::{AccountToken, Metrics};
use crate::remembered::Remembered;
use crate::user::{CREDENTIAL_ID_KEY, NODE_NAME_KEY, NODE_UID_KEY, POD_NAME_KEY, POD_UID_KEY};
use crate::{
    Asker, AuthenticationError, Authenticator, Credentials, Objects, Reviewed, UserInfo, Warnings,
    token_hash,
};

/// What is told to who shows a token of a Secret that a controller made.
const AUTOMATIC: &str = "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.";

/// How far clocks may be apart, in seconds (upstream's leeway).
const LEEWAY_SECONDS: i64 = 10;
/// How many tokens are remembered whose signature was checked.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(2048).expect("because it is not 0");
/// How long they are: keys may be taken away (upstream remembers the user of a token as long).
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
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
    /// Tokens that were signed by us, by their hash.
    signed: Remembered<[u8; SHA256_OUTPUT_LEN], Arc<Signed>>,
}

/// What a token says that was signed by us, and is no legacy token.
#[derive(Debug)]
struct Signed {
    claims: Value,
    user: Arc<UserInfo>,
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
        let signed = Remembered::new(MAX_REMEMBERED);
        Self { issuer, objects, clock, uses: None, believes_secrets: false, metrics, signed }
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
    ) -> Result<Option<(Arc<UserInfo>, Vec<String>)>, AuthenticationError> {
        let key = token_hash(token);
        if let Some(signed) = self.signed.get(&key) {
            return self.signed_user(&signed, wanted).await.map(Some);
        }
        let Ok(parsed) = Unverified::parse(token) else { return Ok(None) };
        let legacy = parsed.issuer() == LEGACY_ISSUER;
        if !legacy && !self.issuer.is_known(parsed.issuer()) {
            return Ok(None);
        }
        let keys = self.issuer.verifying(parsed.key_id()).await;
        let claims = parsed
            .verify(&keys)
            .map_err(|error| refused(format!("service account token: {error}")))?;
        if legacy {
            self.check_times(&claims)?;
            let audiences = self.issuer.audiences().to_vec();
            let common = self.common_audiences(&audiences, wanted)?;
            let user = self.legacy_user(token, &claims, warnings).await?;
            return Ok(Some((Arc::new(user), common)));
        }
        let user = Arc::new(bound_user(&claims)?);
        let signed = Arc::new(Signed { claims, user });
        self.signed.keep(key, Arc::clone(&signed), REMEMBERED_FOR);
        self.signed_user(&signed, wanted).await.map(Some)
    }

    /// The user of a token that was signed by us, where it is good now and for what is wanted.
    async fn signed_user(
        &self,
        signed: &Signed,
        wanted: &[String],
    ) -> Result<(Arc<UserInfo>, Vec<String>), AuthenticationError> {
        let common = self.good_for(signed, wanted)?;
        for reference in references(&signed.claims) {
            self.check_bound(&reference).await?;
        }
        self.count_age(&signed.claims);
        Ok((Arc::clone(&signed.user), common))
    }

    /// The same where all that it is bound to is in the caches as it has to be.
    fn signed_user_at_once(&self, token: &str) -> Option<Asker> {
        let signed = self.signed.get(&token_hash(token))?;
        if let Err(error) = self.good_for(&signed, &[]) {
            return Some(Err(error));
        }
        for reference in references(&signed.claims) {
            let object = self.bound_in_caches(&reference)?;
            if let Err(error) = self.check_deletion(&reference, &object) {
                return Some(Err(error));
            }
        }
        self.count_age(&signed.claims);
        Some(Ok(Some(Arc::clone(&signed.user))))
    }

    /// What of the wanted a token is good for now, as far as it says so itself.
    fn good_for(
        &self,
        signed: &Signed,
        wanted: &[String],
    ) -> Result<Vec<String>, AuthenticationError> {
        self.check_times(&signed.claims)?;
        self.common_audiences(&audiences(&signed.claims), wanted)
    }

    /// Those of the wanted audiences, or of our own, that a token is for.
    fn common_audiences(
        &self,
        audiences: &[String],
        wanted: &[String],
    ) -> Result<Vec<String>, AuthenticationError> {
        let wanted = if wanted.is_empty() { self.issuer.audiences() } else { wanted };
        let common: Vec<String> =
            wanted.iter().filter(|it| audiences.contains(it)).cloned().collect();
        if common.is_empty() {
            return Err(refused(format!(
                "token audiences {audiences:?} is invalid for the target audiences {wanted:?}"
            )));
        }
        Ok(common)
    }

    fn count_age(&self, claims: &Value) {
        let warn_after = claims[PRIVATE].i64_at(&["warnafter"]).filter(|it| *it != 0);
        if let Some(warn_after) = warn_after {
            let stale = self.clock.now().as_second() > warn_after;
            let shown = if stale { AccountToken::Stale } else { AccountToken::Valid };
            self.metrics.account_token(shown);
        }
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
        let kept = reference("secrets", "Secret", secret.as_str(), "");
        let value = self.check_bound(&kept).await?;
        let value = value.to_value().map_err(|error| kept.refused(&error))?;
        let stored = BASE64_STANDARD.decode(value.str_at(&["data", "token"])).unwrap_or_default();
        // Both were signed by us: what is compared is no secret to who sends it.
        if stored != token.as_bytes() {
            return Err(refused(format!(
                "token does not match that of secret {namespace}/{secret}"
            )));
        }
        let owner = reference("serviceaccounts", "ServiceAccount", &account, &uid);
        let named = self.check_bound(&owner).await?;
        let owner = named.to_value().map_err(|error| owner.refused(&error))?;
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
    async fn check_bound(&self, wanted: &Reference<'_>) -> Result<Arc<Obj>, AuthenticationError> {
        let object = match self.bound_in_caches(wanted) {
            Some(cached) => cached,
            None => {
                let Reference { resource, namespace, name, .. } = *wanted;
                let live = self.objects.get_live("", resource, namespace, name).await;
                let live = live.map_err(|error| wanted.refused(&error))?;
                live.ok_or_else(|| wanted.refused(&"not found"))?
            }
        };
        let actual = object.uid();
        if !wanted.uid.is_empty() && actual != wanted.uid {
            let Reference { kind, uid, .. } = wanted;
            return Err(refused(format!("{kind} UID ({actual}) does not match claim ({uid})")));
        }
        self.check_deletion(wanted, &object)?;
        Ok(object)
    }

    /// The object as the caches have it, where it is the one that is meant.
    fn bound_in_caches(&self, wanted: &Reference<'_>) -> Option<Arc<Obj>> {
        let Reference { resource, namespace, name, uid, .. } = *wanted;
        let cached = self.objects.get("", resource, namespace, name)?;
        (uid.is_empty() || cached.uid() == uid).then_some(cached)
    }

    /// Who is deleted counts for a while longer.
    fn check_deletion(
        &self,
        wanted: &Reference<'_>,
        object: &Obj,
    ) -> Result<(), AuthenticationError> {
        let Some(text) = object.metadata_text("deletionTimestamp") else { return Ok(()) };
        let deleted = std::str::from_utf8(text).unwrap_or_default().trim_matches('"');
        let invalid_after = self.clock.now().as_second() - DELETED_GRACE_SECONDS;
        if time::parse_time(deleted).is_ok_and(|at| at.as_second() < invalid_after) {
            return Err(wanted.refused(&"has been deleted"));
        }
        Ok(())
    }
}

impl Reference<'_> {
    fn refused(&self, why: &dyn std::fmt::Display) -> AuthenticationError {
        let Self { kind, namespace, name, .. } = self;
        let slash = if namespace.is_empty() { "" } else { "/" };
        refused(format!("{kind} {namespace}{slash}{name}: {why}"))
    }
}

/// The user that a token's claims name.
fn bound_user(claims: &Value) -> Result<UserInfo, AuthenticationError> {
    let private = &claims[PRIVATE];
    let namespace = private.str_at(&["namespace"]);
    let account = private.str_at(&["serviceaccount", "name"]);
    if claims.str_at(&["sub"]) != super::subject(namespace, account) {
        return Err(refused("sub claim is not that of the token's service account"));
    }
    let mut user = UserInfo::service_account(namespace, account);
    user.uid = private.str_at(&["serviceaccount", "uid"]).into();
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.into(), vec![value.into()]);
        }
    };
    if private.get("pod").is_some() {
        extra(POD_NAME_KEY, private.str_at(&["pod", "name"]));
        extra(POD_UID_KEY, private.str_at(&["pod", "uid"]));
    }
    extra(NODE_NAME_KEY, private.str_at(&["node", "name"]));
    extra(NODE_UID_KEY, private.str_at(&["node", "uid"]));
    let id = claims.str_at(&["jti"]);
    if !id.is_empty() {
        extra(CREDENTIAL_ID_KEY, &format!("JTI={id}"));
    }
    Ok(user)
}

/// The objects that have to be there for a token to be good, in the order in which they are looked at.
fn references(claims: &Value) -> impl Iterator<Item = Reference<'_>> {
    let private = &claims[PRIVATE];
    let has = |member: &str| private.get(member).is_some();
    let (pod, node) = (has("pod"), has("node") && !has("pod"));
    let all = [
        ("serviceaccounts", "ServiceAccount", "serviceaccount", true),
        ("secrets", "Secret", "secret", has("secret")),
        ("pods", "Pod", "pod", pod),
        ("nodes", "Node", "node", node),
    ];
    all.into_iter().filter(|it| it.3).map(|(resource, kind, member, _)| Reference {
        resource,
        kind,
        namespace: if resource == "nodes" { "" } else { private.str_at(&["namespace"]) },
        name: private.str_at(&[member, "name"]),
        uid: private.str_at(&[member, "uid"]),
    })
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
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        let Some(token) = credentials.bearer_token() else { return Some(Ok(None)) };
        self.signed_user_at_once(token)
    }

    async fn ask(&self, credentials: &Credentials<'_>) -> Asker {
        let Some(token) = credentials.bearer_token() else { return Ok(None) };
        let checked = self.check(token, &[], credentials.warnings).await?;
        Ok(checked.map(|(user, _)| user))
    }

    async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let checked = self.check(token, audiences, &Warnings::default()).await?;
        Ok(checked.map(|(user, audiences)| Reviewed { user: UserInfo::clone(&user), audiences }))
    }
}
