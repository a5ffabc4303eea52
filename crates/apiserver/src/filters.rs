//! What every request passes before its handler, outermost first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apimachinery::Status;
use apimachinery::status::GroupResource;
use auth::metrics::Attempt;
use auth::{
    Asker, Attributes, AuthenticationError, Authenticator, Credentials, Decision, Warnings,
};
use futures::future::BoxFuture;
use http::HeaderValue;
use tokio::time::Instant;

use crate::Server;
use crate::audited;
use crate::deadline;
use crate::error;
use crate::exchange::{AUDIT_ID, Exchange};
use crate::fairness::{self, Step};
use crate::impersonation;
use crate::memory;
use crate::metrics::{Ended, Timed};
use crate::profiles;
use crate::traces;

/// Told of a token that counts as absent.
const SPACE_BEFORE_TOKEN: &str = "the provided Authorization header contains extra space before the bearer token, and is ignored";

/// One filter: lets the request go on, or answers it.
type Filter = for<'a> fn(&'a Arc<Server>, &'a mut Exchange) -> Verdict<'a>;

/// What a filter says. Most know at once, for most requests: nothing is allocated then.
enum Verdict<'a> {
    /// It has no business with this request.
    Pass,
    Now(Result<(), Status>),
    /// It has to read from the store, ask somebody, or wait for its turn.
    Later(BoxFuture<'a, Result<(), Status>>),
}

/// The filters in order, each with the reason for its place; those that are timed with what they are counted as.
const FILTERS: &[(&str, Option<Timed>, Filter)] = &[
    // First, so that every answer, refusals too, carries the id that the audit log knows it by.
    ("audit-id", None, audit_id),
    // What cannot be meant is refused before anybody is asked about it.
    ("deadline", None, deadline),
    // Before anything that depends on who asks.
    ("authentication", Some(Timed::Authentication), authentication),
    // As soon as it is known who asks, and before anything is refused or done in somebody's name.
    ("audit", Some(Timed::Audit), audit),
    // After authentication: only somebody known may speak for another.
    ("impersonation", Some(Timed::Impersonation), impersonation),
    // After impersonation: a request is of the flow of whom it is made for. Before anything that costs more.
    ("priority-and-fairness", Some(Timed::PriorityAndFairness), fairness),
    // It needs to know who asks, for whom, and what.
    ("authorization", Some(Timed::Authorization), authorization),
    // Last: who may not do it, or still waits for a turn, takes none of the room.
    ("memory", None, memory),
];

/// A place among the requests in flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Option<(Arc<Server>, bool)>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((server, mutating)) = &self.0 {
            counter(server, *mutating).0.fetch_sub(1, Ordering::AcqRel);
            server.ending.request_over();
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
    // Where one that is timed ends, the next may begin. What passes untouched is not worth a look at the clock.
    let mut last: Option<Instant> = None;
    for (_, timed, filter) in FILTERS {
        let began = timed.map(|it| (it, *last.get_or_insert_with(Instant::now)));
        match filter(server, exchange) {
            Verdict::Pass => {
                timed.inspect(|timed| server.metrics.filtered(*timed, Duration::ZERO));
                continue;
            }
            Verdict::Now(result) => result?,
            Verdict::Later(waiting) => waiting.await?,
        }
        last = began.map(|(timed, began)| {
            let now = Instant::now();
            server.metrics.filtered(timed, now - began);
            now
        });
    }
    admit(server, exchange)
}

/// `?timeout=`.
fn deadline<'a>(_: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    Verdict::Now(deadline::check(exchange))
}

/// Begins to record the request, where there is an audit.
fn audit<'a>(server: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    if server.audit.is_none() {
        return Verdict::Pass;
    }
    Verdict::Later(Box::pin(audited::begin(server, exchange)))
}

/// `Impersonate-User` and its kin.
fn impersonation<'a>(server: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    if !impersonation::is_wanted(exchange) {
        return Verdict::Pass;
    }
    Verdict::Later(Box::pin(impersonation::apply(server, exchange)))
}

/// Whether a request lasts as long as its client likes: it would hold a place for ever.
pub(crate) fn is_stream(exchange: &Exchange) -> bool {
    let sub = exchange.info.subresource.as_str();
    matches!(sub, "log" | "exec" | "attach" | "portforward" | "proxy")
        || !exchange.info.is_resource && profiles::lasts(&exchange.info.path)
}

/// Takes seats of the level that the request is of. A watch holds them until it has begun.
fn fairness<'a>(server: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    let Some(fairness) = &server.fairness else { return Verdict::Pass };
    if is_stream(exchange) {
        return Verdict::Pass;
    }
    match fairness::admit(server, fairness, exchange) {
        Ok(Step::Go(seat)) => {
            exchange.seat = seat;
            Verdict::Now(Ok(()))
        }
        Ok(Step::Wait(waiting)) => Verdict::Later(Box::pin(async move {
            let began = Instant::now();
            let seat = waiting.await;
            exchange.waited += began.elapsed();
            exchange.turned_away = seat.is_err();
            exchange.seat = seat?;
            Ok(())
        })),
        Err(status) => {
            exchange.turned_away = true;
            Verdict::Now(Err(status))
        }
    }
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

/// Charges what the request may cost.
fn memory<'a>(server: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    let admitted = memory::admit(server, exchange);
    if admitted.is_err() {
        exchange.ended = Some(Ended::Here);
    }
    Verdict::Now(admitted)
}

fn audit_id<'a>(server: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    let given = exchange.parts.headers.get(AUDIT_ID).filter(|it| !it.is_empty());
    exchange.audit_id = match given {
        Some(given) if given.to_str().is_ok() => given.clone(),
        _ => {
            let mut text = [0; 36];
            let id = server.random.uid().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(id).expect("because it is hexadecimal digits and hyphens")
        }
    };
    Verdict::Pass
}

/// Who asks. Those in the process need no credentials; those of most others are known at once.
fn authentication<'a>(server: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    if let Some(user) = &exchange.peer.user {
        exchange.user = Arc::clone(user);
        traces::asks(user);
        return Verdict::Pass;
    }
    let began = Instant::now();
    let looked = match websocket::bearer::take(&mut exchange.parts.headers) {
        Ok(()) => look(server, exchange),
        Err(bad) => Looked::Known(Err(AuthenticationError(bad.to_string()))),
    };
    match looked {
        Looked::Known(user) => match authenticated(server, exchange, (user, began)) {
            Ok(()) => Verdict::Now(Ok(())),
            Err(status) => Verdict::Later(Box::pin(unauthenticated(server, exchange, status))),
        },
        Looked::Unknown(place) => Verdict::Later(Box::pin(async move {
            let user = ask(server, exchange, place).await;
            match authenticated(server, exchange, (user, began)) {
                Ok(()) => Ok(()),
                Err(status) => unauthenticated(server, exchange, status).await,
            }
        })),
    }
}

async fn unauthenticated(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    status: Status,
) -> Result<(), Status> {
    audited::unauthenticated(server, exchange).await;
    Err(status)
}

/// Takes note of who asks.
fn authenticated(
    server: &Server,
    exchange: &mut Exchange,
    (user, began): (Asker, Instant),
) -> Result<(), Status> {
    let end = match &user {
        Ok(Some(_)) => Attempt::Success,
        Ok(None) => Attempt::Failure,
        Err(_) => Attempt::Error,
    };
    if let Some(proxy) = &server.access.front_proxy {
        proxy.clear(&mut exchange.parts.headers);
    }
    let result = match user {
        Ok(Some(user)) => {
            exchange.user = user;
            Ok(Attempt::Success)
        }
        Ok(None) if may_be_anonymous(server, exchange) => Ok(Attempt::Success),
        // Who presents something that is no good is not taken for somebody who presents nothing.
        Ok(None) | Err(_) => Err(Status::unauthorized()),
    };
    let metrics = &server.access.metrics;
    metrics.attempted(*result.as_ref().unwrap_or(&end), began.elapsed());
    result?;
    metrics.requested(&exchange.user.name);
    traces::asks(&exchange.user);
    Ok(())
}

fn may_be_anonymous(server: &Server, exchange: &Exchange) -> bool {
    server.access.anonymous.is_allowed(&exchange.info.path)
        && !exchange.peer.has_bad_certificate
        && !auth::presents_token(&exchange.parts.headers)
}

/// What is known at once of who asks.
enum Looked {
    Known(Asker),
    /// The authenticator of this place does not know it without asking somebody.
    Unknown(Asking),
}

/// How far the authenticators have been asked.
struct Asking {
    place: usize,
    failed: Option<AuthenticationError>,
}

/// Who the credentials are those of; nobody without any that are known. Some that are no good do not spoil others.
fn look(server: &Server, exchange: &mut Exchange) -> Looked {
    let warnings = Warnings::default();
    if auth::has_space_before_token(&exchange.parts.headers) {
        warnings.add(SPACE_BEFORE_TOKEN);
    }
    let looked = look_at(server, exchange, &credentials(exchange, &warnings));
    warn(exchange, warnings);
    looked
}

fn look_at(server: &Server, exchange: &Exchange, credentials: &Credentials<'_>) -> Looked {
    let mut failed = None;
    for (place, authenticator) in authenticators(server).enumerate() {
        match authenticator.look(credentials) {
            None => return Looked::Unknown(Asking { place, failed }),
            Some(Ok(Some(user))) => return Looked::Known(Ok(Some(user))),
            Some(Ok(None)) => {}
            Some(Err(error)) => failed = Some(not_authentic(exchange, error)),
        }
    }
    Looked::Known(failed.map_or(Ok(None), Err))
}

/// The same from the place on where somebody has to be asked.
async fn ask(server: &Server, exchange: &mut Exchange, asking: Asking) -> Asker {
    let warnings = Warnings::default();
    let credentials = credentials(exchange, &warnings);
    let Asking { place, mut failed } = asking;
    let mut found = None;
    for (nth, authenticator) in authenticators(server).enumerate().skip(place) {
        let asker = match nth == place {
            true => authenticator.ask(&credentials).await,
            false => authenticator.authenticate(&credentials).await,
        };
        match asker {
            Ok(None) => {}
            Ok(user) => {
                found = user;
                break;
            }
            Err(error) => failed = Some(not_authentic(exchange, error)),
        }
    }
    warn(exchange, warnings);
    match (found, failed) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

fn not_authentic(exchange: &Exchange, error: AuthenticationError) -> AuthenticationError {
    tracing::debug!(%error, path = %exchange.info.path, "could not authenticate the request");
    error
}

fn warn(exchange: &mut Exchange, warnings: Warnings) {
    exchange.warnings.extend(warnings.into_all().into_iter().map(str::to_owned));
}

fn credentials<'r>(exchange: &'r Exchange, warnings: &'r Warnings) -> Credentials<'r> {
    Credentials {
        headers: &exchange.parts.headers,
        certificates: &exchange.peer.certificates,
        proxy_certificates: &exchange.peer.proxy_certificates,
        warnings,
    }
}

/// All of them in the order in which they are asked.
fn authenticators(server: &Server) -> impl Iterator<Item = &dyn Authenticator> {
    let access = &server.access;
    let proxy = access.front_proxy.as_ref().map(|it| &**it as &dyn Authenticator);
    proxy.into_iter().chain(access.authenticators.iter().map(AsRef::as_ref))
}

/// What a request asks, as authorizers see it.
pub(crate) fn request_attributes(exchange: &Exchange) -> Attributes<'_> {
    let info = &exchange.info;
    let selector = |name| match info.verb {
        "list" | "watch" | "deletecollection" => exchange.query.get(name).unwrap_or_default(),
        _ => "",
    };
    Attributes {
        user: &exchange.user,
        verb: info.verb,
        group: &info.group,
        version: &info.version,
        resource: if info.is_resource { &info.resource } else { "" },
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        field_selector: selector("fieldSelector"),
        label_selector: selector("labelSelector"),
    }
}

/// Whether they may. Mostly the rules here say so; sometimes somebody else has to be asked.
fn authorization<'a>(server: &'a Arc<Server>, exchange: &'a mut Exchange) -> Verdict<'a> {
    let attributes = request_attributes(exchange);
    let began = Instant::now();
    if let Some(decision) = server.access.authorizer.decide(&attributes) {
        let refused = refused(&attributes, &exchange.parts.uri, &decision);
        server.access.metrics.authorized(&decision, began.elapsed());
        audited::authorized(exchange, &decision);
        return Verdict::Now(refused);
    }
    Verdict::Later(Box::pin(async move {
        let attributes = request_attributes(exchange);
        let decision = server.access.authorizer.ask(&attributes).await;
        let refused = refused(&attributes, &exchange.parts.uri, &decision);
        server.access.metrics.authorized(&decision, began.elapsed());
        audited::authorized(exchange, &decision);
        refused
    }))
}

fn refused(
    attributes: &Attributes<'_>,
    uri: &http::Uri,
    decision: &Decision,
) -> Result<(), Status> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(refusal(attributes, reason)),
        Decision::Failed { why, .. } => Err(error::in_plain(uri, why)),
    }
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
