//! Flags of the audit, and what is made of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use audit::{
    Audit, Backend, Batching, Format, Mode, Policy, RotatingFile, Rotation, Throttle, Truncation,
};
use component_base::metrics::RestClient;
use component_base::{Clock, Random};

/// The largest policy, in bytes.
const MAX_POLICY_BYTES: u64 = 1 << 20;

/// Upstream's flags of the audit.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "audit")]
#[command(next_help_heading = "kube-apiserver")]
pub(crate) struct AuditOptions {
    /// Which requests are recorded: a Policy of audit.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// Where events are written; - is standard output
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// Days that old audit logs stay; 0 is for ever
    #[arg(long, default_value_t = 366, value_name = "DAYS")]
    audit_log_maxage: u32,
    /// How many old audit logs stay; 0 is any number
    #[arg(long, default_value_t = 100, value_name = "N")]
    audit_log_maxbackup: usize,
    /// Megabytes of an audit log before the next one begins
    #[arg(long, default_value_t = 100, value_name = "MB")]
    audit_log_maxsize: u64,
    /// Pack old audit logs
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    audit_log_compress: bool,
    /// How events stand in the log
    #[arg(long, default_value = "json", value_name = "FORMAT", value_parser = ["json", "legacy"])]
    audit_log_format: String,
    /// Whether requests wait for their events to be logged
    #[arg(long, default_value = "blocking", value_name = "MODE", value_parser = ["batch", "blocking", "blocking-strict"])]
    audit_log_mode: String,
    /// In mode batch: how many events may wait for the log
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    audit_log_batch_buffer_size: usize,
    /// In mode batch: how many events are logged at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    audit_log_batch_max_size: usize,
    /// In mode batch: how long an event waits for others
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = span)]
    audit_log_batch_max_wait: Duration,
    /// In mode batch: whether batches are slowed down
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    audit_log_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, default_value_t = 0.0, value_name = "N")]
    audit_log_batch_throttle_qps: f64,
    /// Batches at once after a while without any
    #[arg(long, default_value_t = 0, value_name = "N")]
    audit_log_batch_throttle_burst: u32,
    /// Shorten events of the log that are too large
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    audit_log_truncate_enabled: bool,
    /// Bytes of an event
    #[arg(long, default_value_t = 102_400, value_name = "BYTES")]
    audit_log_truncate_max_event_size: usize,
    /// Bytes of a batch
    #[arg(long, default_value_t = 10_485_760, value_name = "BYTES")]
    audit_log_truncate_max_batch_size: usize,
    /// The version of events in the log
    #[arg(long, default_value = "audit.k8s.io/v1", value_name = "VERSION", value_parser = ["audit.k8s.io/v1"])]
    audit_log_version: String,
    #[command(flatten)]
    webhook: WebhookOptions,
}

/// Upstream's flags of the audit's webhook.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "audit-webhook")]
#[command(next_help_heading = "kube-apiserver")]
struct WebhookOptions {
    /// The server that events are posted to: a kubeconfig
    #[arg(long, value_name = "FILE")]
    audit_webhook_config_file: Option<PathBuf>,
    /// How long the first try again waits
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = span)]
    audit_webhook_initial_backoff: Duration,
    /// Whether requests wait for their events to be posted
    #[arg(long, default_value = "batch", value_name = "MODE", value_parser = ["batch", "blocking", "blocking-strict"])]
    audit_webhook_mode: String,
    /// In mode batch: how many events may wait to be posted
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    audit_webhook_batch_buffer_size: usize,
    /// In mode batch: how many events are posted at once
    #[arg(long, default_value_t = 400, value_name = "N")]
    audit_webhook_batch_max_size: usize,
    /// In mode batch: how long an event waits for others
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = span)]
    audit_webhook_batch_max_wait: Duration,
    /// In mode batch: whether batches are slowed down
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    audit_webhook_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    audit_webhook_batch_throttle_qps: f64,
    /// Batches at once after a while without any
    #[arg(long, default_value_t = 15, value_name = "N")]
    audit_webhook_batch_throttle_burst: u32,
    /// Shorten events that are too large to be posted
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    audit_webhook_truncate_enabled: bool,
    /// Bytes of an event
    #[arg(long, default_value_t = 102_400, value_name = "BYTES")]
    audit_webhook_truncate_max_event_size: usize,
    /// Bytes of a batch
    #[arg(long, default_value_t = 10_485_760, value_name = "BYTES")]
    audit_webhook_truncate_max_batch_size: usize,
    /// The version of events that are posted
    #[arg(long, default_value = "audit.k8s.io/v1", value_name = "VERSION", value_parser = ["audit.k8s.io/v1"])]
    audit_webhook_version: String,
}

/// A span of time, which may be none.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let parsed =
        apimachinery::duration::Duration::parse(text).map_err(|error| error.to_string())?;
    let nanos = u64::try_from(parsed.as_nanos()).map_err(|_| "must not be negative")?;
    Ok(Duration::from_nanos(nanos))
}

/// A mode by its name, and the way of batches should it be that of batches.
fn mode(name: &str, flags: &str, batching: Batching) -> Result<Mode> {
    let bad = |what: &str| anyhow!("--audit-{flags}-batch-{what}: must be more than 0");
    match name {
        "blocking" => return Ok(Mode::Blocking),
        "blocking-strict" => return Ok(Mode::BlockingStrict),
        _ => {}
    }
    if batching.buffer_size == 0 {
        return Err(bad("buffer-size"));
    }
    if batching.max_size == 0 {
        return Err(bad("max-size"));
    }
    if batching.throttle.is_some_and(|it| it.qps.is_nan() || it.qps <= 0.0) {
        return Err(bad("throttle-qps"));
    }
    if batching.throttle.is_some_and(|it| it.burst == 0) {
        return Err(bad("throttle-burst"));
    }
    Ok(Mode::Batch(batching))
}

fn truncation(
    enabled: bool,
    event: usize,
    batch: usize,
    flags: &str,
) -> Result<Option<Truncation>> {
    if !enabled {
        return Ok(None);
    }
    if event == 0 || batch < event {
        bail!(
            "--audit-{flags}-truncate-max-batch-size must be no less than -max-event-size, and both more than 0"
        );
    }
    Ok(Some(Truncation { max_event_size: event, max_batch_size: batch }))
}

impl AuditOptions {
    /// The audit that the flags ask for. Must be called inside a tokio runtime.
    pub(crate) fn start(
        &self,
        clock: &Arc<dyn Clock>,
        random: &Arc<dyn Random>,
        calls: RestClient,
    ) -> Result<Option<Arc<Audit>>> {
        let mut backends = Vec::new();
        backends.extend(self.log(clock)?);
        backends.extend(self.webhook.backend(random, calls)?);
        let Some(file) = &self.audit_policy_file else {
            if !backends.is_empty() {
                tracing::warn!("no --audit-policy-file: nothing is recorded");
            }
            return Ok(None);
        };
        let policy = policy(file)?;
        if backends.is_empty() {
            tracing::warn!(
                "no --audit-log-path and no --audit-webhook-config-file: nothing is recorded"
            );
            return Ok(None);
        }
        Ok(Some(Audit::start(policy, backends, Arc::clone(clock))))
    }

    fn log(&self, clock: &Arc<dyn Clock>) -> Result<Option<Backend>> {
        let Some(path) = &self.audit_log_path else { return Ok(None) };
        let rotation = Rotation {
            max_age_days: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            max_size_megabytes: self.audit_log_maxsize,
            compress: self.audit_log_compress,
        };
        let writer: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            let opened = RotatingFile::open(path, rotation, Arc::clone(clock));
            Box::new(opened.with_context(|| {
                format!("--audit-log-path: could not write to {}", path.display())
            })?)
        };
        let format = if self.audit_log_format == "legacy" { Format::Legacy } else { Format::Json };
        let throttle = self.audit_log_batch_throttle_enable.then_some(Throttle {
            qps: self.audit_log_batch_throttle_qps,
            burst: self.audit_log_batch_throttle_burst,
        });
        let batching = Batching {
            buffer_size: self.audit_log_batch_buffer_size,
            max_size: self.audit_log_batch_max_size,
            max_wait: self.audit_log_batch_max_wait,
            throttle,
        };
        let truncation = truncation(
            self.audit_log_truncate_enabled,
            self.audit_log_truncate_max_event_size,
            self.audit_log_truncate_max_batch_size,
            "log",
        )?;
        Ok(Some(Backend::log(
            writer,
            format,
            mode(&self.audit_log_mode, "log", batching)?,
            truncation,
        )))
    }
}

impl WebhookOptions {
    fn backend(&self, random: &Arc<dyn Random>, calls: RestClient) -> Result<Option<Backend>> {
        let Some(path) = &self.audit_webhook_config_file else { return Ok(None) };
        let config = webhook::Kubeconfig::read(path);
        let config = config.map_err(|why| anyhow!("--audit-webhook-config-file: {why}"))?;
        let throttle = self.audit_webhook_batch_throttle_enable.then_some(Throttle {
            qps: self.audit_webhook_batch_throttle_qps,
            burst: self.audit_webhook_batch_throttle_burst,
        });
        let batching = Batching {
            buffer_size: self.audit_webhook_batch_buffer_size,
            max_size: self.audit_webhook_batch_max_size,
            max_wait: self.audit_webhook_batch_max_wait,
            throttle,
        };
        let truncation = truncation(
            self.audit_webhook_truncate_enabled,
            self.audit_webhook_truncate_max_event_size,
            self.audit_webhook_truncate_max_batch_size,
            "webhook",
        )?;
        let client = webhook::Client::of_kubeconfig(config);
        client.count_in(calls);
        Ok(Some(Backend::webhook(
            client,
            self.audit_webhook_initial_backoff,
            Arc::clone(random),
            mode(&self.audit_webhook_mode, "webhook", batching)?,
            truncation,
        )))
    }
}

fn policy(file: &Path) -> Result<Policy> {
    let shown = file.display();
    let failed = || format!("failed to read file path \"{shown}\"");
    let size = std::fs::metadata(file).with_context(failed)?.len();
    if size > MAX_POLICY_BYTES {
        bail!("{}: it has more than {MAX_POLICY_BYTES} bytes", failed());
    }
    let text = std::fs::read(file).with_context(failed)?;
    Policy::parse(&text)
        .map_err(|why| anyhow!("loading audit policy file: {why}: from file {shown}"))
}
