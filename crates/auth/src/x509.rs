//! Client certificates: the common name is the user, organisations are groups.
//!
//! That the chain is good was checked by TLS; here it is only read.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use component_base::Clock;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::metrics::Metrics;
use crate::{Asker, AuthenticationError, Authenticator, Credentials, UserInfo};

/// The attribute of a subject that tells a user's uid (upstream: `AllowParsingUserUIDFromCertAuth`).
const UID: &str = "1.3.6.1.4.1.57683.2";
/// What the credential id of a certificate begins with; its hash follows.
const CREDENTIAL_PREFIX: &str = "X509SHA256=";

/// Users by their certificates.
#[derive(Debug, Clone)]
pub struct ClientCertificates {
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl ClientCertificates {
    /// Counts how long certificates are good by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self { clock, metrics }
    }

    fn count(&self, good_until: i64) {
        let left = good_until.saturating_sub(self.clock.now().as_second());
        self.metrics.certificate(Duration::from_secs(u64::try_from(left).unwrap_or_default()));
    }
}

impl Authenticator for ClientCertificates {
    fn look(&self, credentials: &Credentials<'_>) -> Option<Asker> {
        let shown = credentials.certificates;
        let Some(leaf) = shown.leaf() else { return Some(Ok(None)) };
        let read = match shown.read.get_or_init(|| read(leaf)) {
            Ok(read) => read,
            Err(broken) => return Some(Err(broken.clone())),
        };
        self.count(read.good_until);
        Some(read.user.clone())
    }
}

/// A chain of certificates that a client shows, leaf first, in DER, and what was read of them: a connection has many
/// requests, and each is of whom the connection is of.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    chain: Box<[Vec<u8>]>,
    read: OnceLock<Result<Read, AuthenticationError>>,
    name: OnceLock<Result<String, AuthenticationError>>,
}

/// What a leaf says.
#[derive(Debug, Clone)]
struct Read {
    user: Asker,
    /// Seconds since the epoch.
    good_until: i64,
}

impl Shown {
    /// The leaf; `None` where no certificate is shown.
    #[must_use]
    pub fn leaf(&self) -> Option<&[u8]> {
        self.chain.first().map(Vec::as_slice)
    }

    /// The common name of the leaf; `None` where no certificate is shown.
    pub(crate) fn common_name(&self) -> Option<Result<&str, AuthenticationError>> {
        let leaf = self.leaf()?;
        let name = self.name.get_or_init(|| common_name(leaf));
        Some(name.as_deref().map_err(Clone::clone))
    }
}

impl FromIterator<Vec<u8>> for Shown {
    fn from_iter<I: IntoIterator<Item = Vec<u8>>>(chain: I) -> Self {
        Self { chain: chain.into_iter().collect(), ..Self::default() }
    }
}

fn read(leaf: &[u8]) -> Result<Read, AuthenticationError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|broken| error(&broken))?;
    let user = user_of(&certificate, leaf).map(|user| user.map(Arc::new));
    Ok(Read { user, good_until: certificate.validity().not_after.timestamp() })
}

fn error(why: &dyn std::fmt::Display) -> AuthenticationError {
    AuthenticationError(format!("client certificate: {why}"))
}

/// The common name of a certificate in DER; as Go's parser does, the last of several counts.
fn common_name(der: &[u8]) -> Result<String, AuthenticationError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|broken| error(&broken))?;
    let name = certificate.subject().iter_common_name().last();
    let name = name.map(|it| it.as_str().map(str::to_owned)).transpose();
    Ok(name.map_err(|broken| error(&broken))?.unwrap_or_default())
}

/// Whether a PEM text holds certificates.
pub(crate) fn holds_certificates(pem: &[u8]) -> bool {
    let mut blocks = x509_parser::pem::Pem::iter_from_buffer(pem);
    blocks.any(|it| it.is_ok_and(|it| it.label == "CERTIFICATE" && it.parse_x509().is_ok()))
}

/// The user of a certificate, and the same in DER; `None` where it has no common name.
fn user_of(
    certificate: &X509Certificate<'_>,
    der: &[u8],
) -> Result<Option<UserInfo>, AuthenticationError> {
    let subject = certificate.subject();
    let text = |it: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        it.as_str().map(str::to_owned).map_err(|broken| error(&broken))
    };
    // As Go's parser does, the last of several common names counts.
    let Some(name) = subject.iter_common_name().last() else { return Ok(None) };
    let name = text(name)?;
    if name.is_empty() {
        return Ok(None);
    }
    let mut groups = Vec::new();
    for organization in subject.iter_organization() {
        groups.push(text(organization)?);
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let mut user = UserInfo::new(&name, &groups);
    let mut uids = subject.iter_attributes().filter(|it| it.attr_type().to_id_string() == UID);
    if let Some(uid) = uids.next() {
        user.uid = text(uid)?;
        if user.uid.is_empty() || uids.next().is_some() {
            return Err(error(&"expected a single non-empty UID"));
        }
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra
        .insert(crate::user::CREDENTIAL_ID_KEY.into(), vec![format!("{CREDENTIAL_PREFIX}{hex}")]);
    Ok(Some(user))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use component_base::VirtualClock;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    pub(crate) fn certificate(attributes: &[(DnType, &str)]) -> Vec<u8> {
        let mut name = DistinguishedName::new();
        for (kind, value) in attributes {
            name.push(kind.clone(), DnValue::Utf8String((*value).into()));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    /// Who shows a certificate, on a day of 2026.
    async fn user_of(der: &[u8]) -> Result<Option<Arc<UserInfo>>, AuthenticationError> {
        let (clock, metrics) = (
            VirtualClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap()),
            Metrics::default(),
        );
        let shown = Shown::from_iter([der.to_vec()]);
        let credentials = Credentials {
            headers: &http::HeaderMap::new(),
            certificates: &shown,
            proxy_certificates: &Shown::default(),
            warnings: &crate::Warnings::default(),
        };
        let user = ClientCertificates::new(Arc::new(clock), metrics.clone())
            .authenticate(&credentials)
            .await;
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let count = format!(
            "\napiserver_client_certificate_expiration_seconds_count {}\n",
            u8::from(user.is_ok())
        );
        assert!(component_base::metrics::text(&registry).contains(&count));
        user
    }

    #[tokio::test]
    async fn a_certificate_names_user_group_and_uid() {
        let uid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let der = certificate(&[
            (DnType::CommonName, "system:node:n1"),
            (DnType::OrganizationName, "system:nodes"),
            (uid, "u-1"),
        ]);
        let user = user_of(&der).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:node:n1", "u-1"));
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert_eq!(user.as_node(), Some("n1"));
        assert!(user.extra[crate::user::CREDENTIAL_ID_KEY][0].starts_with(CREDENTIAL_PREFIX));
    }

    #[tokio::test]
    async fn a_certificate_without_name_is_nobody() {
        let der = certificate(&[(DnType::OrganizationName, "system:masters")]);
        assert_eq!(user_of(&der).await.unwrap(), None);
        assert!(user_of(b"no certificate").await.is_err());
    }
}
