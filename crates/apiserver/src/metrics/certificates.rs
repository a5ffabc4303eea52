//! What is counted of certificates that were asked for with a life of their own, in upstream's names. Upstream:
//! `countCSRDurationMetric`.

use std::time::Duration;

use api::ResourceFacts;
use apimachinery::Value;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use x509_parser::pem::Pem;

/// How much shorter or longer a life may be than what was asked for: so long, and a twentieth of it.
const SPARE: Duration = Duration::from_secs(300);
/// Signers that have a name of their own.
const KNOWN: &str = "kubernetes.io/";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Signer(String);

impl EncodeLabelSet for Signer {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeLabel as _;
        // The only name of upstream's that is not written in snake case.
        ("signerName", self.0.as_str()).encode(encoder.encode_label())
    }
}

/// A certificate that is issued by a write.
#[derive(Debug)]
pub(crate) struct Issued {
    signer: Signer,
    honored: bool,
}

impl Issued {
    /// What a change of an object issues; none for other objects, and where no life was asked for.
    pub(crate) fn of(facts: &ResourceFacts, old: &Value, new: &Value) -> Option<Self> {
        if (facts.group, facts.resource) != ("certificates.k8s.io", "certificatesigningrequests") {
            return None;
        }
        let certificate = |it: &Value| it.str_at(&["status", "certificate"]).to_owned();
        let (before, now) = (certificate(old), certificate(new));
        let seconds = old.i64_at(&["spec", "expirationSeconds"])?;
        if !before.is_empty() || now.is_empty() {
            return None;
        }
        let name = old.str_at(&["spec", "signerName"]);
        let name = if name.starts_with(KNOWN) { name } else { "other" };
        let wanted = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let honored = life(&now).is_some_and(|life| life.abs_diff(wanted) < SPARE + wanted / 20);
        Some(Self { signer: Signer(name.to_owned()), honored })
    }
}

/// How long the first certificate of a PEM text in base64 is good.
fn life(text: &str) -> Option<Duration> {
    let pem = BASE64_STANDARD.decode(text).ok()?;
    let mut blocks = Pem::iter_from_buffer(&pem).filter_map(Result::ok);
    let block = blocks.find(|it| it.label == "CERTIFICATE")?;
    let certificate = block.parse_x509().ok()?;
    let (from, to) = (certificate.validity().not_before, certificate.validity().not_after);
    u64::try_from(to.timestamp() - from.timestamp()).ok().map(Duration::from_secs)
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    requested: Family<Signer, Counter>,
    honored: Family<Signer, Counter>,
}

impl Certificates {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let this = Self::default();
        let of = registry.sub_registry_with_prefix("apiserver_certificates_registry");
        let help = "Certificates issued to requests that ask how long they are to be good";
        of.register("csr_requested_duration", help, this.requested.clone());
        let help = "Those of them that are good about as long as that";
        of.register("csr_honored_duration", help, this.honored.clone());
        this
    }

    pub(super) fn issued(&self, issued: &Issued) {
        self.requested.get_or_create(&issued.signer).inc();
        if issued.honored {
            self.honored.get_or_create(&issued.signer).inc();
        }
    }
}
