//! DELETE of many objects: each as by itself.

use std::sync::Arc;

use apimachinery::Status;
use apimachinery::obj::Obj;
use futures::{StreamExt, TryStreamExt};
use http::Response;

use super::delete::{Asking, DeleteOptions, Deleted, remove};
use super::list::{self, Selection};
use crate::Server;
use crate::body::Body;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate;
use crate::options::ListOptions;
use crate::target::Target;

/// How many objects are deleted at once: a write takes as long alone as among others.
const AT_ONCE: usize = 32;

/// Deletes every object that the selectors take, as many as a list would have, and answers with what it deleted.
pub(crate) async fn delete_collection(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let wanted = ListOptions::of(&exchange.query, false)?;
    let selection = Selection::of(&exchange.query, target)?;
    let body = body.read().await?;
    let options = DeleteOptions::of(exchange, &body)?;
    let form = negotiate(exchange)?;
    let mut page = list::page(server, target, &wanted, &selection).await?;
    list::charge(exchange, target, form, &page.objects)?;
    let objects =
        target.all_listed(server, std::mem::take(&mut page.objects)).await?.into_objects();
    let asking = Asking::new(exchange);
    let deleted = objects.into_iter().map(|object| async {
        let one = Target { namespace: object.facts.namespace.to_string(), ..target.clone() };
        match remove(server, &asking, &one, &object.facts.name, &options).await {
            Ok(Deleted::Object(written)) => Ok(Some(Arc::new(written.into_object()?))),
            Ok(Deleted::Status(_)) => Ok(Some(object)),
            // Somebody else was faster, which is as good.
            Err(status) if status.reason == "NotFound" => Ok(None),
            Err(status) => Err(status),
        }
    });
    let deleted: Vec<Option<Arc<Obj>>> =
        futures::stream::iter(deleted).buffered(AT_ONCE).try_collect().await?;
    page.objects = Arc::new(deleted.into_iter().flatten().collect::<Vec<_>>().into());
    list::answer(server, target, form, &page)
}
