//! A request on its way, as the audit records it: an event when it comes, when a long answer begins, and when the answer
//! is over, however it ends.
//!
//! What is recorded and where it goes is the business of the crate `audit`. Without an audit nothing here is done.

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::{Status, Value, json, yaml};
use audit::{Attributes, Audit, Decision, Event, Level, ObjectRef, Resource, Stage, User};
use auth::UserInfo;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use parking_lot::Mutex;

use crate::Server;
use crate::body::Body;
use crate::error;
use crate::exchange::{Exchange, RequestBody};
use crate::request::RequestInfo;

/// How much of what a client calls itself is recorded, in bytes (upstream's limit).
const USER_AGENT_BYTES: usize = 1024;
/// How much of a streamed answer is recorded, in bytes. Beyond this it is not, and the event says so.
const CAPTURED_BYTES: usize = 64 << 20;
/// The annotations that are for those who record objects.
const PATCHES: &str = "patch.webhook.admission.k8s.io/";

/// A request that is recorded. Whoever works on it when it has an answer already holds this too: when the last one lets
/// it go, the answer is over.
pub(crate) struct Audited {
    audit: Arc<Audit>,
    decision: Decision,
    /// `None` once the last event is made.
    event: Mutex<Option<Event>>,
}

impl std::fmt::Debug for Audited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Audited({:?})", self.decision.level)
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        let Some(mut event) = self.event.get_mut().take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        complete(&mut event);
        let (audit, decision) = (Arc::clone(&self.audit), self.decision);
        runtime.spawn(async move { audit.process(&mut event, &decision).await });
    }
}

fn complete(event: &mut Event) {
    event.stage = Stage::ResponseComplete;
    event.response_status.get_or_insert_with(|| Status {
        code: 200,
        success: true,
        message: "Connection closed early".into(),
        ..Status::default()
    });
}

impl Audited {
    fn with(&self, change: impl FnOnce(&mut Event)) {
        if let Some(event) = self.event.lock().as_mut() {
            change(event);
        }
    }

    /// Records a stage that is not the last.
    async fn record(&self, stage: Stage) {
        self.with(|event| event.stage = stage);
        let event = self.event.lock().clone();
        if let Some(mut event) = event {
            self.audit.process(&mut event, &self.decision).await;
        }
    }

    /// Records the last stage.
    async fn complete(&self) {
        let event = self.event.lock().take();
        if let Some(mut event) = event {
            complete(&mut event);
            self.audit.process(&mut event, &self.decision).await;
        }
    }

    async fn panicked(&self, why: &str) {
        let event = self.event.lock().take();
        if let Some(mut event) = event {
            event.stage = Stage::Panic;
            event.response_status = Some(Status {
                code: 500,
                reason: "InternalError",
                message: format!("APIServer panic'd: {why}"),
                ..Status::default()
            });
            self.audit.process(&mut event, &self.decision).await;
        }
    }

    /// The object of the request, as it was decoded.
    pub(crate) fn request(&self, object: &Value) {
        let text = |path: &[&str]| object.str_at(path).to_owned();
        self.with(|event| {
            let of = event.object_ref.get_or_insert_default();
            let mut fill = |part: fn(&mut ObjectRef) -> &mut String, member| {
                let part = part(of);
                if part.is_empty() {
                    *part = text(&["metadata", member]);
                }
            };
            fill(|it| &mut it.namespace, "namespace");
            fill(|it| &mut it.name, "name");
            fill(|it| &mut it.uid, "uid");
            fill(|it| &mut it.resource_version, "resourceVersion");
            if self.decision.level >= Level::Request {
                event.request_object = Some(self.encoded(object));
            }
        });
    }

    /// The patch of a request, which has been parsed.
    pub(crate) fn patch(&self, patch: &Value) {
        if self.decision.level >= Level::Request {
            self.with(|event| event.request_object = Some(json::to_vec(patch).into()));
        }
    }

    fn encoded(&self, object: &Value) -> Bytes {
        if !self.decision.omit_managed_fields {
            return json::to_vec(object).into();
        }
        let mut object = object.clone();
        drop_managed_fields(&mut object);
        json::to_vec(&object).into()
    }

    fn impersonated(&self, user: &UserInfo) {
        self.with(|event| event.impersonated_user = Some(user_of(user)));
    }

    fn answers_are_recorded(&self) -> bool {
        self.decision.level >= Level::RequestResponse
    }

    /// An answer's object as it is recorded; `None` for what is none.
    fn object_of(&self, media: &str, bytes: &Bytes) -> Option<Bytes> {
        let object = match media.split(';').next().unwrap_or_default() {
            "application/json" => {
                let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
                let plain = text.starts_with(b"{\"kind\":") && !text.contains(&b'\n');
                if plain && !self.decision.omit_managed_fields {
                    return Some(bytes.slice(..text.len()));
                }
                json::parse(bytes).ok()?
            }
            "application/yaml" => yaml::parse(bytes).ok()?,
            crate::cbor::MEDIA_TYPE => crate::cbor::decode_own(bytes).ok()?,
            crate::proto::MEDIA_TYPE => crate::proto::decode(bytes, ("", ""), &[]).ok()?,
            _ => return None,
        };
        object.get("kind").is_some().then(|| self.encoded(&object))
    }
}

fn drop_managed_fields(object: &mut Value) {
    let path = ["metadata", "managedFields"];
    object.remove_at(&path);
    for item in object.items_at_mut(&["items"]) {
        item.remove_at(&path);
    }
    for row in object.items_at_mut(&["rows"]) {
        row.remove_at(&["object", "metadata", "managedFields"]);
    }
}

fn user_of(user: &UserInfo) -> User {
    User {
        name: user.name.clone(),
        uid: user.uid.clone(),
        groups: user.groups.clone(),
        extra: user.extra.clone(),
    }
}

/// Whether an answer may last as long as the client likes (upstream: `BasicLongRunningRequestCheck`).
fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || matches!(info.subresource.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy")
}

/// Evaluates the policy; `None` where the request is not to be recorded.
fn event(server: &Server, audit: &Audit, exchange: &Exchange) -> Option<(Event, Decision)> {
    let info = &exchange.info;
    let resource = Resource {
        group: &info.group,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
    };
    let user = &exchange.user;
    let decision = audit.evaluate(&Attributes {
        user: &user.name,
        groups: &user.groups,
        verb: info.verb,
        resource: info.is_resource.then_some(resource),
        path: &info.path,
    });
    if decision.level == Level::None {
        return None;
    }
    let object_ref = info.is_resource.then(|| ObjectRef {
        resource: info.resource.to_string(),
        namespace: info.namespace.to_string(),
        name: info.name.to_string(),
        api_group: info.group.to_string(),
        api_version: info.version.to_string(),
        subresource: info.subresource.to_string(),
        ..ObjectRef::default()
    });
    let now = server.clock.now();
    let uri = &exchange.parts.uri;
    let event = Event {
        level: decision.level,
        audit_id: exchange.audit_id().to_owned(),
        stage: Stage::RequestReceived,
        request_uri: uri.path_and_query().map_or_else(|| uri.path().into(), ToString::to_string),
        verb: info.verb.to_owned(),
        user: user_of(user),
        impersonated_user: None,
        source_ips: source_ips(exchange),
        user_agent: user_agent(exchange),
        object_ref,
        response_status: None,
        request_object: None,
        response_object: None,
        request_received: now,
        stage_at: now,
        annotations: Default::default(),
    };
    Some((event, decision))
}

fn user_agent(exchange: &Exchange) -> String {
    let agent = exchange.parts.headers.get(USER_AGENT).map(|it| it.as_bytes()).unwrap_or_default();
    let short = &agent[..agent.len().min(USER_AGENT_BYTES)];
    let mut text = String::from_utf8_lossy(short).into_owned();
    if short.len() < agent.len() {
        text.push_str("...TRUNCATED");
    }
    text
}

/// From where a request comes: what proxies say of it, then who is at the other end. Clients in the process have no
/// address but the machine's own.
fn source_ips(exchange: &Exchange) -> Vec<String> {
    let forwarded = exchange.header("x-forwarded-for").split(',');
    let address = |text: &str| text.trim().parse::<IpAddr>().ok();
    let mut found: Vec<IpAddr> = forwarded.filter_map(address).collect();
    let own = exchange.peer.address.unwrap_or(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
    for next in [address(exchange.header("x-real-ip")), Some(own)].into_iter().flatten() {
        if found.last() != Some(&next) {
            found.push(next);
        }
    }
    found.iter().map(ToString::to_string).collect()
}

/// Records that a request came. The filter of that name.
pub(crate) async fn begin(server: &Arc<Server>, exchange: &mut Exchange) -> Result<(), Status> {
    let Some(audit) = &server.audit else { return Ok(()) };
    let Some((mut event, decision)) = event(server, audit, exchange) else { return Ok(()) };
    if !audit.process(&mut event, &decision).await {
        audit.rejected();
        return Err(error::in_plain(&exchange.parts.uri, "failed to store audit event"));
    }
    let (audit, event) = (Arc::clone(audit), Mutex::new(Some(event)));
    exchange.audit = Some(Arc::new(Audited { audit, decision, event }));
    Ok(())
}

/// Records that nobody knows who asks: the one event of such a request.
pub(crate) async fn unauthenticated(server: &Arc<Server>, exchange: &Exchange) {
    let Some(audit) = &server.audit else { return };
    let Some((mut event, decision)) = event(server, audit, exchange) else { return };
    let header = exchange.header(AUTHORIZATION).trim().to_ascii_lowercase();
    let mut tried = Vec::new();
    for (scheme, name) in [("basic ", "basic"), ("bearer ", "bearer")] {
        if header.starts_with(scheme) {
            tried.push(name);
        }
    }
    if exchange.query.get("access_token").is_some_and(|it| !it.is_empty()) {
        tried.push("access_token");
    }
    if exchange.peer.has_bad_certificate || exchange.peer.certificates.leaf().is_some() {
        tried.push("x509");
    }
    let message = if tried.is_empty() {
        "Authentication failed, no credentials provided".to_owned()
    } else {
        format!("Authentication failed, attempted: {}", tried.join(", "))
    };
    event.stage = Stage::ResponseStarted;
    // Nobody has said who they are.
    event.user = User::default();
    event.response_status = Some(Status { code: 401, message, ..Status::default() });
    audit.process(&mut event, &decision).await;
}

/// Notes for whom a request is made.
pub(crate) fn impersonated(exchange: &Exchange) {
    if let Some(audited) = &exchange.audit {
        audited.impersonated(&exchange.user);
    }
}

/// Notes what the authorizer says.
pub(crate) fn authorized(exchange: &mut Exchange, decision: &auth::Decision) {
    if exchange.audit.is_none() {
        return;
    }
    let (said, reason) = match decision {
        auth::Decision::Allow(reason) => ("allow", reason),
        auth::Decision::Deny(reason) | auth::Decision::NoOpinion(reason) => ("forbid", reason),
        auth::Decision::Failed { .. } => {
            let reason = "internal error".to_owned();
            exchange.annotations.insert("authorization.k8s.io/reason".into(), reason);
            return;
        }
    };
    exchange.annotations.insert("authorization.k8s.io/decision".into(), said.into());
    exchange.annotations.insert("authorization.k8s.io/reason".into(), reason.clone());
}

/// Answers a request; where the server breaks down over it, that is recorded before it goes on to do so.
pub(crate) fn guarded<'a>(
    server: &'a Arc<Server>,
    exchange: &'a mut Exchange,
    body: RequestBody,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    Box::pin(async move {
        let answering = std::panic::AssertUnwindSafe(server.answer(exchange, body));
        let panic = match answering.catch_unwind().await {
            Ok(answer) => return answer,
            Err(panic) => panic,
        };
        if let Some(audited) = exchange.audit.take() {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            audited.panicked(text).await;
        }
        std::panic::resume_unwind(panic)
    })
}

/// Records the answer: at once where it is at hand, when it is over where it is not.
pub(crate) async fn answered(
    exchange: &mut Exchange,
    failure: Option<Status>,
    mut response: Response<Body>,
) -> Response<Body> {
    let Some(audited) = exchange.audit.take() else { return response };
    let code = response.status().as_u16();
    let told = failure.or(exchange.told.take().map(|it| *it));
    let mut annotations = std::mem::take(&mut exchange.annotations);
    if audited.decision.level < Level::Request {
        annotations.retain(|key, _| !key.starts_with(PATCHES));
    }
    audited.with(|event| {
        // The Status that a deletion is answered with has no code itself.
        event.response_status = Some(Status { code, ..told.unwrap_or_default() });
        event.annotations.extend(annotations);
    });
    let lasts = is_long_running(&exchange.info);
    if lasts {
        audited.record(Stage::ResponseStarted).await;
    }
    let media = response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let media = media.unwrap_or_default().to_owned();
    let records = audited.answers_are_recorded() && !lasts;
    match std::mem::replace(response.body_mut(), Body::empty()) {
        // Somebody holds it who knows when it is over.
        body if Arc::strong_count(&audited) > 1 => *response.body_mut() = body,
        Body::Full(bytes) => {
            let object =
                bytes.as_ref().filter(|_| records).and_then(|it| audited.object_of(&media, it));
            audited.with(|event| event.response_object = object);
            audited.complete().await;
            *response.body_mut() = Body::Full(bytes);
        }
        Body::Stream(pieces) => {
            let captured = records.then(Vec::new);
            let recorded = Recorded { pieces, audited, media, captured };
            let pieces = stream::unfold(recorded, Recorded::next);
            *response.body_mut() = Body::Stream(pieces.boxed());
        }
    }
    response
}

/// An answer that is recorded as it is sent.
struct Recorded {
    pieces: BoxStream<'static, Bytes>,
    audited: Arc<Audited>,
    media: String,
    /// What was sent, where that is wanted.
    captured: Option<Vec<u8>>,
}

impl Recorded {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let Some(piece) = self.pieces.next().await else {
            let object = self.captured.map(Bytes::from);
            let object = object.and_then(|it| self.audited.object_of(&self.media, &it));
            self.audited.with(|event| event.response_object = object);
            self.audited.complete().await;
            return None;
        };
        if let Some(captured) = &mut self.captured {
            if captured.len() + piece.len() > CAPTURED_BYTES {
                self.captured = None;
                self.audited.with(Event::is_partial);
            } else {
                captured.extend_from_slice(&piece);
            }
        }
        Some((piece, self))
    }
}
