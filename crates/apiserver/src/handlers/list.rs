//! GET of many objects.
//!
//! Without a resource version: the newest state, from the cache once it has caught up with the store. At version 0: the
//! cache as it is. Later pages and exact versions: from the store's history.

use std::cell::Cell;
use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{Object, Status, Value, fields, json, labels};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use storage::{At, Key, RangeReq, Rev, StorageError};
use tokio::time::Instant;

use crate::Server;
use crate::body::Body;
use crate::cache::Snapshot;
use crate::compress::Packable;
use crate::corrupt;
use crate::error;
use crate::exchange::Exchange;
use crate::listing::{self, Listing};
use crate::memory;
use crate::negotiate::{Encoding, Form, Transform, negotiate};
use crate::options::{ListAt, ListOptions};
use crate::persist::objects_of;
use crate::pretty::Indenter;
use crate::query::Query;
use crate::respond;
use crate::target::Target;

/// How long a list waits for a version that the caches do not have yet, in seconds (upstream: 3).
const WAIT_FOR_VERSION_SECONDS: u64 = 3;

/// What an object takes besides its text that is read from the store's history, in bytes.
const HISTORY_OBJECT_BYTES: u64 = 600;

/// What a reader wants to see of a resource.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    labels: labels::Selector,
    fields: Vec<FieldTerm>,
}

/// A wanted (or unwanted) value of a field.
#[derive(Debug, Clone)]
struct FieldTerm {
    field: Field,
    value: String,
    equal: bool,
}

impl FieldTerm {
    fn matches(&self, object: &Obj) -> bool {
        let facts = &object.facts;
        let value = match self.field {
            Field::Name => facts.name.as_str(),
            Field::Namespace => facts.namespace.as_str(),
            Field::Own(index) => facts.fields().get(index).unwrap_or_default(),
        };
        (value == self.value) == self.equal
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// A place in the resource's list.
    Own(usize),
}

impl Selection {
    /// The selectors of a query, checked against what can be selected by.
    pub(crate) fn of(query: &Query, target: &Target) -> Result<Self, Status> {
        let bad = |why: String| Status::bad_request(why);
        let text = query.get("labelSelector").unwrap_or_default();
        let labels = labels::Selector::parse(text).map_err(|error| bad(error.to_string()))?;
        let text = query.get("fieldSelector").unwrap_or_default();
        let parsed = fields::Selector::parse(text).map_err(|error| bad(error.to_string()))?;
        let own = target.resource().selectable_fields();
        let facts = target.served.facts;
        let is_pod = (facts.group, facts.resource) == ("", "pods");
        // Whoever has fields of its own to select by leaves this one out where there are no namespaces.
        let namespaces = facts.namespaced || has_plain_labels(target);
        let mut terms = Vec::new();
        for term in parsed.terms() {
            let field = match term.field.as_str() {
                "metadata.name" => Field::Name,
                "metadata.namespace" if namespaces => Field::Namespace,
                // Clients of old say so.
                "spec.host" if is_pod => {
                    Field::Own(own.iter().position(|it| it == "spec.nodeName").unwrap_or_default())
                }
                "" if term.value.is_empty() => continue,
                name => match target.resource().selectable_field(&target.served, name) {
                    Some(index) => Field::Own(index),
                    None => return Err(bad(unknown_field(name, target))),
                },
            };
            terms.push(FieldTerm { field, value: term.value.to_string(), equal: !term.not });
        }
        Ok(Self { labels, fields: terms })
    }

    /// Whether everything is wanted.
    pub(crate) fn is_everything(&self) -> bool {
        self.fields.is_empty() && self.labels.is_everything()
    }

    /// Whether an object is wanted.
    pub(crate) fn matches(&self, object: &Obj) -> bool {
        self.labels.matches(|key| object.facts.label(key))
            && self.fields.iter().all(|term| term.matches(object))
    }

    /// Whether an object is wanted for what all versions of it have in common: where it is, and its name.
    fn names(&self, object: &Obj) -> bool {
        let mut terms = self.fields.iter().filter(|it| !matches!(it.field, Field::Own(_)));
        terms.all(|term| term.matches(object))
    }

    /// The one name that is wanted, if it is one.
    pub(crate) fn name(&self) -> Option<&str> {
        let wanted = self.fields.iter().find(|term| term.field == Field::Name && term.equal)?;
        Some(&wanted.value)
    }

    /// A selectable field with a wanted value.
    pub(crate) fn field(&self) -> Option<(usize, &str)> {
        self.fields.iter().find_map(|term| match term.field {
            Field::Own(index) if term.equal => Some((index, term.value.as_str())),
            Field::Own(_) | Field::Name | Field::Namespace => None,
        })
    }
}

/// Whether objects can be selected by their metadata alone.
fn has_plain_labels(target: &Target) -> bool {
    target.resource().selectable_fields().is_empty() && !target.resource().is_custom()
}

/// In the words of upstream's conversions of field labels, of which some kinds have their own.
fn unknown_field(name: &str, target: &Target) -> String {
    let facts = target.served.facts;
    match (facts.group, facts.kind) {
        _ if has_plain_labels(target) => format!(
            "\"{name}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
        ("batch", "Job") => format!("field label \"{name}\" not supported for batchv1.Job"),
        ("resource.k8s.io", kind) => {
            format!("field label not supported for {}, Kind={kind}: {name}", facts.api_version())
        }
        _ => format!("field label not supported: {name}"),
    }
}

/// A page of a list.
pub(super) struct Page {
    pub(super) objects: Arc<Listing>,
    revision: u64,
    /// The key after which the next page begins, and how many objects follow (where that is known).
    more: Option<(String, Option<u64>)>,
}

impl Page {
    /// The metadata of the list.
    pub(super) fn metadata(&self, target: &Target) -> Object {
        let mut metadata = Object::new();
        metadata.insert("resourceVersion", self.revision.to_string());
        if target.resource().is_custom() {
            // Lists of custom resources say so where nothing follows.
            metadata.insert("continue", "");
        }
        if let Some((after, remaining)) = &self.more {
            metadata.insert("continue", token(target, self.revision, after));
            if let Some(remaining) = remaining {
                let remaining = i64::try_from(*remaining).unwrap_or(i64::MAX);
                metadata.insert("remainingItemCount", remaining);
            }
        }
        metadata
    }
}

/// Answers with the objects.
pub(crate) async fn list(
    server: &Arc<Server>,
    exchange: &Exchange,
    target: &Target,
) -> Result<Response<Body>, Status> {
    let options = ListOptions::of(&exchange.query, false)?;
    let selection = Selection::of(&exchange.query, target)?;
    let form = negotiate(exchange).map_err(with_watch_types)?;
    if form.transform == Transform::Partial("v1") || form.transform == Transform::Partial("v1beta1")
    {
        check_partial(exchange, target)?;
    }
    charge_history(exchange, target, &options)?;
    let mut page = page(server, target, &options, &selection).await?;
    charge(exchange, target, form, &page.objects)?;
    page.objects = target.all_listed(page.objects).await?;
    answer(server, target, form, &page)
}

/// Charges what is read from the store's history, by what there is now: nobody shares it.
fn charge_history(
    exchange: &Exchange,
    target: &Target,
    options: &ListOptions,
) -> Result<(), Status> {
    let Some(charge) = &exchange.charge else { return Ok(()) };
    if options.continue_token.is_empty() && !matches!(options.at, ListAt::Exactly(_)) {
        return Ok(());
    }
    let (objects, bytes) = target.cache.size();
    let each = bytes / objects.max(1) + HISTORY_OBJECT_BYTES;
    let limit = if options.limit == 0 { u64::MAX } else { options.limit as u64 };
    charge.grow(objects.min(limit).saturating_mul(each))
}

/// Charges what the objects of a list take, before they are taken from what everybody shares.
pub(super) fn charge(
    exchange: &Exchange,
    target: &Target,
    form: Form,
    objects: &Listing,
) -> Result<(), Status> {
    let charge = exchange.charge.as_ref();
    memory::entries(charge, objects.len())?;
    if is_direct(target, form) && !target.converts_any(objects.iter()) {
        return Ok(());
    }
    memory::decoded(charge, || objects.iter().map(|it| it.stored().len() as u64).sum())
}

/// Whether what is stored is what the client wants.
fn is_direct(target: &Target, form: Form) -> bool {
    form.transform == Transform::None
        && form.encoding == Encoding::Json
        && target.is_storage_version()
}

/// Lists may be watches, and so are told with the media types of watches besides.
fn with_watch_types(mut status: Status) -> Status {
    if status.message.starts_with("406") {
        let cbor = status.message.ends_with(crate::cbor::MEDIA_TYPE);
        status.message.push_str(
            ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        );
        if cbor {
            status.message.push_str(", ");
            status.message.push_str(crate::cbor::WATCH_MEDIA_TYPE);
        }
    }
    status
}

/// A client that wants lists of metadata has to say so.
fn check_partial(exchange: &Exchange, target: &Target) -> Result<(), Status> {
    let accept = exchange.header(http::header::ACCEPT);
    if accept.contains("PartialObjectMetadataList") {
        return Ok(());
    }
    let list = if target.resource().is_custom() {
        "unstructured.UnstructuredList".to_owned()
    } else {
        format!("{}List", go_type(target))
    };
    Err(Status::not_acceptable(format!(
        "you requested PartialObjectMetadata, but the requested object is a list (*{list})"
    )))
}

/// An object is no list of metadata.
pub(super) fn check_partial_object(exchange: &Exchange, target: &Target) -> Result<(), Status> {
    let accept = exchange.header(http::header::ACCEPT);
    let of_one = accept.match_indices("PartialObjectMetadata");
    let lists = accept.match_indices("PartialObjectMetadataList");
    let only_lists = lists.count() == of_one.count();
    if !only_lists {
        return Ok(());
    }
    if target.resource().is_custom() {
        let message = "content is not a list".to_owned();
        return Err(Status { code: 500, message, ..Status::default() });
    }
    Err(Status::not_acceptable(format!(
        "you requested PartialObjectMetadataList, but the requested object is not a list (*{})",
        go_type(target)
    )))
}

/// What upstream's own type is called: `core.Pod`.
fn go_type(target: &Target) -> String {
    let facts = target.served.facts;
    let package =
        if facts.group.is_empty() { "core" } else { facts.group.split('.').next().unwrap_or("") };
    format!("{package}.{}", facts.kind)
}

/// The objects that a query wants.
pub(super) async fn page(
    server: &Server,
    target: &Target,
    options: &ListOptions,
    selection: &Selection,
) -> Result<Page, Status> {
    corrupt::all_readable(server, target).await?;
    if !options.continue_token.is_empty() {
        let token = Token::parse(&options.continue_token, target)?;
        if !matches!(options.at, ListAt::Latest | ListAt::Any) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return from_store(server, target, options, selection, token.at(), Some(token.after)).await;
    }
    match options.at {
        ListAt::Exactly(revision) => {
            from_store(server, target, options, selection, At::Exactly(Rev(revision)), None).await
        }
        // Upstream's cache, which keeps no events, gives such a list whole.
        ListAt::Any if target.served.facts.resource != "events" => {
            from_cache(server, target, 0, selection).await
        }
        ListAt::Any => from_cache(server, target, options.limit, selection).await,
        ListAt::Latest => {
            catch_up(server, target).await?;
            from_cache(server, target, options.limit, selection).await
        }
        ListAt::NotOlderThan(revision) => {
            wait_for(server, target, revision).await?;
            from_cache(server, target, options.limit, selection).await
        }
    }
}

/// Waits until the caches hold all that is stored by now.
pub(crate) async fn catch_up(server: &Server, target: &Target) -> Result<(), Status> {
    let (counts, began) = (server.metrics.of_cache(target.served.facts), Instant::now());
    let caught_up = server.hub.catch_up().await;
    counts.waits.observe(began.elapsed());
    match caught_up {
        Ok(_) => {
            counts.consistent.inc();
            Ok(())
        }
        Err(error) => {
            counts.failed.inc();
            Err(error::general(&error))
        }
    }
}

/// Waits until the caches have a revision, for a bounded time.
pub(crate) async fn wait_for(
    server: &Server,
    target: &Target,
    revision: u64,
) -> Result<(), Status> {
    if revision == 0 {
        return Ok(());
    }
    let limit = std::time::Duration::from_secs(WAIT_FOR_VERSION_SECONDS);
    let (counts, began) = (server.metrics.of_cache(target.served.facts), Instant::now());
    let reached = tokio::time::timeout(limit, server.hub.progress().reached(revision)).await;
    counts.waits.observe(began.elapsed());
    match reached {
        Ok(()) => Ok(()),
        Err(_) => Err(error::too_large(revision, server.hub.progress().revision())),
    }
}

/// The objects of the cache that are wanted, and how many were looked at.
fn selected(target: &Target, limit: usize, wanted: impl Fn(&Obj) -> bool) -> (Snapshot, usize) {
    let looked_at = Cell::new(0_usize);
    let found = target.cache.snapshot(&target.namespace, limit, |object| {
        looked_at.set(looked_at.get() + 1);
        wanted(object)
    });
    (found, looked_at.get())
}

/// What there is for a selection at this moment, up to `limit` objects (0: all), and how many were looked at. Where a
/// webhook converts, those that are selected by more than their names are of the target's version.
pub(super) async fn snapshot(
    target: &Target,
    limit: usize,
    selection: &Selection,
) -> Result<(Snapshot, usize), Status> {
    if selection.is_everything() {
        return Ok((target.cache.everything(&target.namespace, limit), 0));
    }
    if target.conversion.is_none() {
        return Ok(selected(target, limit, |it| selection.matches(it)));
    }
    let (mut found, looked_at) = selected(target, 0, |it| selection.names(it));
    let objects = std::mem::take(&mut found.objects).into_objects();
    let mut objects = target.all_from_stored(objects).await?;
    objects.retain(|it| selection.matches(it));
    if limit > 0 && objects.len() > limit {
        found.remaining = (objects.len() - limit) as u64;
        objects.truncate(limit);
    }
    found.objects = Arc::new(objects.into());
    Ok((found, looked_at))
}

async fn from_cache(
    server: &Server,
    target: &Target,
    limit: usize,
    selection: &Selection,
) -> Result<Page, Status> {
    let (snapshot, looked_at) = snapshot(target, limit, selection).await?;
    let returned = snapshot.objects.len();
    let counts = server.metrics.of_cache(target.served.facts);
    counts.cached.listed(looked_at.max(returned), returned);
    let last = snapshot.objects.last();
    let more = last.filter(|_| snapshot.remaining > 0).map(|last| {
        let after = crate::cache::cache_key(&last.facts.namespace, &last.facts.name).to_string();
        // With a selector, how many follow is not told: counting them is what the limit saves.
        (after, selection.is_everything().then_some(snapshot.remaining))
    });
    Ok(Page { objects: snapshot.objects, revision: snapshot.revision, more })
}

async fn from_store(
    server: &Server,
    target: &Target,
    options: &ListOptions,
    selection: &Selection,
    at: At,
    after: Option<String>,
) -> Result<Page, Status> {
    let prefix = target.resource().storage_prefix();
    let mut request = RangeReq {
        prefix: target.prefix(),
        after: after.map(|after| Key::from(format!("{prefix}{after}"))),
        limit: options.limit,
        keys_only: false,
        at,
    };
    let (mut found, mut fetched): (Vec<Arc<Obj>>, usize) = (Vec::new(), 0);
    loop {
        let page =
            server.hub.store().range(request.clone()).await.map_err(|error| match error {
                StorageError::Compacted { .. } if !options.continue_token.is_empty() => {
                    expired_token()
                }
                other => error::general(&other),
            })?;
        let mut objects = objects_of(target, &page.kvs)?;
        fetched += objects.len();
        if target.conversion.is_some() && !selection.is_everything() {
            objects.retain(|it| selection.names(it));
            objects = target.all_from_stored(objects).await?;
        }
        found.extend(objects.into_iter().filter(|object| selection.matches(object)));
        let last = page
            .kvs
            .last()
            .map(|kv| String::from_utf8_lossy(&kv.key.as_bytes()[prefix.len()..]).into_owned());
        let full = options.limit == 0 || found.len() >= options.limit;
        if !page.more || full {
            let remaining = selection.is_everything().then_some(page.remaining);
            let more = last.filter(|_| page.more).map(|after| (after, remaining));
            server.metrics.of_cache(target.served.facts).stored.listed(fetched, found.len());
            let objects = Arc::new(found.into());
            return Ok(Page { objects, revision: page.rev.0, more });
        }
        request.after = page.kvs.last().map(|kv| kv.key.clone());
        request.at = At::Exactly(page.rev);
    }
}

fn expired_token() -> Status {
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
    )
}

/// The encoding of continue tokens as Go reads it: bits that are left over do not matter.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Where base64 is broken.
fn as_go_says(error: &base64::DecodeError) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) => *at,
        base64::DecodeError::InvalidLength(length) => length.saturating_sub(1),
        // Bits that are left over do not matter, and there is no padding.
        _ => 0,
    };
    format!("illegal base64 data at input byte {at}")
}

/// A continue token: where the next page begins, and of which revision it is.
struct Token {
    revision: i64,
    after: String,
}

impl Token {
    fn at(&self) -> At {
        match u64::try_from(self.revision) {
            Ok(revision) if revision > 0 => At::Exactly(Rev(revision)),
            _ => At::Latest,
        }
    }

    fn parse(text: &str, target: &Target) -> Result<Self, Status> {
        let bad = |why: String| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = LENIENT.decode(text).map_err(|error| bad(as_go_says(&error)))?;
        let token = json::parse(&bytes).map_err(|error| bad(error.to_string()))?;
        if token.str_at(&["v"]) != "meta.k8s.io/v1" {
            return Err(bad(format!(
                "server does not recognize this encoded version {}",
                apimachinery::field::quote(token.str_at(&["v"]))
            )));
        }
        let revision = token.i64_at(&["rv"]).unwrap_or_default();
        if revision == 0 {
            let why = "incorrect encoded start resourceVersion (version meta.k8s.io/v1)";
            return Err(bad(why.into()));
        }
        let start = token.str_at(&["start"]);
        if start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)".into()));
        }
        let mut parts = start.strip_prefix('/').unwrap_or(start).split('/');
        if start != "/" && parts.any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(start.into()));
        }
        let after = start.trim_end_matches('\0').trim_start_matches('/').to_owned();
        let after = match target.namespace.as_str() {
            "" => after,
            namespace => format!("{namespace}/{after}"),
        };
        Ok(Self { revision, after })
    }
}

fn token(target: &Target, revision: u64, after: &str) -> String {
    let start = match target.namespace.as_str() {
        "" => after,
        namespace => {
            after.strip_prefix(namespace).and_then(|it| it.strip_prefix('/')).unwrap_or(after)
        }
    };
    let mut text = String::from("{\"v\":\"meta.k8s.io/v1\",\"rv\":");
    text.push_str(&revision.to_string());
    text.push_str(",\"start\":");
    text.push_str(&json::to_string(&Value::from(format!("{start}\0"))));
    text.push('}');
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

/// The page as the client asked for it.
pub(super) fn answer(
    server: &Arc<Server>,
    target: &Target,
    form: Form,
    page: &Page,
) -> Result<Response<Body>, Status> {
    let mut metadata = page.metadata(target);
    if form.transform != Transform::None && page.more.is_none() {
        metadata.remove("continue");
    }
    if is_direct(target, form) {
        let answer = streamed(target, &metadata, &page.objects);
        return Ok(if form.pretty { for_people(answer) } else { answer });
    }
    let values = page.objects.iter().map(|object| object.to_value().map_err(Status::internal));
    if let Transform::Table(version) = form.transform {
        let rows: Result<Vec<Value>, Status> = values
            .map(|value| {
                value.map(|value| respond::row(server, target, (form.include, version), value))
            })
            .collect();
        return Ok(respond::plain(
            form,
            200,
            &respond::table(target, version, Value::Object(metadata), rows?, true),
        ));
    }
    if form.encoding == Encoding::Protobuf && form.transform == Transform::None {
        let facts = target.served.facts;
        let items = values.map(|value| value.map(|value| item(target, form, value)));
        let list = crate::proto::encode_list(&facts.api_version(), facts.kind, &metadata, items)?;
        let unknown = || Status::internal(format!("{} has no protobuf", facts.kind));
        return Ok(respond::bytes(200, crate::proto::MEDIA_TYPE, list.ok_or_else(unknown)?));
    }
    let items: Result<Vec<Value>, Status> =
        values.map(|value| value.map(|value| item(target, form, value))).collect();
    let mut list = Object::new();
    match form.transform {
        Transform::Partial(version) => {
            list.insert("kind", "PartialObjectMetadataList");
            list.insert("apiVersion", format!("meta.k8s.io/{version}"));
        }
        Transform::None | Transform::Table(_) => {
            list.insert("kind", target.resource().list_kind(&target.served).as_ref());
            list.insert("apiVersion", target.served.facts.api_version());
        }
    }
    list.insert("metadata", metadata);
    list.insert("items", Value::Array(items?));
    Ok(respond::plain(form, 200, &Value::Object(list)))
}

/// The same answer, broken into lines as it is written.
fn for_people(answer: Response<Body>) -> Response<Body> {
    let mut lines = Indenter::default();
    answer.map(|body| match body {
        Body::Full(bytes) => Body::Full(bytes.map(|it| lines.feed(&it).into())),
        Body::Stream(pieces) => {
            Body::Stream(pieces.map(move |it| Bytes::from(lines.feed(&it))).boxed())
        }
    })
}

fn item(target: &Target, form: Form, mut value: Value) -> Value {
    let is_custom = target.resource().is_custom();
    if let Transform::Partial(version) = form.transform {
        return respond::partial(&value, version);
    }
    target.resource().show(&target.served, &mut value);
    if is_custom {
        // Items of custom resources say what they are.
        return value;
    }
    value.remove_at(&["kind"]);
    value.remove_at(&["apiVersion"]);
    value
}

/// The list as it is written from stored bytes.
fn streamed(target: &Target, metadata: &Object, objects: &Arc<Listing>) -> Response<Body> {
    let facts = target.served.facts;
    let mut head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":",
        target.resource().list_kind(&target.served),
        facts.api_version()
    )
    .into_bytes();
    json::write_object(metadata, &mut head);
    head.extend_from_slice(b",\"items\":[");
    let whole = target.resource().is_custom();
    let form = if whole { listing::Form::WholeItems } else { listing::Form::Items };
    let body = respond::list(head, objects, form, b"]}\n");
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.extensions_mut().insert(Packable);
    response
}
