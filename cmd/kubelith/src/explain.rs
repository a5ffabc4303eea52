//! `.../NAME/why` of this server: the crate `why` over the server's caches.

use std::sync::Arc;

use apimachinery::Value;
use apiserver::CachedObjects;
use apiserver::explain::{Explain, Question};
use auth::Objects as _;
use client::{ObjectKey, Resource};
use why::{Explainer, Subject};

/// Explains as the scheduler of this process decides.
#[derive(Debug)]
pub(crate) struct FromCaches(pub(crate) Explainer);

impl Explain for FromCaches {
    fn explain(&self, objects: &CachedObjects, question: &Question) -> Option<Value> {
        let key = ObjectKey::new(question.namespace.as_str(), question.name.as_str());
        let subject = Subject { kind: question.facts.into(), key };
        let explanation = self.0.explain(&Caches(objects), &subject, question.now);
        explanation.map(|it| it.to_value())
    }
}

/// The caches as the explainer reads them.
struct Caches<'c>(&'c CachedObjects);

impl why::Objects for Caches<'_> {
    fn get(&self, group: &str, resource: &str, key: &ObjectKey) -> Option<Arc<Value>> {
        self.0.get(group, resource, &key.namespace, &key.name)?.value().ok()
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        // What does not decode is shown to nobody either.
        let all = self.0.list(group, resource, namespace).into_iter();
        all.filter_map(|it| it.value().ok()).collect()
    }

    fn kinds(&self) -> Vec<Resource> {
        self.0.resources().into_iter().map(Into::into).collect()
    }
}
