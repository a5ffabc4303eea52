//! Tokens in Secrets, which never expire: the day on which each was last used is written to its Secret, so that those
//! that nobody uses can be found. Upstream: `pkg/serviceaccount/legacy.go`.

use std::sync::Arc;

use apimachinery::{json, value};
use auth::UserInfo;
use auth::service_account::{LAST_USED, LegacyUse, LegacyUses};
use auth::user::MASTERS;
use component_base::ShutdownSignal;
use http::Request;
use tokio::sync::mpsc;

use crate::{Body, Peer, RequestBody, Server};

/// How many uses wait to be written. Further ones are not: the next use is noted again.
const MAX_WAITING: usize = 256;

/// Where uses are noted.
#[derive(Debug)]
pub struct Noted(mpsc::Sender<LegacyUse>);

/// The uses that are to be written.
#[derive(Debug)]
pub struct Waiting(mpsc::Receiver<LegacyUse>);

/// Both ends.
#[must_use]
pub fn channel() -> (Arc<Noted>, Waiting) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    (Arc::new(Noted(sender)), Waiting(receiver))
}

impl LegacyUses for Noted {
    fn note(&self, used: LegacyUse) {
        if self.0.try_send(used).is_err() {
            tracing::debug!("too many uses of tokens in Secrets wait to be written");
        }
    }
}

/// Writes uses until `stop`.
pub async fn write(server: Arc<Server>, mut waiting: Waiting, stop: ShutdownSignal) {
    let user = Arc::new(UserInfo::new("system:apiserver", &[MASTERS]));
    let mut last: Option<LegacyUse> = None;
    loop {
        let used = tokio::select! {
            used = waiting.0.recv() => used,
            () = stop.requested() => return,
        };
        let Some(used) = used else { return };
        // Requests that came together have not seen each other's label.
        if last.as_ref() == Some(&used) {
            continue;
        }
        if let Err(why) = write_one(&server, &user, &used).await {
            let LegacyUse { namespace, secret, .. } = &used;
            tracing::warn!(%namespace, %secret, why, "could not write the day of a token's last use");
        }
        last = Some(used);
    }
}

async fn write_one(
    server: &Arc<Server>,
    user: &Arc<UserInfo>,
    used: &LegacyUse,
) -> Result<(), String> {
    let LegacyUse { namespace, secret, uid, day } = used;
    // By uid: another Secret of that name has another token.
    let mut patch = value!({"metadata": {"uid": (uid.as_str())}});
    patch.set_at(&["metadata", "labels", LAST_USED], day.as_str());
    let request = Request::patch(format!("/api/v1/namespaces/{namespace}/secrets/{secret}"))
        .header("content-type", "application/merge-patch+json")
        .header("user-agent", "kube-apiserver")
        .body(RequestBody::Bytes(json::to_vec(&patch).into()));
    let request = request.map_err(|error| error.to_string())?;
    let peer = Peer { user: Some(Arc::clone(user)), ..Peer::default() };
    let response = server.serve(request, peer).await;
    let code = response.status().as_u16();
    if (200..300).contains(&code) {
        return Ok(());
    }
    let body = match response.into_body() {
        Body::Full(bytes) => bytes.unwrap_or_default(),
        Body::Stream(_) => bytes::Bytes::new(),
    };
    Err(format!("{code}: {}", String::from_utf8_lossy(&body)))
}
