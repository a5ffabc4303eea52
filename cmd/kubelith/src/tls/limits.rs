//! What of TLS a server speaks, by upstream's flags.

use anyhow::{Result, bail};
use rustls::CipherSuite;

/// What of TLS a server speaks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// Nothing older than TLS 1.3.
    pub(crate) only_newest: bool,
    /// The suites of TLS 1.2, where not all; those of 1.3 are always there.
    pub(crate) suites: Option<Vec<CipherSuite>>,
    /// HTTP/1.1 alone.
    pub(crate) without_http2: bool,
}

/// Upstream's flags of it.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "tls")]
pub(crate) struct LimitOptions {
    /// The oldest TLS that is spoken: VersionTLS12 or VersionTLS13
    #[arg(long, value_name = "VERSION")]
    tls_min_version: Option<String>,
    /// The suites of TLS 1.2
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    tls_cipher_suites: Vec<String>,
    /// Whether HTTP/1.1 alone is spoken
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    disable_http2_serving: bool,
}

impl LimitOptions {
    /// What of TLS is spoken.
    pub(crate) fn limits(&self) -> Result<Limits> {
        let only_newest = match self.tls_min_version.as_deref() {
            None | Some("" | "VersionTLS12") => false,
            Some("VersionTLS13") => true,
            Some(old @ ("VersionTLS10" | "VersionTLS11")) => {
                bail!("--tls-min-version {old}: nothing older than TLS 1.2 is spoken here")
            }
            Some(other) => bail!("unknown tls version {other:?}"),
        };
        let suites = match self.tls_cipher_suites.as_slice() {
            [] => None,
            names => {
                let suites = names.iter().map(|it| suite(it));
                Some(suites.collect::<Result<_>>()?)
            }
        };
        Ok(Limits { only_newest, suites, without_http2: self.disable_http2_serving })
    }
}

/// A suite by the name that upstream gives it.
fn suite(name: &str) -> Result<CipherSuite> {
    Ok(match name {
        "TLS_AES_128_GCM_SHA256" => CipherSuite::TLS13_AES_128_GCM_SHA256,
        "TLS_AES_256_GCM_SHA384" => CipherSuite::TLS13_AES_256_GCM_SHA384,
        "TLS_CHACHA20_POLY1305_SHA256" => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        }
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        }
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"
        | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        }
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        }
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
        other => bail!("--tls-cipher-suites: cipher suite {other} not supported or doesn't exist"),
    })
}
