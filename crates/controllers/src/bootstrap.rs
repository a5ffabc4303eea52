//! Bootstrap tokens: they sign what a new node first reads of a cluster, and go when their time is over. Off by default, as
//! upstream's. Upstream: `pkg/controller/bootstrap`.

mod clean;
mod sign;

pub use clean::TokenCleaner;
pub use sign::BootstrapSigner;

use apimachinery::Value;
use jiff::Timestamp;
use k8s_openapi::ByteString;

/// The type of the secrets.
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Their namespace.
const NAMESPACE: &str = "kube-system";
/// Their names are this and the token's id.
const PREFIX: &str = "bootstrap-token-";

/// A member of a secret's data, as text; empty where there is none.
fn data(secret: &Value, key: &str) -> String {
    let text = format!("\"{}\"", secret.str_at(&["data", key]));
    let bytes: ByteString = serde_json::from_str(&text).unwrap_or_default();
    String::from_utf8(bytes.0).unwrap_or_default()
}

fn is_token(secret: &Value) -> bool {
    secret.str_at(&["type"]) == TYPE
}

/// When a token ends: `Ok(None)` never, an error where that cannot be read, which counts as over.
fn expiration(secret: &Value) -> Result<Option<Timestamp>, jiff::Error> {
    let text = data(secret, "expiration");
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}
