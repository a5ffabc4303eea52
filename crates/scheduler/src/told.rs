//! What is told of a decision while it is made: which plugins had a part in it, and how long their points took. Single
//! plugins are timed in some decisions only, as upstream does, since a decision is shorter than looking at the clock often.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use component_base::Clock;
use smallvec::SmallVec;
use tokio::time::Instant;

/// An extension point of a decision, by upstream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Plugins look at the pod.
    PreFilter,
    /// They refuse nodes.
    Filter,
    /// They help a pod that fits nowhere.
    PostFilter,
    /// They prefer nodes.
    Score,
    /// They take what the pod needs besides its node.
    Reserve,
}

impl Point {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PreFilter => "PreFilter",
            Self::Filter => "Filter",
            Self::PostFilter => "PostFilter",
            Self::Score => "Score",
            Self::Reserve => "Reserve",
        }
    }
}

/// How long something took, and how it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) point: Point,
    /// None for all plugins of the point together.
    pub(crate) plugin: Option<&'static str>,
    pub(crate) status: &'static str,
    pub(crate) took: Duration,
}

/// What is told of one decision.
#[derive(Debug)]
pub struct Told {
    clock: Arc<dyn Clock>,
    single: bool,
    spans: RefCell<SmallVec<[Span; 6]>>,
    /// Which filters looked at the pod, which were asked about nodes, and which scores were given, by their places.
    pub(crate) looked: Cell<u64>,
    pub(crate) filtered: Cell<u64>,
    pub(crate) scored: Cell<u64>,
}

impl Told {
    /// Of a decision that begins; `single` where plugins are timed one by one.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, single: bool) -> Self {
        Self {
            clock,
            single,
            spans: RefCell::default(),
            looked: Cell::default(),
            filtered: Cell::default(),
            scored: Cell::default(),
        }
    }

    pub(crate) fn spans(&self) -> SmallVec<[Span; 6]> {
        self.spans.take()
    }
}

/// A mark for a plugin's place; plugins beyond the last are not told of.
pub(crate) fn bit(place: usize) -> u64 {
    u32::try_from(place).ok().and_then(|it| 1u64.checked_shl(it)).unwrap_or_default()
}

/// A mark for each of so many places.
pub(crate) fn bits(count: usize) -> u64 {
    (0..count).fold(0, |all, it| all | bit(it))
}

/// The time since something began, where anybody wants to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lap<'t>(Option<(&'t Told, Instant)>);

impl<'t> Lap<'t> {
    /// Of a point.
    pub(crate) fn begin(told: Option<&'t Told>) -> Self {
        Self(told.map(|it| (it, it.clock.monotonic())))
    }

    /// Of a single plugin.
    pub(crate) fn of_one(told: Option<&'t Told>) -> Self {
        Self::begin(told.filter(|it| it.single))
    }

    /// It ended; the next begins.
    pub(crate) fn end(&mut self, point: Point, plugin: Option<&'static str>, status: &'static str) {
        if let Some((told, begun)) = &mut self.0 {
            let now = told.clock.monotonic();
            let took = now - *begun;
            told.spans.borrow_mut().push(Span { point, plugin, status, took });
            *begun = now;
        }
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How long it has been; nothing where nobody wants to know.
    pub(crate) fn split(&mut self) -> Duration {
        let Some((told, begun)) = &mut self.0 else { return Duration::ZERO };
        let now = told.clock.monotonic();
        let took = now - *begun;
        *begun = now;
        took
    }
}

impl Told {
    /// So long did a single plugin take in all.
    pub(crate) fn took(&self, point: Point, plugin: &'static str, took: Duration) {
        if self.single {
            let span = Span { point, plugin: Some(plugin), status: "Success", took };
            self.spans.borrow_mut().push(span);
        }
    }
}
