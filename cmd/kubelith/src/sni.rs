//! Certificates for the names that clients ask for (`--tls-sni-cert-key`). Upstream: `getNamedCertificateMap`.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::pki::Identity;

/// The files of a certificate and its key, and the names that it is for: those it says itself, where none are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    names: Vec<String>,
}

impl FromStr for NamedFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (files, names) = text.split_once(':').unwrap_or((text, ""));
        let names = names.split(',').map(str::trim).filter(|it| !it.is_empty());
        let names = names.map(str::to_ascii_lowercase).collect();
        match files.split(',').map(str::trim).collect::<Vec<_>>()[..] {
            [certificate, key] if !certificate.is_empty() && !key.is_empty() => {
                Ok(Self { certificate: certificate.into(), key: key.into(), names })
            }
            _ => Err("expected comma separated certificate and key file paths".into()),
        }
    }
}

impl NamedFiles {
    fn read(&self) -> Result<Identity> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| format!("could not read {}", path.display()))
        };
        Ok(Identity { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }
}

/// Certificates by name, those first that go before others.
#[derive(Debug, Default)]
pub(crate) struct Named(Vec<(String, Arc<CertifiedKey>)>);

impl Named {
    /// Reads all files. Names that were given go before those that certificates say themselves.
    pub(crate) fn read(all: &[NamedFiles]) -> Result<Self> {
        let (mut given, mut own) = (Vec::new(), Vec::new());
        for files in all {
            let shown = files.certificate.display();
            let key = files.read()?.certified();
            let key = Arc::new(key.with_context(|| format!("could not use {shown}"))?);
            for name in &files.names {
                given.push((name.clone(), Arc::clone(&key)));
            }
            if files.names.is_empty() {
                let names =
                    names_of(&key.cert).with_context(|| format!("could not read {shown}"))?;
                own.extend(names.into_iter().map(|name| (name, Arc::clone(&key))));
            }
        }
        given.extend(own);
        Ok(Self(given))
    }

    /// The certificate for a name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let any = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let find = |wanted: &str| self.0.iter().find(|(it, _)| it == wanted).map(|it| &it.1);
        find(&name).or_else(|| find(&any?))
    }
}

/// The names that a certificate is for.
fn names_of(chain: &[CertificateDer<'_>]) -> Result<Vec<String>> {
    let Some(leaf) = chain.first() else { bail!("there is no certificate") };
    let (_, leaf) = X509Certificate::from_der(leaf).context("it is no certificate")?;
    let mut names: Vec<String> = leaf
        .subject()
        .iter_common_name()
        .filter_map(|it| it.as_str().ok())
        .map(str::to_owned)
        .collect();
    if let Ok(Some(alternatives)) = leaf.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|it| match it {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    names.iter_mut().for_each(|it| it.make_ascii_lowercase());
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_its_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let make = |file: &str, name: &str| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            let path = |end: &str| folder.path().join(format!("{file}.{end}"));
            std::fs::write(path("crt"), made.cert.pem()).unwrap();
            std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
            let shown = |end: &str| path(end).display().to_string();
            format!("{},{}", shown("crt"), shown("key"))
        };
        let all = [
            make("a", "*.example.com"),
            make("b", "api.example.com"),
            format!("{}:other.org, API.example.com", make("c", "ignored.io")),
        ];
        let all: Vec<NamedFiles> = all.iter().map(|it| it.parse().unwrap()).collect();
        let named = Named::read(&all).unwrap();
        let same = |name: &str, file: usize| {
            let wanted = Named::read(&all[file..=file]).unwrap();
            let (found, wanted) = (named.find(name).unwrap(), &wanted.0[0].1);
            assert_eq!(found.cert, wanted.cert, "{name}");
        };
        same("www.example.com", 0);
        same("api.example.com", 2);
        same("other.org.", 2);
        assert!(named.find("example.com").is_none());
        assert!(named.find("ignored.io").is_none());
        assert!("a.crt".parse::<NamedFiles>().is_err());
    }
}
