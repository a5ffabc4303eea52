//! Configurations, and what is told where there is nobody. Whole calls are tested through the API server.

use apimachinery::value;

use super::*;

#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _namespace: &str, name: &str, _port: u16) -> Result<String, String> {
        Err(format!("service {name:?} not found"))
    }
}

async fn check(config: Value, expected: &str) {
    let client = Client::new(&config, Arc::new(Nowhere));
    let timeout = Duration::from_millis(1_500);
    let call = Call { body: Bytes::new(), timeout, tells_timeout: true, user_agent: "test" };
    let failed = client.post(call).await.expect_err("there is nobody").to_string();
    assert_eq!(failed, expected);
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_upstream_tells_it() {
    check(
        value!({"service": {"namespace": "ns", "name": "svc", "path": "/a"}}),
        "failed to call webhook: Post \"https://svc.ns.svc:443/a?timeout=2s\": service \"svc\" not found",
    )
    .await;
    check(
        value!({"url": "https://127.0.0.1:1/b"}),
        "failed to call webhook: Post \"https://127.0.0.1:1/b?timeout=2s\": dial tcp 127.0.0.1:1: connect: connection refused",
    )
    .await;
    check(
        value!({}),
        "could not get REST client: webhook configuration must have either service or URL",
    )
    .await;
    check(
        value!({"url": "https://127.0.0.1:1/b", "caBundle": "bm9wZQ=="}),
        "could not get REST client: unable to load root certificates: unable to parse bytes as PEM block",
    )
    .await;
}

#[test]
fn refusals_are_told_by_their_code() {
    for (code, body, expected) in [
        (404, "", "the server could not find the requested resource"),
        (
            500,
            "oops",
            "an error on the server (\"oops\") has prevented the request from succeeding",
        ),
        (500, "{\"kind\":\"Status\",\"status\":\"Failure\",\"message\":\"no\"}", "no"),
    ] {
        let refused = error::refused(code, &Bytes::from(body));
        assert_eq!((refused.code(), refused.message()), (code, expected));
    }
}
