//! Upstream's flags of who is asked whether a request may go on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use auth::abac::Abac;
use auth::config::authorization::{AuthorizationConfiguration, Kind, Named, TYPES, Webhook};

use super::read;
use crate::control_plane::period;

/// How long a webhook of the flags is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Flags about authorizers.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "authorization")]
#[command(next_help_heading = "kube-apiserver")]
pub(super) struct AuthorizationOptions {
    /// Who is asked whether a request may go on, in order: AlwaysAllow, AlwaysDeny, ABAC, Webhook, RBAC, Node
    /// (default: Node,RBAC)
    #[arg(long, value_delimiter = ',', value_name = "MODES")]
    authorization_mode: Vec<String>,
    /// File of an AuthorizationConfiguration, instead of the other flags. Read again when it changes
    #[arg(long, value_name = "FILE")]
    authorization_config: Option<PathBuf>,
    /// Policies of mode ABAC, one a line
    #[arg(long, value_name = "FILE")]
    authorization_policy_file: Option<PathBuf>,
    /// Kubeconfig of mode Webhook
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReview that the webhook is sent
    #[arg(long, default_value = "v1beta1", value_name = "VERSION")]
    authorization_webhook_version: String,
    /// How long the webhook's yes counts
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = period)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long any other answer of the webhook counts
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = period)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
}

/// What the flags and the file say, read and checked.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) configuration: AuthorizationConfiguration,
    pub(super) abac: Abac,
    /// The file, which is followed.
    pub(super) file: Option<PathBuf>,
    /// What it says.
    pub(super) text: String,
}

const ALWAYS_ALLOW: &str = "AlwaysAllow";

impl AuthorizationOptions {
    pub(super) fn allow_always(&mut self) {
        self.authorization_mode = vec![ALWAYS_ALLOW.to_owned()];
    }

    pub(super) fn allows_always(&self) -> bool {
        self.authorization_mode.iter().any(|it| it == ALWAYS_ALLOW)
    }

    pub(super) fn configured(&self) -> Result<Configured> {
        let Some(file) = &self.authorization_config else {
            let (configuration, abac) = self.by_flags()?;
            return Ok(Configured { configuration, abac, file: None, text: String::new() });
        };
        let others = self.authorization_mode.is_empty()
            && self.authorization_policy_file.is_none()
            && self.authorization_webhook_config_file.is_none();
        if !others {
            bail!(
                "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"
            );
        }
        let text = read(file)?;
        let parsed = AuthorizationConfiguration::parse(text.as_bytes());
        let configuration = parsed.map_err(|why| {
            anyhow!("could not use the authorization configuration {}: {why}", file.display())
        })?;
        Ok(Configured { configuration, abac: Abac::default(), file: Some(file.clone()), text })
    }

    fn by_flags(&self) -> Result<(AuthorizationConfiguration, Abac)> {
        let usual = ["Node".to_owned(), "RBAC".to_owned()];
        let given = self.authorization_mode.as_slice();
        let modes = if given.is_empty() { &usual } else { given };
        let has = |mode: &str| modes.iter().any(|it| it == mode);
        if self.authorization_policy_file.is_some() && !has("ABAC") {
            bail!("cannot specify --authorization-policy-file without mode ABAC");
        }
        if self.authorization_webhook_config_file.is_some() && !has("Webhook") {
            bail!("cannot specify --authorization-webhook-config-file without mode Webhook");
        }
        let mut authorizers = Vec::new();
        for (index, mode) in modes.iter().enumerate() {
            if !TYPES.contains(&mode.as_str()) {
                bail!("authorization-mode {mode:?} is not a valid mode");
            }
            if modes[..index].contains(mode) {
                bail!("authorization-mode {modes:?} has mode specified more than once");
            }
            authorizers.push(self.named(mode)?);
        }
        Ok((AuthorizationConfiguration { authorizers }, self.abac(has("ABAC"))?))
    }

    fn named(&self, mode: &str) -> Result<Named> {
        let kind = match mode {
            "ABAC" => Kind::Abac,
            "AlwaysAllow" => Kind::AlwaysAllow,
            "AlwaysDeny" => Kind::AlwaysDeny,
            "Node" => Kind::Node,
            "RBAC" => Kind::Rbac,
            _ => return Ok(Named { name: "default".into(), kind: self.webhook()? }),
        };
        Ok(Named { name: mode.to_lowercase(), kind })
    }

    fn webhook(&self) -> Result<Kind> {
        let Some(file) = &self.authorization_webhook_config_file else {
            bail!("authorization-mode Webhook's authorization config file not passed");
        };
        let version = self.authorization_webhook_version.clone();
        if !matches!(version.as_str(), "v1" | "v1beta1") {
            bail!(
                "unsupported webhook authorizer version {version:?}, supported versions are \"v1\", \"v1beta1\""
            );
        }
        Ok(Kind::Webhook(Box::new(Webhook {
            timeout: TIMEOUT,
            authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
            version,
            denies_on_failure: false,
            kubeconfig: Some(file.clone()),
            conditions: Vec::new(),
        })))
    }

    fn abac(&self, is_wanted: bool) -> Result<Abac> {
        if !is_wanted {
            return Ok(Abac::default());
        }
        let file: &Path = self
            .authorization_policy_file
            .as_deref()
            .context("authorization-mode ABAC's authorization policy file not passed")?;
        Abac::parse(&read(file)?).map_err(|why| anyhow!("{}: {why}", file.display()))
    }
}
