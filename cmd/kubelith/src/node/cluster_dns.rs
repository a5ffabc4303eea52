//! The cluster's DNS, told of namespaces, services and slices by watches.

use std::sync::Arc;

use client::reflector::Caches;
use dns::Index;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Keeps an index up to date from now on.
pub(crate) fn feed(index: &Arc<Index>, caches: &Caches) {
    let it = Arc::clone(index);
    caches.store_of::<Namespace>().listen(Arc::new(move |change| match &change.new {
        Some(object) => {
            if let Some(namespace) = object.decode() {
                it.apply_namespace(&namespace);
            }
        }
        None => it.delete_namespace(&change.key().name),
    }));
    let it = Arc::clone(index);
    caches.store_of::<Service>().listen(Arc::new(move |change| match &change.new {
        Some(object) => {
            if let Some(service) = object.decode() {
                it.apply_service(&service);
            }
        }
        None => {
            let key = change.key();
            it.delete_service(&key.namespace, &key.name);
        }
    }));
    let it = Arc::clone(index);
    caches.store_of::<EndpointSlice>().listen(Arc::new(move |change| match &change.new {
        Some(object) => {
            if let Some(slice) = object.decode() {
                it.apply_slice(&slice);
            }
        }
        None => {
            let key = change.key();
            it.delete_slice(&key.namespace, &key.name);
        }
    }));
}
