//! DELETE of many objects: each as by itself.

use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{FieldErrors, Path, Status, Value};
use futures::{StreamExt, TryStreamExt};
use http::Response;
use registry::DeletionRule;
use storage::{Kv, Rev};

use super::admit::is_judged;
use super::delete::{Asking, DeleteOptions, Taken, remove, take_away};
use super::list::{self, Selection};
use crate::Server;
use crate::body::Body;
use crate::corrupt;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate;
use crate::options::{self, ListOptions};
use crate::target::Target;

/// How many objects are deleted at once: a write takes as long alone as among others.
const AT_ONCE: usize = 32;

/// Deletes every object that the selectors take, as many as a list would have, and answers with what was there before.
pub(crate) async fn delete_collection(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let wanted = ListOptions::of(&exchange.query, false)?;
    let selection = Selection::of(&exchange.query, target)?;
    let body = exchange.read(body).await?;
    let options = DeleteOptions::of(server, exchange, &body)?;
    if options.ignore_read_error {
        let mut errors = FieldErrors::new();
        let detail = "is not allowed with DELETECOLLECTION, try again after removing the option";
        errors.invalid(&Path::new(corrupt::OPTION), &Value::from(true), detail);
        options::refuse("DeleteOptions", &errors)?;
    }
    options.warn(exchange, target);
    let form = negotiate(exchange)?;
    let mut page = list::page(server, target, &wanted, &selection).await?;
    list::charge(exchange, target, form, &page.objects)?;
    let objects = target.all_listed(std::mem::take(&mut page.objects)).await?.into_objects();
    let plain = is_plain(server, exchange, target, &options);
    let asking = Asking::new(exchange);
    let deleted = objects.into_iter().map(|object| async {
        if plain && take_plain(server, target, &object).await? {
            return Ok(object);
        }
        let one = Target { namespace: object.facts.namespace.clone(), ..target.clone() };
        match remove(server, &asking, &one, &object.facts.name, &options).await {
            Ok(_) => Ok(object),
            // Somebody else was faster, which is as good.
            Err(status) if status.reason == "NotFound" => Ok(object),
            Err(status) => Err(status),
        }
    });
    let deleted: Vec<Arc<Obj>> =
        futures::stream::iter(deleted).buffered(AT_ONCE).try_collect().await?;
    page.objects = Arc::new(deleted.into());
    list::answer(server, target, form, &page)
}

/// Whether the objects of this collection are events, of which there are many, and nobody who judges wants to see them: then
/// nothing has to be known of one but that nobody holds it.
fn is_plain(
    server: &Arc<Server>,
    exchange: &Exchange,
    target: &Target,
    options: &DeleteOptions,
) -> bool {
    let rules = target.resource().rules();
    rules.ttl_seconds > 0
        && rules.deletion == DeletionRule::Background
        && !rules.orphans
        && *options == DeleteOptions::default()
        && !is_judged(server, exchange, target)
}

/// Takes away an object that nobody holds; `false` where it has to be looked at after all.
async fn take_plain(server: &Arc<Server>, target: &Target, object: &Obj) -> Result<bool, Status> {
    if object.metadata_text("finalizers").is_some() {
        return Ok(false);
    }
    let (namespace, name) = (object.facts.namespace.as_str(), object.facts.name.as_str());
    let key = Target { namespace: namespace.into(), ..target.clone() }.key(name)?;
    let revision = Rev(object.resource_version);
    let kv = Kv { key, value: object.stored().clone(), create_rev: revision, mod_rev: revision };
    Ok(matches!(take_away(server, target, name, &kv).await?, Taken::At(_)))
}
