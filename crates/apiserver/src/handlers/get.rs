//! GET of one object: from the store, as it is now, and not decoded where the client wants it as it is stored.

use apimachinery::Status;
use apimachinery::obj::Obj;
use http::Response;
use storage::At;

use super::subresource;
use crate::Server;
use crate::body::Body;
use crate::corrupt;
use crate::exchange::Exchange;
use crate::hub::object_of;
use crate::negotiate::{Transform, negotiate};
use crate::options::version_of_read;
use crate::respond;
use crate::target::Target;
use crate::traces;

/// Answers with the object.
pub(crate) async fn get(
    server: &Server,
    exchange: &Exchange,
    target: &Target,
) -> Result<Response<Body>, Status> {
    if subresource::is_special(&exchange.info.subresource) {
        // Much larger than all else here, and rarer.
        return Box::pin(subresource::get(server, exchange, target)).await;
    }
    let form = negotiate(exchange)?;
    let name = &exchange.info.name;
    let key = target.key(name)?;
    let wanted = version_of_read(exchange.query.get("resourceVersion").unwrap_or_default())?;
    if wanted > server.hub.progress().revision() {
        // As a list: another server of the same store may have written it.
        super::list::wait_for(server, target, wanted).await?;
    }
    let mut part = traces::storage("get", target);
    let store = server.hub.store();
    let read = match store.get_at_once(&key) {
        Some(read) => spans::run(&mut part, std::future::ready(read)).await,
        None => spans::run(&mut part, store.get(&key, At::Latest)).await,
    };
    drop(part);
    let kv = corrupt::read(server, &key, read)?;
    let kv = kv.ok_or_else(|| Status::not_found(target.group_resource(), name))?;
    if matches!(form.transform, Transform::Partial(_)) {
        super::list::check_partial_object(exchange, target)?;
    }
    if target.resource().is_custom() {
        // What was stored by another definition is not what this one shows; the cache has what it shows.
        let cached = target.cache.get(&crate::cache::cache_key(&target.namespace, name));
        let object = match cached.filter(|it| it.resource_version == kv.mod_rev.0) {
            Some(object) => object,
            None => object_of(target.cache.resource().as_ref(), &kv)
                .map_err(|error| corrupt::broken(server, &kv, &error.to_string()))?,
        };
        if target.converts(&object) {
            let value = object.value().map_err(Status::internal)?;
            let value = target.read_stored(value).await?;
            let value = std::sync::Arc::unwrap_or_clone(value);
            return Ok(respond::object(server, target, form, 200, value));
        }
        return respond::stored(server, target, form, 200, &object);
    }
    if target.cache.is_hidden(&crate::cache::cache_key(&target.namespace, name)) {
        // It could not be read when it came; below nobody would notice.
        object_of(target.cache.resource().as_ref(), &kv)
            .map_err(|error| corrupt::broken(server, &kv, &error.to_string()))?;
    }
    let object = Obj::unindexed(kv.value.clone(), kv.mod_rev.0)
        .map_err(|error| corrupt::broken(server, &kv, &error.to_string()))?;
    respond::stored(server, target, form, 200, &object)
}
