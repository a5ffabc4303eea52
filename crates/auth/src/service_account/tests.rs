//! Tokens that are good, and every way in which they are not.

use std::sync::Arc;

use apimachinery::{Value, value};
use base64::Engine;
use component_base::Clock;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::fixed::FixedObjects;
use crate::user::*;
use crate::{Authenticator, Credentials, Shown, Warnings};

#[derive(Debug)]
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
}

fn issuer(key: SigningKey) -> Arc<TokenIssuer> {
    Arc::new(TokenIssuer::new(key, Vec::new(), "https://me", Vec::new()))
}

fn object(kind: &str, namespace: &str, name: &str, uid: &str) -> Value {
    value!({"kind": kind, "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": uid}})
}

fn objects() -> FixedObjects {
    let objects = FixedObjects::default();
    objects.put("", "serviceaccounts", &object("ServiceAccount", "ns", "robot", "u-robot"));
    objects.put("", "pods", &object("Pod", "ns", "web", "u-web"));
    objects
}

fn named(name: &str) -> Option<Named> {
    Some(Named { name: name.into(), uid: format!("u-{name}") })
}

fn spec() -> TokenSpec<'static> {
    TokenSpec {
        namespace: "ns",
        account: named("robot"),
        pod: named("web"),
        node: named("n1"),
        audiences: vec!["https://me".into(), "vault".into()],
        expiration_seconds: 600,
        id: "jti".into(),
        ..TokenSpec::default()
    }
}

fn tokens(issuer: &Arc<TokenIssuer>, objects: &FixedObjects, later: i64) -> ServiceAccountTokens {
    let now = start().checked_add(SignedDuration::from_secs(later)).unwrap();
    ServiceAccountTokens::new(Arc::clone(issuer), Arc::new(objects.clone()), Arc::new(At(now)))
}

#[tokio::test]
async fn a_bound_token_names_account_pod_and_node() {
    let (issuer, objects) = (issuer(key()), objects());
    let token = issuer.issue(&spec(), start()).await.unwrap();
    let reviewed = tokens(&issuer, &objects, 1).review(&token, &[]).await.unwrap().unwrap();
    let user = reviewed.user;
    assert_eq!(
        (user.name.as_str(), user.uid.as_str()),
        ("system:serviceaccount:ns:robot", "u-robot")
    );
    assert_eq!(
        user.groups,
        ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
    );
    for (key, value) in [
        (POD_NAME_KEY, "web"),
        (POD_UID_KEY, "u-web"),
        (NODE_NAME_KEY, "n1"),
        (NODE_UID_KEY, "u-n1"),
        (CREDENTIAL_ID_KEY, "JTI=jti"),
    ] {
        assert_eq!(user.extra[key], [value], "{key}");
    }
    let wanted = ["other".to_owned(), "vault".to_owned()];
    let reviewed = tokens(&issuer, &objects, 1).review(&token, &wanted).await.unwrap().unwrap();
    assert_eq!(reviewed.audiences, ["vault"]);
}

async fn refusal(tokens: &ServiceAccountTokens, token: &str) -> String {
    tokens.review(token, &[]).await.unwrap_err().0
}

#[tokio::test]
async fn a_token_is_good_in_its_time_only() {
    let (issuer, objects) = (issuer(key()), objects());
    let token = issuer.issue(&spec(), start()).await.unwrap();
    for (later, good) in [(-11, false), (-9, true), (0, true), (610, true), (611, false)] {
        let result = tokens(&issuer, &objects, later).review(&token, &[]).await;
        assert_eq!(result.is_ok(), good, "{later} seconds later");
    }
    let endless = value!({"iss": "https://me", "sub": "system:serviceaccount:ns:robot", "aud": ["https://me"],
        "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "robot", "uid": "u-robot"}}});
    let Signer::Own { key, .. } = &issuer.signer else { unreachable!("it has its own key") };
    let token = key.sign(&endless).unwrap();
    let tokens = tokens(&issuer, &objects, 0);
    assert_eq!(refusal(&tokens, &token).await, "service account token does not expire");
}

#[tokio::test]
async fn tokens_for_others_and_by_others_are_refused() {
    let (issuer, objects) = (issuer(key()), objects());
    let tokens = tokens(&issuer, &objects, 1);
    let vault = TokenSpec { audiences: vec!["vault".into()], ..spec() };
    let vault = issuer.issue(&vault, start()).await.unwrap();
    assert!(refusal(&tokens, &vault).await.contains("is invalid for the target audiences"));
    let forged = self::issuer(key()).issue(&spec(), start()).await.unwrap();
    assert!(refusal(&tokens, &forged).await.contains("signature does not verify"));
    // Somebody else's tokens are somebody else's business.
    let elsewhere = TokenIssuer::new(key(), Vec::new(), "https://other", Vec::new());
    let elsewhere = elsewhere.issue(&spec(), start()).await.unwrap();
    assert_eq!(tokens.review(&elsewhere, &[]).await.unwrap(), None);
    assert_eq!(tokens.review("no token", &[]).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_dies_with_what_it_is_bound_to() {
    let issuer = issuer(key());
    let token = issuer.issue(&spec(), start()).await.unwrap();
    let check = async |change: &dyn Fn(&FixedObjects), expected: &str| {
        let objects = objects();
        let tokens = tokens(&issuer, &objects, 61);
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let (none, warnings) = (Shown::default(), Warnings::default());
        let credentials = Credentials {
            headers: &headers,
            certificates: &none,
            proxy_certificates: &none,
            warnings: &warnings,
        };
        assert!(tokens.look(&credentials).is_none(), "its signature was not checked yet");
        assert!(tokens.ask(&credentials).await.unwrap().is_some());
        let user = tokens.look(&credentials).unwrap().unwrap().unwrap();
        assert_eq!(user.uid, "u-robot", "what was checked is remembered");
        change(&objects);
        let refusal = refusal(&tokens, &token).await;
        assert!(refusal.contains(expected), "{refusal} has no {expected}");
        let at_once = tokens.look(&credentials);
        assert!(at_once.is_none_or(|it| it.is_err()), "remembered is only who signed it");
    };
    check(&|it| it.delete("", "pods", "ns", "web"), "Pod ns/web: not found").await;
    check(
        &|it| it.put("", "pods", &object("Pod", "ns", "web", "u-2")),
        "Pod UID (u-2) does not match claim (u-web)",
    )
    .await;
    check(
        &|it| it.delete("", "serviceaccounts", "ns", "robot"),
        "ServiceAccount ns/robot: not found",
    )
    .await;
    let mut going = object("Pod", "ns", "web", "u-web");
    going.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
    check(&|it| it.put("", "pods", &going), "has been deleted").await;
}

#[tokio::test]
async fn an_old_key_still_verifies_and_an_old_token_must_match_its_secret() {
    let old = key();
    let old_public = old.public().clone();
    let old_issuer = issuer(old);
    let new = Arc::new(TokenIssuer::new(key(), vec![old_public], "https://me", Vec::new()));
    let objects = objects();
    let token = old_issuer.issue(&spec(), start()).await.unwrap();
    let tokens = tokens(&new, &objects, 1);
    assert!(tokens.review(&token, &[]).await.unwrap().is_some());

    let robot = named("robot").unwrap();
    let legacy = old_issuer.issue_legacy("ns", &robot, "robot-token").unwrap();
    assert!(refusal(&tokens, &legacy).await.contains("Secret ns/robot-token: not found"));
    let mut secret = object("Secret", "ns", "robot-token", "u-s");
    secret.set_at(&["data", "token"], base64::prelude::BASE64_STANDARD.encode(&legacy));
    objects.put("", "secrets", &secret);
    let user = tokens.review(&legacy, &[]).await.unwrap().unwrap().user;
    assert_eq!(user.name, "system:serviceaccount:ns:robot");
    secret.set_at(&["data", "token"], "b3RoZXI=");
    objects.put("", "secrets", &secret);
    assert!(refusal(&tokens, &legacy).await.contains("does not match that of secret"));
}

#[tokio::test]
async fn tokens_are_counted_by_how_long_they_should_have_lived() {
    let (issuer, objects) = (issuer(key()), objects());
    let token =
        issuer.issue(&TokenSpec { warn_after_seconds: 60, ..spec() }, start()).await.unwrap();
    let metrics = crate::metrics::Metrics::default();
    for later in [1, 61, 62] {
        let tokens = tokens(&issuer, &objects, later).counted(metrics.clone());
        assert!(tokens.review(&token, &[]).await.unwrap().is_some());
    }
    let legacy = issuer.issue_legacy("ns", &named("robot").unwrap(), "robot-token").unwrap();
    let mut secret = object("Secret", "ns", "robot-token", "u-s");
    secret.set_at(&["data", "token"], base64::prelude::BASE64_STANDARD.encode(&legacy));
    objects.put("", "secrets", &secret);
    let tokens = tokens(&issuer, &objects, 1).counted(metrics.clone());
    tokens.review(&legacy, &[]).await.unwrap();
    secret.set_at(&["metadata", "labels", INVALID_SINCE], "2026-01-01");
    objects.put("", "secrets", &secret);
    assert!(refusal(&tokens, &legacy).await.contains("has been marked invalid"));
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let text = component_base::metrics::text(&registry);
    for line in [
        "serviceaccount_valid_tokens_total 1",
        "serviceaccount_stale_tokens_total 2",
        "serviceaccount_legacy_tokens_total 1",
        "serviceaccount_legacy_manual_token_uses_total 1",
        "serviceaccount_legacy_auto_token_uses_total 0",
        "serviceaccount_invalid_legacy_auto_token_uses_total 1",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
}
