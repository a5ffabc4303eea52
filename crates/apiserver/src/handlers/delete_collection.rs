//! DELETE of many objects: each as by itself.

use std::sync::Arc;

use apimachinery::Status;
use http::Response;

use super::delete::{DeleteOptions, Deleted, remove};
use super::list::{self, Selection};
use crate::Server;
use crate::body::Body;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate;
use crate::options::ListOptions;
use crate::target::Target;

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
    let form = negotiate(&exchange.parts.headers)?;
    let mut page = list::page(server, target, &wanted, &selection).await?;
    page.objects = target.all_from_stored(server, page.objects).await?;
    for object in std::mem::take(&mut page.objects) {
        let one = Target { namespace: object.facts.namespace.to_string(), ..target.clone() };
        match remove(server, exchange, &one, &object.facts.name, &options).await {
            Ok(Deleted::Object(written)) => page.objects.push(Arc::new(written.into_object()?)),
            Ok(Deleted::Status(_)) => page.objects.push(object),
            // Somebody else was faster, which is as good.
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    list::answer(server, target, form, page)
}
