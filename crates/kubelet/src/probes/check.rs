//! One look at a container: a command, a request, a connection.

use std::time::Duration;

use cri::Code;

use super::{Subject, seconds};
use crate::net;
use crate::shared::Shared;

/// How often a probe that could not be carried out is tried before that counts.
const TRIES: u32 = 3;
/// What of a command's output is told.
const MAX_OUTPUT_BYTES: usize = 10 << 10;

/// What a look found.
#[derive(Debug)]
pub(super) enum Found {
    Success,
    /// With what it said.
    Failure(String),
    /// The probe could not be carried out.
    Error(String),
}

impl Found {
    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Success)
    }
}

/// Looks, again where it could not be done.
pub(super) async fn check(shared: &Shared, subject: &Subject) -> Found {
    let mut found = Found::Error("it was never tried".into());
    for _ in 0..TRIES {
        found = once(shared, subject).await;
        if !matches!(found, Found::Error(_)) {
            break;
        }
    }
    found
}

async fn once(shared: &Shared, subject: &Subject) -> Found {
    let limit = seconds(subject.probe.timeout_seconds, 1);
    if let Some(exec) = &subject.probe.exec {
        return command(shared, subject, exec.command.as_deref().unwrap_or_default(), limit).await;
    }
    if let Some(action) = &subject.probe.http_get {
        let request = match net::request_of(action, subject.pod_ip.as_deref(), &subject.container) {
            Ok(it) => it,
            Err(error) => return Found::Error(error),
        };
        return match net::get(&request, limit).await {
            Ok(it) if (200..400).contains(&it.status) => Found::Success,
            Ok(it) => Found::Failure(format!("HTTP probe failed with statuscode: {}", it.status)),
            Err(error) => Found::Failure(error),
        };
    }
    if let Some(action) = &subject.probe.tcp_socket {
        let own = action.host.clone().filter(|it| !it.is_empty());
        let host = own.or_else(|| subject.pod_ip.clone()).unwrap_or_default();
        let port = match crate::hooks::port_of(&action.port, &subject.container) {
            Ok(it) => it,
            Err(error) => return Found::Error(error),
        };
        return match net::connect(&host, port, limit).await {
            Ok(_) => Found::Success,
            Err(error) => Found::Failure(error),
        };
    }
    if let Some(action) = &subject.probe.grpc {
        let host = subject.pod_ip.clone().unwrap_or_default();
        let Ok(port) = u16::try_from(action.port) else {
            return Found::Error(format!("invalid port number: {}", action.port));
        };
        let service = action.service.as_deref().unwrap_or_default();
        return match super::grpc::check(&host, port, service, limit).await {
            Ok(()) => Found::Success,
            Err(error) => Found::Failure(error),
        };
    }
    Found::Error(format!("missing probe handler for {}", subject.container.name))
}

async fn command(shared: &Shared, subject: &Subject, command: &[String], limit: Duration) -> Found {
    match shared.runtime.exec_sync(&subject.container_id, command, limit).await {
        Ok(it) if it.exit_code == 0 => Found::Success,
        Ok(it) => {
            let mut output = it.stdout;
            output.extend_from_slice(&it.stderr);
            output.truncate(MAX_OUTPUT_BYTES);
            Found::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) if error.code == Code::DeadlineExceeded => {
            let text = command.join(" ");
            Found::Failure(format!(
                "command timed out: {text:?} timed out after {}s",
                limit.as_secs()
            ))
        }
        Err(error) => Found::Error(error.to_rpc()),
    }
}
