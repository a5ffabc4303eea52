//! Objects held in memory, for tests: what the server's caches are to the rest of this crate.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::obj::{self, Obj};
use apimachinery::{Status, Value};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::objects::{Change, Changes, Feed, Objects};

type Key = (String, String, String, String);

/// Objects by group, resource, namespace and name; clones share them.
#[derive(Debug, Clone, Default)]
pub struct FixedObjects(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Arc<Obj>>,
    changes: Vec<(String, String, Arc<Obj>, bool)>,
    revision: u64,
}

impl FixedObjects {
    /// Creates or replaces an object.
    ///
    /// # Panics
    /// Where the value is no object that can be stored.
    pub fn put(&self, group: &str, resource: &str, value: &Value) {
        let state = &mut *self.0.lock();
        state.revision += 1;
        let facts = |value: &Value| obj::facts(value, &[]);
        let object = Obj::from_stored(obj::encode(value).into(), state.revision, facts)
            .expect("because a test gives whole objects");
        let object = Arc::new(object);
        let (namespace, name) = (object.facts.namespace.to_string(), object.facts.name.to_string());
        state.objects.insert((group.into(), resource.into(), namespace, name), Arc::clone(&object));
        state.changes.push((group.into(), resource.into(), object, false));
    }

    /// Takes an object away.
    pub fn delete(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        let state = &mut *self.0.lock();
        let key = (group.into(), resource.into(), namespace.into(), name.into());
        if let Some(object) = state.objects.remove(&key) {
            state.changes.push((group.into(), resource.into(), object, true));
        }
    }
}

#[async_trait]
impl Objects for FixedObjects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Obj>> {
        let key = (group.into(), resource.into(), namespace.into(), name.into());
        self.0.lock().objects.get(&key).cloned()
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Obj>> {
        let state = self.0.lock();
        let wanted = |(key, _): &(&Key, &Arc<Obj>)| {
            key.0 == group && key.1 == resource && (namespace.is_empty() || key.2 == namespace)
        };
        state.objects.iter().filter(wanted).map(|(_, object)| Arc::clone(object)).collect()
    }

    fn feed(&self, group: &str, resource: &str) -> Option<Box<dyn Feed>> {
        let objects = self.clone();
        Some(Box::new(FixedFeed { objects, group: group.into(), resource: resource.into(), at: 0 }))
    }

    async fn get_live(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Obj>>, Status> {
        Ok(self.get(group, resource, namespace, name))
    }
}

#[derive(Debug)]
struct FixedFeed {
    objects: FixedObjects,
    group: String,
    resource: String,
    at: usize,
}

impl Feed for FixedFeed {
    fn is_behind(&self) -> bool {
        self.objects.0.lock().changes.len() > self.at
    }

    fn take(&mut self) -> Changes {
        let state = self.objects.0.lock();
        let new = &state.changes[self.at..];
        self.at = state.changes.len();
        let mine = new.iter().filter(|it| it.0 == self.group && it.1 == self.resource);
        Changes::Some(mine.map(|it| Change { object: Arc::clone(&it.2), deleted: it.3 }).collect())
    }
}
