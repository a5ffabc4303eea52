//! How many seats a request takes, by what it reads or whom it tells.

use flowcontrol::{Listed, Work, list_seats, mutation};

use super::Schema;
use crate::Server;
use crate::cache::cache_key;
use crate::exchange::Exchange;

/// The work of a request.
pub(super) fn work(server: &Server, exchange: &Exchange, schema: &Schema) -> Work {
    let info = &exchange.info;
    if !info.is_resource {
        return Work::seats(1);
    }
    let most = schema.level.max_seats();
    match info.verb {
        "list" => Work::seats(list(server, exchange, most)),
        "watch" if exchange.query.flag("sendInitialEvents") => {
            Work::seats(list(server, exchange, most))
        }
        // Nobody waits for seats of what is exempt.
        "create" | "update" | "patch" | "delete" if !schema.level.exempt => {
            // Tokens change nothing that anybody could watch.
            let silent = info.subresource == "token";
            let watchers = if silent { None } else { watchers(server, exchange) };
            let Some(watchers) = watchers else { return Work::seats(1) };
            schema.counts.watchers(watchers);
            mutation(watchers, most)
        }
        _ => Work::seats(1),
    }
}

fn list(server: &Server, exchange: &Exchange, most: u32) -> u32 {
    let info = &exchange.info;
    // What others serve costs this server next to nothing.
    let Some(cache) = server.catalog.cache(&info.group, &info.version, &info.resource) else {
        return 1;
    };
    let (objects, bytes) = cache.size();
    let limit = exchange.query.get("limit").and_then(|it| it.parse().ok()).unwrap_or(0);
    list_seats(&Listed { objects, bytes, limit, single: !info.name.is_empty() }, most)
}

fn watchers(server: &Server, exchange: &Exchange) -> Option<u64> {
    let info = &exchange.info;
    let cache = server.catalog.cache(&info.group, &info.version, &info.resource)?;
    let key = (!info.name.is_empty()).then(|| cache_key(&info.namespace, &info.name));
    Some(cache.watchers(&info.namespace, key))
}
