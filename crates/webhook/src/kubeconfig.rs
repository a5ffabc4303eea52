//! Webhooks that files name: a kubeconfig says where the server is, whom to take for it, and as whom to call.
//!
//! Knows no contexts but the current one, and no programs that make credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use apimachinery::{Value, yaml};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use component_base::tls::Trust;
use http::header::HeaderValue;
use rustls::client::WantsClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder};

use crate::config::Destination;
use crate::tls;

/// The largest file that a kubeconfig names, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a kubeconfig says of the server to call.
#[derive(Debug)]
pub struct Kubeconfig {
    pub(crate) destination: Destination,
    /// `None` for plain HTTP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) authorization: Authorization,
}

/// As whom to call.
#[derive(Clone)]
pub(crate) enum Authorization {
    None,
    Header(HeaderValue),
    /// A token that may be replaced at any time.
    TokenFile(PathBuf),
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Header(_) => "Header",
            Self::TokenFile(_) => "TokenFile",
        })
    }
}

impl Authorization {
    pub(crate) fn header(&self) -> Result<Option<HeaderValue>, String> {
        match self {
            Self::None => Ok(None),
            Self::Header(value) => Ok(Some(value.clone())),
            Self::TokenFile(path) => {
                let token = read(path)?;
                bearer(String::from_utf8_lossy(&token).trim()).map(Some)
            }
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| "the credentials cannot stand in a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unable = |why: &dyn std::fmt::Display| format!("could not read {}: {why}", path.display());
    let size = std::fs::metadata(path).map_err(|error| unable(&error))?.len();
    if size > MAX_FILE_BYTES {
        return Err(unable(&format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read(path).map_err(|error| unable(&error))
}

impl Kubeconfig {
    /// Reads a file; the files that it names are beside it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = read(path)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let found = Self::parse(&text, directory);
        found.map_err(|why| format!("could not use the kubeconfig {}: {why}", path.display()))
    }

    /// What a text says; the files that it names are below a directory.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8], directory: &Path) -> Result<Self, String> {
        let config = yaml::parse(text).map_err(|error| error.to_string())?;
        let context = config.str_at(&["current-context"]);
        let context = named(&config, "contexts", "context", context)?;
        let cluster = named(&config, "clusters", "cluster", context.str_at(&["cluster"]))?;
        let user = match context.str_at(&["user"]) {
            "" => &Value::Null,
            name => named(&config, "users", "user", name)?,
        };
        let files = Files { directory };
        let destination = destination(cluster)?;
        let plain = cluster.str_at(&["server"]).starts_with("http://");
        let tls = if plain { None } else { Some(Arc::new(files.tls(cluster, user)?)) };
        Ok(Self { destination, tls, authorization: files.authorization(user)? })
    }
}

/// The entry of a list by its name.
fn named<'v>(config: &'v Value, list: &str, member: &str, name: &str) -> Result<&'v Value, String> {
    if name.is_empty() && list == "contexts" {
        return Err("it names no current-context".into());
    }
    let found = config.items_at(&[list]).iter().find(|it| it.str_at(&["name"]) == name);
    let found = found.and_then(|it| it.get(member));
    found.ok_or_else(|| format!("there is no {member} {name:?} among its {list}"))
}

fn destination(cluster: &Value) -> Result<Destination, String> {
    let server = cluster.str_at(&["server"]);
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://"));
    if bare.is_none_or(str::is_empty) {
        return Err(format!("server {server:?} is no URL of http or https"));
    }
    let other = Some(cluster.str_at(&["tls-server-name"])).filter(|it| !it.is_empty());
    let mut destination = Destination::of_url(server, other)?;
    if let Destination::Url { host, name, .. } = &mut destination
        && server.starts_with("http://")
        && !bare.unwrap_or_default().contains(':')
    {
        *host = format!("{name}:80");
    }
    Ok(destination)
}

/// A certificate and its key.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} certificates)", self.chain.len())
    }
}

impl Identity {
    /// TLS that presents it.
    pub(crate) fn present(
        &self,
        base: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, String> {
        let made = base.with_client_auth_cert(self.chain.clone(), self.key.clone_key());
        made.map_err(|error| format!("client-certificate: {error}"))
    }
}

/// Finds the files that a kubeconfig names.
pub(crate) struct Files<'d> {
    pub(crate) directory: &'d Path,
}

impl Files<'_> {
    /// What stands in `NAME-data` in base64, or in the file `NAME`.
    fn content(&self, of: &Value, name: &str) -> Result<Option<Vec<u8>>, String> {
        let data = of.str_at(&[&format!("{name}-data")]);
        if !data.is_empty() {
            let decoded = BASE64_STANDARD.decode(data);
            return decoded.map(Some).map_err(|error| format!("{name}-data: {error}"));
        }
        match of.str_at(&[name]) {
            "" => Ok(None),
            path => read(&self.directory.join(path)).map(Some),
        }
    }

    fn tls(&self, cluster: &Value, user: &Value) -> Result<ClientConfig, String> {
        let base = if cluster.bool_at(&["insecure-skip-tls-verify"]) {
            component_base::tls::client(Trust::Anybody).map_err(|error| error.to_string())?
        } else {
            let pem = self.content(cluster, "certificate-authority")?;
            tls::trusting_pem(&pem.unwrap_or_default())?
        };
        let mut config = match self.identity(user)? {
            None => base.with_no_client_auth(),
            Some(identity) => identity.present(base)?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The certificate of a user, where it has one.
    pub(crate) fn identity(&self, user: &Value) -> Result<Option<Identity>, String> {
        let certificate = self.content(user, "client-certificate")?;
        let Some((chain, key)) = certificate.zip(self.content(user, "client-key")?) else {
            return Ok(None);
        };
        let chain = rustls_pemfile::certs(&mut chain.as_slice()).flatten().collect();
        let key = rustls_pemfile::private_key(&mut key.as_slice()).ok().flatten();
        let key = key.ok_or("client-key holds no private key")?;
        Ok(Some(Identity { chain, key }))
    }

    pub(crate) fn authorization(&self, user: &Value) -> Result<Authorization, String> {
        for made in ["exec", "auth-provider"] {
            if user.get(made).is_some_and(|it| !it.is_null()) {
                return Err(format!("users with {made} cannot be used here"));
            }
        }
        let text = |member| user.str_at(&[member]);
        if !text("tokenFile").is_empty() {
            return Ok(Authorization::TokenFile(self.directory.join(text("tokenFile"))));
        }
        if !text("token").is_empty() {
            return bearer(text("token")).map(Authorization::Header);
        }
        if text("username").is_empty() {
            return Ok(Authorization::None);
        }
        let both = BASE64_STANDARD.encode(format!("{}:{}", text("username"), text("password")));
        secret(&format!("Basic {both}")).map(Authorization::Header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(cluster: &str, user: &str) -> String {
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {cluster}}}]\nusers: [{{name: u, user: {user}}}]\n"
        );
        match Kubeconfig::parse(text.as_bytes(), Path::new("/nowhere")) {
            Err(why) => why,
            Ok(it) => {
                let Destination::Url { host, name, .. } = &it.destination else { unreachable!() };
                let header = it.authorization.header().map(|it| it.map(|it| it.len()));
                format!("{host} {name} tls={} {header:?}", it.tls.is_some())
            }
        }
    }

    #[test]
    fn the_current_context_is_used() {
        for (cluster, user, expected) in [
            ("{server: 'https://a.b/x'}", "{}", "a.b:443 a.b tls=true Ok(None)"),
            ("{server: 'http://a.b/x'}", "{}", "a.b:80 a.b tls=false Ok(None)"),
            ("{server: 'http://a.b:81'}", "{token: abc}", "a.b:81 a.b tls=false Ok(Some(10))"),
            (
                "{server: 'https://a.b', tls-server-name: c.d}",
                "{username: u, password: p}",
                "a.b:443 c.d tls=true Ok(Some(10))",
            ),
            ("{server: ''}", "{}", "server \"\" is no URL of http or https"),
            (
                "{server: 'https://a', certificate-authority: ca.pem}",
                "{}",
                "could not read /nowhere/ca.pem: No such file or directory (os error 2)",
            ),
            (
                "{server: 'https://a', certificate-authority-data: '!'}",
                "{}",
                "certificate-authority-data: Invalid symbol 33, offset 0.",
            ),
            (
                "{server: 'https://a'}",
                "{exec: {command: x}}",
                "users with exec cannot be used here",
            ),
        ] {
            assert_eq!(said(cluster, user), expected, "{cluster} {user}");
        }
        let error = Kubeconfig::parse(b"{}", Path::new(".")).unwrap_err();
        assert_eq!(error, "it names no current-context");
        let text = b"current-context: a";
        let error = Kubeconfig::parse(text, Path::new(".")).unwrap_err();
        assert_eq!(error, "there is no context \"a\" among its contexts");
    }
}
