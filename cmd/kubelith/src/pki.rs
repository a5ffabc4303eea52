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
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use x509_parser::pem::parse_x509_pem;

/// How long the authority lives, in days.
const CA_DAYS: i64 = 3_650;
/// How long a certificate lives, in days.
const LEAF_DAYS: i64 = 365;
/// What lives less long is short-lived (upstream: `authority.PermissiveSigningPolicy`).
const SHORT_LIFE: SignedDuration = SignedDuration::from_hours(8);
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

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its key is the cluster's best kept secret.
        f.write_str("Authority")
    }
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

impl Authority {
    /// An authority of two files.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self> {
        read_authority(certificate, key)
    }
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
        let key = match (certificate_file.exists(), key_file.exists()) {
            (true, true) => return read_authority(&certificate_file, &key_file),
            (true, false) => bail!(
                "{} is there and its key {} is not: put it back; or remove both for a new \
                 authority, which nobody will trust who trusts this one",
                certificate_file.display(),
                key_file.display()
            ),
            // A start was ended here, before anybody saw the certificate.
            (false, true) => read_key(&key_file)?,
            (false, false) => KeyPair::generate()?,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(common_name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        set_life(&mut params, SignedDuration::from_hours(24 * CA_DAYS))?;
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
            if is_fresh(&identity.certificate, subject) && identity.is_of(authority) {
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
        self.secret_at(&self.path(name), make)
    }

    /// [`Self::secret`], elsewhere.
    pub(crate) fn secret_at(
        &self,
        file: &Path,
        make: impl FnOnce() -> Result<String>,
    ) -> Result<String> {
        if file.exists() {
            return read(file);
        }
        let text = make()?;
        write_secret(file, text.as_bytes())?;
        Ok(text)
    }
}

/// What to do where the authority's files are no good.
const NO_AUTHORITY: &str = "put it back from a copy; without it, remove the authority's certificate and its key for \
    new ones, which nobody will trust who trusts these";

fn read_authority(certificate_file: &Path, key_file: &Path) -> Result<Authority> {
    let certificate = read(certificate_file)?;
    let key = read_key(key_file)?;
    let issuer = Issuer::from_ca_cert_pem(&certificate, key).with_context(|| {
        format!("{} holds no certificate: {NO_AUTHORITY}", certificate_file.display())
    })?;
    Ok(Authority { certificate, issuer })
}

fn read_key(file: &Path) -> Result<KeyPair> {
    KeyPair::from_pem(&read(file)?)
        .with_context(|| format!("{} holds no key: {NO_AUTHORITY}", file.display()))
}

impl Identity {
    /// Whether certificate and key belong together, and the authority gave the certificate.
    fn is_of(&self, authority: &Authority) -> bool {
        let Ok((_, own)) = parse_x509_pem(self.certificate.as_bytes()) else { return false };
        let Ok((_, other)) = parse_x509_pem(authority.certificate.as_bytes()) else { return false };
        let (Ok(own), Ok(other)) = (own.parse_x509(), other.parse_x509()) else { return false };
        let Ok(key) = KeyPair::from_pem(&self.key) else { return false };
        own.public_key().raw == key.subject_public_key_info()
            && own.verify_signature(Some(other.public_key())).is_ok()
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

/// The certificate `NAME.crt` of a directory with its key `NAME.key`, for these names; made where there is none, and signed
/// by nobody.
pub(crate) fn unsigned(directory: &Path, name: &str, names: Vec<String>) -> Result<Identity> {
    let certificate = directory.join(format!("{name}.crt"));
    let key = directory.join(format!("{name}.key"));
    if certificate.exists() && key.exists() {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
        };
        return Ok(Identity { certificate: read(&certificate)?, key: read(&key)? });
    }
    let made = rcgen::generate_simple_self_signed(names)?;
    let identity = Identity { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() };
    fs::create_dir_all(directory)
        .with_context(|| format!("could not make {}", directory.display()))?;
    write_secret(&key, identity.key.as_bytes())?;
    write_secret(&certificate, identity.certificate.as_bytes())?;
    tracing::info!(
        certificate = %certificate.display(),
        key = %key.display(),
        "made a certificate that nobody has signed"
    );
    Ok(identity)
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

fn set_life(params: &mut CertificateParams, life: SignedDuration) -> Result<()> {
    let now = Timestamp::now();
    // A little in the past, for clients whose clocks are behind; what lives short does not end earlier for that.
    let begin = now.checked_sub(SignedDuration::from_mins(5))?;
    let end = if life < SHORT_LIFE { now } else { begin }.checked_add(life)?;
    params.not_before = date(begin)?;
    params.not_after = date(end)?;
    Ok(())
}

/// The library's date-time of an instant.
fn date(at: Timestamp) -> Result<time::OffsetDateTime> {
    Ok(time::OffsetDateTime::from_unix_timestamp(at.as_second())?)
}

/// What a certificate may be used for, by the names of the certificates API.
fn usage(name: &str, params: &mut CertificateParams) -> bool {
    match name {
        "digital signature" => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
        "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
        "client auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
        "server auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
        _ => return false,
    }
    true
}

impl controllers::certificates::CertificateSigner for Authority {
    fn sign(
        &self,
        request: &[u8],
        usages: &[String],
        life: std::time::Duration,
    ) -> Result<String, String> {
        let pem = std::str::from_utf8(request).map_err(|error| error.to_string())?;
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| error.to_string())?;
        let params = &mut request.params;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        params.is_ca = IsCa::ExplicitNoCa;
        for name in usages {
            if !usage(name, params) {
                return Err(format!("no certificate is signed for {name:?}"));
            }
        }
        let life = SignedDuration::try_from(life).map_err(|error| error.to_string())?;
        set_life(params, life).map_err(|error| error.to_string())?;
        let signed = request.signed_by(&self.issuer).map_err(|error| error.to_string())?;
        Ok(signed.pem())
    }
}

/// A key of its own, and the request for a certificate of it, both as PEM.
pub(crate) fn request(subject: &Subject<'_>) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = params_of(subject)?;
    // What it is for is in the request's object.
    params.key_usages.clear();
    params.extended_key_usages.clear();
    Ok((key.serialize_pem(), params.serialize_request(&key)?.pem()?))
}

fn issue(authority: &Authority, subject: &Subject<'_>) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let mut params = params_of(subject)?;
    set_life(&mut params, SignedDuration::from_hours(24 * LEAF_DAYS))?;
    let certificate = params.signed_by(&key, &authority.issuer)?.pem();
    Ok(Identity { certificate, key: key.serialize_pem() })
}

fn params_of(subject: &Subject<'_>) -> Result<CertificateParams> {
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
    Ok(params)
}

/// From when to when a certificate is good.
pub(crate) fn life(pem: &str) -> Option<(Timestamp, Timestamp)> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let validity = pem.parse_x509().ok()?.validity().clone();
    let at = |it: x509_parser::time::ASN1Time| Timestamp::from_second(it.timestamp()).ok();
    at(validity.not_before).zip(at(validity.not_after))
}

/// Whether a certificate will do for a while longer.
pub(crate) fn is_fresh(pem: &str, subject: &Subject<'_>) -> bool {
    let Ok((_, pem)) = parse_x509_pem(pem.as_bytes()) else { return false };
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

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'static> = Subject::Client { name: "me", groups: &[] };

    #[test]
    fn what_can_be_made_again_is_and_what_cannot_is_asked_for() {
        let temporary = tempfile::tempdir().unwrap();
        let pki = Directory::new(temporary.path().join("pki")).unwrap();
        let authority = pki.authority("ca", "authority").unwrap();
        let identity = || pki.identity("me", &authority, &SUBJECT).unwrap().certificate;
        let first = identity();
        assert_eq!(identity(), first);
        let text = |file: &str| fs::read_to_string(pki.path(file)).unwrap();
        let mut last = first;
        for file in ["me.crt", "me.key"] {
            fs::write(pki.path(file), &text(file)[..40]).unwrap();
            let again = identity();
            assert_ne!(again, last, "{file} was cut short and taken as it is");
            assert_eq!(identity(), again);
            last = again;
        }
        let other = Directory::new(temporary.path().join("other")).unwrap();
        let stranger = other.authority("ca", "authority").unwrap();
        assert_ne!(pki.identity("me", &stranger, &SUBJECT).unwrap().certificate, last);

        // Ended between key and certificate: the key is the authority's all the same.
        let key = text("ca.key");
        fs::remove_file(pki.path("ca.crt")).unwrap();
        pki.authority("ca", "authority").unwrap();
        assert_eq!(text("ca.key"), key);
        let broken = |file: &str| {
            let whole = text(file);
            fs::write(pki.path(file), &whole[..40]).unwrap();
            let error = format!("{:#}", pki.authority("ca", "authority").unwrap_err());
            fs::write(pki.path(file), whole).unwrap();
            error
        };
        assert!(broken("ca.crt").contains("ca.crt holds no certificate: put it back"));
        assert!(broken("ca.key").contains("ca.key holds no key: put it back"));
        fs::remove_file(pki.path("ca.key")).unwrap();
        let error = pki.authority("ca", "authority").unwrap_err().to_string();
        assert!(error.contains("ca.key is not: put it back"), "{error}");
    }
}
