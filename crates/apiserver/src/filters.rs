//! What every request passes before its handler, outermost first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apimachinery::Status;
use apimachinery::status::GroupResource;
use auth::{Attributes, Credentials, Decision, UserInfo};
use futures::future::BoxFuture;

use crate::Server;
use crate::audited;
use crate::exchange::Exchange;
use crate::fairness::{self, Seat, Step};

/// One filter: lets the request go on, or answers it.
enum Filter {
    /// Knows at once.
    Now(fn(&Arc<Server>, &mut Exchange) -> Result<(), Status>),
    /// Knows at once, or has to wait.
    Sometimes(fn(&Arc<Server>, &mut Exchange) -> Result<Option<Waiting>, Status>),
    /// May have to read from the store.
    Later(for<'a> fn(&'a Arc<Server>, &'a mut Exchange) -> Answer<'a>),
    /// The same, only where there is an audit: without one nothing is made for it.
    Audit(for<'a> fn(&'a Arc<Server>, &'a mut Exchange) -> Answer<'a>),
}

/// What is waited for.
type Waiting = BoxFuture<'static, Result<Seat, Status>>;

/// What a filter says that has to wait.
type Answer<'a> = BoxFuture<'a, Result<(), Status>>;

/// The filters in order, each with the reason for its place.
const FILTERS: &[(&str, Filter)] = &[
    // First, so that every answer, refusals too, carries the id that the audit log knows it by.
    ("audit-id", Filter::Now(audit_id)),
    // Before anything that depends on who asks.
    (
        "authentication",
        Filter::Later(|server, exchange| Box::pin(authentication(server, exchange))),
    ),
    // As soon as it is known who asks, and before anything is refused or done in somebody's name.
    ("audit", Filter::Audit(|server, exchange| Box::pin(audited::begin(server, exchange)))),
    // After authentication: only somebody known may speak for another.
    ("impersonation", Filter::Now(impersonation)),
    // After impersonation: a request is of the flow of whom it is made for. Before anything that costs more.
    ("priority-and-fairness", Filter::Sometimes(fairness)),
    // Last: it needs to know who asks, for whom, and what.
    ("authorization", Filter::Now(authorization)),
];

/// A place among the requests in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Option<(Arc<Server>, bool)>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((server, mutating)) = &self.0 {
            counter(server, *mutating).0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn counter(server: &Server, mutating: bool) -> (&AtomicUsize, usize) {
    let limits = &server.limits;
    if mutating {
        (&limits.mutating, limits.max_mutating)
    } else {
        (&limits.reading, limits.max_reading)
    }
}

/// Runs the filters. The request is in flight until what comes back is dropped.
pub(crate) async fn run(server: &Arc<Server>, exchange: &mut Exchange) -> Result<InFlight, Status> {
    for (_, filter) in FILTERS {
        match filter {
            Filter::Now(filter) => filter(server, exchange)?,
            Filter::Audit(_) if server.audit.is_none() => {}
            Filter::Sometimes(filter) => {
                if let Some(waiting) = filter(server, exchange)? {
                    let seat = waiting.await;
                    exchange.turned_away = seat.is_err();
                    exchange.seat = seat?;
                }
            }
            Filter::Later(filter) | Filter::Audit(filter) => filter(server, exchange).await?,
        }
    }
    admit(server, exchange)
}

/// Whether a request lasts as long as its client likes: it would hold a place for ever.
fn is_stream(exchange: &Exchange) -> bool {
    let sub = exchange.info.subresource.as_str();
    matches!(sub, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Takes seats of the level that the request is of. A watch holds them until it has begun.
fn fairness(server: &Arc<Server>, exchange: &mut Exchange) -> Result<Option<Waiting>, Status> {
    let Some(fairness) = &server.fairness else { return Ok(None) };
    if is_stream(exchange) {
        return Ok(None);
    }
    match fairness::admit(server, fairness, exchange) {
        Ok(Step::Go(seat)) => exchange.seat = seat,
        Ok(Step::Wait(waiting)) => return Ok(Some(waiting)),
        Err(status) => {
            exchange.turned_away = true;
            return Err(status);
        }
    }
    Ok(None)
}

/// Takes a place among the requests in flight. Watches and streams need none. Where there is no priority and fairness,
/// there are only so many for those who are not of `system:masters`.
fn admit(server: &Arc<Server>, exchange: &mut Exchange) -> Result<InFlight, Status> {
    let info = &exchange.info;
    if info.verb == "watch" || is_stream(exchange) {
        return Ok(InFlight(None));
    }
    let mutating = !matches!(info.verb, "get" | "list" | "head" | "options");
    let (count, limit) = counter(server, mutating);
    let unlimited = server.fairness.is_some()
        || exchange.user.is_in(auth::user::MASTERS)
        || exchange.peer.user.is_some();
    if count.fetch_add(1, Ordering::AcqRel) >= limit && !unlimited {
        count.fetch_sub(1, Ordering::AcqRel);
        exchange.turned_away = true;
        return Err(Status::too_many_requests("Too many requests, please try again later.", 1));
    }
    Ok(InFlight(Some((Arc::clone(server), mutating))))
}

fn audit_id(server: &Arc<Server>, exchange: &mut Exchange) -> Result<(), Status> {
    let given = exchange.header("audit-id");
    exchange.audit_id =
        if given.is_empty() { server.random.uid().to_string() } else { given.into() };
    Ok(())
}

async fn authentication(server: &Arc<Server>, exchange: &mut Exchange) -> Result<(), Status> {
    if let Some(user) = &exchange.peer.user {
        exchange.user = Arc::clone(user);
        return Ok(());
    }
    let credentials =
        Credentials { headers: &exchange.parts.headers, certificates: &exchange.peer.certificates };
    for authenticator in &server.access.authenticators {
        match authenticator.authenticate(&credentials).await {
            Ok(Some(user)) => {
                exchange.user = Arc::new(user);
                return Ok(());
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, path = exchange.info.path, "could not authenticate the request");
                audited::unauthenticated(server, exchange).await;
                return Err(Status::unauthorized());
            }
        }
    }
    let silent = exchange.parts.headers.get(http::header::AUTHORIZATION).is_none()
        && !exchange.peer.has_bad_certificate;
    if server.access.anonymous && silent {
        return Ok(());
    }
    audited::unauthenticated(server, exchange).await;
    Err(Status::unauthorized())
}

/// `Impersonate-User` and its kin: each thing impersonated needs the right to do so.
fn impersonation(server: &Arc<Server>, exchange: &mut Exchange) -> Result<(), Status> {
    let Some(wanted) = impersonated(exchange)? else { return Ok(()) };
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate",
            group,
            version: "v1",
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::of(&exchange.user)
        };
        match server.access.authorizer.authorize(&attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Err(refusal(&attributes, &reason))
            }
        }
    };
    match wanted.as_service_account() {
        Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name)?,
        None => may("", "users", "", "", &wanted.name)?,
    }
    for group in exchange.parts.headers.get_all("impersonate-group") {
        may("", "groups", "", "", &text_of(group))?;
    }
    if !wanted.uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    exchange.user = Arc::new(wanted);
    audited::impersonated(exchange);
    Ok(())
}

fn impersonated(exchange: &Exchange) -> Result<Option<UserInfo>, Status> {
    let headers = &exchange.parts.headers;
    let first = |name: &str| headers.get(name).map(text_of).unwrap_or_default();
    let mut user = UserInfo {
        name: first("impersonate-user"),
        uid: first("impersonate-uid"),
        ..UserInfo::default()
    };
    user.groups = headers.get_all("impersonate-group").iter().map(text_of).collect();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix("impersonate-extra-") {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            user.extra.entry(key).or_default().push(text_of(value));
        }
    }
    if user.name.is_empty() {
        if user == UserInfo::default() {
            return Ok(None);
        }
        let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
        let groups = if groups.is_empty() {
            "[]string(nil)".into()
        } else {
            format!("[]string{{{}}}", groups.join(", "))
        };
        return Err(Status::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{groups}, Extra:map[string][]string(nil)}} without impersonating a user name",
            user.uid
        )));
    }
    complete_groups(&mut user);
    Ok(Some(user))
}

/// The text of a header. Names may have any letters: a header that is not understood must not count as absent, which
/// would let the request pass as the impersonator's own.
fn text_of(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The groups that come with a name.
fn complete_groups(user: &mut UserInfo) {
    let mut add = |group: String| {
        if !user.groups.contains(&group) {
            user.groups.push(group);
        }
    };
    if user.name == auth::user::ANONYMOUS {
        add(auth::user::ALL_UNAUTHENTICATED.into());
        return;
    }
    let account = user
        .name
        .strip_prefix(auth::user::SERVICE_ACCOUNT_PREFIX)
        .and_then(|it| it.split_once(':'));
    if let Some((namespace, _)) = account {
        add(auth::user::ALL_SERVICE_ACCOUNTS.into());
        add(format!("{}:{namespace}", auth::user::ALL_SERVICE_ACCOUNTS));
    }
    add(auth::user::ALL_AUTHENTICATED.into());
}

fn authorization(server: &Arc<Server>, exchange: &mut Exchange) -> Result<(), Status> {
    let info = &exchange.info;
    let attributes = Attributes {
        user: &exchange.user,
        verb: info.verb,
        group: &info.group,
        version: &info.version,
        resource: if info.is_resource { &info.resource } else { "" },
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        field_selector: exchange.query.get("fieldSelector").unwrap_or_default(),
    };
    let decision = server.access.authorizer.authorize(&attributes);
    let refusal = match &decision {
        Decision::Allow(_) => None,
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Some(refusal(&attributes, reason)),
    };
    audited::authorized(exchange, &decision);
    refusal.map_or(Ok(()), Err)
}

/// 403 in upstream's words.
pub(crate) fn refusal(attributes: &Attributes<'_>, reason: &str) -> Status {
    let user = apimachinery::field::quote(&attributes.user.name);
    let verb = attributes.verb;
    let why = if attributes.is_resource() {
        let sub = attributes.subresource;
        let resource = if sub.is_empty() {
            attributes.resource.to_owned()
        } else {
            format!("{}/{sub}", attributes.resource)
        };
        let scope = match attributes.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "User {user} cannot {verb} resource \"{resource}\" in API group \"{}\" {scope}",
            attributes.group
        )
    } else {
        format!("User {user} cannot {verb} path \"{}\"", attributes.path)
    };
    let why = if reason.is_empty() { why } else { format!("{why}: {reason}") };
    let of = GroupResource { group: attributes.group, resource: attributes.resource };
    Status::forbidden(of, attributes.name, &why)
}
