//! The cluster's own authority and the certificates it gives: made when they are missing, renewed before they expire.
//!
//! Keys are ECDSA P-256. Files are readable by their owner only.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// How long the authority lives, in days.
const CA_DAYS: i64 = 3_650;
/// How long a certificate lives, in days.
const LEAF_DAYS: i64 = 365;
/// A certificate is renewed when it has fewer days than this left.
const RENEW_DAYS: i64 = 90;

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// An authority.
pub(crate) struct Authority {
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Where certificates and keys lie.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub(crate) enum Subject<'s> {
    /// A user of these groups.
    Client { name: &'s str, groups: &'s [&'s str] },
    /// A server under these names.
    Server { name: &'s str, names: &'s [String], addresses: &'s [IpAddr], groups: &'s [&'s str] },
}

impl Directory {
    /// `path`, made where it is missing.
    pub(crate) fn new(path: PathBuf) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The authority of this name, made where it is missing.
    pub(crate) fn authority(&self, name: &str, common_name: &str) -> Result<Authority> {
        let (certificate_file, key_file) =
            (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        if certificate_file.exists() && key_file.exists() {
            let certificate = read(&certificate_file)?;
            let key = KeyPair::from_pem(&read(&key_file)?)
                .with_context(|| format!("could not read {}", key_file.display()))?;
            let issuer = Issuer::from_ca_cert_pem(&certificate, key)
                .with_context(|| format!("could not read {}", certificate_file.display()))?;
            return Ok(Authority { certificate, issuer });
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(common_name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        set_validity(&mut params, CA_DAYS)?;
        let certificate = params.self_signed(&key)?.pem();
        // The key first: a certificate without key would never be replaced.
        write_secret(&key_file, key.serialize_pem().as_bytes())?;
        write_secret(&certificate_file, certificate.as_bytes())?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Authority { certificate, issuer })
    }

    /// The certificate of this name, made where it is missing, expires soon, or is for other names.
    pub(crate) fn identity(
        &self,
        name: &str,
        authority: &Authority,
        subject: &Subject<'_>,
    ) -> Result<Identity> {
        let (certificate_file, key_file) =
            (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        if certificate_file.exists() && key_file.exists() {
            let identity =
                Identity { certificate: read(&certificate_file)?, key: read(&key_file)? };
            if is_fresh(&identity.certificate, subject) {
                return Ok(identity);
            }
        }
        let identity = issue(authority, subject)?;
        write_secret(&key_file, identity.key.as_bytes())?;
        write_secret(&certificate_file, identity.certificate.as_bytes())?;
        Ok(identity)
    }

    /// The text of a secret file, made by `make` where it is missing.
    pub(crate) fn secret(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<String>,
    ) -> Result<String> {
        let file = self.path(name);
        if file.exists() {
            return read(&file);
        }
        let text = make()?;
        write_secret(&file, text.as_bytes())?;
        Ok(text)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

/// Writes a file that only its owner can read, all of it or nothing.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("could not write {}", path.display()))
}

fn distinguished_name(common_name: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    for group in groups {
        name.push(DnType::OrganizationName, *group);
    }
    name
}

fn set_validity(params: &mut CertificateParams, days: i64) -> Result<()> {
    // A little in the past, for clients whose clocks are behind.
    let now = Timestamp::now().checked_sub(SignedDuration::from_mins(5))?;
    let end = now.checked_add(SignedDuration::from_hours(24 * days))?;
    params.not_before = date(now)?;
    params.not_after = date(end)?;
    Ok(())
}

/// The library's date-time of an instant.
fn date(at: Timestamp) -> Result<time::OffsetDateTime> {
    Ok(time::OffsetDateTime::from_unix_timestamp(at.as_second())?)
}

fn issue(authority: &Authority, subject: &Subject<'_>) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    match subject {
        Subject::Client { name, groups } => {
            params.distinguished_name = distinguished_name(name, groups);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        Subject::Server { name, names, addresses, groups } => {
            params.distinguished_name = distinguished_name(name, groups);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            for name in *names {
                params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
            }
            params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        }
    }
    set_validity(&mut params, LEAF_DAYS)?;
    let certificate = params.signed_by(&key, &authority.issuer)?.pem();
    Ok(Identity { certificate, key: key.serialize_pem() })
}

/// Whether a certificate will do for a while longer.
fn is_fresh(pem: &str, subject: &Subject<'_>) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok(certificate) = pem.parse_x509() else { return false };
    let left = certificate.validity().not_after.timestamp() - Timestamp::now().as_second();
    if left < RENEW_DAYS * 86_400 {
        return false;
    }
    let Subject::Server { names, addresses, .. } = subject else { return true };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
    let has = |wanted: &dyn Fn(&x509_parser::extensions::GeneralName<'_>) -> bool| {
        extension.value.general_names.iter().any(wanted)
    };
    names.iter().all(|name| has(&|it| matches!(it, x509_parser::extensions::GeneralName::DNSName(dns) if dns == name)))
        && addresses.iter().all(|address| {
            let bytes = match address {
                IpAddr::V4(it) => it.octets().to_vec(),
                IpAddr::V6(it) => it.octets().to_vec(),
            };
            has(&|it| matches!(it, x509_parser::extensions::GeneralName::IPAddress(ip) if *ip == bytes.as_slice()))
        })
}

impl Identity {
    /// What a TLS client presents to servers whose certificates are `authority`'s.
    pub(crate) fn client_config(&self, authority: &str) -> Result<rustls::ClientConfig> {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        Ok(rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain?, key)?)
    }

    /// What a TLS server presents; clients may present a certificate of `clients`.
    pub(crate) fn server_config(&self, clients: &str) -> Result<rustls::ServerConfig> {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(clients.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots.into(),
            std::sync::Arc::clone(&provider),
        )
        .allow_unauthenticated()
        .build()?;
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        let chain = chain?;
        if chain.is_empty() {
            bail!("the server's certificate file holds no certificate");
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
