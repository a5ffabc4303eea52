//! `/debug/pprof/...`, where profiles may be asked for (`--profiling`).

use http::header::{CONTENT_DISPOSITION, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response};
use profiling::Page;

use crate::Server;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::{health, respond};

/// Where the pages are.
const ROOT: &str = "/debug/pprof";

/// Whether a path is of a page that may take as long as it is asked to.
pub(crate) fn lasts(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|it| it.starts_with('/'))
}

/// The page of a path.
pub(crate) async fn answer(server: &Server, exchange: &Exchange) -> Response<Body> {
    if !server.operating.profiling {
        return health::not_found();
    }
    let Some(below) = exchange.info.path.strip_prefix(ROOT) else { return health::not_found() };
    if below.is_empty() {
        let mut moved = respond::text(301, "");
        moved.headers_mut().insert(LOCATION, HeaderValue::from_static("/debug/pprof/"));
        return moved;
    }
    if !matches!(exchange.parts.method, Method::GET | Method::HEAD | Method::POST) {
        return respond::text(405, "Method Not Allowed\n");
    }
    let seconds = exchange.query.get("seconds");
    let below = below.trim_start_matches('/');
    let Page { code, media_type, file, body } =
        profiling::page(below, seconds, server.clock.as_ref()).await;
    let mut answer = respond::bytes(code, media_type, body);
    let headers = answer.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(file) = file {
        let named = HeaderValue::from_str(&format!("attachment; filename=\"{file}\""));
        headers.extend(named.ok().map(|it| (CONTENT_DISPOSITION, it)));
    }
    answer
}
