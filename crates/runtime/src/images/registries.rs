//! How registries are reached: mirrors, TLS, credentials, in the shape of k3s' `registries.yaml`.

use std::collections::BTreeMap;

use cri::AuthConfig;
use http::Uri;
use serde::Deserialize;

/// The largest configuration.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// A configuration that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("could not read the registries' configuration: {0}")]
pub struct RegistriesError(String);

/// The registries' configuration; by default every registry is reached by its own name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostConfig {
    auth: Option<HostAuth>,
    tls: HostTls,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostAuth {
    username: String,
    password: String,
    auth: String,
    #[serde(alias = "identitytoken")]
    identity_token: String,
    #[serde(alias = "registry_token")]
    token: String,
}

impl std::fmt::Debug for HostAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How a host is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HostTls {
    pub(crate) ca_file: String,
    pub(crate) cert_file: String,
    pub(crate) key_file: String,
    pub(crate) insecure_skip_verify: bool,
}

/// One place to ask for an image.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `https://host/v2`, without a slash at the end.
    pub(crate) base: String,
    /// For the configuration's credentials and trust.
    pub(crate) host: String,
    /// Asked on behalf of this registry, when it is a mirror.
    pub(crate) namespace: Option<String>,
    pub(crate) tls: HostTls,
    pub(crate) auth: Option<AuthConfig>,
}

impl Registries {
    /// Reads `registries.yaml`.
    ///
    /// # Errors
    /// When it is none, or asks for what is not supported.
    pub fn parse(yaml: &str) -> Result<Self, RegistriesError> {
        if yaml.len() > MAX_CONFIG_BYTES {
            return Err(RegistriesError("it is too large".into()));
        }
        if yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(yaml).map_err(|e| RegistriesError(e.to_string()))
    }

    /// Where to ask for images of `domain`, in order: mirrors, then the registry itself.
    ///
    /// # Errors
    /// When a mirror's address is none.
    pub(crate) fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>, String> {
        let mirror = self.mirrors.get(domain).or_else(|| self.mirrors.get("*"));
        let mut all = Vec::new();
        for address in mirror.into_iter().flat_map(|m| &m.endpoint) {
            all.push(self.endpoint(address, domain)?);
        }
        let own = own_address(domain);
        if !all.iter().any(|e: &Endpoint| e.base == format!("{own}/v2")) {
            all.push(self.endpoint(&own, domain)?);
        }
        Ok(all)
    }

    fn endpoint(&self, address: &str, domain: &str) -> Result<Endpoint, String> {
        let text =
            if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let bad = || format!("{address:?} is not the address of a registry");
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let (scheme, authority) = match (uri.scheme_str(), uri.authority()) {
            (Some(scheme @ ("http" | "https")), Some(authority)) => (scheme, authority.as_str()),
            _ => return Err(bad()),
        };
        let path = uri.path().trim_end_matches('/');
        let path = if path.contains("/v2") { path.to_owned() } else { format!("{path}/v2") };
        let config = self.configs.get(authority).or_else(|| {
            // The registry's own name counts for its own address too.
            (own_address(domain) == text).then(|| self.configs.get(domain)).flatten()
        });
        let is_own = own_address(domain) == format!("{scheme}://{authority}");
        Ok(Endpoint {
            base: format!("{scheme}://{authority}{path}"),
            host: authority.to_owned(),
            namespace: (!is_own).then(|| domain.to_owned()),
            tls: config.map(|c| c.tls.clone()).unwrap_or_default(),
            auth: config.and_then(|c| c.auth.clone()).map(|a| AuthConfig {
                username: a.username,
                password: a.password,
                auth: a.auth,
                identity_token: a.identity_token,
                registry_token: a.token,
                ..AuthConfig::default()
            }),
        })
    }
}

/// Where a registry is, by its name. One on this machine speaks plain HTTP unless it is configured.
fn own_address(domain: &str) -> String {
    if domain == "docker.io" {
        return "https://registry-1.docker.io".into();
    }
    let host = domain.rsplit_once(':').map_or(domain, |(host, _)| host);
    let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    format!("{}://{domain}", if is_local { "http" } else { "https" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
mirrors:
  docker.io:
    endpoint: ["http://mirror:5000", "https://cache.example/v2/hub"]
  "*":
    endpoint: ["https://all.example"]
configs:
  "mirror:5000":
    auth: {username: u, password: p}
  "q.io":
    tls: {insecure_skip_verify: true}
"#;

    #[test]
    fn mirrors_come_before_the_registry_itself() {
        let registries = Registries::parse(YAML).unwrap();
        let bases = |domain: &str| -> Vec<String> {
            registries.endpoints(domain).unwrap().into_iter().map(|e| e.base).collect()
        };
        assert_eq!(
            bases("docker.io"),
            [
                "http://mirror:5000/v2",
                "https://cache.example/v2/hub",
                "https://registry-1.docker.io/v2"
            ]
        );
        assert_eq!(bases("q.io"), ["https://all.example/v2", "https://q.io/v2"]);
        let docker = registries.endpoints("docker.io").unwrap();
        assert_eq!(docker[0].auth.as_ref().unwrap().username, "u");
        assert_eq!(docker[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(docker[2].namespace, None);
        assert!(registries.endpoints("q.io").unwrap()[1].tls.insecure_skip_verify);
        let none = Registries::parse("").unwrap();
        assert_eq!(none.endpoints("localhost:5000").unwrap()[0].base, "http://localhost:5000/v2");
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for yaml in ["mirrors: {a: {rewrite: {x: y}}}", "nope: 1", "mirrors: 3"] {
            Registries::parse(yaml).unwrap_err();
        }
        let yaml = "mirrors: {a.io: {endpoint: ['ftp://x']}}";
        Registries::parse(yaml).unwrap().endpoints("a.io").unwrap_err();
    }
}
