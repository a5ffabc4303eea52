//! Objects that are stored and that nobody can read, since they cannot be decrypted or are none: what is told of them, and how
//! they go all the same. Upstream: KEP-3926, the gate `AllowUnsafeMalformedObjectDeletion`; where it is off, they are told of
//! as of other failures, and stay.

use std::sync::Arc;

use admission::Operation;
use apimachinery::obj;
use apimachinery::status::{Cause, Details};
use apimachinery::{FieldErrors, Path, Status, Value, value};
use auth::{Attributes, Decision};
use storage::{At, Damage, Expect, Key, Kv, RangeReq, Rev, StorageError};

use crate::Server;
use crate::error;
use crate::exchange::Exchange;
use crate::filters::request_attributes;
use crate::handlers::admit::{Admission, admit, judge};
use crate::handlers::delete::DeleteOptions;
use crate::hub::Hidden;
use crate::persist;
use crate::target::Target;

const GATE: &str = "AllowUnsafeMalformedObjectDeletion";
/// The option of a delete that means objects which cannot be read.
pub(crate) const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
/// What its user has to be allowed besides.
const VERB: &str = "unsafe-delete-ignore-read-errors";
/// What the audit is told of a request with it.
const ANNOTATION: &str = "apiserver.k8s.io/unsafe-delete-ignore-read-error";
/// How many objects a refused list names.
const CAUSES_MAX: usize = 100;
/// What all keys begin with, and what is not told of the keys of single reads.
const ROOT: &str = "/registry";

/// Whether this server tells of such objects, and lets them be deleted.
pub(crate) fn is_known(server: &Server) -> bool {
    server.operating.features.enabled(GATE)
}

/// What is wrong with an object, as upstream tells it.
fn sentence(key: &str, at: Rev, damage: &Damage) -> String {
    let (what, revision, why) = match damage {
        Damage::Sealed(why) => ("data from the storage is not transformable", 0, why),
        Damage::Broken(why) => ("object not decodable", at.0, why),
    };
    format!(
        "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {what} revision={revision}: {why}"
    )
}

fn of_one(key: &Key, at: Rev, damage: &Damage) -> Status {
    let key = key.to_string();
    Status::internal(sentence(key.strip_prefix(ROOT).unwrap_or(&key), at, damage))
}

/// What a read of one object brought.
///
/// # Errors
/// 500 where it cannot be read, or the store cannot be.
pub(crate) fn read(
    server: &Server,
    key: &Key,
    read: Result<(Option<Kv>, Rev), StorageError>,
) -> Result<Option<Kv>, Status> {
    match read {
        Err(StorageError::Transform(why)) if is_known(server) => {
            Err(of_one(key, Rev(0), &Damage::Sealed(why)))
        }
        Err(error) => Err(error::general(&error)),
        Ok((Some(kv), _)) if is_known(server) => match kv.damage() {
            Some(damage) => Err(of_one(key, kv.mod_rev, &damage)),
            None => Ok(Some(kv)),
        },
        Ok((kv, _)) => {
            let readable = kv.as_ref().map_or(Ok(()), Kv::readable);
            readable.map_err(|error| error::general(&error))?;
            Ok(kv)
        }
    }
}

/// The status of a stored object whose bytes are none.
pub(crate) fn broken(server: &Server, kv: &Kv, why: &str) -> Status {
    if is_known(server) {
        return of_one(&kv.key, kv.mod_rev, &Damage::Broken(why.to_owned()));
    }
    error::general(&StorageError::Corrupt(format!("{}: {why}", kv.key)))
}

/// Makes sure that everything of a target's namespace (of all, where it has none) can be read.
///
/// # Errors
/// 500 where something cannot be, with what it is.
pub(crate) async fn all_readable(server: &Server, target: &Target) -> Result<(), Status> {
    let known = is_known(server);
    let most = if known { CAUSES_MAX + 1 } else { 1 };
    let hidden = server.hub.reveal(&target.cache, &target.namespace, most).await;
    let hidden = hidden.map_err(|error| error::general(&error))?;
    let Some(first) = hidden.first() else { return Ok(()) };
    if !known {
        return Err(error::general(&first.error()));
    }
    Err(of_list(target, first, &hidden))
}

fn of_list(target: &Target, first: &Hidden, hidden: &[Hidden]) -> Status {
    let said = |it: &Hidden| sentence(&it.key.to_string(), it.at, &it.damage);
    let mut causes: Vec<Cause> = hidden
        .iter()
        .take(CAUSES_MAX)
        .map(|it| Cause {
            reason: "UnexpectedServerResponse",
            message: said(it),
            field: it.key.to_string(),
        })
        .collect();
    if hidden.len() > CAUSES_MAX {
        let message = "too many errors, the list is truncated".to_owned();
        causes.push(Cause { reason: "FieldValueTooMany", message, ..Cause::default() });
    }
    let of = target.group_resource();
    Status {
        code: 500,
        reason: "StorageReadError",
        message: format!("failed to read one or more {of} from the storage: {}", said(first)),
        details: Some(Box::new(Details {
            name: "list".into(),
            group: of.group.into(),
            kind: of.resource.into(),
            causes,
            ..Details::default()
        })),
        ..Status::default()
    }
}

/// Whether this is the right way to delete an object, and the object may go this way.
///
/// # Errors
/// 403 where the user may not.
async fn may(server: &Server, exchange: &Exchange, target: &Target) -> Result<(), Status> {
    let (of, name) = (target.group_resource(), &exchange.info.name);
    if !exchange.info.is_resource || !exchange.info.subresource.is_empty() {
        let why = format!(
            "{OPTION} delete option is not allowed on a subresource or non-resource request"
        );
        return Err(Status::forbidden(of, name, &why));
    }
    let attributes = Attributes { verb: VERB, ..request_attributes(exchange) };
    let why = match server.access.authorizer.authorize(&attributes).await {
        Decision::Allow(_) => return Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            format!("not permitted to do \"{VERB}\", reason: {reason}")
        }
        Decision::Failed { why, .. } => {
            format!("error while checking permission for \"{VERB}\", {why}")
        }
    };
    Err(Status::forbidden(of, name, &why))
}

/// An object that cannot be read, as it is now.
///
/// # Errors
/// 422 where there is none, or one that can be read.
async fn current(server: &Server, target: &Target, name: &str) -> Result<Kv, Status> {
    let key = target.key(name)?;
    let request =
        RangeReq { prefix: key.clone(), after: None, limit: 1, keys_only: false, at: At::Latest };
    let page = server.hub.store().range(request).await.map_err(|error| error::general(&error))?;
    let found = page.kvs.into_iter().find(|it| it.key == key);
    let is_damaged =
        |kv: &Kv| kv.damage().is_some() || obj::decode(&kv.value, kv.mod_rev.0).is_err();
    found.filter(is_damaged).ok_or_else(|| {
        let mut errors = FieldErrors::new();
        let detail =
            "is exclusively used to delete corrupt object(s), try again by removing this option";
        errors.invalid(&Path::new(OPTION), &Value::from(true), detail);
        let of = target.group_resource();
        Status::invalid(of.group, of.resource, name, &errors)
    })
}

/// Deletes an object that cannot be read, whatever finalizers it may have. Admission is asked, about an object of which nothing
/// is known.
///
/// # Errors
/// 403 where the user may not, 422 where the object can be read; what admission says.
pub(crate) async fn delete(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Status, Status> {
    exchange.annotations.insert(ANNOTATION.into(), String::new());
    may(server, exchange, target).await?;
    let name = exchange.info.name.to_string();
    let kv = current(server, target, &name).await?;
    let facts = target.served.facts;
    let nothing =
        value!({"kind": (facts.kind), "apiVersion": (facts.api_version()), "metadata": {}});
    let admission = Admission {
        operation: Operation::Delete,
        target,
        subresource: "",
        name: name.clone(),
        dry_run: options.dry_run,
        delete_options: options.as_reviewed(target, &nothing),
    };
    let object = &mut Value::Null;
    admit(server, exchange, &admission, object, Some(&nothing)).await?;
    judge(server, exchange, &admission, object, Some(&nothing)).await?;
    if !options.dry_run {
        tracing::warn!(key = %kv.key, "an object that cannot be read is deleted");
        match server.hub.store().delete(kv.key.clone(), Expect::ModRev(kv.mod_rev)).await {
            Ok(deleted) => persist::settle(server, target, deleted.rev).await,
            Err(StorageError::NotFound { .. }) => {}
            Err(error) => return Err(error::of_object(&error, target.group_resource(), &name)),
        }
    }
    Ok(Status {
        code: 200,
        success: true,
        details: Some(Box::new(Details { name, kind: facts.kind.into(), ..Details::default() })),
        ..Status::default()
    })
}
