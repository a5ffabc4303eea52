//! Watching: a cursor into the log of changes, seen through the client's selectors.
//!
//! A selector turns a change into what it is for the client: an object that begins to match is ADDED, one that ceases to
//! is DELETED with its last matching state at the new version.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::obj::Obj;
use apimachinery::{Object, Status, Value, json, value, yaml};
use bytes::Bytes;
use client::error::ApiStatus;
use client::transport::{Objects, WantsObjects};
use client::watch::WatchEvent;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use storage::{Rev, StorageError};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::list::{Selection, wait_for};
use crate::Server;
use crate::audited::Audited;
use crate::body::Body;
use crate::cache::{self, Change, Cursor, Event, Next, Scope};
use crate::error;
use crate::exchange::Exchange;
use crate::fairness::Seat;
use crate::listing::{self, Listing};
use crate::memory::{self, Charge};
use crate::metrics::{Held, OfWatch};
use crate::negotiate::{Encoding, Form, Transform, negotiate};
use crate::options::{ListOptions, version_of_read};
use crate::respond;
use crate::target::Target;

/// How many events one piece of the answer holds at most.
const EVENTS_PER_PIECE: usize = 500;
/// How many bytes one piece of the answer holds before it is sent.
const PIECE_BYTES: usize = 64 << 10;
/// Seconds between bookmarks on a quiet watch (upstream: about a minute).
const BOOKMARK_SECONDS: u64 = 60;
/// The longest time that is given to a watch: ten years.
const TIMEOUT_SECONDS_MAX: u64 = 10 * 365 * 86_400;

/// A watch being served.
struct Watch {
    server: Arc<Server>,
    target: Target,
    selection: Selection,
    form: Form,
    bookmarks: bool,
    begun: Instant,
    deadline: Instant,
    next_bookmark: Instant,
    /// Wakes at the deadline, or when a bookmark is due.
    timer: Pin<Box<Sleep>>,
    /// The server is asked to stop.
    stop: BoxFuture<'static, ()>,
    /// What the client has seen up to.
    seen: u64,
    /// Up to where the client knows of changes that the log may get later: what the store's history has told where the
    /// log has taken over, and the version that was asked for where it lies ahead.
    told: u64,
    stage: Stage,
    woken: Arc<Notify>,
    /// Whether a table's columns were sent: only the first event has them.
    columns_sent: bool,
    /// Frames can be shared among watchers.
    shared_frames: bool,
    /// The client is in this process and takes the objects themselves.
    wants_objects: bool,
    /// Counts the events that are sent.
    counts: OfWatch,
    /// Held until what there is at the beginning is sent.
    seat: Option<Seat>,
    /// What the beginning may cost; what a watch has from then on is seen.
    charge: Option<Arc<Charge>>,
    /// Counts this watch while it is open.
    _held: Held,
    /// Is over when this is.
    _audited: Option<Arc<Audited>>,
}

/// What a watch sends at once.
enum Piece {
    /// Frames.
    Text(Vec<u8>),
    /// A frame that all watchers share.
    Shared(Bytes),
    /// The events themselves, to a client in this process.
    Events(Vec<WatchEvent>),
}

enum Stage {
    /// The objects there are, then maybe a bookmark that says so.
    Initial {
        objects: Arc<Listing>,
        /// The first that is not sent yet.
        next: usize,
        bookmark: bool,
        /// Where changes after these objects begin.
        then: Cursor,
        /// The revision the objects are of.
        revision: u64,
    },
    /// Changes from before the log begins, from the store's history.
    History(futures::stream::BoxStream<'static, Result<storage::Batch, StorageError>>),
    /// Changes as they come.
    Live(Cursor),
    /// An error is to be sent, and nothing else.
    Refused(Status),
    /// A last error was sent.
    Ended,
}

/// Answers with a stream of events.
pub(crate) async fn watch(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    seat: Seat,
) -> Result<Response<Body>, Status> {
    let options = ListOptions::of(&exchange.query, true)?;
    let mut selection = Selection::of(&exchange.query, target)?;
    if !exchange.info.name.is_empty() && selection.name().is_none() {
        let query = crate::query::Query::parse(&format!(
            "fieldSelector=metadata.name%3D{}",
            exchange.info.name
        ));
        selection = Selection::of(&query, target)?;
    }
    let form = negotiate(exchange)?;
    if form.encoding == Encoding::Yaml {
        return Err(crate::negotiate::no_stream(exchange.cbor));
    }
    let version = version_of_read(&options.resource_version)?;
    let scope = scope(target, &selection);
    let woken = target.cache.wake_for(scope);
    // What there is at a version that the caches do not have yet is waited for.
    let to_have = if options.wants_initial_events(version) { version } else { 0 };
    let stage = match wait_for(server, target, to_have).await {
        Ok(()) => first_stage(server, target, &selection, &options, version).await?,
        Err(future) => Stage::Refused(future),
    };
    let charge = exchange.charge.take();
    let stage = stage.charged(target, charge.as_ref()).await?;
    let now = Instant::now();
    let shortest = server.operating.min_request_timeout_seconds;
    let random = server.random.below(shortest);
    let timeout = match options.timeout_seconds {
        0 => shortest.saturating_add(random),
        asked => u64::try_from(asked).unwrap_or_default(),
    };
    let shared_frames = form.transform == Transform::None
        && form.encoding == Encoding::Json
        && target.is_storage_version();
    let deadline = now + Duration::from_secs(timeout.min(TIMEOUT_SECONDS_MAX));
    let next_bookmark = now + Duration::from_secs(BOOKMARK_SECONDS);
    let first = if options.bookmarks { deadline.min(next_bookmark) } else { deadline };
    let wants_objects = shared_frames && exchange.parts.extensions.get::<WantsObjects>().is_some();
    let watch = Watch {
        seat: Some(seat),
        charge,
        shared_frames,
        wants_objects,
        server: Arc::clone(server),
        target: target.clone(),
        selection,
        form,
        bookmarks: options.bookmarks,
        begun: now,
        deadline,
        next_bookmark,
        timer: Box::pin(tokio::time::sleep_until(first)),
        stop: its_end(server),
        seen: version,
        told: version,
        stage,
        woken,
        columns_sent: false,
        counts: server.metrics.of_watch(target.served.facts),
        _held: server.metrics.hold(exchange),
        _audited: exchange.audit.clone(),
    };
    if let Stage::Initial { objects, .. } = &watch.stage {
        watch.counts.initial.inc_by(objects.len() as u64);
    }
    Ok(watch.into_response())
}

/// When this watch is to end because the server does: somewhere within the time that watches are given, so that not all
/// clients come to the next server at once.
fn its_end(server: &Server) -> BoxFuture<'static, ()> {
    let stop = server.stop.clone();
    let grace = server.operating.shutdown.watch_grace;
    let share =
        if grace.is_zero() { Duration::ZERO } else { grace.mul_f64(server.random.fraction()) };
    async move {
        stop.requested().await;
        if !share.is_zero() {
            tokio::time::sleep(share).await;
        }
    }
    .boxed()
}

fn scope(target: &Target, selection: &Selection) -> Scope {
    let namespaced = target.served.facts.namespaced;
    if let Some(name) = selection.name().filter(|_| !namespaced || !target.namespace.is_empty()) {
        return Scope::Object(cache::cache_key(&target.namespace, name));
    }
    // Where a webhook converts, the cache does not know what the fields will be.
    match selection.field().filter(|_| target.conversion.is_none()) {
        Some((index, value)) if !value.is_empty() => Scope::Field(index, value.into()),
        _ if target.namespace.is_empty() => Scope::All,
        _ => Scope::Namespace(target.namespace.as_str().into()),
    }
}

async fn first_stage(
    server: &Arc<Server>,
    target: &Target,
    selection: &Selection,
    options: &ListOptions,
    version: u64,
) -> Result<Stage, Status> {
    let initial = options.wants_initial_events(version);
    // At version 0 without what there is, a watch begins now, whatever history is kept.
    if initial || version == 0 {
        if version == 0 && options.resource_version.is_empty() {
            super::list::catch_up(server, target).await?;
        }
        crate::corrupt::all_readable(server, target).await?;
        let (snapshot, _) = super::list::snapshot(target, 0, selection).await?;
        let bookmark = options.send_initial_events == Some(true) && options.bookmarks;
        let objects = if initial { snapshot.objects } else { Arc::default() };
        return Ok(Stage::Initial {
            objects,
            next: 0,
            bookmark,
            then: snapshot.cursor,
            revision: snapshot.revision,
        });
    }
    Ok(match target.cache.cursor_after(version) {
        Some(cursor) => Stage::Live(cursor),
        None => Stage::History(server.hub.store().watch(target.prefix(), Rev(version))),
    })
}

impl Stage {
    /// The same with objects of the version that is watched, once there is memory for them.
    async fn charged(
        mut self,
        target: &Target,
        charge: Option<&Arc<Charge>>,
    ) -> Result<Self, Status> {
        if let Self::Initial { objects, .. } = &mut self {
            memory::entries(charge, objects.len())?;
            if target.converts_any(objects.iter()) {
                let bytes = || objects.iter().map(|it| it.stored().len() as u64).sum();
                memory::decoded(charge, bytes)?;
                *objects = target.all_listed(std::mem::take(objects)).await?;
            }
        }
        Ok(self)
    }
}

impl Watch {
    fn into_response(self) -> Response<Body> {
        let media = match self.form.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => crate::proto::WATCH_MEDIA_TYPE,
            Encoding::Cbor => crate::cbor::WATCH_MEDIA_TYPE,
        };
        let wants_objects = self.wants_objects;
        let pieces = futures::stream::unfold(self, |mut watch| async move {
            watch.next().await.map(|piece| (piece, watch))
        });
        if wants_objects {
            let events = pieces.map(|piece| match piece {
                Piece::Events(events) => futures::stream::iter(events),
                Piece::Text(_) | Piece::Shared(_) => futures::stream::iter(Vec::new()),
            });
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(Objects::new(events.flatten().boxed()));
            return response;
        }
        let texts = pieces.map(|piece| match piece {
            Piece::Text(text) => text.into(),
            Piece::Shared(frame) => frame,
            Piece::Events(_) => Bytes::new(),
        });
        let mut response = Response::new(Body::Stream(texts.boxed()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        response
    }

    /// The next piece of the answer; `None` when it is over.
    async fn next(&mut self) -> Option<Piece> {
        loop {
            if !matches!(self.stage, Stage::Initial { .. }) {
                drop((self.seat.take(), self.charge.take()));
            }
            let piece = match &mut self.stage {
                Stage::Ended => return None,
                Stage::Refused(status) => {
                    let status = std::mem::take(status);
                    return Some(self.end_with(&status));
                }
                Stage::Initial { .. } => self.initial(),
                Stage::History(_) => self.history().await?,
                Stage::Live(_) => match self.live().await {
                    Some(piece) => piece,
                    None => {
                        let end = self.wait().await;
                        if end {
                            return None;
                        }
                        self.bookmark_if_due()
                    }
                },
            };
            if !piece.is_empty() {
                return Some(piece);
            }
        }
    }

    /// A piece with nothing in it yet.
    fn piece(&self) -> Piece {
        if self.wants_objects { Piece::Events(Vec::new()) } else { Piece::Text(Vec::new()) }
    }

    fn initial(&mut self) -> Piece {
        if let Stage::Initial { objects, next, .. } = &mut self.stage
            && self.shared_frames
            && !self.wants_objects
            && *next < objects.len()
        {
            // All who begin to watch now send the same bytes.
            let (text, end) = objects.text(listing::Form::Frames, *next);
            let from = std::mem::replace(next, end);
            self.counts.sent.inc_by((end - from) as u64);
            let told = objects.skipping(from).take(end - from);
            self.counts.sizes.observe_all(told.map(|it| it.stored().len()));
            return Piece::Shared(text);
        }
        let mut out = self.piece();
        while !out.is_full() {
            let Stage::Initial { objects, next, bookmark, then, revision } = &mut self.stage else {
                break;
            };
            let object = objects.get(*next).cloned();
            *next += 1;
            let Some(object) = object else {
                let (bookmark, then, revision) = (*bookmark, *then, *revision);
                self.stage = Stage::Live(then);
                self.seen = revision;
                if bookmark {
                    self.write_bookmark(true, &mut out);
                    let (facts, took) = (self.target.served.facts, self.begun.elapsed());
                    let scope = self.scope();
                    self.server.metrics.watch_listed(facts, scope, took);
                }
                break;
            };
            self.write_event(Change::Added, &object, &mut out);
        }
        out
    }

    /// Follows the store's history until the log can take over.
    async fn history(&mut self) -> Option<Piece> {
        let Stage::History(stream) = &mut self.stage else { return None };
        let batch = tokio::select! {
            biased;
            batch = stream.next() => batch?,
            () = tokio::time::sleep_until(self.deadline) => return None,
        };
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Some(self.end_with(&too_old(&error, self.seen))),
        };
        let mut out = self.piece();
        let events: Result<Vec<_>, Status> =
            batch.events.iter().map(|it| self.event_of(it).map(Arc::new)).collect();
        let events = match events {
            Ok(events) => self.converted(events).await,
            Err(status) => Err(status),
        };
        match events {
            Ok(events) => events.iter().for_each(|it| self.write_change(it, &mut out)),
            Err(status) => return Some(self.end_with(&status)),
        }
        self.seen = self.seen.max(batch.progress.0);
        if let Some(cursor) = self.target.cache.cursor_after(batch.progress.0) {
            // The cache may be behind the store: what it gets up to here is told.
            self.told = self.told.max(batch.progress.0);
            self.stage = Stage::Live(cursor);
        }
        Some(out)
    }

    fn event_of(&self, event: &storage::Event) -> Result<Event, Status> {
        let resource = self.target.cache.resource();
        let object = |kv: &storage::Kv| {
            crate::hub::object_of(resource.as_ref(), kv).map_err(|error| error::general(&error))
        };
        let previous = match event.previous.as_ref().map(object).transpose() {
            // Nobody can be told what went: who may have known it lists again.
            Err(_) if event.value.is_none() => {
                let (seen, gone) = (self.seen, event.rev.0);
                return Err(Status::expired(format!("too old resource version: {seen} ({gone})")));
            }
            previous => previous?,
        };
        let now = event.value.as_ref().map(object).transpose()?;
        cache::Event::from_history(event.rev.0, now, previous)
            .ok_or_else(|| Status::internal("an event without object"))
    }

    /// What has changed since; `None` where nothing has.
    async fn live(&mut self) -> Option<Piece> {
        let Stage::Live(cursor) = self.stage else { return None };
        let (next, revision) = self.target.cache.read(cursor, EVENTS_PER_PIECE);
        match next {
            Next::FellOut => {
                // The client sees no gap: the store's history goes on where it was.
                let stream = self.server.hub.store().watch(self.target.prefix(), Rev(self.seen));
                self.stage = Stage::History(stream);
                Some(self.piece())
            }
            Next::Events(mut events, cursor) => {
                self.stage = Stage::Live(cursor);
                if events.is_empty() {
                    self.seen = self.seen.max(revision);
                    return None;
                }
                self.seen = self.seen.max(events.last().map_or(0, |event| event.revision));
                events.retain(|event| event.revision > self.told);
                match self.converted(events).await {
                    Ok(events) => Some(self.write_changes(&events)),
                    Err(status) => Some(self.end_with(&status)),
                }
            }
        }
    }

    /// The same events with objects of this watch's version, where a webhook converts: in one call.
    async fn converted(&mut self, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, Status> {
        let now = events.iter().map(|it| &it.object);
        let before = events.iter().filter_map(|it| it.previous.as_ref());
        if !self.target.converts_any(now.clone().chain(before.clone())) {
            return Ok(events);
        }
        let objects: Vec<Arc<Obj>> = now.chain(before).cloned().collect();
        let converted = self.target.all_from_stored(objects).await?;
        let (now, before) = converted.split_at(events.len());
        let mut before = before.iter();
        let made = events.iter().zip(now).map(|(event, object)| {
            let previous = event.previous.as_ref().and_then(|_| before.next()).cloned();
            Arc::new(event.with_objects(Arc::clone(object), previous))
        });
        Ok(made.collect())
    }

    fn write_changes(&mut self, events: &[Arc<Event>]) -> Piece {
        if let [event] = events
            && self.shared_frames
            && !self.wants_objects
            && self.is_told_as_it_is(event)
        {
            // All watchers send the same bytes.
            let frame = event.json_frame();
            self.counts.sent.inc();
            self.counts.sizes.observe_number(frame.len());
            return Piece::Shared(frame);
        }
        let mut out = self.piece();
        for event in events {
            self.write_change(event, &mut out);
        }
        out
    }

    /// Whether this client wants the object before a change, and after it.
    fn wanted(&self, event: &Event) -> (bool, bool) {
        let wanted = |object: &Obj| {
            (self.target.namespace.is_empty() || object.facts.namespace == self.target.namespace)
                && self.selection.matches(object)
        };
        let before = event.previous.as_deref().is_some_and(wanted);
        (before, event.change != Change::Deleted && wanted(&event.object))
    }

    /// Whether a change is to this client what it is to the world: its selector makes nothing else of it.
    fn is_told_as_it_is(&self, event: &Event) -> bool {
        match (self.wanted(event), event.change) {
            ((false, true), Change::Added) | ((true, true), _) => true,
            ((true, false), Change::Deleted) => true,
            ((true | false, _), Change::Added | Change::Modified | Change::Deleted) => false,
        }
    }

    /// Writes a change as what it is for this client.
    fn write_change(&mut self, event: &Event, out: &mut Piece) {
        if let Piece::Text(text) = out
            && self.shared_frames
            && self.is_told_as_it_is(event)
        {
            let frame = event.json_frame();
            self.counts.sent.inc();
            self.counts.sizes.observe_number(frame.len());
            text.extend_from_slice(&frame);
            return;
        }
        match self.wanted(event) {
            (false, true) => self.write_event(Change::Added, &event.object, out),
            (true, true) => self.write_event(Change::Modified, &event.object, out),
            (true, false) => {
                let last = match (event.change, &event.previous) {
                    (Change::Deleted, _) | (_, None) => Arc::clone(&event.object),
                    (_, Some(previous)) => Arc::new(previous.at_version(event.revision)),
                };
                self.write_event(Change::Deleted, &last, out);
            }
            (false, false) => {}
        }
    }

    fn write_event(&mut self, change: Change, object: &Arc<Obj>, out: &mut Piece) {
        self.counts.sent.inc();
        match out {
            Piece::Events(events) => return events.push(told(change, Arc::clone(object))),
            Piece::Text(text) if self.shared_frames => {
                let before = text.len();
                cache::write_frame(change.as_str(), object, text);
                return self.counts.sizes.observe_number(text.len() - before);
            }
            Piece::Text(_) | Piece::Shared(_) => {}
        }
        let Ok(mut content) = object.to_value() else { return };
        let content = match self.form.transform {
            Transform::Table(version) => {
                let metadata =
                    value!({"resourceVersion": (content.str_at(&["metadata", "resourceVersion"]))});
                let form = (self.form.include, version);
                let row = respond::row(&self.server, &self.target, form, content);
                let first = !std::mem::replace(&mut self.columns_sent, true);
                respond::table(&self.target, version, metadata, vec![row], first)
            }
            Transform::Partial(version) => respond::partial(&content, version),
            Transform::None => {
                self.target.resource().show(&self.target.served, &mut content);
                content
            }
        };
        let before = out.len();
        self.write_frame(change.as_str(), content, out);
        self.counts.sizes.observe_number(out.len() - before);
    }

    fn write_frame(&self, kind: &str, content: Value, out: &mut Piece) {
        let Piece::Text(out) = out else { return };
        match self.form.encoding {
            Encoding::Protobuf => return crate::proto::write_frame(kind, &content, out),
            Encoding::Cbor => return crate::cbor::write_frame(kind, &content, out),
            Encoding::Json | Encoding::Yaml => {}
        }
        let mut frame = Object::new();
        frame.insert("type", kind);
        frame.insert("object", content);
        match self.form.encoding {
            Encoding::Json | Encoding::Protobuf | Encoding::Cbor => {
                json::write_object(&frame, out);
                out.push(b'\n');
            }
            Encoding::Yaml => {
                out.extend_from_slice(yaml::to_string(&Value::Object(frame)).as_bytes());
                out.extend_from_slice(b"---\n");
            }
        }
    }

    /// What the watch is about, as metrics name it.
    fn scope(&self) -> &'static str {
        match self.selection.name() {
            Some(_) => "resource",
            None if self.target.namespace.is_empty() => "cluster",
            None => "namespace",
        }
    }

    fn write_bookmark(&mut self, initial_end: bool, out: &mut Piece) {
        self.next_bookmark = Instant::now() + Duration::from_secs(BOOKMARK_SECONDS);
        if let Piece::Events(events) = out {
            return events.push(WatchEvent::Bookmark { resource_version: self.seen, initial_end });
        }
        let facts = self.target.served.facts;
        let mut metadata = Object::new();
        metadata.insert("resourceVersion", self.seen.to_string());
        if initial_end {
            metadata.insert("annotations", value!({"k8s.io/initial-events-end": "true"}));
        }
        let mut content = Object::new();
        content.insert("kind", facts.kind);
        content.insert("apiVersion", facts.api_version());
        content.insert("metadata", metadata);
        self.write_frame("BOOKMARK", Value::Object(content), out);
    }

    fn bookmark_if_due(&mut self) -> Piece {
        let mut out = self.piece();
        if self.bookmarks && Instant::now() >= self.next_bookmark && self.live_is_drained() {
            self.write_bookmark(false, &mut out);
        }
        out
    }

    /// Whether nothing is left to tell up to `seen`.
    fn live_is_drained(&mut self) -> bool {
        let Stage::Live(cursor) = self.stage else { return false };
        let (next, revision) = self.target.cache.read(cursor, 1);
        let drained = matches!(&next, Next::Events(events, _) if events.is_empty());
        if drained {
            self.seen = self.seen.max(revision);
        }
        drained
    }

    /// Waits for a change, the time of a bookmark, or the end; says whether it is the end.
    async fn wait(&mut self) -> bool {
        let mut woken = std::pin::pin!(self.woken.notified());
        woken.as_mut().enable();
        // Registered first: a change in between is found here.
        if let Stage::Live(cursor) = self.stage
            && !matches!(self.target.cache.read(cursor, 1).0, Next::Events(events, _) if events.is_empty())
        {
            return false;
        }
        // The resource is gone, or is another one now.
        if self.target.cache.is_retired() {
            return true;
        }
        let until =
            if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
        // Most waits end with a change: the timer stays where it is, which may be early and is looked at then.
        if self.timer.is_elapsed() || self.timer.deadline() > until {
            self.timer.as_mut().reset(until);
        }
        tokio::select! {
            biased;
            () = woken => false,
            () = &mut self.stop => true,
            () = self.timer.as_mut() => Instant::now() >= self.deadline,
        }
    }

    /// A last frame that says why.
    fn end_with(&mut self, status: &Status) -> Piece {
        self.stage = Stage::Ended;
        let mut out = self.piece();
        match &mut out {
            Piece::Events(events) => {
                let status = ApiStatus::of_value(status.to_value());
                events.push(WatchEvent::Error(Box::new(status)));
            }
            Piece::Text(_) | Piece::Shared(_) => {
                self.write_frame("ERROR", status.to_value(), &mut out);
            }
        }
        out
    }
}

impl Piece {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Shared(frame) => frame.is_empty(),
            Self::Events(events) => events.is_empty(),
        }
    }

    /// How many bytes it has; events themselves have none.
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Shared(frame) => frame.len(),
            Self::Events(_) => 0,
        }
    }

    /// Whether no more should be added before it is sent.
    fn is_full(&self) -> bool {
        match self {
            Self::Text(text) => text.len() >= PIECE_BYTES,
            Self::Shared(_) => true,
            Self::Events(events) => events.len() >= EVENTS_PER_PIECE,
        }
    }
}

fn told(change: Change, object: Arc<Obj>) -> WatchEvent {
    match change {
        Change::Added => WatchEvent::Added(object),
        Change::Modified => WatchEvent::Modified(object),
        Change::Deleted => WatchEvent::Deleted(object),
    }
}

fn too_old(error: &StorageError, seen: u64) -> Status {
    match error {
        StorageError::Compacted { oldest } => {
            Status::expired(format!("too old resource version: {seen} ({oldest})"))
        }
        other => error::general(other),
    }
}
