//! A user of the API: every call is an operation, and every answer is judged.

use std::sync::Arc;

use apimachinery::Value;
use client::call::{DeleteParams, ListParams, PatchKind};
use client::{Client, ClientError, Resource};
use storage::Key;

use crate::ledger::Ledger;
use crate::link::INJECTED;
use crate::observer::{Observer, Place};

const ANSWERS: &str = "the server answers as it should";
const VISIBLE: &str = "every acknowledged write is visible";

/// Who makes the workload.
#[derive(Debug)]
pub(crate) struct User {
    pub(super) client: Client,
    pub(super) ledger: Arc<Ledger>,
    pub(super) observer: Arc<Observer>,
}

/// Under what the objects of a resource are kept.
fn prefix(resource: &Resource) -> &str {
    match resource.plural.as_str() {
        "services" => "services/specs",
        "nodes" => "minions",
        "replicationcontrollers" => "controllers",
        "customresourcedefinitions" => "apiextensions.k8s.io/customresourcedefinitions",
        "widgets" => "sim.example/widgets",
        other => other,
    }
}

fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    let prefix = prefix(resource);
    Key::from(if resource.namespaced {
        format!("/registry/{prefix}/{namespace}/{name}")
    } else {
        format!("/registry/{prefix}/{name}")
    })
}

/// Whether an answer is one that a correct server may give to this workload.
fn may_be(error: &ClientError) -> bool {
    let ClientError::Api(status) = error else {
        return matches!(error, ClientError::Transport(_));
    };
    let text = status.message.as_str();
    match status.code {
        404 | 409 | 429 => true,
        405 => text.contains("custom resource definition is terminating"),
        403 => {
            let why = [
                "exceeded quota",
                "status unknown for quota",
                "being terminated",
                "error looking up service account",
            ];
            why.iter().any(|it| text.contains(it))
        }
        _ => text.starts_with(INJECTED),
    }
}

impl User {
    pub(crate) fn new(client: Client, ledger: &Arc<Ledger>, observer: &Arc<Observer>) -> Self {
        Self { client, ledger: Arc::clone(ledger), observer: Arc::clone(observer) }
    }

    /// Notes how a call went, and judges a failure.
    fn judge(&self, what: &str, answer: &Result<Value, ClientError>) {
        self.ledger.operation();
        self.ledger.note(|| match answer {
            Ok(it) => format!("{what}: at {}", it.str_at(&["metadata", "resourceVersion"])),
            Err(error) => format!("{what}: {error}"),
        });
        if let Err(error) = answer
            && !may_be(error)
        {
            self.ledger.violation(ANSWERS, format!("{what}: {error}"));
        }
    }

    fn acknowledged(&self, resource: &Resource, answer: &Value) -> Option<u64> {
        let (namespace, name) =
            (answer.str_at(&["metadata", "namespace"]), answer.str_at(&["metadata", "name"]));
        let revision = answer.str_at(&["metadata", "resourceVersion"]).parse().ok()?;
        self.observer.acknowledged(key(resource, namespace, name), revision);
        Some(revision)
    }

    pub(super) async fn create(&self, resource: &Resource, object: &Value) -> Option<Value> {
        let namespace = object.str_at(&["metadata", "namespace"]);
        let name = object.str_at(&["metadata", "name"]);
        let answer = self.client.create(resource, namespace, object).await;
        self.judge(&format!("create {} {namespace}/{name}", resource.plural), &answer);
        let answer = answer.ok()?;
        self.acknowledged(resource, &answer);
        Some(answer)
    }

    pub(super) async fn patch(
        &self,
        resource: &Resource,
        place: &Place,
        subresource: &str,
        patch: &Value,
    ) -> Option<Value> {
        let Place { namespace, name } = place;
        let kind = PatchKind::Merge;
        let answer = self.client.patch(resource, namespace, name, subresource, kind, patch).await;
        let what = format!("patch {} {namespace}/{name} {patch:?}", resource.plural);
        self.judge(&what, &answer);
        let answer = answer.ok()?;
        if subresource != "scale" {
            self.acknowledged(resource, &answer);
        }
        Some(answer)
    }

    /// Reads an object, changes it, and writes it in that state.
    pub(super) async fn update(
        &self,
        resource: &Resource,
        place: &Place,
        change: impl FnOnce(&mut Value),
    ) -> Option<Value> {
        let mut object = self.get(resource, place).await?;
        change(&mut object);
        let answer = self.client.update(resource, "", &object).await;
        let Place { namespace, name } = place;
        self.judge(&format!("update {} {namespace}/{name}", resource.plural), &answer);
        let answer = answer.ok()?;
        self.acknowledged(resource, &answer);
        Some(answer)
    }

    pub(crate) async fn delete(&self, resource: &Resource, place: &Place, params: &DeleteParams) {
        let Place { namespace, name } = place;
        let answer = self.client.delete(resource, namespace, name, params).await;
        let how = params.propagation.unwrap_or("default");
        self.judge(&format!("delete {} {namespace}/{name} ({how})", resource.plural), &answer);
    }

    pub(super) async fn evict(&self, place: &Place, eviction: &Value) -> bool {
        let Place { namespace, name } = place;
        let pods = Resource::built_in("", "pods");
        let client = &self.client;
        let answer = client.create_subresource(&pods, namespace, name, "eviction", eviction).await;
        self.judge(&format!("evict {namespace}/{name}"), &answer);
        answer.is_ok()
    }

    pub(super) async fn get(&self, resource: &Resource, place: &Place) -> Option<Value> {
        let Place { namespace, name } = place;
        let answer = self.client.get(resource, namespace, name).await;
        self.judge(&format!("get {} {namespace}/{name}", resource.plural), &answer);
        answer.ok()
    }

    /// Reads what was written: it must be there, in that state or a later one, or be gone from the store.
    pub(super) async fn read_back(&self, resource: &Resource, written: &Value) {
        let place = Place {
            namespace: written.str_at(&["metadata", "namespace"]).into(),
            name: written.str_at(&["metadata", "name"]).into(),
        };
        let Place { namespace, name } = &place;
        let answer = self.client.get(resource, namespace, name).await;
        self.judge(&format!("read back {} {namespace}/{name}", resource.plural), &answer);
        let version = |it: &Value| -> u64 {
            it.str_at(&["metadata", "resourceVersion"]).parse().unwrap_or_default()
        };
        let uid = written.str_at(&["metadata", "uid"]);
        let known = self.observer.with(|state| state.get(&resource.kind, &place).cloned());
        let what = format!("{} {namespace}/{name}", resource.plural);
        match answer {
            Ok(read) if version(&read) < version(written) => {
                let (wrote, found) = (version(written), version(&read));
                let text = format!("{what} was written at {wrote} and is read at {found}");
                self.ledger.violation(VISIBLE, text);
            }
            Ok(read) => {
                let mut bare = read.clone();
                bare.remove_at(&["metadata", "resourceVersion"]);
                let differs = known.filter(|it| it.revision == version(&read) && *it.value != bare);
                if let Some(known) = differs {
                    let text = format!("{what} is read as {bare:?} and is {:?}", known.value);
                    self.ledger.violation(VISIBLE, text);
                }
            }
            Err(error) if error.is_not_found() => {
                let there = known.is_some_and(|it| it.value.str_at(&["metadata", "uid"]) == uid);
                if there {
                    self.ledger.violation(VISIBLE, format!("{what} is not found and is there"));
                }
            }
            Err(_) => {}
        }
    }

    /// Compares what a list says with what is so; nothing changes meanwhile, or nothing is compared.
    pub(crate) async fn compare_list(&self, resource: &Resource) {
        let answer = self.client.list(resource, "", &ListParams::default()).await;
        self.ledger.operation();
        let list = match answer {
            Ok(list) => list,
            Err(error) => {
                if !may_be(&error) {
                    let text = format!("list {}: {error}", resource.plural);
                    self.ledger.violation(ANSWERS, text);
                }
                return;
            }
        };
        let told = |it: &Value| {
            let place = Place {
                namespace: it.str_at(&["metadata", "namespace"]).into(),
                name: it.str_at(&["metadata", "name"]).into(),
            };
            (place, it.str_at(&["metadata", "resourceVersion"]).parse::<u64>().unwrap_or(0))
        };
        let told: Vec<(Place, u64)> = list.items.iter().map(told).collect();
        let (is, changed) = self.observer.with(|state| {
            let all = state.kinds.get(resource.kind.as_str()).into_iter().flatten();
            let all: Vec<(Place, u64)> =
                all.map(|(place, known)| (place.clone(), known.revision)).collect();
            (all, state.changed.get(resource.kind.as_str()).copied().unwrap_or(0))
        });
        let read_at: u64 = list.resource_version.parse().unwrap_or(0);
        if read_at < changed {
            return;
        }
        let mut told = told;
        told.sort();
        if told != is {
            let (plural, told, is) = (&resource.plural, told.len(), is.len());
            let text = format!("a list of {plural} at {read_at} has {told} of {is}");
            self.ledger.violation(VISIBLE, text);
        }
    }
}
