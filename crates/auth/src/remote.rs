//! Reviews that webhooks are asked for.

use std::time::Duration;

use apimachinery::Value;
use webhook::{Asking, CallError, Client};

/// Who asks.
const USER_AGENT: &str = "kube-apiserver-authn-authz";
/// The first pause before a webhook is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Asks a webhook for a review.
///
/// # Errors
/// When there is no answer, or it is none.
pub(crate) async fn review(
    client: &Client,
    review: &Value,
    timeout: Duration,
) -> Result<Value, CallError> {
    let asking = Asking { timeout, first_pause: FIRST_PAUSE, user_agent: USER_AGENT };
    client.review(review, &asking).await
}
