//! The config maps and secrets that pods of this node refer to, each watched by itself.
//!
//! A node may read only what its pods name, so there is one small watch an object, shared by its users and stopped
//! with the last of them. Users are woken when an object changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use apimachinery::Value;
use client::call::ListParams;
use client::{Client, ObjectKey, Reflector, Resource, Store};
use component_base::{Random, Shutdown};
use parking_lot::Mutex;

use crate::pod::inbox::Inbox;

/// How long a first answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which sort of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    ConfigMap,
    Secret,
}

impl Sort {
    fn resource(self) -> Resource {
        Resource::built_in("", if self == Self::ConfigMap { "configmaps" } else { "secrets" })
    }

    fn word(self) -> &'static str {
        if self == Self::ConfigMap { "configmap" } else { "secret" }
    }
}

/// Who asks: a pod, woken through its inbox.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) inbox: Weak<Inbox>,
}

type Users = Arc<Mutex<BTreeMap<String, Weak<Inbox>>>>;

#[derive(Debug)]
struct Watched {
    store: Store,
    stop: Shutdown,
    users: Users,
}

/// What is watched.
#[derive(Debug)]
pub(crate) struct Objects {
    client: Client,
    random: Arc<dyn Random>,
    watched: Mutex<BTreeMap<(Sort, ObjectKey), Watched>>,
}

impl Objects {
    pub(crate) fn new(client: Client, random: Arc<dyn Random>) -> Self {
        Self { client, random, watched: Mutex::default() }
    }

    /// An object of the user's namespace, watched from now on.
    ///
    /// # Errors
    /// When it is not there, or the server does not answer.
    pub(crate) async fn get(&self, sort: Sort, name: &str, user: &User) -> Result<Value, Missing> {
        let key = ObjectKey::new(user.namespace.as_str(), name);
        let store = self.watch(sort, &key, user);
        if tokio::time::timeout(PATIENCE, store.reached(0)).await.is_err() {
            return Err(Missing::Unknown(format!(
                "failed to sync {} cache: timed out waiting for the condition",
                sort.word()
            )));
        }
        let found = store.get(&key).map(|it| it.to_value());
        found.ok_or_else(|| Missing::Absent(format!("{} {name:?} not found", sort.word())))
    }

    fn watch(&self, sort: Sort, key: &ObjectKey, user: &User) -> Store {
        let mut watched = self.watched.lock();
        let entry = watched.entry((sort, key.clone())).or_insert_with(|| self.begin(sort, key));
        entry.users.lock().insert(user.uid.clone(), Weak::clone(&user.inbox));
        entry.store.clone()
    }

    fn begin(&self, sort: Sort, key: &ObjectKey) -> Watched {
        let (store, stop) = (Store::new(sort.resource(), &[]), Shutdown::new());
        let users = Users::default();
        let told = Arc::clone(&users);
        store.listen(Arc::new(move |_| {
            told.lock().values().filter_map(Weak::upgrade).for_each(|it| it.objects_changed());
        }));
        let params = ListParams {
            field_selector: format!("metadata.name={}", key.name),
            ..ListParams::default()
        };
        let reflector = Reflector::new(
            self.client.clone(),
            store.clone(),
            &key.namespace,
            params,
            Arc::clone(&self.random),
        );
        tokio::spawn(reflector.run(stop.signal()));
        Watched { store, stop, users }
    }

    /// A pod is gone: what only it needed is not watched any more.
    pub(crate) fn forget(&self, uid: &str) {
        self.watched.lock().retain(|_, it| {
            let mut users = it.users.lock();
            users.remove(uid);
            if users.is_empty() {
                it.stop.request();
            }
            !users.is_empty()
        });
    }
}

/// Why an object cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is none.
    Absent(String),
    /// Nobody knows.
    Unknown(String),
}

impl Missing {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Absent(text) | Self::Unknown(text) => text,
        }
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent(_))
    }
}
