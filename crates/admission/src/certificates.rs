//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction: who may approve and
//! sign requests of a signer, who may say whom to trust in its name, and which certificate of a client nobody gets.

use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value};
use async_trait::async_trait;
use auth::Authorizer;
use auth::user::MASTERS;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::{Attributes, Operation, Plugin};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
/// The signer of certificates that the API server takes for users.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Who may approve (subresource `approval`) or sign (`status`).
#[derive(Debug)]
pub(crate) struct Signers {
    authorizer: Arc<dyn Authorizer>,
    name: &'static str,
    subresource: &'static str,
    verb: &'static str,
}

pub(crate) fn approval(authorizer: Arc<dyn Authorizer>) -> Signers {
    Signers { authorizer, name: "CertificateApproval", subresource: "approval", verb: "approve" }
}

pub(crate) fn signing(authorizer: Arc<dyn Authorizer>) -> Signers {
    Signers { authorizer, name: "CertificateSigning", subresource: "status", verb: "sign" }
}

/// Whether the user may do something for a signer, or for all of its domain.
async fn is_permitted(
    authorizer: &dyn Authorizer,
    attributes: &Attributes<'_>,
    (verb, signer): (&str, &str),
) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer, &format!("{domain}/*")] {
        let asked = auth::Attributes {
            verb,
            group: GROUP,
            version: "*",
            resource: "signers",
            name,
            ..auth::Attributes::of(attributes.user)
        };
        if authorizer.authorize(&asked).await.is_allowed() {
            return true;
        }
    }
    false
}

/// Who may say that a bundle is a signer's.
#[derive(Debug)]
pub(crate) struct TrustBundleAttest {
    authorizer: Arc<dyn Authorizer>,
}

impl TrustBundleAttest {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

/// Who may issue the certificates that pods ask for (upstream: `podcertificaterequest` `StatusStrategy.ValidateUpdate`).
#[derive(Debug)]
pub(crate) struct PodCertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

impl PodCertificateSigning {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for PodCertificateSigning {
    fn name(&self) -> &'static str {
        "PodCertificateSigning"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update
            && attributes.group == GROUP
            && attributes.resource == "podcertificaterequests"
            && attributes.subresource == "status"
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(old) = attributes.old else { return Ok(()) };
        let chain = |it: &Value| it["status"]["certificateChain"].clone();
        let signer = old.str_at(&["spec", "signerName"]);
        if chain(old) == chain(attributes.object)
            || is_permitted(self.authorizer.as_ref(), attributes, ("sign", signer)).await
        {
            return Ok(());
        }
        let mut errors = FieldErrors::new();
        let user = &attributes.user.name;
        let why = format!("User {user:?} is not permitted to \"sign\" for signer {signer:?}");
        errors.forbidden(&Path::new("spec").child("signerName"), &why);
        Err(Status::invalid(GROUP, attributes.kind, attributes.object_name(), &errors))
    }
}

/// Whether nothing of an object has changed but what the garbage collector changes.
fn is_collected(object: &Value, old: &Value) -> bool {
    let bare = |it: &Value| {
        let mut bare = it.clone();
        for member in ["ownerReferences", "finalizers", "selfLink", "managedFields"] {
            bare.remove_at(&["metadata", member]);
        }
        bare
    };
    bare(object) == bare(old)
}

#[async_trait]
impl Plugin for TrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.group == GROUP
            && attributes.resource == "clustertrustbundles"
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let signer = attributes.object.str_at(&["spec", "signerName"]);
        if signer.is_empty()
            || attributes.old.is_some_and(|old| is_collected(attributes.object, old))
            || is_permitted(self.authorizer.as_ref(), attributes, ("attest", signer)).await
        {
            return Ok(());
        }
        let why = format!("user not permitted to attest for signerName {signer:?}");
        Err(attributes.forbid(&why))
    }
}

/// Whether an update of status signs: sets a certificate, or says that it failed.
fn signs(old: &Value, new: &Value) -> bool {
    let failed = |it: &Value| {
        it.items_at(&["status", "conditions"]).iter().any(|it| it.str_at(&["type"]) == "Failed")
    };
    old["status"]["certificate"] != new["status"]["certificate"] || failed(old) != failed(new)
}

#[async_trait]
impl Plugin for Signers {
    fn name(&self) -> &'static str {
        self.name
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update
            && attributes.group == GROUP
            && attributes.resource == RESOURCE
            && attributes.subresource == self.subresource
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(old) = attributes.old else { return Ok(()) };
        if self.subresource == "status" && !signs(old, attributes.object) {
            return Ok(());
        }
        let signer = old.str_at(&["spec", "signerName"]);
        let verb = self.verb;
        if is_permitted(self.authorizer.as_ref(), attributes, (verb, signer)).await {
            return Ok(());
        }
        let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
        Err(attributes.forbid(&why))
    }
}

/// Nobody gets a client certificate of the group that may do everything.
#[derive(Debug)]
pub(crate) struct SubjectRestriction;

#[async_trait]
impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is(GROUP, RESOURCE)
    }

    async fn validate(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if attributes.object.str_at(&["spec", "signerName"]) != CLIENT_SIGNER {
            return Ok(());
        }
        let request = attributes.object.str_at(&["spec", "request"]);
        let Some(groups) = groups_of(request) else {
            return Err(
                attributes.forbid("failed to parse CSR: it is no certificate request in PEM")
            );
        };
        if groups.iter().any(|it| it == MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(attributes.forbid(&why));
        }
        Ok(())
    }
}

/// The organisations of a certificate request: base64 of PEM.
fn groups_of(request: &str) -> Option<Vec<String>> {
    of_subject(request, |subject| {
        subject.iter_organization().map(|it| it.as_str().ok().map(str::to_owned)).collect()
    })?
}

/// The common name of a certificate request, the last where there are several, as upstream reads it; `None` where the request
/// cannot be read.
pub(crate) fn common_name(request: &str) -> Option<String> {
    of_subject(request, |subject| {
        let names = subject.iter_common_name().filter_map(|it| it.as_str().ok());
        names.last().unwrap_or_default().to_owned()
    })
}

fn of_subject<T>(request: &str, read: impl FnOnce(&X509Name<'_>) -> T) -> Option<T> {
    let pem = BASE64_STANDARD.decode(request).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    Some(read(&request.certification_request_info.subject))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Case;
    use auth::UserInfo;
    use auth::fixed::FixedObjects;
    use auth::rbac::Rbac;

    fn request(organization: &str) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        let key = rcgen::KeyPair::generate().unwrap();
        BASE64_STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
    }

    #[tokio::test]
    async fn nobody_asks_for_a_certificate_that_may_everything() {
        for (signer, organization, good) in [
            (CLIENT_SIGNER, "devs", true),
            (CLIENT_SIGNER, MASTERS, false),
            ("example.com/own", MASTERS, true),
        ] {
            let object = apimachinery::value!({"metadata": {"name": "c"},
                "spec": {"signerName": signer, "request": (request(organization))}});
            let path = "certificatesigningrequests.certificates.k8s.io";
            let mut case = Case::new(Operation::Create, path, object);
            let user = UserInfo::default();
            let result = SubjectRestriction.validate(&mut case.attributes(&user)).await;
            assert_eq!(result.is_ok(), good, "{signer} {organization}: {result:?}");
        }
    }

    #[tokio::test]
    async fn only_who_may_approve_a_signer_approves() {
        let objects = FixedObjects::default();
        for (resource, text) in [
            (
                "clusterroles",
                r#"{"kind":"ClusterRole","apiVersion":"v1","metadata":{"name":"a"},"rules":[{"verbs":["approve"],"apiGroups":["certificates.k8s.io"],"resources":["signers"],"resourceNames":["example.com/*"]}]}"#,
            ),
            (
                "clusterrolebindings",
                r#"{"kind":"ClusterRoleBinding","apiVersion":"v1","metadata":{"name":"a"},"roleRef":{"kind":"ClusterRole","name":"a"},"subjects":[{"kind":"User","name":"jane"}]}"#,
            ),
        ] {
            let value = apimachinery::json::parse(text.as_bytes()).unwrap();
            objects.put(auth::rbac::GROUP, resource, &value);
        }
        let plugin = approval(Arc::new(Rbac::new(&objects)));
        for (user, signer, good) in [
            ("jane", "example.com/own", true),
            ("jane", CLIENT_SIGNER, false),
            ("joe", "example.com/own", false),
        ] {
            let object =
                apimachinery::value!({"metadata": {"name": "c"}, "spec": {"signerName": signer}});
            let path = "certificatesigningrequests.certificates.k8s.io/approval";
            let mut case = Case::new(Operation::Update, path, object.clone());
            case.old = Some(object);
            let user = UserInfo::new(user, &[]);
            let result = plugin.validate(&mut case.attributes(&user)).await;
            assert_eq!(result.is_ok(), good, "{} {signer}: {result:?}", user.name);
        }
    }
}
