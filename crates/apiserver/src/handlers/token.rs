//! POST to `serviceaccounts/NAME/token`: a signed token, bound to the account and, if wanted, to an object of its own.

use std::sync::Arc;

use apimachinery::status::GroupResource;
use apimachinery::{FieldErrors, Path, Status, Value, time};
use auth::objects::Objects;
use auth::service_account::{Named, TokenIssuer, TokenSpec};
use http::Response;
use jiff::SignedDuration;

use super::create::place_in_namespace;
use crate::Server;
use crate::body::Body;
use crate::decode;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate_without_rows;
use crate::objects::CachedObjects;
use crate::options::WriteOptions;
use crate::persist;
use crate::posted::{self, TOKEN_REQUEST as FACTS};
use crate::respond;
use crate::target::Target;

/// How long a token lives that does not say, in seconds.
const DEFAULT_SECONDS: i64 = 3_600;
/// The shortest life of a token, in seconds.
const MIN_SECONDS: i64 = 600;
/// The longest life of a token, in seconds.
const MAX_SECONDS: i64 = 1 << 32;
/// The life that clients ask for who do not know yet that tokens expire; they get a year, and are warned of after it.
const WARN_ONLY_SECONDS: i64 = 3_607;
/// What those clients get, in seconds.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3_600;

/// What a token is bound to besides its account.
#[derive(Default)]
struct Bound {
    pod: Option<Named>,
    secret: Option<Named>,
    node: Option<Named>,
}

/// Makes a token.
pub(crate) async fn create(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "CreateOptions")?;
    let form = negotiate_without_rows(exchange)?;
    let Some(tokens) = server.access.tokens.clone() else {
        return Err(Status::not_implemented("this server makes no service account tokens"));
    };
    let mut request = decode::posted(exchange, (&FACTS, &[]), &body, options.field_validation)?;
    place_in_namespace(target, &mut request)?;
    request.default_at(&["spec", "expirationSeconds"], DEFAULT_SECONDS);
    let name = exchange.info.name.to_string();
    check_names(&request, &name, &target.namespace)?;
    let account = persist::current(server, target, &name).await?.value;
    check_uid(&request, &account, &name)?;
    let shape = Target { served: posted::served(&FACTS)?, ..target.clone() };
    persist::track_fields(server, &shape, "token", &options, &mut request, None);
    let now = server.clock.now();
    request.set_at(&["metadata", "name"], name.as_str());
    request.set_at(&["metadata", "namespace"], target.namespace.as_str());
    request.set_at(&["metadata", "creationTimestamp"], time::format_time(now));
    request.default_at(&["metadata", "uid"], server.random.uid().to_string());
    let admission = super::admit::Admission {
        operation: admission::Operation::Create,
        target,
        subresource: "token",
        name: name.clone(),
        dry_run: options.dry_run,
        delete_options: Value::Null,
    };
    super::admit::admit(server, exchange, &admission, &mut request, None).await?;
    // Only now: a node may ask for no audience where it may not name it.
    if request.items_at(&["spec", "audiences"]).is_empty() {
        let own: Value = tokens.audiences().iter().map(String::as_str).collect();
        request.set_at(&["spec", "audiences"], own);
    }
    validate(&request)?;
    let bound = bound(server, &request, &target.namespace, &name).await?;
    super::admit::judge(server, exchange, &admission, &mut request, None).await?;
    shorten(exchange, &tokens, &mut request);
    let uid = account.str_at(&["metadata", "uid"]).to_owned();
    let spec = spec(&tokens, &request, target, Named { name, uid }, bound);
    let spec = TokenSpec { id: server.random.uid().to_string(), ..spec };
    let token = tokens.issue(&spec, now).await.map_err(Status::internal)?;
    let seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or_default();
    let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    if request.at(&["spec", "boundObjectRef"]).is_none() {
        // Upstream writes this field when it is empty too.
        request.set_at(&["spec", "boundObjectRef"], Value::Null);
    }
    request.set_at(&["status", "token"], token);
    request.set_at(&["status", "expirationTimestamp"], time::format_time(expires));
    Ok(respond::plain(form, 201, &request))
}

/// No token lives longer than the server lets it.
fn shorten(exchange: &mut Exchange, tokens: &TokenIssuer, request: &mut Value) {
    let asked = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or_default();
    let Some(limit) = tokens.max_seconds().filter(|it| asked > *it) else { return };
    exchange
        .warnings
        .push(format!("requested expiration of {asked} seconds shortened to {limit} seconds"));
    request.set_at(&["spec", "expirationSeconds"], limit);
}

/// Name and namespace, where the body has them, are the URL's.
fn check_names(request: &Value, name: &str, namespace: &str) -> Result<(), Status> {
    let mut errors = FieldErrors::new();
    let at = Path::new("metadata");
    for (member, wanted) in [("name", name), ("namespace", namespace)] {
        let given = request.str_at(&["metadata", member]);
        if !given.is_empty() && given != wanted {
            let why = format!("must match the service account {member} if specified");
            errors.invalid_text(&at.child(member), given, &why);
            break;
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(FACTS.group, FACTS.kind, name, &errors))
}

fn check_uid(request: &Value, account: &Value, name: &str) -> Result<(), Status> {
    let (wanted, actual) =
        (request.str_at(&["metadata", "uid"]), account.str_at(&["metadata", "uid"]));
    if wanted.is_empty() || wanted == actual {
        return Ok(());
    }
    let why = format!(
        "the UID in the token request ({wanted}) does not match the UID of the service account ({actual})"
    );
    Err(Status::conflict(GroupResource { group: FACTS.group, resource: FACTS.kind }, name, &why))
}

fn validate(request: &Value) -> Result<(), Status> {
    let seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or_default();
    let why = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let mut errors = FieldErrors::new();
    let at = Path::new("spec");
    errors.invalid(&at.child("expirationSeconds"), &Value::from(seconds), why);
    Err(Status::invalid(FACTS.group, FACTS.kind, "", &errors))
}

/// The object that the token is to die with, as the store has it now.
async fn bound(
    server: &Server,
    request: &Value,
    namespace: &str,
    account: &str,
) -> Result<Bound, Status> {
    let mut bound = Bound::default();
    let Some(reference) = request.at(&["spec", "boundObjectRef"]) else { return Ok(bound) };
    let version = reference.str_at(&["apiVersion"]);
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    let kind = reference.str_at(&["kind"]);
    let (resource, namespace) = match (group, kind) {
        ("", "Pod") => ("pods", namespace),
        ("", "Secret") => ("secrets", namespace),
        ("", "Node") => ("nodes", ""),
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{short}, Kind={kind}"
            )));
        }
    };
    let objects = CachedObjects::new(Arc::clone(&server.hub), Arc::clone(&server.catalog));
    let name = reference.str_at(&["name"]);
    let found = objects.get_live("", resource, namespace, name).await?;
    let of = GroupResource { group: "", resource };
    let found = found.ok_or_else(|| Status::not_found(of, name))?;
    let found = found.to_value().map_err(Status::internal)?;
    let uid = found.str_at(&["metadata", "uid"]);
    if kind == "Pod" {
        if found.str_at(&["spec", "serviceAccountName"]) != account {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        bound.node = node_of(&objects, found.str_at(&["spec", "nodeName"])).await?;
    }
    let wanted = reference.str_at(&["uid"]);
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(GroupResource { group, resource: kind }, name, &why));
    }
    let named = Some(Named { name: name.into(), uid: uid.into() });
    match kind {
        "Pod" => bound.pod = named,
        "Secret" => bound.secret = named,
        _ => bound.node = named,
    }
    Ok(bound)
}

/// The node of a pod; without uid where the pod is there before its node.
async fn node_of(objects: &CachedObjects, name: &str) -> Result<Option<Named>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let uid = match objects.get_live("", "nodes", "", name).await? {
        Some(node) => {
            let node = node.to_value().map_err(Status::internal)?;
            node.str_at(&["metadata", "uid"]).to_owned()
        }
        None => String::new(),
    };
    Ok(Some(Named { name: name.into(), uid }))
}

fn spec<'s>(
    tokens: &TokenIssuer,
    request: &Value,
    target: &'s Target,
    account: Named,
    bound: Bound,
) -> TokenSpec<'s> {
    let audiences: Vec<String> = request
        .items_at(&["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or_default();
    let own = audiences.iter().all(|it| tokens.audiences().contains(it));
    let extend = tokens.extends() && bound.pod.is_some() && seconds == WARN_ONLY_SECONDS && own;
    TokenSpec {
        namespace: &target.namespace,
        account: Some(account),
        pod: bound.pod,
        secret: bound.secret,
        node: bound.node,
        audiences,
        expiration_seconds: if extend { EXTENDED_SECONDS } else { seconds },
        warn_after_seconds: if extend { seconds } else { 0 },
        id: String::new(),
    }
}
