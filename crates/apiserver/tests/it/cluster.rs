//! A server with everything that judges requests, and a way to send it some.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use admission::{AdmissionConfiguration, Chain, Parts};
use apimachinery::{Value, json, value};
use apiserver::allocate::ServiceRange;
use apiserver::bootstrap::{self, Settings, Summary};
use apiserver::{
    Access, Body, CachedObjects, Config, NodeDialer, Peer, ProxyClient, RequestBody, Server,
    Version,
};
use auth::anonymous::Anonymous;
use auth::config::authorization::{AuthorizationConfiguration, TYPES};
use auth::configured::{AuthorizerParts, ConfiguredAuthorizers, Prepared};
use auth::front_proxy::FrontProxy;
use auth::jwt::SigningKey;
use auth::metrics::Metrics;
use auth::node::NodeAuthorizer;
use auth::rbac::Rbac;
use auth::service_account::{LegacyUses, ServiceAccountTokens, TokenIssuer};
use auth::static_token::StaticTokens;
use auth::x509::ClientCertificates;
use auth::{Authenticator, Authorizer, UserInfo};
use component_base::feature_gates::FeatureGates;
use component_base::{Clock, Random, RealClock, SeededRandom, Shutdown, ShutdownSignal};
use futures::StreamExt;
use futures::stream::BoxStream;
use storage::Store;
use storage::memory::MemoryStore;

/// A server; it stops when this is dropped.
pub(crate) struct Cluster {
    pub(crate) server: Arc<Server>,
    /// Makes the tokens of service accounts.
    pub(crate) issuer: Arc<TokenIssuer>,
    store: Arc<dyn Store>,
    range: ServiceRange,
    stop: Shutdown,
    /// The caches follow the store until here.
    over: Shutdown,
}

/// What a server may have besides, or in place of what it has.
#[derive(Default)]
pub(crate) struct With {
    pub(crate) nodes: Option<NodeDialer>,
    pub(crate) registry: Option<registry::Registry>,
    pub(crate) audit: Option<Arc<audit::Audit>>,
    /// How it is operated, where not as usual.
    pub(crate) operating: Option<apiserver::Operating>,
    /// For requests, instead of what it has.
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    pub(crate) proxy_client: Option<ProxyClient>,
    /// Asked before all others.
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    /// Instead of nodes and roles.
    pub(crate) authorizers: Option<Prepared>,
    pub(crate) front_proxy: Option<Arc<FrontProxy>>,
    /// Instead of everybody.
    pub(crate) anonymous: Option<Anonymous>,
    pub(crate) metrics: Metrics,
    /// Told which tokens in Secrets are used.
    pub(crate) uses: Option<Arc<dyn LegacyUses>>,
    /// Whether other servers write to its store too.
    pub(crate) shares_store: bool,
    /// Instead of one range of IPv4.
    pub(crate) service_range: Option<ServiceRange>,
    /// What admission plugins are told.
    pub(crate) admission: AdmissionConfiguration,
    /// Admission plugins that are on besides those that are anyway.
    pub(crate) plugins: Vec<String>,
    /// Told what this server's authorizers are.
    pub(crate) tell: Option<Box<dyn FnOnce(Arc<ConfiguredAuthorizers>) + Send>>,
}

/// A store with nothing in it.
pub(crate) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(Arc::new(RealClock)))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.request();
        self.over.request();
    }
}

/// Who sends a request.
pub(crate) enum As<'u> {
    Nobody,
    User(UserInfo),
    Token(&'u str),
    /// A bearer token, and further headers.
    With(&'u str, &'u [(&'u str, &'u str)]),
    /// A front proxy with this certificate, and its headers.
    Proxy(&'u [u8], &'u [(&'u str, &'u str)]),
}

pub(crate) fn admin() -> As<'static> {
    As::User(UserInfo::new("admin", &["system:masters"]))
}

/// What the objects of every cluster say of this one.
pub(crate) fn settings() -> Settings {
    Settings {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
        port: 6443,
        service_ranges: vec!["10.96.0.0/12".into()],
        service_address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
        client_authority: "certificate".into(),
        front_proxy: None,
        shares_store: false,
    }
}

/// Tokens that are known beside those of service accounts.
const TOKENS: &str = "admin-token,admin,1,system:masters\nbob-token,bob,2\n";

fn issuer() -> Arc<TokenIssuer> {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let key = SigningKey::from_pem(&key).unwrap();
    Arc::new(TokenIssuer::new(key, Vec::new(), "https://me", Vec::new()))
}

fn access(
    objects: &Arc<CachedObjects>,
    issuer: Arc<TokenIssuer>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    changed: With,
) -> Access {
    let read = || Arc::clone(objects) as Arc<dyn auth::Objects>;
    let rbac = Arc::new(Rbac::new(objects.as_ref()));
    let bootstrap: Vec<Value> = api::bootstrap_objects().collect();
    let node = NodeAuthorizer::new(
        read(),
        auth::node::rules_of(bootstrap.iter()),
        changed.metrics.clone(),
    );
    let parts = AuthorizerParts {
        node: Arc::new(node),
        rbac: Arc::clone(&rbac) as Arc<dyn Authorizer>,
        abac: Arc::default(),
        metrics: changed.metrics.clone(),
    };
    let usual = || {
        let usual = value!({"authorizers": [{"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}]});
        let usual = AuthorizationConfiguration::of(&usual, &TYPES).unwrap();
        Prepared::new(usual, &changed.metrics).unwrap()
    };
    let authorizers = changed.authorizers.unwrap_or_else(usual);
    let authorizer = Arc::new(ConfiguredAuthorizers::new(authorizers, parts));
    if let Some(tell) = changed.tell {
        tell(Arc::clone(&authorizer));
    }
    let authorizer: Arc<dyn Authorizer> = authorizer;
    let mut tokens = ServiceAccountTokens::new(Arc::clone(&issuer), read(), Arc::clone(&clock));
    if let Some(uses) = changed.uses {
        tokens = tokens.with_uses(uses);
    }
    let objects = Arc::clone(objects) as Arc<dyn admission::Objects>;
    let own_clock = Arc::clone(&clock);
    let parts = Parts {
        objects,
        rbac,
        authorizer: Arc::clone(&authorizer),
        clock,
        random,
        calls: changed.metrics.calls(),
    };
    let mut authenticators = changed.authenticators;
    authenticators.extend([
        Arc::new(ClientCertificates::new(own_clock, changed.metrics.clone()))
            as Arc<dyn Authenticator>,
        Arc::new(StaticTokens::parse(TOKENS).unwrap()),
        Arc::new(tokens),
    ]);
    Access {
        authenticators,
        authorizer,
        admission: Chain::of(&parts, &changed.admission, &changed.plugins),
        front_proxy: changed.front_proxy,
        anonymous: changed.anonymous.unwrap_or_else(|| true.into()),
        metrics: changed.metrics,
        tokens: Some(issuer),
    }
}

impl Cluster {
    /// A fresh one, with what every cluster has.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One that has a way to nodes.
    pub(crate) async fn start_with(nodes: Option<NodeDialer>) -> Self {
        Self::on(memory(), With { nodes, ..With::default() }).await
    }

    /// One that serves versions too that are no more.
    pub(crate) async fn with_removed_versions() -> Self {
        let registry = Some(registry::Registry::with_removed_versions());
        Self::start_changed(With { registry, ..With::default() }).await
    }

    /// One that proves itself to other servers like this.
    pub(crate) async fn behind(proxy: ProxyClient) -> Self {
        let proxy_client = Some(proxy);
        Self::start_changed(With { proxy_client, ..With::default() }).await
    }

    /// One that reads and writes CBOR.
    pub(crate) async fn with_cbor() -> Self {
        let mut features = FeatureGates::default();
        features.set("CBORServingAndStorage=true").unwrap();
        let operating = apiserver::Operating { features: features.into(), ..Default::default() };
        Self::start_changed(With { operating: Some(operating), ..With::default() }).await
    }

    /// One that is otherwise.
    pub(crate) async fn start_changed(with: With) -> Self {
        Self::on(memory(), with).await
    }

    /// Another server on the same store, after this one.
    pub(crate) async fn restarted(self) -> Self {
        let store = Arc::clone(&self.store);
        drop(self);
        Self::on(store, With::default()).await
    }

    /// One on this store.
    pub(crate) async fn on(store: Arc<dyn Store>, mut with: With) -> Self {
        let nodes = with.nodes.take();
        let registry = with.registry.take().unwrap_or_else(registry::Registry::built_in);
        let (audit, proxy_client) = (with.audit.take(), with.proxy_client.take());
        let usual = ServiceRange::new(Ipv4Addr::new(10, 96, 0, 0), 12);
        let range = with.service_range.unwrap_or(usual);
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(1));
        let stop = Shutdown::new();
        let config = Config {
            metrics_resolution: Some(std::time::Duration::from_secs(15)),
            store: Arc::clone(&store),
            registry,
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            max_mutating_in_flight: 200,
            max_in_flight: 400,
            priority_and_fairness: true,
            service_range: range,
            version: Version { major: "1".into(), minor: "37".into(), git: "v1.37.1".into() },
            external_address: "192.0.2.2:6443".into(),
            nodes,
            audit,
            checks: Vec::new(),
            store_check_timeout: std::time::Duration::from_secs(2),
            shares_store: with.shares_store,
            explain: None,
            proxy_client,
            operating: with.operating.take().unwrap_or_default(),
        };
        let (issuer, of_server) = (issuer(), stop.signal());
        let made = Arc::clone(&issuer);
        let access = move |objects: &Arc<CachedObjects>| {
            let authorizer = with.authorizer.take();
            let access = access(objects, made, clock, random, with);
            let authorizer = authorizer.unwrap_or_else(|| Arc::clone(&access.authorizer));
            Access { authorizer, ..access }
        };
        let server = Server::start(config, of_server, access);
        let server = server.await.unwrap();
        let over = Shutdown::new();
        let (hub, signal) = (Arc::clone(server.hub()), over.signal());
        tokio::spawn(async move { hub.run(signal).await });
        tokio::spawn(Arc::clone(&server).follow_definitions());
        tokio::spawn(Arc::clone(&server).follow_api_services());
        let cluster = Self { server, issuer, store, range, stop, over };
        cluster.bootstrap().await;
        cluster
    }

    /// Asks the server to end.
    pub(crate) fn end(&self) {
        self.stop.request();
    }

    /// Told when this is dropped.
    pub(crate) fn stopping(&self) -> ShutdownSignal {
        self.stop.signal()
    }

    /// Makes sure of what every cluster has.
    pub(crate) async fn bootstrap(&self) -> Summary {
        let settings = Settings {
            service_ranges: self.range.texts(),
            service_address: self.range.address(1),
            ..settings()
        };
        let summary = bootstrap::ensure(&self.server, &settings).await.unwrap();
        self.server.hub().catch_up().await.unwrap();
        summary
    }

    /// The code and the object that a request is answered with.
    pub(crate) async fn send(
        &self,
        who: &As<'_>,
        request: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let response = self.respond(who, request, body).await;
        let code = response.status().as_u16();
        let Body::Full(bytes) = response.into_body() else { return (code, Value::Null) };
        let bytes = bytes.unwrap_or_default();
        (
            code,
            json::parse(&bytes)
                .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).as_ref())),
        )
    }

    pub(crate) async fn respond(
        &self,
        who: &As<'_>,
        request: &str,
        body: Option<&Value>,
    ) -> http::Response<Body> {
        self.respond_with(who, request, &[], body).await
    }

    /// The same with headers.
    pub(crate) async fn respond_with(
        &self,
        who: &As<'_>,
        request: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> http::Response<Body> {
        let (method, path) = request.split_once(' ').unwrap();
        let mut builder = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let media = match method {
            "PATCH" if path.contains("force=true") => "application/apply-patch+yaml",
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        builder = builder.header("content-type", media);
        let mut peer = Peer::default();
        match who {
            As::Nobody => {}
            As::User(user) => peer.user = Some(Arc::new(user.clone())),
            As::Token(token) => {
                builder = builder.header("authorization", format!("Bearer {token}"));
            }
            As::With(token, headers) => {
                builder = builder.header("authorization", format!("Bearer {token}"));
                for (name, value) in *headers {
                    builder = builder.header(*name, *value);
                }
            }
            As::Proxy(certificate, headers) => {
                peer.proxy_certificates = Arc::new([certificate.to_vec()].into_iter().collect());
                for (name, value) in *headers {
                    builder = builder.header(*name, *value);
                }
            }
        }
        let bytes = body.map(json::to_vec).unwrap_or_default();
        let request = builder.body(RequestBody::Bytes(bytes.into())).unwrap();
        self.server.serve(request, peer).await
    }

    /// What the administrator is warned of by a request that must succeed.
    pub(crate) async fn warnings(&self, request: &str, body: &Value) -> Vec<String> {
        let response = self.respond(&admin(), request, Some(body)).await;
        assert!(response.status().is_success(), "{request}: {}", response.status());
        let all = response.headers().get_all("warning");
        all.iter().map(|it| it.to_str().unwrap().to_owned()).collect()
    }

    /// The frames of a watch of the administrator; none is made before it is asked for.
    pub(crate) async fn watch(&self, path: &str) -> BoxStream<'static, Value> {
        let As::User(user) = admin() else { unreachable!("the administrator is a user") };
        self.watch_as(user, path).await
    }

    /// The same of somebody else.
    pub(crate) async fn watch_as(&self, user: UserInfo, path: &str) -> BoxStream<'static, Value> {
        let request = http::Request::get(path).body(RequestBody::Bytes(Default::default()));
        let peer = Peer { user: Some(Arc::new(user)), ..Peer::default() };
        let response = self.server.serve(request.unwrap(), peer).await;
        let Body::Stream(pieces) = response.into_body() else { panic!("{path} is no watch") };
        let frames = |piece: bytes::Bytes| {
            let lines = piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            futures::stream::iter(lines.map(|line| json::parse(line).unwrap()).collect::<Vec<_>>())
        };
        pieces.flat_map(frames).boxed()
    }

    /// The lines of `/metrics`, each of which has to be there.
    pub(crate) async fn counts(&self, lines: &[&str]) {
        let (_, text) = self.send(&admin(), "GET /metrics", None).await;
        let text = text.as_str().unwrap().to_owned();
        for line in lines {
            let name = line.split(['{', ' ']).next().unwrap();
            let of_name: Vec<&str> = text.lines().filter(|it| it.starts_with(name)).collect();
            assert!(of_name.contains(line), "{line}: {of_name:#?}");
        }
    }

    /// The same for a request of the administrator that must succeed.
    pub(crate) async fn done(&self, request: &str, body: Option<&Value>) -> Value {
        let (code, answer) = self.send(&admin(), request, body).await;
        assert!((200..300).contains(&code), "{request}: {answer:?}");
        answer
    }
}
