//! The OpenAPI documents of other servers: of version 3 where they are, of version 2 what is to be merged into this
//! server's.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::{Object, Status, Value, json};
use http::Response;

use super::ask::{Wanted, document as asked, itself};
use super::pass::pass_as;
use super::routes::Remote;
use crate::Server;
use crate::body::Body;
use crate::exchange::{Exchange, RequestBody};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";
/// How deep a document may be nested where references are looked for.
const MAX_DEPTH: usize = 100;

/// What a server says of its documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    /// Where the one of version 3 is; empty where there is none.
    pub(super) url: String,
    pub(super) v2: Option<Arc<Value>>,
    index_etag: String,
    v2_etag: String,
}

/// Asks for both; what cannot be had stays as it was before.
pub(super) async fn ask(server: &Server, remote: &Remote, before: &Told) -> Told {
    let mut told = before.clone();
    let accept = "application/json";
    let wanted = Wanted { path: "/openapi/v3", accept, etag: &before.index_etag };
    match asked(server, remote, wanted).await {
        Ok(answer) if answer.code == 200 => {
            told.url = url_in(&answer.body, remote);
            told.index_etag = answer.etag();
        }
        Ok(answer) if answer.code == 404 => told.url = String::new(),
        Ok(_) | Err(_) => {}
    }
    let wanted = Wanted { path: "/openapi/v2", accept, etag: &before.v2_etag };
    match asked(server, remote, wanted).await {
        Ok(answer) if answer.code == 200 => {
            told.v2_etag = answer.etag();
            let parsed = json::parse(&answer.body).ok();
            told.v2 = parsed.map(|it| Arc::new(part_of(&it, &format!("{}/", remote.path()))));
        }
        Ok(answer) if answer.code == 404 => told.v2 = None,
        Ok(_) | Err(_) => {}
    }
    told
}

fn url_in(index: &[u8], remote: &Remote) -> String {
    let path = remote.path();
    let Ok(index) = json::parse(index) else { return String::new() };
    let url = index.str_at(&["paths", path.trim_start_matches('/'), "serverRelativeURL"]);
    // Only a place below this server's own path can be passed on.
    let own = format!("/openapi/v3{path}");
    if url.split('?').next() == Some(own.as_str()) { url.to_owned() } else { String::new() }
}

/// The document of version 3 of another server; `None` where the path is another one.
pub(crate) async fn document(
    server: &Arc<Server>,
    exchange: &mut Exchange,
) -> Option<Result<Response<Body>, Status>> {
    let rest = exchange.info.path.strip_prefix("/openapi/v3/apis/")?;
    let (group, version) = rest.trim_end_matches('/').split_once('/')?;
    let remote = server.aggregator.routes.load().find(group, version)?;
    let body = RequestBody::Bytes(bytes::Bytes::new());
    Some(pass_as(server, exchange, &remote, (&itself(), body)).await)
}

/// The paths below a prefix, and the definitions that they use. Parameters that they share are put in their places.
fn part_of(document: &Value, prefix: &str) -> Value {
    let mut paths = Object::new();
    let all = document["paths"].as_object().into_iter().flat_map(Object::iter);
    for (path, item) in all.filter(|(path, _)| is_below(path, prefix)) {
        let mut item = item.clone();
        place_parameters(&mut item, &document["parameters"], MAX_DEPTH);
        paths.insert(path, item);
    }
    let mut used = BTreeSet::new();
    let paths = Value::Object(paths);
    let mut open = references(&paths);
    while let Some(name) = open.pop() {
        if used.insert(name.clone()) {
            open.extend(references(&document["definitions"][name.as_str()]));
        }
    }
    let definitions = used.iter().filter_map(|name| {
        let found = document["definitions"].get(name)?;
        Some((name.clone(), found.clone()))
    });
    let definitions: Object = definitions.collect();
    let mut part = Value::object();
    part.set_at(&["paths"], paths);
    part.set_at(&["definitions"], Value::Object(definitions));
    part
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.starts_with(prefix) || Some(path) == prefix.strip_suffix('/')
}

fn place_parameters(value: &mut Value, parameters: &Value, depth: usize) {
    if depth == 0 {
        return;
    }
    let shared = value.str_at(&["$ref"]).strip_prefix(PARAMETERS);
    if let Some(found) = shared.and_then(|name| parameters.get(name)) {
        *value = found.clone();
        return;
    }
    match value {
        Value::Object(object) => {
            object.iter_mut().for_each(|(_, it)| place_parameters(it, parameters, depth - 1));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|it| place_parameters(it, parameters, depth - 1));
        }
        _ => {}
    }
}

/// The definitions that something refers to.
fn references(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(value, MAX_DEPTH)];
    while let Some((value, depth)) = open.pop() {
        if let Some(name) = value.str_at(&["$ref"]).strip_prefix(DEFINITIONS) {
            found.push(name.to_owned());
        }
        let Some(depth) = depth.checked_sub(1) else { continue };
        match value {
            Value::Object(object) => open.extend(object.iter().map(|(_, it)| (it, depth))),
            Value::Array(items) => open.extend(items.iter().map(|it| (it, depth))),
            _ => {}
        }
    }
    found
}

/// The same with references to definitions under other names.
pub(crate) fn renamed(value: &Value, new_name: &dyn Fn(&str) -> Option<String>) -> Value {
    match value {
        Value::Object(object) => {
            let renamed = object.iter().map(|(key, it)| {
                let name = it.as_str().filter(|_| key == "$ref");
                let name = name.and_then(|it| it.strip_prefix(DEFINITIONS)).and_then(new_name);
                let it = match name {
                    Some(name) => Value::from(format!("{DEFINITIONS}{name}")),
                    None => renamed(it, new_name),
                };
                (key.to_owned(), it)
            });
            Value::Object(renamed.collect())
        }
        Value::Array(items) => items.iter().map(|it| renamed(it, new_name)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_what_its_paths_use_and_no_more() {
        let document = json::parse(
            br##"{"paths":{"/apis/g/v1/":{"get":{"responses":{"200":{"schema":{"$ref":"#/definitions/A"}}}}},
            "/apis/g/v1/xs":{"parameters":[{"$ref":"#/parameters/p"}]},"/apis/g/v10/":{"get":{"schema":{"$ref":"#/definitions/C"}}}},
            "definitions":{"A":{"properties":{"b":{"$ref":"#/definitions/B"}}},"B":{"properties":{"a":{"$ref":"#/definitions/A"}}},"C":{}},
            "parameters":{"p":{"name":"pretty"}}}"##,
        )
        .unwrap();
        let expected = json::parse(
            br##"{"paths":{"/apis/g/v1/":{"get":{"responses":{"200":{"schema":{"$ref":"#/definitions/A"}}}}},
            "/apis/g/v1/xs":{"parameters":[{"name":"pretty"}]}},
            "definitions":{"A":{"properties":{"b":{"$ref":"#/definitions/B"}}},"B":{"properties":{"a":{"$ref":"#/definitions/A"}}}}}"##,
        )
        .unwrap();
        assert_eq!(part_of(&document, "/apis/g/v1/"), expected);
    }
}
