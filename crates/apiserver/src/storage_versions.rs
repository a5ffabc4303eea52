//! Tells in which versions this server stores objects, and which ones it can read, where `StorageVersionAPI` is on.
//!
//! Upstream: `k8s.io/apiserver/pkg/storageversion` (KEP-2339). Custom resources are not told of, as upstream's are not.

use std::sync::Arc;

use apimachinery::{Value, value};
use futures::StreamExt;
use http::Method;
use registry::{AnyResource, tell_common_encoding};

use crate::Server;
use crate::bootstrap::{Bootstrap, BootstrapError};

/// How many are written at once.
const PARALLEL: usize = 16;

/// Brings all of them up to date, if servers tell.
///
/// # Errors
/// The first that could not be written.
pub(crate) async fn tell(server: &Arc<Server>, identity: &str) -> Result<(), BootstrapError> {
    let registry = server.catalog.built_in();
    if !registry.features().storage_version_api {
        return Ok(());
    }
    let bootstrap = Bootstrap::new(server);
    let told = registry.resources().iter().map(|it| tell_of(server, &bootstrap, it, identity));
    let told: Vec<_> = told.collect();
    let told = futures::stream::iter(told).buffer_unordered(PARALLEL);
    told.fold(Ok(()), async |all, one| all.and(one)).await
}

async fn tell_of(
    server: &Server,
    bootstrap: &Bootstrap<'_>,
    resource: &Arc<dyn AnyResource>,
    identity: &str,
) -> Result<(), BootstrapError> {
    let versions = resource.served();
    let Some(stored) = versions.first() else { return Ok(()) };
    let facts = stored.facts;
    let group = if facts.group.is_empty() { "core" } else { facts.group };
    let served = server.catalog.built_in().versions(resource.as_ref());
    let own = value!({"apiServerID": identity, "encodingVersion": (facts.api_version()),
        "decodableVersions": (versions.iter().map(|it| it.facts.api_version()).collect::<Value>()),
        "servedVersions": (served.map(|it| it.facts.api_version()).collect::<Value>())});
    let wanted = value!({"kind": "StorageVersion", "apiVersion": "internal.apiserver.k8s.io/v1alpha1",
        "metadata": {"name": (format!("{group}.{}", facts.resource))}, "spec": {}});
    let (path, found) = bootstrap.find(&wanted);
    let found = match found {
        Some(found) => Some(found),
        None => bootstrap.send(Method::POST, &path, Some(&wanted)).await?,
    };
    // Another server was faster: it is told of next time.
    let Some(mut object) = found else { return Ok(()) };
    let before = object.clone();
    let mut servers = object.items_at(&["status", "storageVersions"]).to_vec();
    match servers.iter_mut().find(|it| it.str_at(&["apiServerID"]) == identity) {
        Some(known) => *known = own,
        None => servers.push(own),
    }
    object.set_at(&["status", "storageVersions"], servers);
    tell_common_encoding(&mut object, server.clock.now());
    if object == before {
        return Ok(());
    }
    let path = format!("{path}/{}/status", wanted.str_at(&["metadata", "name"]));
    bootstrap.send(Method::PUT, &path, Some(&object)).await.map(drop)
}
