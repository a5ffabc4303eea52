//! One handler a verb. The handler is the documentation of the verb.

use std::sync::Arc;

use apimachinery::Status;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};

use crate::Server;
use crate::body::Body;
use crate::exchange::{Exchange, RequestBody};
use crate::request::{PROXY, RequestInfo, WHY};
use crate::target::Target;
use crate::{
    aggregator, component_statuses, computed, discovery, explain, fairness, health, node_metrics,
    openapi,
};

pub(crate) mod admit;
pub(crate) mod apply;
pub(crate) mod connect;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod delete_collection;
pub(crate) mod eviction;
pub(crate) mod get;
mod links;
pub(crate) mod list;
mod log_options;
mod owners;
pub(crate) mod patch;
pub(crate) mod proxy;
pub(crate) mod reviews;
pub(crate) mod subresource;
pub(crate) mod token;
pub(crate) mod update;
pub(crate) mod watch;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Custom resources have no protobuf: what a client sends may not be that, and what it accepts is something else. Their
/// metadata has one.
pub(crate) fn without_protobuf(exchange: &mut Exchange) -> Result<(), Status> {
    // The options of a delete are the same whatever is deleted.
    let has_options = exchange.info.verb.starts_with("delete");
    if exchange.header(CONTENT_TYPE).starts_with(PROTOBUF) && !has_options {
        return Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml{}",
            also(exchange)
        )));
    }
    let accept = exchange.header(ACCEPT);
    if !accept.contains(PROTOBUF) {
        return Ok(());
    }
    let good = |it: &&str| !it.contains(PROTOBUF) || it.contains("as=");
    let rest: Vec<&str> = accept.split(',').filter(good).collect();
    if rest.is_empty() {
        return Err(Status::not_acceptable(format!(
            "only the following media types are accepted: {}",
            crate::negotiate::media_types(exchange.cbor)
        )));
    }
    if let Ok(rest) = HeaderValue::from_str(&rest.join(",")) {
        exchange.parts.headers.insert(ACCEPT, rest);
    }
    Ok(())
}

/// CBOR, where the server has it.
fn also(exchange: &Exchange) -> &'static str {
    if exchange.cbor { ", application/cbor" } else { "" }
}

/// Tells a client that it should ask for another version, and counts that it did not.
fn warn_of_deprecation(server: &Server, exchange: &mut Exchange, target: &Target) {
    let (resource, facts) = (target.resource(), target.served.facts);
    let Some(warning) = resource.deprecation(&target.served) else { return };
    if exchange.audit.is_some() {
        let annotations = &mut exchange.annotations;
        annotations.insert("k8s.io/deprecated".into(), "true".into());
        if let Some(removed) = resource.removed_in(&target.served) {
            annotations.insert("k8s.io/removed-release".into(), removed.into());
        }
    }
    if !resource.is_custom() {
        let removed = resource.removed_in(&target.served).unwrap_or_default();
        let subresource = facts.subresource(&exchange.info.subresource);
        server.metrics.deprecated(facts, subresource, removed);
    }
    exchange.warnings.push(warning.into_owned());
}

/// Answers a request for what is no resource.
async fn handle_path(
    server: &Arc<Server>,
    exchange: &mut Exchange,
) -> Result<Response<Body>, Status> {
    if let Some(answer) = aggregator::document(server, exchange).await {
        return answer;
    }
    let found = discovery::answer(server, exchange);
    let is_get = exchange.parts.method == Method::GET;
    if found.is_some() && !is_get && !discovery::is_aggregated(&exchange.info.path) {
        return Err(Status::method_not_allowed());
    }
    match found.or_else(|| openapi::answer(server, exchange)) {
        Some(answer) => answer,
        None if let Some(table) = fairness::dump(server, exchange) => Ok(table),
        None => health::answer(server, exchange).await,
    }
}

/// The work on a request, in a place as large as its verb needs. Without one, whoever carries a request would have the size
/// of the largest of them, which is copied from one hand to the next.
type Work<'a> = BoxFuture<'a, Result<Response<Body>, Status>>;

/// Sends a request to the handler of its verb.
pub(crate) async fn handle(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let answer = match route(server, exchange, body) {
        Ok(work) => work.await,
        Err(status) => Err(status),
    };
    match answer {
        // Upstream's server of custom resources hands on what it does not know, and behind it is nobody.
        Err(status) if status == Status::no_route() && is_custom_group(&exchange.info.path) => {
            Ok(health::not_found())
        }
        answer => answer,
    }
}

/// Whether a path is of a group that is not built in.
fn is_custom_group(path: &str) -> bool {
    let mut parts = path.split('/').filter(|it| !it.is_empty());
    parts.next() == Some("apis")
        && parts.next().is_some_and(|group| api::all_resources().all(|it| it.group != group))
}

fn route<'a>(
    server: &'a Arc<Server>,
    exchange: &'a mut Exchange,
    body: RequestBody,
) -> Result<Work<'a>, Status> {
    // Upstream's mux knows no path that begins so, though its authorization reads it as if it had one slash.
    if exchange.info.path.starts_with("//") {
        return Ok(Box::pin(std::future::ready(Ok(health::not_found()))));
    }
    if let Some(remote) = server.aggregator.route(&exchange.info) {
        if exchange.info.verb == "watch" {
            // It begins where it is passed on to.
            drop(std::mem::take(&mut exchange.seat));
        }
        return Ok(Box::pin(
            async move { aggregator::pass(server, exchange, &remote, body).await },
        ));
    }
    if let Some(found) = computed::find(server, exchange) {
        return Ok(Box::pin(found.answer(exchange)));
    }
    if !exchange.info.is_resource {
        return Ok(Box::pin(handle_path(server, exchange)));
    }
    route_resource(server, exchange, body)
}

/// Refuses verbs that have no meaning where the request is sent to: over all namespaces one can look, and nothing else.
/// (Upstream routes no other method there; its server of custom resources hands such requests on to nobody.)
fn check_place(info: &RequestInfo, target: &Target) -> Result<(), Status> {
    let custom = target.resource().is_custom();
    let of_many = matches!(info.verb, "list" | "watch" | "deletecollection");
    if target.served.facts.namespaced && info.namespace.is_empty() {
        return match info.verb {
            "list" | "watch" => Ok(()),
            _ if custom || !(of_many || info.name.is_empty()) => Err(Status::no_route()),
            _ => Err(Status::method_not_allowed()),
        };
    }
    if of_many || info.verb == "create" || !info.name.is_empty() {
        return Ok(());
    }
    let unnamed = || Status::bad_request("name must be provided");
    Err(if custom { unnamed() } else { Status::method_not_allowed() })
}

/// Upstream's router of built-in resources looks at no slashes at the end, and knows no other empty parts of a path.
fn check_slashes(info: &RequestInfo, target: &Target) -> Result<(), Status> {
    let free = info.subresource == "proxy" || target.resource().is_custom();
    match !free && info.path.trim_end_matches('/').contains("//") {
        true => Err(Status::no_route()),
        false => Ok(()),
    }
}

/// Refuses what the resource, or this part of it, does not know.
fn check_verb(info: &RequestInfo, method: &Method, target: &Target) -> Result<(), Status> {
    let (facts, custom) = (target.served.facts, target.resource().is_custom());
    let verbs = match info.subresource.as_str() {
        "" => facts.verbs,
        name => match facts.subresource(name) {
            Some(subresource) => subresource.verbs,
            None if custom => return Err(Status::not_found(target.group_resource(), &info.name)),
            None => return Err(Status::no_route()),
        },
    };
    // Upstream's router knows no HEAD of built-in resources; custom ones are not in it.
    let head = *method == Method::HEAD && !custom && info.subresource != "proxy";
    if verbs.contains(&info.verb) && !head {
        return Ok(());
    }
    Err(match custom {
        true => Status::method_not_supported(target.group_resource(), info.verb),
        false => Status::method_not_allowed(),
    })
}

/// Leaves protobuf out where the resource has no message: where it is a custom one, or a removed version of another shape.
fn forget_protobuf(exchange: &mut Exchange, target: &Target) -> Result<(), Status> {
    let facts = target.served.facts;
    if target.resource().is_custom() {
        exchange.unrouted = true;
        return without_protobuf(exchange);
    }
    let is_removed = target.resource().removed_in(&target.served).is_some();
    if is_removed && crate::proto::type_of(&facts.api_version(), facts.kind).is_none() {
        return without_protobuf(exchange);
    }
    Ok(())
}

/// The same of what is about a resource.
fn route_resource<'a>(
    server: &'a Arc<Server>,
    exchange: &'a mut Exchange,
    body: RequestBody,
) -> Result<Work<'a>, Status> {
    let info = &exchange.info;
    let off = server.catalog.built_in().is_off(&info.group, &info.version, &info.resource);
    if off || info.verb == PROXY {
        return Err(Status::no_route());
    }
    if let Some(review) = server.reviews.find(info) {
        exchange.facts = Some(review.facts());
        return Ok(Box::pin(reviews::create(server, exchange, review, body)));
    }
    if (info.group.as_str(), info.resource.as_str(), info.name.as_str()) == ("", "bindings", "")
        && !info.namespace.is_empty()
    {
        return match info.verb {
            "create" => Ok(Box::pin(subresource::create_binding(server, exchange, body))),
            _ => Err(Status::method_not_allowed()),
        };
    }
    if let Some(own) = &server.node_metrics
        && let Some(found) = own.find(info)
    {
        return Ok(Box::pin(node_metrics::answer(server, exchange, own, found?)));
    }
    if let Some(facts) = component_statuses::find(info) {
        exchange.facts = Some(facts);
        return Ok(Box::pin(component_statuses::read(server, exchange, facts)));
    }
    let target = Target::of(server, info)?;
    let facts = target.served.facts;
    exchange.facts = Some(facts);
    forget_protobuf(exchange, &target)?;
    if exchange.info.subresource == WHY
        && let Some(explanations) = &server.explanations
    {
        return Ok(Box::pin(async move {
            explain::answer(server, exchange, explanations, &target).await
        }));
    }
    check_verb(&exchange.info, &exchange.parts.method, &target)?;
    warn_of_deprecation(server, exchange, &target);
    let info = &exchange.info;
    check_place(info, &target)?;
    check_slashes(info, &target)?;
    work(server, exchange, (target, body))
}

/// What there is to be done where nothing speaks against it.
fn work<'a>(
    server: &'a Arc<Server>,
    exchange: &'a mut Exchange,
    (target, body): (Target, RequestBody),
) -> Result<Work<'a>, Status> {
    let info = &exchange.info;
    if connect::is_stream(target.served.facts.resource, &info.subresource) {
        return Ok(Box::pin(
            async move { connect::connect(server, exchange, &target, body).await },
        ));
    }
    if info.subresource == "proxy" {
        return Ok(Box::pin(async move { proxy::proxy(server, exchange, &target, body).await }));
    }
    Ok(match info.verb {
        "get" => Box::pin(async move { get::get(server, exchange, &target).await }),
        "list" => Box::pin(async move { list::list(server, exchange, &target).await }),
        "watch" => Box::pin(async move {
            let seat = std::mem::take(&mut exchange.seat);
            watch::watch(server, exchange, &target, seat).await
        }),
        "create" => Box::pin(async move { create::create(server, exchange, &target, body).await }),
        "update" => Box::pin(async move { update::update(server, exchange, &target, body).await }),
        "patch" => Box::pin(async move { patch::patch(server, exchange, &target, body).await }),
        "delete" => Box::pin(async move { delete::delete(server, exchange, &target, body).await }),
        "deletecollection" => Box::pin(async move {
            delete_collection::delete_collection(server, exchange, &target, body).await
        }),
        _ => return Err(Status::method_not_allowed()),
    })
}
