//! Where events end up: lines of a log, or the body of a call.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use component_base::Random;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::event::Event;

/// How often a webhook is tried.
const ATTEMPTS: u32 = 5;
/// How much longer it is waited for the next time, in tenths.
const FACTOR: u32 = 15;
/// How much longer at random, as a part of it.
const JITTER: f64 = 0.2;
/// How long one try may take (upstream: the client's default).
const TIMEOUT: Duration = Duration::from_secs(30);
/// What the webhook's caller calls itself.
const USER_AGENT: &str = "kube-apiserver-audit";

/// How events stand in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// One line of text.
    Legacy,
}

/// What takes events.
pub(crate) enum Output {
    Log { format: Format, writer: Mutex<Box<dyn Write + Send>> },
    Webhook { client: Box<webhook::Client>, initial_backoff: Duration, random: Arc<dyn Random> },
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.plugin())
    }
}

impl Output {
    /// Upstream's name of it.
    pub(crate) const fn plugin(&self) -> &'static str {
        match self {
            Self::Log { .. } => "log",
            Self::Webhook { .. } => "webhook",
        }
    }

    /// Takes events.
    ///
    /// # Errors
    /// How many were not taken, and why.
    pub(crate) async fn take(&self, events: &[Arc<Event>]) -> Result<(), (usize, String)> {
        match self {
            Self::Log { format, writer } => log(*format, writer, events),
            Self::Webhook { client, initial_backoff, random } => {
                let body = list(events).into();
                let sent = post(client, body, *initial_backoff, random.as_ref()).await;
                sent.map_err(|why| (events.len(), why))
            }
        }
    }
}

/// Each event in one write.
fn log(
    format: Format,
    writer: &Mutex<Box<dyn Write + Send>>,
    events: &[Arc<Event>],
) -> Result<(), (usize, String)> {
    let (mut lost, mut why) = (0, String::new());
    for event in events {
        let mut line = match format {
            Format::Json => event.to_json(),
            Format::Legacy => event.to_legacy().into_bytes(),
        };
        line.push(b'\n');
        let mut writer = writer.lock();
        if let Err(error) = writer.write_all(&line).and_then(|()| writer.flush()) {
            lost += 1;
            why = error.to_string();
        }
    }
    if lost == 0 { Ok(()) } else { Err((lost, why)) }
}

/// An `EventList`.
fn list(events: &[Arc<Event>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024 * events.len());
    out.extend_from_slice(
        b"{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[",
    );
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        event.write(false, &mut out);
    }
    out.extend_from_slice(b"]}\n");
    out
}

/// Posts, and again where that fails: there is hardly a reason to lose events.
async fn post(
    client: &webhook::Client,
    body: bytes::Bytes,
    initial_backoff: Duration,
    random: &dyn Random,
) -> Result<(), String> {
    let mut wait = initial_backoff;
    for attempt in 1.. {
        let call = webhook::Call {
            body: body.clone(),
            timeout: TIMEOUT,
            tells_timeout: false,
            user_agent: USER_AGENT,
        };
        match client.post(call).await {
            Ok(_) => return Ok(()),
            Err(error) if attempt == ATTEMPTS => return Err(error.to_string()),
            Err(error) => {
                tracing::debug!(%error, attempt, "the audit webhook did not take events");
                sleep(wait.mul_f64(1.0 + JITTER * random.fraction())).await;
                wait = wait * FACTOR / 10;
            }
        }
    }
    Ok(())
}
