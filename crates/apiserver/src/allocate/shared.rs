//! Addresses and ports of services where other servers give out the same ones.
//!
//! What a server chooses it claims in the store first, under a key that only one can create; then it looks whether a
//! service has it after all, in caches that hold everything written before the claim. The claim is given back once the
//! service is stored: whoever claims after that finds the service. A claim whose server dies expires.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Status, Value};
use bytes::Bytes;
use storage::{Expect, Key, StorageError, Ttl};

use super::{Reserved, allocate};
use crate::cache::cache_key;
use crate::target::Target;
use crate::{Server, error};

/// Where claims are.
const CLAIMS: &str = "/registry/kubelith.claims/";
/// How long a write may take that has claimed something: longer than any request.
const TTL: Ttl = Ttl { seconds: 90 };
/// How often others may be faster, and how long to wait each time.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Reserves what a service asks for or needs, and writes it into the service.
///
/// # Errors
/// 422 where something asked for is taken or outside the range, 500 where nothing is free, 503 where the store does not
/// answer.
pub(crate) async fn reserve(
    server: &Arc<Server>,
    target: &Target,
    value: &mut Value,
    dry_run: bool,
) -> Result<Reserved, Status> {
    if !server.shares_store || dry_run {
        return allocate(server, target, value);
    }
    for _ in 0..TRIES {
        let mut tried = value.clone();
        let mut reserved = allocate(server, target, &mut tried)?;
        if claim(server, target, &tried, &mut reserved).await? {
            *value = tried;
            return Ok(reserved);
        }
        drop(reserved);
        tokio::time::sleep(PAUSE).await;
    }
    Err(Status::internal("failed to allocate: other servers claim what this service needs"))
}

/// Whether what was reserved here is ours among all servers.
async fn claim(
    server: &Arc<Server>,
    target: &Target,
    value: &Value,
    reserved: &mut Reserved,
) -> Result<bool, Status> {
    let addresses = reserved.addresses.iter().map(|it| format!("{CLAIMS}addresses/{it}"));
    let ports = reserved.ports.iter().map(|(port, of)| format!("{CLAIMS}ports/{of}/{port}"));
    let keys: Vec<Key> = addresses.chain(ports).map(Key::from).collect();
    if keys.is_empty() {
        return Ok(true);
    }
    let store = server.hub().store();
    for key in keys {
        match store
            .put(key.clone(), Bytes::from_static(b"claimed"), Expect::Absent, Some(TTL))
            .await
        {
            Ok(_) => reserved.claims.push(key),
            Err(StorageError::Exists { .. }) => return Ok(false),
            Err(failed) => return Err(error::general(&failed)),
        }
    }
    server.hub().catch_up().await.map_err(|failed| error::general(&failed))?;
    let owner =
        cache_key(value.str_at(&["metadata", "namespace"]), value.str_at(&["metadata", "name"]));
    let mut state = server.allocator.state.lock();
    state.taken.catch_up(&target.cache, server.allocator.range);
    let taken = &state.taken;
    let is_others = |holder: Option<&_>| holder.is_some_and(|it| *it != owner);
    let addresses = reserved.addresses.iter().any(|it| is_others(taken.addresses.get(it)));
    Ok(!addresses && !reserved.ports.iter().any(|it| is_others(taken.ports.get(it))))
}

/// Gives claims back.
pub(super) fn give_back(server: &Arc<Server>, claims: Vec<Key>) {
    if claims.is_empty() {
        return;
    }
    let server = Arc::clone(server);
    tokio::spawn(async move {
        for claim in claims {
            // What cannot be deleted expires.
            let _ = server.hub().store().delete(claim, Expect::Any).await;
        }
    });
}
