//! Authenticators and authorizers that a file describes, and that are replaced when it changes.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Status;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;

use crate::abac::Abac;
use crate::always::{AlwaysAllow, AlwaysDeny};
use crate::config::authentication::AuthenticationConfiguration;
use crate::config::authorization::{AuthorizationConfiguration, Kind, Named};
use crate::jwt::Algorithm;
use crate::metrics::{Metrics, Reloaded};
use crate::oidc::{self, IssuerTokens};
use crate::privileged::PrivilegedGroup;
use crate::union::Union;
use crate::webhook_authorizer::WebhookAuthorizer;
use crate::{
    Asker, Attributes, AuthenticationError, Authenticator, Authorizer, Credentials, Decision,
    Reviewed, Rules, UserInfo,
};

/// How long new issuers may take to tell their keys before a file that names them is given up (upstream's limit).
const READY: Duration = Duration::from_secs(60);

/// The tokens of all issuers of a configuration.
#[derive(Debug)]
pub struct ConfiguredIssuers {
    current: ArcSwap<Vec<Arc<IssuerTokens>>>,
    algorithms: Vec<Algorithm>,
    /// Who must not be an issuer.
    disallowed: Vec<String>,
    parts: oidc::Parts,
}

impl ConfiguredIssuers {
    /// The issuers of a configuration. Their keys are fetched from now on.
    ///
    /// # Errors
    /// What is wrong with an issuer's URL or authorities.
    pub fn start(
        configuration: AuthenticationConfiguration,
        algorithms: &[Algorithm],
        disallowed: &[String],
        parts: oidc::Parts,
    ) -> Result<Self, String> {
        let current = ArcSwap::from_pointee(issuers(configuration, algorithms, &parts)?);
        let disallowed = disallowed.to_vec();
        Ok(Self { current, algorithms: algorithms.to_vec(), disallowed, parts })
    }

    /// Replaces the issuers by those of another text of the file, once all of them have told their keys.
    ///
    /// # Errors
    /// What is wrong with it; then everything stays.
    pub async fn reload(&self, text: &[u8]) -> Result<(), String> {
        let reloaded = self.try_reload(text).await;
        let at = self.parts.clock.now().as_duration().as_secs_f64();
        self.parts.metrics.reloaded(Reloaded::Authentication, reloaded.is_ok(), at);
        if reloaded.is_ok() {
            self.parts.metrics.configured(Reloaded::Authentication, text);
        }
        reloaded
    }

    async fn try_reload(&self, text: &[u8]) -> Result<(), String> {
        let configuration = AuthenticationConfiguration::parse(text, &self.disallowed)?;
        let new = issuers(configuration, &self.algorithms, &self.parts)?;
        for issuer in &new {
            if tokio::time::timeout(READY, issuer.ready()).await.is_err() {
                return Err(format!("the issuer {:?} does not tell its keys", issuer.issuer()));
            }
        }
        self.current.store(Arc::new(new));
        Ok(())
    }

    /// Waits until all issuers have told their keys.
    pub async fn ready(&self) {
        for issuer in self.current.load_full().iter() {
            issuer.ready().await;
        }
    }
}

fn issuers(
    configuration: AuthenticationConfiguration,
    algorithms: &[Algorithm],
    parts: &oidc::Parts,
) -> Result<Vec<Arc<IssuerTokens>>, String> {
    let start = |jwt| IssuerTokens::start(jwt, algorithms, parts).map(Arc::new);
    configuration.jwt.into_iter().map(start).collect()
}

#[async_trait]
impl Authenticator for ConfiguredIssuers {
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        let nobody = self.current.load().is_empty() || credentials.bearer_token().is_none();
        nobody.then_some(Ok(None))
    }

    async fn ask(&self, credentials: &Credentials<'_>) -> Asker {
        // Each token is of one issuer.
        for issuer in self.current.load_full().iter() {
            if let Some(user) = issuer.ask(credentials).await? {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }

    async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        for issuer in self.current.load_full().iter() {
            if let Some(reviewed) = issuer.review(token, audiences).await? {
                return Ok(Some(reviewed));
            }
        }
        Ok(None)
    }
}

/// What authorizers are made of besides their configuration.
#[derive(Debug, Clone)]
pub struct AuthorizerParts {
    /// That of nodes.
    pub node: Arc<dyn Authorizer>,
    /// That of roles.
    pub rbac: Arc<dyn Authorizer>,
    /// The policies of a file.
    pub abac: Arc<Abac>,
    /// Where is counted.
    pub metrics: Metrics,
}

/// The authorizers of a configuration, as far as they need nothing else.
#[derive(Debug)]
pub struct Prepared(Vec<Place>);

#[derive(Debug)]
struct Place {
    authorizer: Slot,
    counters: [Counter; 2],
}

/// An authorizer, or which of those it is that are given.
#[derive(Debug)]
enum Slot {
    Made(Arc<dyn Authorizer>),
    Abac,
    Node,
    Rbac,
}

impl Prepared {
    /// Makes what a configuration describes.
    ///
    /// # Errors
    /// What is wrong with a webhook's kubeconfig.
    pub fn new(
        configuration: AuthorizationConfiguration,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let mut places = Vec::new();
        for Named { name, kind } in configuration.authorizers {
            let counters = metrics.decisions(&name, kind.name());
            let authorizer = match kind {
                Kind::Abac => Slot::Abac,
                Kind::AlwaysAllow => Slot::Made(Arc::new(AlwaysAllow)),
                Kind::AlwaysDeny => Slot::Made(Arc::new(AlwaysDeny)),
                Kind::Node => Slot::Node,
                Kind::Rbac => Slot::Rbac,
                Kind::Webhook(configuration) => {
                    let made = WebhookAuthorizer::new(&name, *configuration, metrics.clone());
                    Slot::Made(Arc::new(made.map_err(|why| format!("authorizer {name}: {why}"))?))
                }
            };
            places.push(Place { authorizer, counters });
        }
        Ok(Self(places))
    }

    /// All of them, in their order, behind the group that may do everything.
    fn complete(self, parts: &AuthorizerParts) -> Union {
        // First: whoever is in it can never be locked out.
        let mut all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(PrivilegedGroup)];
        for Place { authorizer, counters } in self.0 {
            let authorizer: Arc<dyn Authorizer> = match authorizer {
                Slot::Made(made) => made,
                Slot::Abac => Arc::clone(&parts.abac) as _,
                Slot::Node => Arc::clone(&parts.node),
                Slot::Rbac => Arc::clone(&parts.rbac),
            };
            all.push(Arc::new(Counted { authorizer, counters }));
        }
        Union(all)
    }
}

/// All authorizers of a configuration, which may be replaced.
#[derive(Debug)]
pub struct ConfiguredAuthorizers {
    current: ArcSwap<Union>,
    parts: AuthorizerParts,
}

impl ConfiguredAuthorizers {
    /// The authorizers of a configuration.
    #[must_use]
    pub fn new(prepared: Prepared, parts: AuthorizerParts) -> Self {
        Self { current: ArcSwap::from_pointee(prepared.complete(&parts)), parts }
    }

    /// Replaces them by those of another text of the file. `now` is in seconds since the epoch.
    ///
    /// # Errors
    /// What is wrong with it; then everything stays.
    pub fn reload(&self, text: &[u8], now: f64) -> Result<(), String> {
        let metrics = &self.parts.metrics;
        let prepared = AuthorizationConfiguration::parse(text)
            .and_then(|configuration| Prepared::new(configuration, metrics));
        metrics.reloaded(Reloaded::Authorization, prepared.is_ok(), now);
        self.current.store(Arc::new(prepared?.complete(&self.parts)));
        metrics.configured(Reloaded::Authorization, text);
        Ok(())
    }
}

impl Authorizer for ConfiguredAuthorizers {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        self.current.load().decide(attributes)
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> BoxFuture<'a, Decision> {
        let current = self.current.load_full();
        Box::pin(async move { current.ask(attributes).await })
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Rules, Status> {
        self.current.load().rules_for(user, namespace)
    }
}

/// An authorizer whose decisions are counted under its name.
#[derive(Debug)]
struct Counted {
    authorizer: Arc<dyn Authorizer>,
    /// What it allows, and what it denies.
    counters: [Counter; 2],
}

impl Counted {
    fn count(&self, decision: &Decision) {
        let [allowed, denied] = &self.counters;
        match decision {
            Decision::Allow(_) => drop(allowed.inc()),
            Decision::Deny(_) | Decision::Failed { denies: true, .. } => drop(denied.inc()),
            Decision::NoOpinion(_) | Decision::Failed { denies: false, .. } => {}
        }
    }
}

impl Authorizer for Counted {
    fn decide(&self, attributes: &Attributes<'_>) -> Option<Decision> {
        let decision = self.authorizer.decide(attributes)?;
        self.count(&decision);
        Some(decision)
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            let decision = self.authorizer.ask(attributes).await;
            self.count(&decision);
            decision
        })
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Rules, Status> {
        self.authorizer.rules_for(user, namespace)
    }
}
