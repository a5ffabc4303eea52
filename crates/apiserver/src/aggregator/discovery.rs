//! What another server says that it serves, in the aggregated form; servers that know only the old one are asked for
//! that.

use apimachinery::{Object, Value, json, value};
use http::header::CONTENT_TYPE;

use super::ask::{Wanted, document};
use super::routes::Remote;
use crate::Server;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// What a server says of one group and version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    /// The resources, in the aggregated form.
    pub(super) resources: Vec<Value>,
    etag: String,
}

/// Asks; where nothing has changed since `before`, that is what is told.
pub(super) async fn ask(
    server: &Server,
    remote: &Remote,
    before: Option<&Told>,
) -> Result<Told, String> {
    let etag = before.map_or("", |it| it.etag.as_str());
    let answer = document(server, remote, Wanted { path: "/apis", accept: ACCEPT, etag }).await?;
    let media = answer.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let aggregated = media.is_some_and(|it| it.contains("as=APIGroupDiscoveryList"));
    match answer.code {
        304 => Ok(before.cloned().unwrap_or_default()),
        200 if aggregated => {
            let list = parse(&answer.body)?;
            let groups = list.items_at(&["items"]).iter();
            let mut versions = groups
                .filter(|it| it.str_at(&["metadata", "name"]) == remote.group)
                .flat_map(|it| it.items_at(&["versions"]));
            let found = versions.find(|it| it.str_at(&["version"]) == remote.version);
            let resources = found.map(|it| it.items_at(&["resources"]).to_vec());
            Ok(Told { resources: resources.unwrap_or_default(), etag: answer.etag() })
        }
        200 | 404 | 406 => old(server, remote).await,
        code => {
            let service = &remote.service;
            Err(format!("service {service} returned non-success response code: {code}"))
        }
    }
}

async fn old(server: &Server, remote: &Remote) -> Result<Told, String> {
    let path = remote.path();
    let wanted = Wanted { path: &path, accept: "application/json", etag: "" };
    let answer = document(server, remote, wanted).await?;
    if answer.code != 200 {
        return Err(format!("failed to download discovery for {path}: {}", answer.code));
    }
    let list = parse(&answer.body)?;
    Ok(Told { resources: aggregated(list.items_at(&["resources"])), etag: String::new() })
}

fn parse(body: &[u8]) -> Result<Value, String> {
    let parsed = json::parse(body).map_err(|error| format!("its discovery is no JSON: {error}"))?;
    if parsed.as_object().is_none() {
        return Err("its discovery is no object".into());
    }
    Ok(parsed)
}

/// Resources of the old form in the new one, where subresources are inside what they belong to.
pub(super) fn aggregated(resources: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let (subs, whole): (Vec<&Value>, Vec<&Value>) =
        resources.iter().partition(|it| it.str_at(&["name"]).contains('/'));
    for it in whole {
        let mut resource = Object::new();
        resource.insert("resource", it["name"].clone());
        resource.insert("responseKind", response_kind(it));
        resource.insert("scope", scope(it));
        resource.insert("singularResource", it.str_at(&["singularName"]));
        for member in ["verbs", "shortNames", "categories"] {
            if !it.items_at(&[member]).is_empty() {
                resource.insert(member, it[member].clone());
            }
        }
        all.push(Value::Object(resource));
    }
    for it in subs {
        let Some((parent, name)) = it.str_at(&["name"]).split_once('/') else { continue };
        let sub = value!({"subresource": name, "responseKind": (response_kind(it)),
            "verbs": (it["verbs"].clone())});
        let place = all.iter().position(|it| it.str_at(&["resource"]) == parent);
        let place = place.unwrap_or_else(|| {
            // A subresource of nothing that is served itself.
            all.push(value!({"resource": parent, "scope": (scope(it))}));
            all.len() - 1
        });
        let mut subs = all[place].items_at(&["subresources"]).to_vec();
        subs.push(sub);
        all[place].set_at(&["subresources"], subs);
    }
    all
}

fn scope(resource: &Value) -> &'static str {
    if resource.bool_at(&["namespaced"]) { "Namespaced" } else { "Cluster" }
}

fn response_kind(resource: &Value) -> Value {
    let text = |member| resource.str_at(&[member]);
    value!({"group": (text("group")), "version": (text("version")), "kind": (text("kind"))})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_form_becomes_the_new_one() {
        let old = json::parse(
            br#"[{"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list"],"shortNames":["fl"]},
            {"name":"flunders/status","singularName":"","namespaced":true,"kind":"Flunder","verbs":["get"]},
            {"name":"lost/scale","namespaced":false,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get"]}]"#,
        )
        .unwrap();
        let new = Value::Array(aggregated(old.as_array().unwrap()));
        let expected = json::parse(
            br#"[{"resource":"flunders","responseKind":{"group":"","version":"","kind":"Flunder"},"scope":"Namespaced","singularResource":"flunder",
            "verbs":["get","list"],"shortNames":["fl"],
            "subresources":[{"subresource":"status","responseKind":{"group":"","version":"","kind":"Flunder"},"verbs":["get"]}]},
            {"resource":"lost","scope":"Cluster",
            "subresources":[{"subresource":"scale","responseKind":{"group":"autoscaling","version":"v1","kind":"Scale"},"verbs":["get"]}]}]"#,
        )
        .unwrap();
        assert_eq!(new, expected);
    }
}
