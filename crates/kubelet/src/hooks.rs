//! Hooks of containers: a command, a request, a connection, a pause.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::net;
use crate::shared::Shared;

/// Whose hook it is.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) container_id: &'a str,
    pub(crate) pod_ip: Option<String>,
    pub(crate) container: &'a Container,
}

/// How long a hook without a limit of its own may take to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn post_start(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.post_start.as_ref()
}

pub(crate) fn pre_stop(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}

/// Runs a hook, at most for `limit`.
///
/// # Errors
/// Why it failed.
pub(crate) async fn run(
    shared: &Shared,
    handler: &LifecycleHandler,
    target: &Target<'_>,
    limit: Option<Duration>,
) -> Result<(), String> {
    let work = one(shared, handler, target, limit.unwrap_or(Duration::ZERO));
    match limit {
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err("it did not end in time".into())),
        None => work.await,
    }
}

async fn one(
    shared: &Shared,
    handler: &LifecycleHandler,
    target: &Target<'_>,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let ended = shared.runtime.exec_sync(target.container_id, &command, limit).await;
        let ended = ended.map_err(|it| it.to_rpc())?;
        return match ended.exit_code {
            0 => Ok(()),
            code => Err(format!(
                "command ended with {code}: {}",
                String::from_utf8_lossy(&ended.stderr)
            )),
        };
    }
    if let Some(action) = &handler.http_get {
        let request = net::request_of(action, target.pod_ip.as_deref(), target.container)?;
        let answer = net::get(&request, CONNECT_PATIENCE).await?;
        return if (200..400).contains(&answer.status) {
            Ok(())
        } else {
            Err(format!("the answer was {}", answer.status))
        };
    }
    if let Some(action) = &handler.tcp_socket {
        let host = action.host.clone().filter(|it| !it.is_empty()).or(target.pod_ip.clone());
        let port = port_of(&action.port, target.container)?;
        return net::connect(&host.unwrap_or_default(), port, CONNECT_PATIENCE).await.map(|_| ());
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler".into())
}

/// A port by number or by its name in the container.
pub(crate) fn port_of(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|it| it.name.as_deref() == Some(name)) {
                Some(found) => found.container_port,
                // As upstream's last resort says it.
                None => name
                    .parse()
                    .map_err(|_| format!("strconv.Atoi: parsing {name:?}: invalid syntax"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|it| *it > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}
