//! DELETE of many objects: each as by itself.

use std::sync::Arc;

use apimachinery::{Object, Status, Value};
use http::Response;

use super::delete::{DeleteOptions, Deleted, remove};
use super::list::{self, Selection};
use crate::Server;
use crate::body::Body;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate;
use crate::options::ListOptions;
use crate::respond;
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
    let page = list::page(server, target, &wanted, &selection).await?;
    let metadata = page.metadata(target);
    let mut items = Vec::with_capacity(page.objects.len());
    for object in page.objects {
        let one = Target { namespace: object.facts.namespace.to_string(), ..target.clone() };
        match remove(server, exchange, &one, &object.facts.name, &options).await {
            Ok(Deleted::Object(written)) => {
                let mut value = written.into_value()?;
                target.resource().from_storage(&target.served, &mut value);
                items.push(without_kind(value));
            }
            Ok(Deleted::Status(_)) => {
                let mut value = object.to_value().map_err(Status::internal)?;
                target.resource().from_storage(&target.served, &mut value);
                items.push(without_kind(value));
            }
            // Somebody else was faster, which is as good.
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => return Err(status),
        }
    }
    let mut list = Object::new();
    list.insert("kind", format!("{}List", target.served.facts.kind));
    list.insert("apiVersion", target.served.facts.api_version());
    list.insert("metadata", metadata);
    list.insert("items", Value::Array(items));
    Ok(respond::plain(form, 200, &Value::Object(list)))
}

fn without_kind(mut value: Value) -> Value {
    value.remove_at(&["kind"]);
    value.remove_at(&["apiVersion"]);
    value
}
