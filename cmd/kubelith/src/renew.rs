//! The certificates of a node's agent, renewed while it runs. Upstream: `k8s.io/client-go/util/certificate`.
//!
//! Both are asked for again when seven to nine tenths of their life are over, so that not all nodes ask at once; what
//! cannot be had then is asked for again, more and more seldom.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use client::Client;
use component_base::{Clock, ShutdownSignal};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

use crate::http::{Access, HttpTransport};
use crate::join::Asker;
use crate::{pki, tls};

/// The pauses between requests that failed.
const MIN_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// The longest sleep: clocks are set and machines suspended meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);

/// Who renews, and by which client.
#[derive(Debug, Clone)]
pub(crate) struct Renewal {
    pub(crate) asker: Asker,
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: ShutdownSignal,
}

impl Renewal {
    /// Presents a certificate of the cluster from now on, and a new one before each ends, so that the API server
    /// reaches this node.
    pub(crate) async fn serving(self, presented: tls::Serving) {
        loop {
            let ask = || {
                async {
                    let identity = self.asker.serving(&self.client).await?;
                    presented.replace(&identity)?;
                    Ok(identity.certificate)
                }
                .boxed()
            };
            let what = "logs and exec do not reach this node: no certificate for its server";
            let Some(certificate) = self.until_done(what, ask).await else { return };
            if !self.is_due(&certificate, Some(self.clock.now())).await {
                return;
            }
        }
    }

    /// Renews the credentials in a kubeconfig of the node's own before they end; `transport` goes on with the new ones.
    pub(crate) async fn credentials(
        self,
        transport: Arc<HttpTransport>,
        access: Access,
        kubeconfig: PathBuf,
    ) {
        let (server, authority) = (access.server().to_owned(), access.authority().to_owned());
        let mut certificate = access.certificate().to_owned();
        let mut since = None;
        while self.is_due(&certificate, since).await {
            let ask = || {
                async {
                    self.asker.credentials(&self.client, &server, &authority, &kubeconfig).await?;
                    let access = Access::read(&kubeconfig)?;
                    transport.renew(&access)?;
                    Ok(access.certificate().to_owned())
                }
                .boxed()
            };
            let what = "this node's credentials were not renewed";
            let Some(renewed) = self.until_done(what, ask).await else { return };
            (certificate, since) = (renewed, Some(self.clock.now()));
        }
    }

    /// Sleeps until a certificate should be renewed; false where the agent stops before. `since` is when it was got, if
    /// that is known: certificates begin earlier.
    async fn is_due(&self, certificate: &str, since: Option<Timestamp>) -> bool {
        let random = self.asker.random.fraction();
        loop {
            // One that cannot be read is renewed at once.
            let due =
                pki::life(certificate).map(|(from, to)| due(since.unwrap_or(from), to, random));
            let left = due.map(|at| at.duration_since(self.clock.now())).unwrap_or_default();
            let Ok(left) = Duration::try_from(left) else { return true };
            if left.is_zero() {
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                () = self.stop.requested() => return false,
            }
        }
    }

    /// Tries until it is done; `None` where the agent stops before.
    async fn until_done<'a>(
        &self,
        what: &str,
        ask: impl Fn() -> BoxFuture<'a, Result<String>>,
    ) -> Option<String> {
        let mut pause = MIN_PAUSE;
        loop {
            let result = tokio::select! {
                result = ask() => result,
                () = self.stop.requested() => return None,
            };
            match result {
                Ok(certificate) => return Some(certificate),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "{what}; will try again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(0.5 + self.asker.random.fraction())) => {}
                () = self.stop.requested() => return None,
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

/// When a certificate that is good in this time should be renewed; `random` is between 0 and 1.
fn due(from: Timestamp, to: Timestamp, random: f64) -> Timestamp {
    let life = to.duration_since(from).as_secs_f64();
    let after = SignedDuration::try_from_secs_f64(life * (0.7 + 0.2 * random)).unwrap_or_default();
    from.checked_add(after).unwrap_or(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert_eq!(due(at(1_000), at(2_000), 0.0), at(1_700));
        assert_eq!(due(at(1_000), at(2_000), 1.0), at(1_900));
        assert_eq!(due(at(1_000), at(1_000), 0.5), at(1_000));
    }
}
