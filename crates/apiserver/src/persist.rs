//! Writing an object: managed fields, encoding, the store.

use std::sync::Arc;

use apimachinery::obj::{self, Obj};
use apimachinery::{Status, Value, managed_fields};
use bytes::Bytes;
use storage::{At, Expect, Key, Kv, Put, Rev, StorageError, Ttl};

use crate::Server;
use crate::error;
use crate::hub::object_of;
use crate::options::WriteOptions;
use crate::target::Target;

/// An object as the store has it, decoded.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) value: Value,
    pub(crate) kv: Kv,
}

/// Reads an object as it is now.
///
/// # Errors
/// 404 where there is none.
pub(crate) async fn current(
    server: &Server,
    target: &Target,
    name: &str,
) -> Result<Current, Status> {
    match try_current(server, target, name).await? {
        Some(current) => Ok(current),
        None => Err(Status::not_found(target.group_resource(), name)),
    }
}

/// Reads an object as it is now, if there is one.
pub(crate) async fn try_current(
    server: &Server,
    target: &Target,
    name: &str,
) -> Result<Option<Current>, Status> {
    let key = target.key(name)?;
    let (kv, _) =
        server.hub.store().get(&key, At::Latest).await.map_err(|error| error::general(&error))?;
    kv.map(decode).transpose()
}

fn decode(kv: Kv) -> Result<Current, Status> {
    let value = obj::decode(&kv.value, kv.mod_rev.0)
        .map_err(|error| Status::internal(StorageError::Corrupt(format!("{}: {error}", kv.key))))?;
    Ok(Current { value, kv })
}

/// Decodes what a store's error brought along.
pub(crate) fn decode_current(kv: &Kv) -> Result<Current, Status> {
    decode(kv.clone())
}

/// Stores a new object; the object with its resource version comes back.
pub(crate) async fn create(
    server: &Server,
    target: &Target,
    name: &str,
    mut value: Value,
    dry_run: bool,
) -> Result<Value, Status> {
    let key = target.key(name)?;
    let store = server.hub.store();
    if dry_run {
        let (kv, _) = store.get(&key, At::Latest).await.map_err(|error| error::general(&error))?;
        return match kv {
            Some(_) => Err(Status::already_exists(target.group_resource(), name)),
            None => Ok(value),
        };
    }
    let bytes = obj::encode(&value).into();
    let put = put(server, target, &value, key, bytes, Expect::Absent).await;
    let put = put.map_err(|error| error::of_object(&error, target.group_resource(), name))?;
    set_version(&mut value, put.rev.0);
    settle(server, target, put.rev).await;
    Ok(value)
}

/// How long a write waits for the caches at most. They are there in far less, unless the server is overloaded.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(500);

/// Waits until the caches hold a write to what requests are judged by, so that who has just given a right, or set a
/// bound, finds it in force.
pub(crate) async fn settle(server: &Server, target: &Target, revision: Rev) {
    let facts = target.served.facts;
    let judged_by = matches!(
        (facts.group, facts.resource),
        ("rbac.authorization.k8s.io", _)
            | ("", "limitranges" | "resourcequotas")
            | ("storage.k8s.io", "storageclasses")
            | ("networking.k8s.io", "ingressclasses")
            | ("scheduling.k8s.io", "priorityclasses")
    );
    if judged_by {
        let reached = server.hub.progress().reached(revision.0);
        // Too late is no failure: the write is done.
        let _ = tokio::time::timeout(SETTLE, reached).await;
    }
}

/// What became of an attempt to replace an object.
#[derive(Debug)]
pub(crate) enum Replaced {
    /// It is stored; this is it with its resource version.
    Done(Value),
    /// Somebody else was faster; this is the object now.
    Conflict(Current),
}

/// Replaces an object where it is still `current`.
pub(crate) async fn replace(
    server: &Server,
    target: &Target,
    name: &str,
    current: &Current,
    mut value: Value,
    dry_run: bool,
) -> Result<Replaced, Status> {
    if dry_run {
        set_version(&mut value, current.kv.mod_rev.0);
        return Ok(Replaced::Done(value));
    }
    let bytes = obj::encode(&value);
    if bytes == current.kv.value {
        // Nothing changed: no new version and no event.
        set_version(&mut value, current.kv.mod_rev.0);
        return Ok(Replaced::Done(value));
    }
    let key = current.kv.key.clone();
    let expect = Expect::ModRev(current.kv.mod_rev);
    match put(server, target, &value, key, bytes.into(), expect).await {
        Ok(put) => {
            set_version(&mut value, put.rev.0);
            settle(server, target, put.rev).await;
            Ok(Replaced::Done(value))
        }
        Err(StorageError::Conflict { current }) => Ok(Replaced::Conflict(decode(*current)?)),
        Err(error) => Err(error::of_object(&error, target.group_resource(), name)),
    }
}

/// Stores the bytes of a value.
async fn put(
    server: &Server,
    target: &Target,
    value: &Value,
    key: Key,
    bytes: Bytes,
    expect: Expect,
) -> Result<Put, StorageError> {
    server.hub.note(target.resource(), value, &bytes);
    let put = server.hub.store().put(key, bytes.clone(), expect, ttl(target)).await;
    if put.is_err() {
        server.hub.forget(&bytes);
    }
    put
}

fn ttl(target: &Target) -> Option<Ttl> {
    let seconds = target.resource().rules().ttl_seconds;
    (seconds > 0).then_some(Ttl { seconds })
}

fn set_version(value: &mut Value, revision: u64) {
    value.set_at(&["metadata", "resourceVersion"], revision.to_string());
}

/// The objects of a page of the store.
pub(crate) fn objects_of(target: &Target, kvs: &[Kv]) -> Result<Vec<Arc<Obj>>, Status> {
    kvs.iter()
        .map(|kv| object_of(target.resource(), kv).map_err(|error| error::general(&error)))
        .collect()
}

/// Records in managed fields what a write changed, and who wrote.
pub(crate) fn track_fields(
    server: &Server,
    target: &Target,
    subresource: &str,
    options: &WriteOptions,
    value: &mut Value,
    old: Option<&Value>,
) {
    let version = target.served.facts.api_version();
    let now = apimachinery::time::format_time(server.clock.now());
    let write = tracked_write(target, subresource, options, &version, &now);
    managed_fields::update(&write, old, value);
}

/// A write as managed fields see it.
pub(crate) fn tracked_write<'w>(
    target: &Target,
    subresource: &'w str,
    options: &'w WriteOptions,
    api_version: &'w str,
    now: &'w str,
) -> managed_fields::Write<'w> {
    managed_fields::Write {
        schema: api::schema(),
        node: target.served.node,
        manager: &options.field_manager,
        api_version,
        subresource,
        now,
        reset: reset_fields(target, subresource),
    }
}

/// The fields that a write to this part cannot set.
fn reset_fields(target: &Target, subresource: &str) -> &'static [&'static [&'static str]] {
    match subresource {
        "status" => &[&["spec"]],
        "" if target.resource().rules().has_status => &[&["status"]],
        _ => &[],
    }
}
