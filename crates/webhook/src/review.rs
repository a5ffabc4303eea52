//! Reviews that webhooks are asked for: posted as JSON, again where that may help.

use std::time::Duration;

use apimachinery::{Value, json};
use bytes::Bytes;

use crate::{Call, CallError, Client};

/// How often a webhook is asked at most (upstream: `DefaultRetryBackoffWithInitialDelay`).
const ATTEMPTS: u32 = 5;
/// By how much pauses grow.
const GROWTH: f64 = 1.5;

/// How a webhook is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// How long all attempts together may take.
    pub timeout: Duration,
    /// The pause before the second attempt.
    pub first_pause: Duration,
    /// Who asks.
    pub user_agent: &'a str,
}

impl Client {
    /// Asks for a review.
    ///
    /// # Errors
    /// When there is no answer, or it is none.
    pub async fn review(&self, review: &Value, asking: &Asking<'_>) -> Result<Value, CallError> {
        let Asking { timeout, first_pause, user_agent } = *asking;
        let body: Bytes = json::to_vec(review).into();
        let call = || Call { body: body.clone(), timeout, tells_timeout: false, user_agent };
        let attempts = async {
            let mut pause = first_pause;
            for _ in 1..ATTEMPTS {
                match self.post(call()).await {
                    Err(error) if may_help(&error) => {}
                    answer => return answer,
                }
                tokio::time::sleep(pause).await;
                pause = pause.mul_f64(GROWTH);
            }
            self.post(call()).await
        };
        let late = || CallError::Call("context deadline exceeded".into());
        let answer = tokio::time::timeout(timeout, attempts).await.map_err(|_| late())??;
        answer.object().map_err(CallError::Call)
    }
}

/// Whether asking again may help (upstream: `DefaultShouldRetry`).
fn may_help(error: &CallError) -> bool {
    match error {
        CallError::Client(_) => false,
        CallError::Call(why) => why.contains("connection reset") || why.ends_with("EOF"),
        CallError::Refused { code, .. } => matches!(code, 429 | 500 | 504),
    }
}
