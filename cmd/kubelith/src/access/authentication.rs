//! Upstream's flags of issuers and webhooks that know tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use apimachinery::{Value, value};
use auth::anonymous::Anonymous;
use auth::config::authentication::AuthenticationConfiguration;
use auth::configured::ConfiguredIssuers;
use auth::jwt::Algorithm;
use auth::metrics::Reloaded;
use auth::oidc;
use auth::token_webhook::TokenWebhook;

use super::read;
use crate::control_plane::period;

/// Flags about tokens that others make or know.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "authentication")]
#[command(next_help_heading = "kube-apiserver")]
pub(super) struct AuthenticationOptions {
    /// File of an AuthenticationConfiguration: issuers of tokens, and who may ask without saying who they are. Read
    /// again when it changes
    #[arg(long, value_name = "FILE")]
    authentication_config: Option<PathBuf>,
    /// Issuer of OpenID Connect whose tokens are believed
    #[arg(long, value_name = "URL")]
    oidc_issuer_url: Option<String>,
    /// Whom its tokens must be for
    #[arg(long, value_name = "NAME")]
    oidc_client_id: Option<String>,
    /// Authority of the issuer's certificate (default: the machine's)
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// The claim that names the user
    #[arg(long, default_value = "sub", value_name = "CLAIM")]
    oidc_username_claim: String,
    /// What is put before that name; - for nothing (default: the issuer and #, unless the claim is email)
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    oidc_username_prefix: Option<String>,
    /// The claim that names groups
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What is put before the names of groups
    #[arg(long, value_name = "PREFIX")]
    oidc_groups_prefix: Option<String>,
    /// How the tokens may be signed
    #[arg(long, value_delimiter = ',', default_value = "RS256", value_name = "NAMES")]
    oidc_signing_algs: Vec<String>,
    /// A claim that the tokens must have, and its value
    #[arg(long, value_delimiter = ',', value_name = "CLAIM=VALUE")]
    oidc_required_claim: Vec<String>,
    /// Kubeconfig of a webhook that knows tokens
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReview that it is sent
    #[arg(long, default_value = "v1beta1", value_name = "VERSION")]
    authentication_token_webhook_version: String,
    /// How long its answers count
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = period)]
    authentication_token_webhook_cache_ttl: Duration,
}

/// What the flags and the file say, read and checked.
#[derive(Debug)]
pub(super) struct Configured {
    configuration: AuthenticationConfiguration,
    algorithms: Vec<Algorithm>,
    /// Who must not be an issuer.
    disallowed: Vec<String>,
    /// The file, which is followed.
    pub(super) file: Option<PathBuf>,
    /// What it says.
    text: String,
}

impl AuthenticationOptions {
    /// The configuration of issuers. `disallowed` make service accounts' tokens.
    pub(super) fn configured(&self, disallowed: Vec<String>) -> Result<Configured> {
        let by_flags = self.has_issuer_flags();
        let mut text = String::new();
        let (configuration, algorithms) = match &self.authentication_config {
            Some(_) if by_flags => {
                bail!("authentication-config file and oidc-* flags are mutually exclusive");
            }
            Some(file) => {
                text = read(file)?;
                let parsed = AuthenticationConfiguration::parse(text.as_bytes(), &disallowed);
                (parsed.map_err(|why| told(file, &why))?, Algorithm::ALL.to_vec())
            }
            None if by_flags => {
                let made = AuthenticationConfiguration::of(&self.by_flags()?, &disallowed);
                (made.map_err(|why| anyhow!("--oidc-*: {why}"))?, self.algorithms()?)
            }
            None => (AuthenticationConfiguration { jwt: Vec::new(), anonymous: None }, Vec::new()),
        };
        let file = self.authentication_config.clone();
        Ok(Configured { configuration, algorithms, disallowed, file, text })
    }

    fn has_issuer_flags(&self) -> bool {
        self.oidc_issuer_url.is_some()
            || self.oidc_client_id.is_some()
            || self.oidc_ca_file.is_some()
            || self.oidc_username_prefix.is_some()
            || self.oidc_groups_claim.is_some()
            || self.oidc_groups_prefix.is_some()
            || !self.oidc_required_claim.is_empty()
    }

    /// The flags as the file would have them.
    fn by_flags(&self) -> Result<Value> {
        let (Some(url), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            bail!(
                "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
            );
        };
        let authority = self.oidc_ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let claim = self.oidc_username_claim.as_str();
        let prefix = match self.oidc_username_prefix.as_deref().unwrap_or_default() {
            "-" => String::new(),
            "" if claim != "email" => format!("{url}#"),
            prefix => prefix.to_owned(),
        };
        let mut jwt = value!({
            "issuer": {"url": (url.as_str()), "audiences": [(client.as_str())], "certificateAuthority": authority},
            "claimMappings": {"username": {"claim": claim, "prefix": prefix}}
        });
        if let Some(groups) = &self.oidc_groups_claim {
            let prefix = self.oidc_groups_prefix.clone().unwrap_or_default();
            let groups = value!({"claim": (groups.as_str()), "prefix": prefix});
            jwt.set_at(&["claimMappings", "groups"], groups);
        }
        let mut rules = Vec::new();
        for required in &self.oidc_required_claim {
            let Some((claim, wanted)) = required.split_once('=') else {
                bail!("--oidc-required-claim {required}: it must be CLAIM=VALUE");
            };
            rules.push(value!({"claim": claim, "requiredValue": wanted}));
        }
        jwt.set_at(&["claimValidationRules"], Value::Array(rules));
        Ok(value!({"jwt": [jwt]}))
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        let known = |name: &String| match Algorithm::of(name) {
            Some(algorithm) => Ok(algorithm),
            None if name == "ES512" => {
                bail!("--oidc-signing-algs ES512: signatures of P-521 keys are not supported yet")
            }
            None => bail!("oidc: unsupported signing alg: {name:?}"),
        };
        self.oidc_signing_algs.iter().map(known).collect()
    }

    /// The webhook that knows tokens, where there is one.
    pub(super) fn webhook(&self, audiences: &[String]) -> Result<Option<TokenWebhook>> {
        let Some(file) = &self.authentication_token_webhook_config_file else { return Ok(None) };
        let made = webhook::Client::from_kubeconfig(file).and_then(|client| {
            let (version, ttl) = (
                &self.authentication_token_webhook_version,
                self.authentication_token_webhook_cache_ttl,
            );
            TokenWebhook::new(client, version, ttl, audiences.to_vec())
        });
        made.map(Some).map_err(|why| anyhow!("--authentication-token-webhook-config-file: {why}"))
    }
}

fn told(file: &Path, why: &str) -> anyhow::Error {
    anyhow!("could not use the authentication configuration {}: {why}", file.display())
}

impl Configured {
    /// Who may ask without saying who they are; the flag says so where the file does not.
    pub(super) fn anonymous(&self, flag: bool) -> Anonymous {
        self.configuration.anonymous.clone().unwrap_or_else(|| flag.into())
    }

    /// The issuers, whose keys are fetched from now on; none where none are configured and none can be.
    pub(super) fn issuers(self, parts: oidc::Parts) -> Result<Option<Arc<ConfiguredIssuers>>> {
        if self.configuration.jwt.is_empty() && self.file.is_none() {
            return Ok(None);
        }
        if self.file.is_some() {
            parts.metrics.configured(Reloaded::Authentication, self.text.as_bytes());
        }
        let Self { configuration, algorithms, disallowed, .. } = self;
        let started = ConfiguredIssuers::start(configuration, &algorithms, &disallowed, parts);
        Ok(Some(Arc::new(started.map_err(|why| anyhow!("issuers of tokens: {why}"))?)))
    }
}
