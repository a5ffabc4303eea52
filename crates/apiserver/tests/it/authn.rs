//! Who asks: issuers of tokens, webhooks that know tokens, front proxies, who has no credentials, who speaks for others.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, json, value};
use auth::Authenticator;
use auth::anonymous::Anonymous;
use auth::config::authentication::AuthenticationConfiguration;
use auth::configured::ConfiguredIssuers;
use auth::front_proxy::FrontProxy;
use auth::jwt::{Algorithm, SigningKey};
use auth::metrics::Metrics;
use auth::oidc::Parts;
use auth::token_webhook::TokenWebhook;
use component_base::{RealClock, Shutdown};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::cluster::{As, Cluster, With, admin};
use crate::hooks::{Hook, Reply};

const WHO: &str = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";

/// The code, and who the server takes somebody for.
async fn who(cluster: &Cluster, who: &As<'_>) -> (u16, Value) {
    let (code, answer) = cluster.send(who, WHO, Some(&value!({}))).await;
    (code, answer["status"]["userInfo"].clone())
}

/// An issuer of tokens: its documents are at a server of its own, its keys can be replaced.
struct Issuer {
    server: Hook,
    keys: Arc<Mutex<Vec<Value>>>,
    key: SigningKey,
}

fn signing_key() -> SigningKey {
    SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
}

impl Issuer {
    async fn start() -> Self {
        let keys: Arc<Mutex<Vec<Value>>> = Arc::default();
        let url: Arc<Mutex<String>> = Arc::default();
        let (told, at) = (Arc::clone(&keys), Arc::clone(&url));
        let server = Hook::start(move |request| match request.str_at(&["path"]) {
            "/.well-known/openid-configuration" => {
                let url = at.lock().clone();
                Reply::Json(value!({"issuer": (url.as_str()), "jwks_uri": (format!("{url}/keys"))}))
            }
            "/keys" => Reply::Json(value!({"keys": (Value::Array(told.lock().clone()))})),
            other => Reply::Raw(404, other.as_bytes().to_vec()),
        });
        let server = server.await;
        url.lock().clone_from(&server.url);
        let key = signing_key();
        keys.lock().push(key.public().to_jwk());
        Self { server, keys, key }
    }

    /// Claims that are good, with changes.
    fn claims(&self, changes: &[(&str, Value)]) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = value!({"iss": (self.server.url.as_str()), "aud": ["k8s", "other"], "sub": "jane",
            "exp": (now + 600), "role": "dev", "hd": "example.com", "email": "jane@example.com"});
        for (name, value) in changes {
            claims.set_at(&[name], value.clone());
        }
        claims
    }

    fn token(&self, changes: &[(&str, Value)]) -> String {
        self.key.sign(&self.claims(changes)).unwrap()
    }
}

fn configuration(issuer: &Issuer) -> String {
    let authority = issuer.server.authority().replace('\n', "\n        ");
    format!(
        r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: {}
    audiences: [k8s, else]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
        {authority}
  claimValidationRules:
  - claim: hd
    requiredValue: example.com
  - expression: claims.role != 'boss'
    message: bosses stay out
  claimMappings:
    username:
      expression: "'oidc:' + claims.sub"
    groups:
      expression: "[claims.role, 'all']"
    uid:
      claim: sub
    extra:
    - key: example.com/mail
      valueExpression: "claims.email"
  userValidationRules:
  - expression: "!user.username.startsWith('oidc:system:')"
    message: no system users
"#,
        issuer.server.url
    )
}

fn parts(stop: &Shutdown) -> Parts {
    Parts { clock: Arc::new(RealClock), metrics: Metrics::default(), stop: stop.signal() }
}

fn hash(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

async fn issuers(text: &str, stop: &Shutdown) -> Arc<ConfiguredIssuers> {
    issuers_with(text, parts(stop)).await
}

async fn issuers_with(text: &str, parts: Parts) -> Arc<ConfiguredIssuers> {
    let configuration = AuthenticationConfiguration::parse(text.as_bytes(), &[]).unwrap();
    let issuers = ConfiguredIssuers::start(configuration, &Algorithm::ALL, &[], parts);
    let issuers = Arc::new(issuers.unwrap());
    issuers.ready().await;
    issuers
}

#[tokio::test]
async fn an_issuers_tokens_are_users_by_its_configuration() {
    let (issuer, stop) = (Issuer::start().await, Shutdown::new());
    let issuers = issuers(&configuration(&issuer), &stop).await;
    let known: Arc<dyn Authenticator> = Arc::clone(&issuers) as _;
    let changed = With { authenticators: vec![known], ..With::default() };
    let cluster = Cluster::start_changed(changed).await;
    let token = issuer.token(&[("jti", Value::from("t-1"))]);
    let expected = value!({"username": "oidc:jane", "uid": "jane",
        "groups": ["dev", "all", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": ["JTI=t-1"],
            "example.com/mail": ["jane@example.com"]}});
    assert_eq!(who(&cluster, &As::Token(&token)).await, (201, expected));

    let past = Value::from(jiff::Timestamp::now().as_second() - 5);
    let later = Value::from(jiff::Timestamp::now().as_second() + 300);
    let none = |it: &str| value!([it]);
    for (changes, why) in [
        (
            vec![("aud", none("x"))],
            "oidc: verify token: oidc: expected audience in [\"k8s\", \"else\"] got [\"x\"]",
        ),
        (vec![("exp", past)], "oidc: verify token: oidc: token is expired (Token Expiry: "),
        (vec![("nbf", later)], "before the nbf (not before) time"),
        (
            vec![("hd", Value::from("evil.com"))],
            "oidc: required claim hd value does not match. Got = evil.com, want = example.com",
        ),
        (
            vec![("role", Value::from("boss"))],
            "oidc: error evaluating claim validation expression: validation expression 'claims.role != 'boss'' failed: bosses stay out",
        ),
        (
            vec![("sub", Value::from("system:x"))],
            "oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('oidc:system:')' failed: no system users",
        ),
        (
            vec![("sub", Value::from(7))],
            "oidc: error evaluating username claim expression: expression ''oidc:' + claims.sub' resulted in error: no such overload",
        ),
    ] {
        let token = issuer.token(&changes);
        assert_eq!(who(&cluster, &As::Token(&token)).await.0, 401, "{why}");
        let review = value!({"spec": {"token": (token.as_str())}});
        let path = "POST /apis/authentication.k8s.io/v1/tokenreviews";
        let answer = cluster.done(path, Some(&review)).await;
        let told = answer.str_at(&["status", "error"]);
        assert!(told.contains(why), "{told}\nshould be\n{why}");
    }
    let forged = signing_key().sign(&issuer.claims(&[])).unwrap();
    assert_eq!(who(&cluster, &As::Token(&forged)).await.0, 401);
    let (head, _) = token.rsplit_once('.').unwrap();
    assert_eq!(who(&cluster, &As::Token(&format!("{head}.AAAA"))).await.0, 401);
}

#[tokio::test]
async fn an_issuer_may_get_a_new_key_and_a_file_a_new_issuer() {
    let (issuer, stop) = (Issuer::start().await, Shutdown::new());
    let metrics = Metrics::new("me");
    let parts = Parts { metrics: metrics.clone(), ..parts(&stop) };
    let issuers = issuers_with(&configuration(&issuer), parts).await;
    let known: Arc<dyn Authenticator> = Arc::clone(&issuers) as _;
    let changed = With { authenticators: vec![known], metrics, ..With::default() };
    let cluster = Cluster::start_changed(changed).await;
    let new = signing_key();
    issuer.keys.lock().push(new.public().to_jwk());
    let token = new.sign(&issuer.claims(&[])).unwrap();
    // Keys that nobody knows are not asked for twice a second.
    let mut tries = 0;
    while who(&cluster, &As::Token(&token)).await.0 != 201 {
        tries += 1;
        assert!(tries < 100, "the new key is never fetched");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let other = Issuer::start().await;
    let text = configuration(&other);
    issuers.reload(text.as_bytes()).await.unwrap();
    let me = hash(b"me");
    let key_set = |of: &Issuer| {
        let keys: Value = of.keys.lock().iter().cloned().collect();
        let keys = hash(&json::to_vec(&value!({"keys": keys})));
        let of = hash(of.server.url.as_bytes());
        format!(
            "apiserver_authentication_jwt_authenticator_jwks_fetch_last_key_set_info{{apiserver_id_hash=\"{me}\",hash=\"{keys}\",jwt_issuer_hash=\"{of}\"}} 1"
        )
    };
    let file = hash(text.as_bytes());
    let config = format!(
        "apiserver_authentication_config_controller_last_config_info{{apiserver_id_hash=\"{me}\",hash=\"{file}\"}} 1"
    );
    cluster.counts(&[&config, &key_set(&issuer), &key_set(&other)]).await;
    assert_eq!(who(&cluster, &As::Token(&token)).await.0, 401, "of an issuer that is gone");
    assert_eq!(who(&cluster, &As::Token(&other.token(&[]))).await.0, 201);
    let error = issuers.reload(b"jwt: []").await.unwrap_err();
    assert!(error.contains("'kind' is missing"), "{error}");
    assert_eq!(who(&cluster, &As::Token(&other.token(&[]))).await.0, 201, "what was before stays");
}

#[tokio::test]
async fn a_webhook_knows_tokens_and_is_believed_for_a_while() {
    let hook = Hook::start(|review| {
        let status = match review.str_at(&["spec", "token"]) {
            "good" => value!({"authenticated": true, "audiences": ["https://me"],
                "user": {"username": "joe", "uid": "3", "groups": ["g"], "extra": {"k": ["v"]}}}),
            "elsewhere" => {
                value!({"authenticated": true, "audiences": ["x"], "user": {"username": "joe"}})
            }
            "broken" => return Reply::Raw(200, b"nonsense".to_vec()),
            _ => value!({"authenticated": false, "error": "who is that?"}),
        };
        let version = review.str_at(&["apiVersion"]);
        Reply::Json(value!({"apiVersion": version, "kind": "TokenReview", "status": status}))
    });
    let hook = hook.await;
    let directory = tempfile::tempdir().unwrap();
    let file = hook.kubeconfig(directory.path(), "secret");
    let client = webhook::Client::from_kubeconfig(&file).unwrap();
    let audiences = vec!["https://me".to_owned()];
    let known = TokenWebhook::new(client, "v1", Duration::from_secs(60), audiences).unwrap();
    let metrics = auth::metrics::Metrics::new("me");
    let known = known.counted(metrics.clone());
    let changed = With { authenticators: vec![Arc::new(known)], metrics, ..With::default() };
    let cluster = Cluster::start_changed(changed).await;
    let expected = value!({"username": "joe", "uid": "3", "groups": ["g", "system:authenticated"],
        "extra": {"k": ["v"]}});
    assert_eq!(who(&cluster, &As::Token("good")).await, (201, expected.clone()));
    assert_eq!(who(&cluster, &As::Token("good")).await, (201, expected));
    assert_eq!(hook.asked(), 1, "the answer counts for a while");
    let asked = hook.seen.lock()[0].clone();
    assert_eq!(asked.str_at(&["apiVersion"]), "authentication.k8s.io/v1");
    assert_eq!(asked["spec"], value!({"token": "good", "audiences": ["https://me"]}));
    for token in ["elsewhere", "broken", "unknown", "unknown"] {
        assert_eq!(who(&cluster, &As::Token(token)).await.0, 401, "{token}");
    }
    assert_eq!(hook.asked(), 5, "what is no answer does not count");
    cluster
        .counts(&[
            "authentication_token_cache_request_total{status=\"hit\"} 1",
            "authentication_token_cache_request_total{status=\"miss\"} 5",
            "authentication_token_cache_fetch_total{status=\"ok\"} 2",
            "authentication_token_cache_fetch_total{status=\"error\"} 3",
            "authentication_token_cache_active_fetch_count{status=\"in_flight\"} 0",
        ])
        .await;
    // Who is known otherwise needs no webhook.
    drop(hook);
    assert_eq!(who(&cluster, &As::Token("bob-token")).await.0, 201);
    assert_eq!(who(&cluster, &As::Token("other")).await.0, 401);
}

#[tokio::test]
async fn a_front_proxy_says_who_asks() {
    let list = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect();
    let proxy = FrontProxy {
        allowed_names: list(&["front-proxy-client"]),
        username_headers: list(&["X-Remote-User"]),
        uid_headers: list(&["X-Remote-Uid"]),
        group_headers: list(&["X-Remote-Group"]),
        extra_header_prefixes: list(&["X-Remote-Extra-"]),
    };
    let changed = With { front_proxy: Some(Arc::new(proxy)), ..With::default() };
    let cluster = Cluster::start_changed(changed).await;
    let named = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap());
        certificate.unwrap().der().to_vec()
    };
    let headers =
        [("x-remote-user", "jane"), ("x-remote-group", "dev"), ("x-remote-extra-a%2fb", "c")];
    let (own, other) = (named("front-proxy-client"), named("other"));
    let expected = value!({"username": "jane", "groups": ["dev", "system:authenticated"],
        "extra": {"a/b": ["c"]}});
    assert_eq!(who(&cluster, &As::Proxy(&own, &headers)).await, (201, expected));
    assert_eq!(who(&cluster, &As::Proxy(&other, &headers)).await.0, 401);
    let (code, it) = who(&cluster, &As::With("bob-token", &headers)).await;
    assert_eq!((code, it.str_at(&["username"])), (201, "bob"), "headers without a certificate");
}

#[tokio::test]
async fn who_has_no_credentials_may_ask_for_some_paths_only() {
    let anonymous = Anonymous::of(true, vec!["/livez".into()]);
    let changed = With { anonymous: Some(anonymous), ..With::default() };
    let cluster = Cluster::start_changed(changed).await;
    for (path, code) in [("/livez", 200), ("/readyz", 401), ("/livez/x", 401), ("/version", 401)] {
        let (got, _) = cluster.send(&As::Nobody, &format!("GET {path}"), None).await;
        assert_eq!(got, code, "{path}");
    }
}

async fn may(cluster: &Cluster, name: &str, rules: Value) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = value!({"metadata": {"name": name}, "rules": rules});
    cluster.done(&format!("POST {rbac}/clusterroles"), Some(&role)).await;
    let binding = value!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    cluster.done(&format!("POST {rbac}/clusterrolebindings"), Some(&binding)).await;
    cluster.server.hub().catch_up().await.unwrap();
}

#[tokio::test]
async fn who_speaks_for_others_may_be_held_to_some_of_them_and_some_verbs() {
    let cluster = Cluster::start().await;
    let send = async |headers: &[(&str, &str)], request: &str| {
        let (code, answer) = cluster.send(&As::With("bob-token", headers), request, None).await;
        (code, answer.str_at(&["message"]).to_owned())
    };
    let (pods, jane) = ("GET /api/v1/namespaces/default/pods", [("impersonate-user", "jane")]);
    let first = "pods is forbidden: User \"bob\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!(send(&jane, pods).await, (403, first.into()));
    may(
        &cluster,
        "on-list",
        value!([{"verbs": ["impersonate-on:user-info:list", "impersonate-on:serviceaccount:list"],
            "apiGroups": [""], "resources": ["pods"]}]),
    )
    .await;
    let then = "users.authentication.k8s.io \"jane\" is forbidden: User \"bob\" cannot impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the cluster scope";
    assert_eq!(send(&jane, pods).await, (403, then.into()));
    may(
        &cluster,
        "for-jane",
        value!([{"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"],
            "resources": ["users", "groups"], "resourceNames": ["jane", "dev", "system:masters"]}]),
    )
    .await;
    let as_jane = "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!(send(&jane, pods).await, (403, as_jane.into()));
    let dev = [("impersonate-user", "jane"), ("impersonate-group", "dev")];
    assert_eq!(send(&dev, pods).await, (403, as_jane.into()));
    let root = [("impersonate-user", "jane"), ("impersonate-group", "system:masters")];
    let (code, why) = send(&root, pods).await;
    assert_eq!(code, 403);
    assert!(why.ends_with("impersonating the system:masters group is not allowed"), "{why}");
    let (code, why) = send(&jane, "DELETE /api/v1/namespaces/default/pods").await;
    assert_eq!(code, 403);
    assert!(why.contains("impersonate-on:user-info:deletecollection"), "{why}");
    let robot = [("impersonate-user", "system:serviceaccount:ns:robot")];
    let (_, why) = send(&robot, pods).await;
    assert!(why.contains("impersonate:serviceaccount resource \"serviceaccounts\""), "{why}");
    // The old right has no such bounds.
    may(
        &cluster,
        "old",
        value!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"]}]),
    )
    .await;
    assert_eq!(send(&root, pods).await.0, 200);
    let node = [("impersonate-user", "system:node:n1")];
    assert_eq!(send(&node, pods).await.0, 403, "a node without its group");
    let bad = send(&[("impersonate-group", "g")], pods).await;
    assert_eq!(bad.0, 400);
    let (_, me) = cluster.send(&As::With("bob-token", &root), WHO, Some(&value!({}))).await;
    assert_eq!(
        me["status"]["userInfo"]["groups"],
        value!(["system:masters", "system:authenticated"])
    );
    assert_eq!(cluster.send(&admin(), pods, None).await.0, 200);
}

#[tokio::test]
async fn a_token_in_a_secret_tells_the_day_of_its_last_use_and_may_be_marked_invalid() {
    let (uses, used) = apiserver::legacy_tokens::channel();
    let cluster = Cluster::start_changed(With { uses: Some(uses), ..With::default() }).await;
    let writing =
        apiserver::legacy_tokens::write(Arc::clone(&cluster.server), used, cluster.stopping());
    tokio::spawn(writing);
    let named = |name: &str| value!({"metadata": {"name": name}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = cluster.done(&format!("POST {accounts}"), Some(&named("robot"))).await;
    let uid = account.str_at(&["metadata", "uid"]).to_owned();
    let account = auth::service_account::Named { name: "robot".into(), uid };
    let token = cluster.issuer.issue_legacy("default", &account, "s").unwrap();
    let mut secret = named("s");
    secret.set_at(&["type"], "kubernetes.io/service-account-token");
    secret.set_at(&["metadata", "annotations", "kubernetes.io/service-account.name"], "robot");
    secret.set_at(&["stringData", "token"], token.as_str());
    let secrets = "/api/v1/namespaces/default/secrets";
    cluster.done(&format!("POST {secrets}"), Some(&secret)).await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(who(&cluster, &As::Token(&token)).await.0, 201);
    let path = ["metadata", "labels", auth::service_account::LAST_USED];
    let mut tries = 0;
    let day = loop {
        let secret = cluster.done(&format!("GET {secrets}/s"), None).await;
        match secret.str_at(&path) {
            "" => tries += 1,
            day => break day.to_owned(),
        }
        assert!(tries < 200, "the day is never written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(day, jiff::Timestamp::now().to_string()[..10]);
    // A controller that makes such a Secret names it in the account.
    let warned = async || {
        let response = cluster.respond(&As::Token(&token), WHO, Some(&value!({}))).await;
        let all = response.headers().get_all("warning").iter();
        all.map(|it| it.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(warned().await, [""; 0]);
    let named = value!({"secrets": [{"name": "s"}]});
    cluster.done(&format!("PATCH {accounts}/robot"), Some(&named)).await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(
        warned().await,
        [
            "299 - \"Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.\""
        ]
    );
    let mut mark = Value::object();
    mark.set_at(&["metadata", "labels", auth::service_account::INVALID_SINCE], day.as_str());
    cluster.done(&format!("PATCH {secrets}/s"), Some(&mark)).await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(who(&cluster, &As::Token(&token)).await.0, 401);
}
