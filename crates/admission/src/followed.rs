//! Configurations of one kind, made ready when they change and not when a request comes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::obj::Obj;
use auth::objects::{Changes, Feed};
use compact_str::CompactString;
use parking_lot::RwLock;

use crate::Objects;

/// The group of all kinds that configure admission.
pub(crate) const GROUP: &str = "admissionregistration.k8s.io";

/// What is made of an object, with what was made of it before.
type Make<T> = dyn Fn(&Value, Option<&T>) -> T + Send + Sync;

/// What is made of the objects of a kind, in order of their names.
pub(crate) struct Followed<T> {
    state: RwLock<State<T>>,
    make: Box<Make<T>>,
}

struct State<T> {
    feed: Option<Box<dyn Feed>>,
    made: BTreeMap<CompactString, Arc<T>>,
    /// The same, for who is about to read it.
    all: Arc<[Arc<T>]>,
}

impl<T: 'static> fmt::Debug for Followed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Followed({})", self.state.read().all.len())
    }
}

impl<T: 'static> Followed<T> {
    pub(crate) fn new(
        objects: &dyn Objects,
        resource: &str,
        make: impl Fn(&Value, Option<&T>) -> T + Send + Sync + 'static,
    ) -> Self {
        let feed = objects.feed(GROUP, resource);
        let state = State { feed, made: BTreeMap::new(), all: Arc::new([]) };
        Self { state: RwLock::new(state), make: Box::new(make) }
    }

    /// Whether there are none: all that a request pays where nothing is configured.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.read();
        if !state.is_behind() {
            return state.all.is_empty();
        }
        drop(state);
        self.all().is_empty()
    }

    /// What there is now.
    pub(crate) fn all(&self) -> Arc<[Arc<T>]> {
        let state = self.state.read();
        if !state.is_behind() {
            return Arc::clone(&state.all);
        }
        drop(state);
        let mut state = self.state.write();
        state.catch_up(&self.make);
        Arc::clone(&state.all)
    }
}

impl<T: 'static> State<T> {
    fn is_behind(&self) -> bool {
        self.feed.as_ref().is_some_and(|it| it.is_behind())
    }

    fn catch_up(&mut self, make: &Make<T>) {
        let Some(feed) = &mut self.feed else { return };
        match feed.take() {
            Changes::All(objects) => {
                let before = std::mem::take(&mut self.made);
                for object in &objects {
                    self.learn(object, before.get(&object.facts.name), make);
                }
            }
            Changes::Some(changes) => {
                for change in &changes {
                    let before = self.made.remove(&change.object.facts.name);
                    if !change.deleted {
                        self.learn(&change.object, before.as_ref(), make);
                    }
                }
            }
        }
        self.all = self.made.values().cloned().collect();
    }

    fn learn(&mut self, object: &Obj, before: Option<&Arc<T>>, make: &Make<T>) {
        // What the server has stored can be read.
        let Ok(value) = object.value() else { return };
        let made = make(&value, before.map(AsRef::as_ref));
        self.made.insert(object.facts.name.clone(), Arc::new(made));
    }
}
