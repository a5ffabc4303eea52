//! Reviews that webhooks are asked for: posted as JSON, again where that may help.

use std::time::Duration;

use apimachinery::{Value, json};
use webhook::{Call, CallError, Client};

/// Who asks.
const USER_AGENT: &str = "kube-apiserver-authn-authz";
/// How often a webhook is asked at most, and the first pause (upstream: `DefaultRetryBackoffWithInitialDelay`).
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// By how much pauses grow.
const GROWTH: f64 = 1.5;

/// Asks a webhook for a review.
///
/// # Errors
/// When there is no answer, or it is none.
pub(crate) async fn review(
    client: &Client,
    review: &Value,
    timeout: Duration,
) -> Result<Value, CallError> {
    let body = bytes(review);
    let asking = async {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            let call =
                Call { body: body.clone(), timeout, tells_timeout: false, user_agent: USER_AGENT };
            match client.post(call).await {
                Err(error) if may_help(&error) => {}
                answer => return answer,
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(GROWTH);
        }
        client
            .post(Call {
                body: body.clone(),
                timeout,
                tells_timeout: false,
                user_agent: USER_AGENT,
            })
            .await
    };
    // All attempts together have the time of one.
    let late = || CallError::Call("context deadline exceeded".into());
    let answer = tokio::time::timeout(timeout, asking).await.map_err(|_| late())??;
    let parsed = json::parse(&answer);
    parsed.map_err(|error| CallError::Call(format!("the answer is no JSON: {error}")))
}

fn bytes(review: &Value) -> bytes::Bytes {
    json::to_vec(review).into()
}

/// Whether asking again may help (upstream: `DefaultShouldRetry`).
fn may_help(error: &CallError) -> bool {
    match error {
        CallError::Client(_) => false,
        CallError::Call(why) => why.contains("connection reset") || why.ends_with("EOF"),
        CallError::Refused { code, .. } => matches!(code, 429 | 500 | 504),
    }
}
