//! What a request asks for, told from its method, path and query. Upstream: `RequestInfoFactory`.

use compact_str::CompactString;
use http::{Method, Uri};
use smallvec::SmallVec;

use crate::query::Query;

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; lower-case method for paths.
    pub verb: &'static str,
    /// Whether an object or a list of objects is asked for, and not a path.
    pub is_resource: bool,
    /// The group; empty for the core one.
    pub group: CompactString,
    /// The version.
    pub version: CompactString,
    /// The plural name.
    pub resource: CompactString,
    /// `status`, `log`, ...; empty for the object itself.
    pub subresource: CompactString,
    /// What follows the subresource (of proxies).
    pub rest: CompactString,
    /// The namespace; empty for all or none.
    pub namespace: CompactString,
    /// The object's name; empty for all.
    pub name: CompactString,
    /// The path, decoded: an escaped slash is one as any other (as with Go's `URL.Path`).
    pub path: CompactString,
}

/// How many parts a path has that needs no memory of its own to be told apart: those of most have fewer.
const PARTS: usize = 10;
/// Subresources that are about a namespace and not in one.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// The verb of paths with `/proxy/` before the resource: known to authorizers, and without a route.
pub(crate) const PROXY: &str = "proxy";

/// The subresource of every object that says why it is as it is.
pub(crate) const WHY: &str = "why";

impl RequestInfo {
    /// What `method uri` asks for.
    #[must_use]
    pub fn of(method: &Method, uri: &Uri, query: &Query) -> Self {
        let path = percent_encoding::percent_decode_str(uri.path()).decode_utf8_lossy();
        let path = path.as_ref();
        let mut info = Self { path: path.into(), verb: lower_case(method), ..Self::default() };
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        match parts.next() {
            Some("api") => {}
            Some("apis") => info.group = parts.next().unwrap_or_default().into(),
            _ => return info,
        }
        let rest: SmallVec<[&str; PARTS]> = parts.collect();
        let [version, rest @ ..] = rest.as_slice() else { return info };
        if rest.is_empty() {
            return info;
        }
        info.version = (*version).into();
        info.is_resource = true;
        info.verb = verb_of(method);
        let rest = match rest {
            // The old form of watches: /watch/ before the resource.
            ["watch", rest @ ..] if !rest.is_empty() => {
                info.verb = "watch";
                rest
            }
            // An old form of proxies, which nobody serves any more.
            ["proxy", rest @ ..] if !rest.is_empty() => {
                info.verb = PROXY;
                rest
            }
            _ => rest,
        };
        info.place(rest);
        info.refine(query);
        info
    }

    fn place(&mut self, rest: &[&str]) {
        let rest = match rest {
            ["namespaces", namespace, more @ ..] => {
                self.namespace = (*namespace).into();
                match more {
                    [] => rest,
                    [sub, ..] if NAMESPACE_SUBRESOURCES.contains(sub) => rest,
                    // Of the core group only: elsewhere it may be somebody's resource.
                    [WHY] if self.group.is_empty() => rest,
                    _ => more,
                }
            }
            _ => rest,
        };
        let mut rest = rest.iter().copied();
        self.resource = rest.next().unwrap_or_default().into();
        self.name = rest.next().unwrap_or_default().into();
        self.subresource = rest.next().unwrap_or_default().into();
        for (place, part) in rest.enumerate() {
            if place > 0 {
                self.rest.push('/');
            }
            self.rest.push_str(part);
        }
    }

    fn refine(&mut self, query: &Query) {
        // Watching one object by its own path is a plain get upstream too, unless the path says watch.
        if !self.name.is_empty() {
            return;
        }
        self.verb = match self.verb {
            "get" if query.flag("watch") => "watch",
            "get" => "list",
            "delete" => "deletecollection",
            other => other,
        };
        if matches!(self.verb, "list" | "watch" | "deletecollection")
            && let Some(name) = query.get("fieldSelector").and_then(name_of_selector)
        {
            self.name = name;
        }
    }
}

/// The name in `metadata.name=x`, where the selector is no more than that.
fn name_of_selector(selector: &str) -> Option<CompactString> {
    let name = selector
        .strip_prefix("metadata.name=")
        .map(|rest| rest.strip_prefix('=').unwrap_or(rest))?;
    (!name.is_empty() && !name.contains([',', '=', '!', '\\'])).then(|| name.into())
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD => "get",
        _ => "",
    }
}

fn lower_case(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, expected: &str) {
        let uri: Uri = uri.parse().unwrap();
        let query = Query::parse(uri.query().unwrap_or_default());
        let it = RequestInfo::of(&method.parse().unwrap(), &uri, &query);
        let text = format!(
            "{} {}/{} {} ns={} name={} sub={} rest={} {}",
            it.verb,
            it.group,
            it.version,
            it.resource,
            it.namespace,
            it.name,
            it.subresource,
            it.rest,
            it.is_resource
        );
        assert_eq!(text, expected, "for {method} {uri}");
    }

    #[test]
    fn paths_are_told_apart() {
        check("GET", "/api/v1/pods", "list /v1 pods ns= name= sub= rest= true");
        check(
            "GET",
            "/api/v1/namespaces/a/pods?watch=1",
            "watch /v1 pods ns=a name= sub= rest= true",
        );
        check(
            "GET",
            "/api/v1/namespaces/a/pods/p/log",
            "get /v1 pods ns=a name=p sub=log rest= true",
        );
        check("GET", "/api/v1/namespaces/a", "get /v1 namespaces ns=a name=a sub= rest= true");
        check(
            "PUT",
            "/api/v1/namespaces/a/finalize",
            "update /v1 namespaces ns=a name=a sub=finalize rest= true",
        );
        check(
            "GET",
            "/api/v1/namespaces/a/why",
            "get /v1 namespaces ns=a name=a sub=why rest= true",
        );
        check(
            "GET",
            "/apis/x.io/v1/namespaces/a/why",
            "list x.io/v1 why ns=a name= sub= rest= true",
        );
        check(
            "DELETE",
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 deployments ns=a name= sub= rest= true",
        );
        check(
            "POST",
            "/api/v1/namespaces/a/pods/p/proxy/x/y",
            "create /v1 pods ns=a name=p sub=proxy rest=x/y true",
        );
        check(
            "GET",
            "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
            "list /v1 nodes ns= name=n1 sub= rest= true",
        );
        check("GET", "/api/v1/watch/pods", "watch /v1 pods ns= name= sub= rest= true");
        check(
            "GET",
            "/%61pi/v1/namespaces%2fa/pods/p%252f",
            "get /v1 pods ns=a name=p%2f sub= rest= true",
        );
        check("GET", "/apis/apps/v1", "get apps/  ns= name= sub= rest= false");
    }
}
