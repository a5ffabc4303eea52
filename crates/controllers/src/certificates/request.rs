//! What a certificate signing request asks for.

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::{NODE_CLIENT, NODE_SERVING, NODE_USER, NODES};

/// What a certificate for clients and one for servers is used for.
pub(super) const CLIENT_AUTH: &str = "client auth";
pub(super) const SERVER_AUTH: &str = "server auth";

/// The contents of a request in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// Whether there are addresses of mail.
    pub(super) mail: bool,
    /// Whether there are URIs.
    pub(super) uris: bool,
    /// Whether there are names of any other kind.
    pub(super) other_names: bool,
}

impl Request {
    /// Reads a request whose signature is its key's.
    ///
    /// # Errors
    /// Where it is no such request.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
        let (_, request) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
        request.verify_signature().map_err(|error| error.to_string())?;
        let subject = &request.certification_request_info.subject;
        let text = |it: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            it.as_str().unwrap_or_default().to_owned()
        };
        let mut this = Self {
            common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| this.add(name));
            }
        }
        Ok(this)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => self.addresses.push(address),
                None => self.other_names = true,
            },
            GeneralName::RFC822Name(_) => self.mail = true,
            GeneralName::URI(_) => self.uris = true,
            _ => self.other_names = true,
        }
    }

    /// Why this is not what the signer of nodes' certificates for this usage signs, in upstream's words.
    pub(super) fn node_problem(
        &self,
        spec: &CertificateSigningRequestSpec,
        usage: &str,
    ) -> Option<String> {
        let named = !self.dns_names.is_empty() || !self.addresses.is_empty();
        let serving = usage == SERVER_AUTH;
        let problems = [
            (self.organizations != [NODES], "subject organization is not system:nodes"),
            (
                !self.common_name.starts_with(NODE_USER),
                "subject common name does not begin with system:node:",
            ),
            (serving && !named, "DNS or IP subjectAltName is required"),
            (!serving && !self.dns_names.is_empty(), "DNS subjectAltNames are not allowed"),
            (self.mail, "Email subjectAltNames are not allowed"),
            (!serving && !self.addresses.is_empty(), "IP subjectAltNames are not allowed"),
            (self.uris, "URI subjectAltNames are not allowed"),
            (self.other_names, "subjectAltNames of other kinds are not allowed"),
        ];
        let found = problems.iter().find(|(wrong, _)| *wrong).map(|(_, text)| (*text).to_owned());
        found.or_else(|| {
            let mut wanted = [usage, "digital signature", "key encipherment"];
            wanted.sort_unstable();
            (!has_usages(spec, usage))
                .then(|| format!("usages did not match [{}]", wanted.join(" ")))
        })
    }

    /// Whether this may be what `NODE_CLIENT` signs.
    pub(super) fn is_node_client(&self, spec: &CertificateSigningRequestSpec) -> bool {
        spec.signer_name == NODE_CLIENT && self.node_problem(spec, CLIENT_AUTH).is_none()
    }

    /// Whether this may be what `NODE_SERVING` signs.
    pub(super) fn is_node_serving(&self, spec: &CertificateSigningRequestSpec) -> bool {
        spec.signer_name == NODE_SERVING && self.node_problem(spec, SERVER_AUTH).is_none()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// `digital signature` and this one, with or without `key encipherment`.
fn has_usages(spec: &CertificateSigningRequestSpec, wanted: &str) -> bool {
    let usages = spec.usages.as_deref().unwrap_or_default();
    let has = |name: &str| usages.iter().any(|it| it == name);
    let allowed = |it: &String| {
        it == wanted || matches!(it.as_str(), "digital signature" | "key encipherment")
    };
    has(wanted) && has("digital signature") && usages.iter().all(allowed)
}

/// Whether a request has a condition of this type.
pub(super) fn has_condition(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|it| it.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|it| it.type_ == kind)
}

/// Whether a request has its certificate.
pub(super) fn is_signed(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|it| it.certificate.as_ref()).is_some_and(|it| !it.0.is_empty())
}
