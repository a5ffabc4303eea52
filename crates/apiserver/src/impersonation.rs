//! `Impersonate-User` and its kin: who may speak for whom. Upstream: `endpoints/filters/impersonation`.
//!
//! Constrained ways come first: somebody may speak for a sort of users, and only do some things as them. The last way is
//! that of old, `impersonate`, after which all is allowed that the other user may do.

use std::sync::Arc;

use apimachinery::Status;
use apimachinery::validation::dns1123_subdomain;
use auth::user::{
    ALL_AUTHENTICATED, ALL_SERVICE_ACCOUNTS, ALL_UNAUTHENTICATED, ANONYMOUS, MASTERS,
    NODE_NAME_KEY, NODE_PREFIX, NODES,
};
use auth::{Attributes, Authorizer, Decision, UserInfo, text_of};
use http::HeaderMap;

use crate::Server;
use crate::audited;
use crate::exchange::Exchange;
use crate::filters::{refusal, request_attributes};

const AUTHENTICATION: &str = "authentication.k8s.io";
const EXTRA_PREFIX: &str = "impersonate-extra-";
/// From how many groups or extra values on it is asked first whether all are allowed.
const MANY: usize = 4;

/// A way to speak for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The node that a service account's pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Users of no such form.
    UserInfo,
    /// Everybody, without constraint.
    Legacy,
}

/// In the order in which they are tried.
const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

/// Whether any header names somebody else.
pub(crate) fn is_wanted(exchange: &Exchange) -> bool {
    exchange.parts.headers.keys().any(|it| it.as_str().starts_with("impersonate-"))
}

/// Puts the user that the headers name in the place of the one who asks.
pub(crate) async fn apply(server: &Arc<Server>, exchange: &mut Exchange) -> Result<(), Status> {
    let Some(wanted) = wanted(&exchange.parts.headers)? else { return Ok(()) };
    let own = Arc::clone(&exchange.user);
    let asked = request_attributes(exchange);
    let asked = Attributes { user: &own, ..asked };
    let mut first = None;
    for mode in MODES.into_iter().filter(|it| it.is_for(&wanted, &own)) {
        let check = Check { authorizer: server.access.authorizer.as_ref(), mode, user: &own };
        match check.run(&wanted, &asked).await {
            Ok(user) => {
                exchange.user = Arc::new(user);
                clear(&mut exchange.parts.headers);
                audited::impersonated(exchange);
                return Ok(());
            }
            Err(status) => drop(first.get_or_insert(status)),
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Whom the headers name, as they do.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let first = |name: &str| headers.get(name).map(text_of).unwrap_or_default();
    let mut user = UserInfo {
        name: first("impersonate-user"),
        uid: first("impersonate-uid"),
        ..UserInfo::default()
    };
    user.groups = headers.get_all("impersonate-group").iter().map(text_of).collect();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            user.extra.entry(auth::user::extra_key(key)).or_default().push(text_of(value));
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == UserInfo::default() {
        return Ok(None);
    }
    let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    let groups = if groups.is_empty() {
        "[]string(nil)".into()
    } else {
        format!("[]string{{{}}}", groups.join(", "))
    };
    Err(Status::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{groups}, Extra:map[string][]string(nil)}} without impersonating a user name",
        user.uid
    )))
}

/// Nobody behind this is to see that somebody speaks for another.
fn clear(headers: &mut HeaderMap) {
    for name in ["impersonate-user", "impersonate-uid", "impersonate-group"] {
        headers.remove(name);
    }
    let extra = headers.keys().filter(|it| it.as_str().starts_with(EXTRA_PREFIX));
    let extra: Vec<_> = extra.cloned().collect();
    extra.into_iter().for_each(|it| drop(headers.remove(it)));
}

/// The node of a user's name, where it is a node's.
fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix(NODE_PREFIX).filter(|it| dns1123_subdomain(it).is_empty())
}

/// Namespace and name of a service account, where the user's name is that of one.
fn account_of(user: &UserInfo) -> Option<(&str, &str)> {
    user.as_service_account().filter(|(_, name)| !name.contains(':'))
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::AssociatedNode => "impersonate:associated-node",
            Self::ArbitraryNode => "impersonate:arbitrary-node",
            Self::ServiceAccount => "impersonate:serviceaccount",
            Self::UserInfo => "impersonate:user-info",
            Self::Legacy => "impersonate",
        }
    }

    /// Whether such users are spoken for in this way.
    fn is_for(self, wanted: &UserInfo, own: &UserInfo) -> bool {
        let only_name =
            wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_of(&wanted.name);
        match self {
            Self::AssociatedNode => {
                let at = own.extra.get(NODE_NAME_KEY).map(Vec::as_slice);
                let its_own = matches!((at, node), (Some([at]), Some(node)) if at == node);
                only_name && its_own && account_of(own).is_some()
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account_of(wanted).is_some(),
            Self::UserInfo => node.is_none() && account_of(wanted).is_none(),
            Self::Legacy => true,
        }
    }
}

/// The questions of one way, about one request.
struct Check<'c> {
    authorizer: &'c dyn Authorizer,
    mode: Mode,
    /// Who wants to speak for another.
    user: &'c UserInfo,
}

impl Check<'_> {
    fn is_constrained(&self) -> bool {
        self.mode != Mode::Legacy
    }

    /// Who then asks.
    async fn run(&self, wanted: &UserInfo, asked: &Attributes<'_>) -> Result<UserInfo, Status> {
        if self.is_constrained() {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), asked.verb);
            self.may(&Attributes { verb: &verb, ..*asked }).await?;
        }
        let mut user = wanted.clone();
        self.name(wanted, &mut user).await?;
        if !wanted.uid.is_empty() {
            self.may(&self.about("uids", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(wanted).await?;
        complete(&mut user);
        Ok(user)
    }

    /// A question about one thing that somebody is.
    fn about<'a>(&'a self, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let of_core = matches!(resource, "users" | "groups" | "serviceaccounts");
        let group = if of_core && !self.is_constrained() { "" } else { AUTHENTICATION };
        Attributes {
            verb: self.mode.verb(),
            group,
            version: "v1",
            resource,
            name,
            ..Attributes::of(self.user)
        }
    }

    async fn may(&self, asked: &Attributes<'_>) -> Result<(), Status> {
        let stands_in;
        let asked = if self.mode == Mode::AssociatedNode {
            // Which node it is was checked; that the answer is for any of them lets it be remembered.
            stands_in = without_values(self.user);
            let name = if asked.verb == self.mode.verb() { "*" } else { asked.name };
            &Attributes { user: &stands_in, name, ..*asked }
        } else {
            asked
        };
        match self.authorizer.authorize(asked).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) | Decision::Failed { why, .. } => {
                Err(refusal(asked, &why))
            }
        }
    }

    async fn name(&self, wanted: &UserInfo, user: &mut UserInfo) -> Result<(), Status> {
        if self.is_constrained()
            && let Some(node) = node_of(&wanted.name)
        {
            user.groups = vec![NODES.into()];
            return self.may(&self.about("nodes", node)).await;
        }
        if let Some((namespace, name)) = account_of(wanted) {
            if wanted.groups.is_empty() {
                let own = format!("{ALL_SERVICE_ACCOUNTS}:{namespace}");
                user.groups = vec![ALL_SERVICE_ACCOUNTS.into(), own];
            }
            let about = self.about("serviceaccounts", name);
            return self.may(&Attributes { namespace, ..about }).await;
        }
        self.may(&self.about("users", &wanted.name)).await
    }

    async fn groups(&self, groups: &[String]) -> Result<(), Status> {
        if self.is_constrained() {
            let has = |wanted: &str| groups.iter().any(|it| it == wanted);
            if has("") {
                let why = "impersonating the empty string group is not allowed";
                return Err(refusal(&self.about("groups", ""), why));
            }
            if has(MASTERS) {
                let why = "impersonating the system:masters group is not allowed";
                return Err(refusal(&self.about("groups", MASTERS), why));
            }
            if groups.len() >= MANY && self.may(&self.about("groups", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.may(&self.about("groups", group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, wanted: &UserInfo) -> Result<(), Status> {
        let of = |key, value| Attributes { subresource: key, ..self.about("userextras", value) };
        if self.is_constrained() {
            validate_extra(wanted).map_err(|why| refusal(&self.about("userextras", ""), &why))?;
            let values: usize = wanted.extra.values().map(Vec::len).sum();
            let many = wanted.extra.len() >= MANY || values >= MANY;
            if many && self.may(&of("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in &wanted.extra {
            for value in values {
                self.may(&of(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// A service account of which only is known what sort of object its token is bound to.
fn without_values(user: &UserInfo) -> UserInfo {
    let keys: Vec<String> = user.extra.keys().cloned().collect();
    let key = "authentication.kubernetes.io/associated-node-keys".to_owned();
    UserInfo { extra: [(key, keys)].into(), ..user.clone() }
}

fn validate_extra(wanted: &UserInfo) -> Result<(), String> {
    for (key, values) in &wanted.extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".into());
        }
        let mut errors = apimachinery::FieldErrors::new();
        let extra = apimachinery::Path::new("extra");
        auth::config::domain_prefixed_path(&extra.child("key"), key, &mut errors);
        if let Some(error) = errors.iter().next() {
            return Err(format!("impersonating an invalid key in extra is not allowed: {error}"));
        }
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".into());
        }
    }
    Ok(())
}

/// The group that everybody known or unknown is in.
fn complete(user: &mut UserInfo) {
    if user.name == ANONYMOUS {
        if !user.is_in(ALL_UNAUTHENTICATED) {
            user.groups.push(ALL_UNAUTHENTICATED.into());
        }
    } else if !user.is_in(ALL_UNAUTHENTICATED) && !user.is_in(ALL_AUTHENTICATED) {
        user.groups.push(ALL_AUTHENTICATED.into());
    }
}
