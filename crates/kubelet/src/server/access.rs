//! Who asks, and whether they may: certificates and tokens, and the API server's word on both.

use std::time::Duration;

use apimachinery::{Value, value};
use client::Resource;
use http::header::AUTHORIZATION;
use http::request::Parts;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;

use super::Context;
use super::answers::Answers;

/// A refusal: a status code and a text.
pub(super) type Refusal = (http::StatusCode, String);

/// How long it holds who a token is, and that it is nobody.
const TOKEN_TTL: Duration = Duration::from_secs(2 * 60);
/// How long it holds that somebody may do something.
const ALLOWED_TTL: Duration = Duration::from_secs(5 * 60);
/// How long it holds that somebody may not.
const DENIED_TTL: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default)]
struct User {
    name: String,
    groups: Vec<String>,
}

/// A question about a right: name, groups, verb, subresource.
type Question = (String, Vec<String>, &'static str, &'static str);

/// What the API server answered lately.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// By the digest of the token: tokens themselves are not kept.
    users: Answers<[u8; 32], Option<User>>,
    rights: Answers<Question, bool>,
}

/// Lets a request through, or says why not.
pub(super) async fn check(
    context: &Context,
    request: &Parts,
    peer: Option<&CertificateDer<'static>>,
) -> Result<(), Refusal> {
    let user = user(context, request, peer).await?;
    let mut last = String::new();
    for subresource in subresources(request.uri.path()) {
        if may(context, request, &user, subresource).await? {
            return Ok(());
        }
        last = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{subresource}])\n",
            user.name,
            verb(&request.method)
        );
    }
    Err((http::StatusCode::FORBIDDEN, last))
}

async fn user(
    context: &Context,
    request: &Parts,
    peer: Option<&CertificateDer<'static>>,
) -> Result<User, Refusal> {
    let unauthorized = || (http::StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
    if let Some(certificate) = peer {
        // The handshake has verified it against the cluster's authority.
        return of_certificate(certificate).ok_or_else(unauthorized);
    }
    let header = request.headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    let token = header.and_then(|it| it.strip_prefix("Bearer ")).ok_or_else(unauthorized)?;
    let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let now = context.shared.clock.monotonic();
    if let Some(known) = context.access.users.get(&digest, now) {
        return known.ok_or_else(unauthorized);
    }
    let user = ask_who(context, token).await?;
    context.access.users.keep(digest, user.clone(), now, TOKEN_TTL);
    user.ok_or_else(unauthorized)
}

/// Asks the API server who a token is; `None` is nobody.
async fn ask_who(context: &Context, token: &str) -> Result<Option<User>, Refusal> {
    let review = value!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}
    });
    let resource = Resource::built_in("authentication.k8s.io", "tokenreviews");
    let answer = context.shared.client.create(&resource, "", &review).await.map_err(|error| {
        tracing::warn!(%error, "could not ask who a token is");
        (http::StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())
    })?;
    let groups = answer.items_at(&["status", "user", "groups"]).iter();
    let user = User {
        name: answer.str_at(&["status", "user", "username"]).to_owned(),
        groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
    };
    Ok(answer.bool_at(&["status", "authenticated"]).then_some(user))
}

fn of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> = parsed
        .subject()
        .iter_organization()
        .filter_map(|it| it.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups })
}

/// What a path is of the node: the fine name first, then the one that stands for all.
fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.split('/').nth(1).unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "healthz" => vec!["healthz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    }
}

fn verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    }
}

async fn may(
    context: &Context,
    request: &Parts,
    user: &User,
    subresource: &'static str,
) -> Result<bool, Refusal> {
    let question = (user.name.clone(), user.groups.clone(), verb(&request.method), subresource);
    let now = context.shared.clock.monotonic();
    if let Some(known) = context.access.rights.get(&question, now) {
        return Ok(known);
    }
    let groups: Vec<Value> = user.groups.iter().map(|it| it.as_str().into()).collect();
    let node = context.shared.config.node_name.as_str();
    let review = value!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": (user.name.as_str()), "groups": (Value::Array(groups)),
            "resourceAttributes": {"verb": (verb(&request.method)), "version": "v1", "resource": "nodes",
                "subresource": subresource, "name": node}}
    });
    let resource = Resource::built_in("authorization.k8s.io", "subjectaccessreviews");
    match context.shared.client.create(&resource, "", &review).await {
        Ok(answer) => {
            let allowed = answer.bool_at(&["status", "allowed"]);
            let time_to_live = if allowed { ALLOWED_TTL } else { DENIED_TTL };
            context.access.rights.keep(question, allowed, now, time_to_live);
            Ok(allowed)
        }
        Err(error) => {
            tracing::warn!(%error, user = user.name, "could not ask what a user may do");
            let text = format!("Authorization error (user={})", user.name);
            Err((http::StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}
