//! Cluster DNS: answers to questions, and the server on loopback.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod answers;
mod server;

use std::sync::Arc;

use dns::{Index, Zone};

/// The objects the tests ask about.
const OBJECTS: &str = include_str!("objects.yaml");

/// An index of the zone `cluster.local` with those objects.
fn index() -> Arc<Index> {
    let zone = Zone::new("cluster.local").unwrap();
    let index = Index::new(zone, Index::TTL, vec!["10.96.0.10".parse().unwrap()]);
    for document in OBJECTS.split("---\n") {
        if document.contains("addressType:") {
            index.apply_slice(&serde_saphyr::from_str(document).unwrap());
        } else if document.contains("spec:") {
            index.apply_service(&serde_saphyr::from_str(document).unwrap());
        } else {
            index.apply_namespace(&serde_saphyr::from_str(document).unwrap());
        }
    }
    Arc::new(index)
}
